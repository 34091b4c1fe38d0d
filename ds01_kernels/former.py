"""Containers that another one has taken the place of: each goes with the last kernel in it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from . import containers
from .engine import ContainerInfo, Engine
from .errors import ContainerExitedError, Ds01Error

log = logging.getLogger("ds01_kernels")

#: Seconds that this process stays for containers which are being removed.
REMOVAL_LIMIT = 3.0


class FormerContainers:
    """Of one engine. `is_idle` says of a running one whether no kernel is left in it."""

    def __init__(
        self, engine: Callable[[], Engine], is_idle: Callable[[ContainerInfo], Awaitable[bool]]
    ) -> None:
        self._engine = engine
        self._is_idle = is_idle
        self._retiring: dict[str, asyncio.Lock] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    def leave(self, container: str) -> None:
        """Have it removed if it is idle. Only `close` waits for that, which takes an engine as long as a
        start."""
        # asyncio keeps only weak references to tasks.
        leaving = asyncio.create_task(self._leave(container))
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

    async def _leave(self, container: str) -> None:
        try:
            await self.retire_if_idle(container)
        except Ds01Error as error:
            log.info("A container that was replaced is not removed now: %s", error)

    async def retire_if_idle(self, container: str) -> bool:
        """Remove a container beside the project's, unless kernels run in it; whether it is gone now."""
        # One at a time for each: the rebuild asks for it, and so does the end of the last kernel there.
        async with self._retiring.setdefault(container, asyncio.Lock()):
            engine = self._engine()
            info = await engine.container(container)
            if info is None:
                return True
            # One that ends at this moment is being removed by somebody else: to join in is to wait for that.
            with suppress(ContainerExitedError):
                if containers.is_current(info) or (info.running and not await self._is_idle(info)):
                    return False
            await containers.retire(engine, info)
            self._retiring.pop(container, None)
            return True

    async def close(self) -> None:
        """Wait for those that are being removed; what is left is removed by the next server."""
        if self._leaving:
            await asyncio.wait(self._leaving, timeout=REMOVAL_LIMIT)
