"""Kernels' channels where no directory is shared with the container: sockets of this machine.

Each connection to one of them is a byte stream through the agent to the kernel's own socket.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .agent import protocol
from .agent.streams import Stream, StreamError, Streams
from .connection import PORTS, LocalSockets
from .errors import ProtocolError

log = logging.getLogger("ds01_kernels")


@dataclass(frozen=True)
class _Listening:
    sockets: LocalSockets
    servers: tuple[asyncio.Server, ...]


class ChannelStreams:
    """The channels of the kernels in one container, through `streams` to its agent."""

    def __init__(self) -> None:
        self.streams = Streams(lambda: None)
        self._numbers = itertools.count(1)
        self._listening: dict[str, _Listening] = {}

    async def listen(self, process: str) -> str:
        """Sockets that lead to that kernel process's; what comes before the port in their paths.

        Raises `OSError` or `Ds01Error`.
        """
        if process not in self._listening:
            sockets = LocalSockets()
            servers: list[asyncio.Server] = []
            try:
                for port in PORTS.values():
                    servers += [await self._serve(process, port, sockets)]
            except BaseException:
                _end(_Listening(sockets, tuple(servers)))
                raise
            self._listening[process] = _Listening(sockets, tuple(servers))
        return self._listening[process].sockets.prefix

    def listens(self, process: str) -> bool:
        """Whether that kernel process is reached in this way."""
        return process in self._listening

    async def _serve(self, process: str, port: int, sockets: LocalSockets) -> asyncio.Server:
        def accepted() -> Stream:
            number = next(self._numbers)
            opening = {"kind": "open", "stream": number, "kernel": process, "port": port}
            return Stream(self.streams, number, opening)

        path = f"{sockets.prefix}-{port}"
        return await asyncio.get_running_loop().create_unix_server(accepted, path)

    def stop(self, process: str) -> None:
        """Take no more connections for it; those that there are end with what it has still said."""
        listening = self._listening.pop(process, None)
        if listening is not None:
            _end(listening)

    def receive(self, message: protocol.Message | protocol.Data) -> None:
        """What the agent says of a stream. Raises `ProtocolError`."""
        try:
            self.streams.receive(message)
        except StreamError as error:
            raise _broken(error) from error

    def resume(self, offsets: Mapping[str, Any]) -> None:
        """Go on with the streams that the agent still has; whoever uses another one has to connect again."""
        try:
            self.streams.resume(offsets)
        except StreamError as error:
            log.warning("%s", _broken(error))
            self.streams.close()

    def close(self) -> None:
        for process in list(self._listening):
            self.stop(process)
        self.streams.close()


def _broken(error: StreamError) -> ProtocolError:
    return ProtocolError(f"The agent in the container does not keep to its protocol: {error}.")


def _end(listening: _Listening) -> None:
    for server in listening.servers:
        server.close()
    listening.sockets.remove()
