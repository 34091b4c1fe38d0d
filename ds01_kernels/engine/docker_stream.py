"""The open stream of a command in a container, on the connection that docker-py opened for it.

Docker sends standard output and standard error of a command without a terminal as frames on one connection:
https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerAttach
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Protocol

from ds01_kernels.errors import EngineError

ERRORS_KEPT = 16 * 1024
#: Bytes that are read at once: each time costs as much as copying that many.
READ_AHEAD = 256 * 1024
_HEADER = 8
_END_OF_FILE = b"\x04"
# Docker closes the stream of a command a moment before it knows the exit code.
_PAUSES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)


class DockerStream:
    """An open command. `inspect` answers (running, exit code), the code None when Docker no longer knows."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        early: bytes,
        frames: Frames | None,
        inspect: Callable[[], Awaitable[tuple[bool, int | None]]],
        resize: Callable[[int, int], Awaitable[None]],
    ) -> None:
        self._reader, self._writer = reader, writer
        self._early = early
        self._frames = frames
        self._inspect, self._resize = inspect, resize
        self._terminal = frames is None
        self._input_ended = False
        self._ended = False
        self._closed = False

    async def read(self) -> bytes:
        while not (self._ended or self._closed):
            received, self._early = self._early, b""
            if not received:
                received = await self._receive()
            self._ended = not received
            output = self._frames.feed(received) if self._frames else received
            if output:
                return output
        return b""

    async def _receive(self) -> bytes:
        try:
            return await self._reader.read(READ_AHEAD)
        except OSError as error:
            raise EngineError(f"The connection to a command in the container was lost: {error}.") from error

    async def write(self, data: bytes) -> None:
        if self._closed or self._ended or self._reader.at_eof():
            raise EngineError("The command in the container has ended: nothing more can be sent to it.")
        if self._input_ended:
            raise EngineError("The input of the command was ended: nothing more can be sent to it.")
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            raise EngineError(
                "The command in the container no longer reads what is sent to it: it has ended."
            ) from error

    async def end_input(self) -> None:
        if self._input_ended or self._closed or self._ended:
            return
        with suppress(OSError, EngineError):
            if self._terminal:
                await self.write(_END_OF_FILE)
            else:
                await self._writer.drain()
                self._writer.write_eof()
        self._input_ended = True

    async def resize(self, columns: int, rows: int) -> None:
        if not self._ended:
            await self._resize(columns, rows)

    async def exit_code(self) -> int | None:
        running, code = await self._inspect()
        for pause in _PAUSES:
            if not (running and self._ended):
                break
            await asyncio.sleep(pause)
            running, code = await self._inspect()
        return None if running else code

    @property
    def errors(self) -> str:
        return self._frames.errors if self._frames else ""

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._writer.close()
        # A command that reads nothing would keep the last bytes, and so the connection, for ever.
        try:
            await asyncio.wait_for(self._writer.wait_closed(), 1.0)
        except (OSError, TimeoutError):
            self._writer.transport.abort()


class Frames:
    """Takes Docker's frames apart, in whatever pieces they arrive."""

    def __init__(self) -> None:
        #: The beginning of a header.
        self._waiting = b""
        self._left = 0
        self._to_errors = False
        self._errors = bytearray()

    @property
    def errors(self) -> str:
        return self._errors.decode("utf-8", "replace")

    def feed(self, received: bytes) -> bytes:
        """What `received` holds of standard output. Raises `EngineError` when these are no frames."""
        output: list[memoryview] = []
        position = 0
        data = memoryview(self._waiting + received)
        while position < len(data):
            if not self._left:
                if len(data) - position < _HEADER:
                    break
                self._open(data[position : position + _HEADER])
                position += _HEADER
                continue
            piece = data[position : position + self._left]
            position += len(piece)
            self._left -= len(piece)
            if self._to_errors:
                self._errors = (self._errors + piece)[-ERRORS_KEPT:]
            else:
                output.append(piece)
        self._waiting = bytes(data[position:])
        return b"".join(output)

    def _open(self, header: memoryview) -> None:
        # 0 is standard input echoed, 1 output, 2 errors, 3 an error of the engine itself.
        if header[0] > 3 or any(header[1:4]):
            raise EngineError("What came from the command's stream is not Docker's format.")
        self._to_errors = header[0] >= 2
        self._left = int.from_bytes(header[4:8], "big")


def plain_socket(opened: Any) -> tuple[socket.socket, bytes]:
    """A socket that asyncio can take, and the bytes read too far, from what `exec_start(socket=True)` gave.

    A connection that asyncio cannot take (TLS, SSH) is copied through a socket pair by two threads.
    """
    response = opened._response
    # http.client reads the headers through a buffer, which may have taken the first bytes of the output.
    buffered = response.raw._fp.fp
    if isinstance(opened, socket.SocketIO):
        inner = opened._sock  # type: ignore[attr-defined]
        inner.setblocking(False)
        early = bytes(buffered.peek() or b"")
        mine = socket.socket(fileno=os.dup(inner.fileno()))
        response.close()
        return mine, early
    if isinstance(opened, ssl.SSLSocket):
        opened.setblocking(False)
        try:
            early = bytes(buffered.peek() or b"")
        except ssl.SSLWantReadError:
            early = b""
        return _copied(_TlsConnection(opened), response), early
    early = bytes(getattr(buffered, "_rbuffer", b""))
    return _copied(_SshConnection(opened), response), early


class _Connection(Protocol):
    """A connection that is used by two threads at once, one for each direction."""

    def receive(self) -> bytes: ...

    def send(self, data: bytes) -> None: ...

    def end_sending(self) -> None:
        """Tells the other side that nothing more comes from here; `receive` goes on."""
        ...

    def hang_up(self) -> None:
        """Ends it, and a `receive` that waits."""
        ...


def _copied(far: _Connection, response: Any) -> socket.socket:
    mine, near = socket.socketpair()

    def down() -> None:
        with suppress(OSError, ValueError):
            while data := far.receive():
                near.sendall(data)
        with suppress(OSError):
            near.shutdown(socket.SHUT_WR)

    def up() -> None:
        with suppress(OSError, ValueError):
            while data := near.recv(READ_AHEAD):
                far.send(data)
            far.end_sending()
        # Its peer may have ended its own sending only; it hangs up when it wants no more either.
        poll = select.poll()
        poll.register(near, 0)
        poll.poll()
        far.hang_up()
        receiving.join()
        near.close()
        with suppress(OSError, ValueError):
            response.close()

    receiving = threading.Thread(target=down, name="ds01-exec-down", daemon=True)
    receiving.start()
    threading.Thread(target=up, name="ds01-exec-up", daemon=True).start()
    mine.setblocking(False)
    return mine


class _TlsConnection:
    """OpenSSL lets no two threads into one connection, so they take turns and wait outside."""

    def __init__(self, tls: ssl.SSLSocket) -> None:
        self._tls = tls
        self._turn = threading.Lock()

    def receive(self) -> bytes:
        while True:
            try:
                with self._turn:
                    return self._tls.recv(READ_AHEAD)
            except ssl.SSLWantReadError:
                self._wait(select.POLLIN)
            except ssl.SSLWantWriteError:
                self._wait(select.POLLOUT)

    def send(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            try:
                with self._turn:
                    left = left[self._tls.send(left) :]
            except ssl.SSLWantWriteError:
                self._wait(select.POLLOUT)
            except ssl.SSLWantReadError:
                self._wait(select.POLLIN)

    def end_sending(self) -> None:
        # Sends our close_notify. It would wait for theirs too, which comes when the command has ended.
        with suppress(ssl.SSLError), self._turn:
            self._tls.unwrap()

    def hang_up(self) -> None:
        with suppress(OSError, ValueError), self._turn:
            self._tls.shutdown(socket.SHUT_RDWR)

    def _wait(self, event: int) -> None:
        poll = select.poll()
        poll.register(self._tls.fileno(), event)
        poll.poll()


class _SshConnection:
    """A paramiko channel, which is made for threads."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        channel.settimeout(None)

    def receive(self) -> bytes:
        return bytes(self._channel.recv(READ_AHEAD))

    def send(self, data: bytes) -> None:
        self._channel.sendall(data)

    def end_sending(self) -> None:
        self._channel.shutdown_write()

    def hang_up(self) -> None:
        with suppress(OSError, EOFError):
            self._channel.close()
