"""The open stream of a command in a container of Podman's."""

from __future__ import annotations

from ds01_kernels.engine import Stream

#: The exit codes of commands that could not be started.
_NOT_STARTED = (126, 127)


class PodmanStream:
    """Docker's stream, except that why a command could not be started comes as output, not as an error."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._has_said = False

    async def read(self) -> bytes:
        data = await self._stream.read()
        if data or self._has_said:
            self._has_said = True
            return data
        self._has_said = True
        if "OCI runtime" in self.errors and await self._stream.exit_code() in _NOT_STARTED:
            return f"OCI runtime exec failed: {self.errors}".encode()
        return b""

    async def write(self, data: bytes) -> None:
        await self._stream.write(data)

    async def end_input(self) -> None:
        await self._stream.end_input()

    async def resize(self, columns: int, rows: int) -> None:
        await self._stream.resize(columns, rows)

    async def exit_code(self) -> int | None:
        return await self._stream.exit_code()

    @property
    def errors(self) -> str:
        return self._stream.errors

    async def close(self) -> None:
        # Nothing is to be read any more.
        self._has_said = True
        await self._stream.close()
