"""Streams that end when their node is lost, which the connection to it may not show for long."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from ds01_kernels.engine import Stream
from ds01_kernels.engine.swarm_values import Answer, is_ready, node_problem
from ds01_kernels.errors import EngineError

log = logging.getLogger("ds01_kernels")

#: Seconds between looks at the nodes, while streams are open.
LOOK = 1.0


class SwarmStream:
    """A stream of a command on the node of that id."""

    def __init__(self, stream: Stream, node_id: str, closed: Callable[[SwarmStream], None]) -> None:
        self.node_id = node_id
        self._stream = stream
        self._closed = closed
        self._lost = ""

    async def lose(self, why: str) -> None:
        """Whoever reads or writes gets an `EngineError` with this sentence."""
        self._lost = why
        await self._stream.close()

    def _check(self) -> None:
        if self._lost:
            raise EngineError(self._lost)

    async def read(self) -> bytes:
        try:
            data = await self._stream.read()
        except EngineError:
            self._check()
            raise
        if not data:
            self._check()
        return data

    async def write(self, data: bytes) -> None:
        self._check()
        try:
            await self._stream.write(data)
        except EngineError:
            self._check()
            raise

    async def end_input(self) -> None:
        await self._stream.end_input()

    async def resize(self, columns: int, rows: int) -> None:
        await self._stream.resize(columns, rows)

    async def exit_code(self) -> int | None:
        self._check()
        return await self._stream.exit_code()

    @property
    def errors(self) -> str:
        return self._stream.errors

    async def close(self) -> None:
        self._closed(self)
        await self._stream.close()


class Watch:
    """Looks at the nodes as long as there are streams. `nodes` lists them."""

    def __init__(self, nodes: Callable[[], Awaitable[Sequence[Answer]]]) -> None:
        self._nodes = nodes
        self._streams: set[SwarmStream] = set()
        self._looking: asyncio.Task[None] | None = None

    def over(self, stream: Stream, node_id: str) -> SwarmStream:
        watched = SwarmStream(stream, node_id, self._streams.discard)
        self._streams.add(watched)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        return watched

    async def _look(self) -> None:
        while self._streams:
            await asyncio.sleep(LOOK)
            try:
                nodes = {str(node["ID"]): node for node in await self._nodes()}
            except EngineError as error:
                # Without a manager it is not known, and the tasks run on.
                log.debug("The nodes of the swarm are not seen: %s", error)
                continue
            await self._end_lost(nodes)

    async def _end_lost(self, nodes: Mapping[str, Answer]) -> None:
        ending = []
        for stream in list(self._streams):
            node = nodes.get(stream.node_id)
            if node is None or not is_ready(node):
                self._streams.discard(stream)
                ending.append(stream.lose(node_problem(node) if node else "The node has left the swarm."))
        # Each may take a second, on a connection that takes nothing any more.
        await asyncio.gather(*ending)

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
            self._looking = None
