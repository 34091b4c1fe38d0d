"""What ends when its node is lost, which the connection to it may not show for long: streams, and calls."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from ds01_kernels.engine import Stream
from ds01_kernels.engine.swarm_values import Answer, is_down, loss_of
from ds01_kernels.errors import ContainerExitedError, EngineError

log = logging.getLogger("ds01_kernels")

T = TypeVar("T")

#: Seconds between looks at the nodes, while streams are open and calls last.
LOOK = 1.0


class SwarmStream:
    """A stream of a command on the node of that id, which `watch` looks at."""

    def __init__(self, stream: Stream, node_id: str, watch: Watch) -> None:
        self.node_id = node_id
        self._stream = stream
        self._watch = watch
        self._lost = ""

    async def lose(self, why: str) -> None:
        """Whoever reads or writes gets a `ContainerExitedError` with this sentence."""
        self._lost = why
        await self._stream.close()

    def _check(self) -> None:
        if self._lost:
            raise ContainerExitedError(self._lost)

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
        await self._watch.during(self._stream.resize(columns, rows), self.node_id)

    async def exit_code(self) -> int | None:
        self._check()
        return await self._watch.during(self._stream.exit_code(), self.node_id)

    @property
    def errors(self) -> str:
        return self._stream.errors

    async def close(self) -> None:
        self._watch.forget(self)
        await self._stream.close()


class SwarmCall:
    """A call to the Docker of the node of that id, while it lasts."""

    def __init__(self, working: asyncio.Task[Any], node_id: str) -> None:
        self.node_id = node_id
        #: Why it was ended: what became of the node.
        self.lost = ""
        self._working = working

    async def lose(self, why: str) -> None:
        self.lost = why
        self._working.cancel()


class Watch:
    """Looks at the nodes as long as there are streams or calls. `nodes` lists them."""

    def __init__(self, nodes: Callable[[], Awaitable[Sequence[Answer]]]) -> None:
        self._nodes = nodes
        self._watched: set[SwarmStream | SwarmCall] = set()
        self._looking: asyncio.Task[None] | None = None

    def over(self, stream: Stream, node_id: str) -> SwarmStream:
        watched = SwarmStream(stream, node_id, self)
        self._add(watched)
        return watched

    def forget(self, stream: SwarmStream) -> None:
        self._watched.discard(stream)

    async def during(self, call: Coroutine[Any, Any, T], node_id: str) -> T:
        """What `call` gives, which asks that node. Raises `ContainerExitedError` if it is lost meanwhile."""
        working = asyncio.create_task(call)
        watched = SwarmCall(working, node_id)
        self._add(watched)
        try:
            # Unlike `await working`, this tells a call that was given up from one whose node was lost.
            await asyncio.wait([working])
        except asyncio.CancelledError:
            working.cancel()
            await asyncio.wait([working])
            raise
        finally:
            self._watched.discard(watched)
        if working.cancelled() and watched.lost:
            raise ContainerExitedError(watched.lost)
        return working.result()

    def _add(self, watched: SwarmStream | SwarmCall) -> None:
        self._watched.add(watched)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        while self._watched:
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
        for one in list(self._watched):
            node = nodes.get(one.node_id)
            if node is None or is_down(node):
                self._watched.discard(one)
                ending.append(one.lose(loss_of(node)))
        # Each may take a second, on a connection that takes nothing any more.
        await asyncio.gather(*ending)

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
            self._looking = None
