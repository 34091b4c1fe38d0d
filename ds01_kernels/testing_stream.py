"""A process of this machine as a `Stream`: what `testing.FakeEngine` runs in its containers."""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import termios
from asyncio import StreamReader, StreamWriter
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from contextlib import suppress

from ds01_kernels.errors import EngineError

_ERRORS_KEPT = 16 * 1024


async def started(argv: Sequence[str], env: Mapping[str, str], cwd: str | None, pty: bool) -> LocalStream:
    ours, theirs = os.openpty() if pty else (-1, PIPE)
    try:
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=theirs, stdout=theirs, stderr=theirs, env=env, cwd=cwd, start_new_session=True
        )
    except OSError:
        if pty:
            os.close(ours)
        raise
    finally:
        if pty:
            os.close(theirs)
    if process.stdin and process.stdout:
        return LocalStream(process, process.stdout, process.stdin, None)
    loop, reader = asyncio.get_running_loop(), StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    await loop.connect_read_pipe(lambda: protocol, os.fdopen(ours, "rb", 0))
    flow = asyncio.streams.FlowControlMixin
    transport, writing = await loop.connect_write_pipe(flow, os.fdopen(os.dup(ours), "wb", 0))
    return LocalStream(process, reader, StreamWriter(transport, writing, None, loop), ours)


class LocalStream:
    """A process of this machine as a `Stream`."""

    def __init__(self, process: Process, reader: StreamReader, writer: StreamWriter, pty: int | None) -> None:
        self.process = process
        self._reader, self._writer, self._terminal = reader, writer, pty
        self._errors = bytearray()
        self._collecting = asyncio.create_task(self._collect())
        self._draining: asyncio.Task[None] | None = None
        self._input_ended = False
        self._ended = False

    async def read(self) -> bytes:
        if self._draining:
            return b""
        try:
            data = await self._reader.read(64 * 1024)
        except OSError:
            # So a terminal says that its last process has gone.
            data = b""
        if not data:
            await asyncio.shield(self._collecting)
            self._ended = True
        return data

    async def write(self, data: bytes) -> None:
        if self._draining or self._ended or self._input_ended:
            raise EngineError("Nothing more can be sent to the command: it, or its input, has ended.")
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            raise EngineError("The command no longer reads what is sent to it: it has ended.") from error

    async def end_input(self) -> None:
        if self._input_ended or self._draining or self._ended:
            return
        with suppress(OSError, EngineError):
            if self._terminal is not None:
                await self.write(b"\x04")
            else:
                await self._writer.drain()
                self._writer.close()
        self._input_ended = True

    async def resize(self, columns: int, rows: int) -> None:
        if self._terminal is not None and not self._ended:
            fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    async def exit_code(self) -> int | None:
        if self._ended:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.process.wait(), 1.0)
        code = self.process.returncode
        # Docker adds 128 to the signal that ended a command.
        return 128 - code if code is not None and code < 0 else code

    @property
    def errors(self) -> str:
        return self._errors.decode("utf-8", "replace")

    async def close(self) -> None:
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain())
            self._writer.close()

    async def _collect(self) -> None:
        while self.process.stderr and (data := await self.process.stderr.read(64 * 1024)):
            self._errors = (self._errors + data)[-_ERRORS_KEPT:]

    async def _drain(self) -> None:
        """The command runs on when its stream is closed, so its output must go somewhere."""
        with suppress(OSError):
            while await self._reader.read(64 * 1024):
                pass
