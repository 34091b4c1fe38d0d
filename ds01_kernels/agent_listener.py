"""Where the agent of a container that is just being started comes by itself, and the stream to it.

The agent is on its way with its container (`agent.early`), and calls from inside, through the directory that
the container and this machine share. The command that reaches it otherwise (`agent_stream`) would take a core
from what starts there.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from .errors import EngineError

#: Seconds for it to come, which takes a tenth of that. Where none comes, what is wrong is said so much later.
ARRIVAL_LIMIT = 1.0
#: Bytes that are read at once.
CHUNK = 1 << 18


class AgentListener:
    """For one start of one container. Nothing of it is left when its ``with`` ends.

    Whoever in the container comes first is taken, and trusted no more than what any stream from there says.
    """

    def __init__(self, limit: float = ARRIVAL_LIMIT) -> None:
        """`limit` is how many seconds somebody is waited for."""
        self._limit = limit
        self._socket: socket.socket | None = None
        self._path = Path()

    def __enter__(self) -> AgentListener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self, directory: Path) -> str:
        """Listen in that private directory; the name of the socket there, or nothing where none can be."""
        self.close()
        listening, path = socket.socket(socket.AF_UNIX), directory / f"home-{secrets.token_hex(4)}"
        try:
            listening.bind(str(path))
            listening.listen(1)
        except OSError:
            # Its path is too long, or there is no room: an agent is reached without.
            listening.close()
            return ""
        listening.setblocking(False)
        self._socket, self._path = listening, path
        return path.name

    async def accept(self) -> SocketStream | None:
        """The stream to who comes first, once; None when nobody does."""
        if self._socket is None:
            return None
        try:
            async with asyncio.timeout(self._limit):
                connection, _ = await asyncio.get_running_loop().sock_accept(self._socket)
        except (OSError, TimeoutError):
            return None
        finally:
            self.close()
        return SocketStream(*await asyncio.open_unix_connection(sock=connection, limit=CHUNK))

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            # The container may have put something else there.
            with suppress(OSError):
                self._path.unlink()


class SocketStream:
    """A connection as an engine's `Stream`, without a command whose end or errors could be known."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self) -> bytes:
        try:
            return await self._reader.read(CHUNK)
        except OSError:
            return b""

    async def write(self, data: bytes) -> None:
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            raise EngineError("Nothing more can be sent into the container: it does not listen.") from error

    async def end_input(self) -> None:
        with suppress(OSError):
            self._writer.write_eof()

    async def resize(self, columns: int, rows: int) -> None:
        """There is no terminal."""

    async def exit_code(self) -> int | None:
        return None

    @property
    def errors(self) -> str:
        return ""

    async def close(self) -> None:
        # At once: what the other side does not read would keep it open.
        self._writer.transport.abort()
        with suppress(OSError):
            await self._writer.wait_closed()
