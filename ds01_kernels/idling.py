"""Stops containers in which no kernel has run for a time, so that they hold no GPUs and no memory.

The time begins when the last kernel of this process in a container has ended, or when the server was started;
nothing is asked while kernels run. When it is over, the kernels of all clients are counted, at a moment in
which no process of ours can start one there. A container is stopped, never removed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from . import containers
from .agent_client import KernelProcess
from .engine import ContainerInfo, Engine
from .errors import Ds01Error
from .locks import ProjectLocks
from .projects import Project

log = logging.getLogger("ds01_kernels")

#: Seconds that a container's main process, which does nothing, is given to end.
STOP_GRACE = 5.0


async def _nothing(project: Project) -> None:
    return


class Idling:
    """Everything here belongs to one event loop. `seconds`: 0 stops nothing."""

    def __init__(
        self,
        engine: Engine,
        locks: ProjectLocks,
        count: Callable[[ContainerInfo], Awaitable[int]],
        stopped: Callable[[Project, ContainerInfo], None],
    ) -> None:
        """`count` says how many kernels of all clients run in a container. Raises `Ds01Error`."""
        self.seconds = 0.0
        #: Awaited before a container is stopped, while it runs and no kernel of ours can start in it. When it
        #: raises a `Ds01Error` the container is left for another time.
        self.record_drift: Callable[[Project], Awaitable[object]] = _nothing
        self._engine = engine
        self._locks = locks
        self._count = count
        self._stopped = stopped
        #: What this process does in each project's container: kernels, and starts of them.
        self._doing: Counter[Path] = Counter()
        self._timers: dict[Path, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def counting_down(self) -> frozenset[Path]:
        """The paths of the projects whose time has begun."""
        return frozenset(self._timers)

    @property
    def is_at_rest(self) -> bool:
        """Whether no time has begun, and no kernel is followed."""
        return not self._timers and not self._tasks

    @asynccontextmanager
    async def busy(self, project: Project) -> AsyncIterator[None]:
        """While this lasts no process of ours stops the project's container for being idle."""
        self._begin(project)
        try:
            async with self._locks.share(project.path):
                yield
        finally:
            self._end(project)

    def follow(self, project: Project, process: KernelProcess) -> None:
        """Count that kernel process until it ends."""
        self._begin(project)

        async def wait() -> None:
            try:
                await process.ended()
            finally:
                self._end(project)

        self._run(wait())

    async def watch(self, projects: Iterable[Project], grace: float) -> None:
        """Begin the time of every container of theirs that runs already, `grace` seconds from now.

        Whoever started it may be gone. Raises nothing.
        """
        if not self.seconds:
            return
        try:
            running = await containers.find_all(self._engine)
        except Ds01Error as error:
            log.info("Containers that idle are not looked for: %s", error)
            return
        for project in projects:
            info = running.get(str(project.path))
            if info is not None and info.running and not self._doing[project.path]:
                self._wait(project, self.seconds + grace)

    async def close(self) -> None:
        """Stop nothing any more."""
        self.seconds = 0.0
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, project: Project) -> None:
        self._doing[project.path] += 1
        if timer := self._timers.pop(project.path, None):
            timer.cancel()

    def _end(self, project: Project) -> None:
        self._doing[project.path] -= 1
        if not self._doing[project.path]:
            del self._doing[project.path]
            if self.seconds:
                self._wait(project, self.seconds)

    def _wait(self, project: Project, seconds: float) -> None:
        if timer := self._timers.pop(project.path, None):
            timer.cancel()
        loop = asyncio.get_running_loop()
        self._timers[project.path] = loop.call_later(seconds, lambda: self._run(self._is_over(project)))

    def _run(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _is_over(self, project: Project) -> None:
        self._timers.pop(project.path, None)
        try:
            again = not await self._stop_unless_used(project)
        except Ds01Error as error:
            log.info("The container of project %s is not stopped now: %s", project.name, error)
            again = True
        # Someone at a shell, or an engine that was away, says nothing when that is over.
        if again and self.seconds and not self._doing[project.path]:
            self._wait(project, self.seconds)

    async def _stop_unless_used(self, project: Project) -> bool:
        """False when it should be tried again; whoever has kernels there sees to it when they have ended."""
        async with self._locks.hold(project.path):
            with self._locks.claim(project.path) as is_unused:
                if not is_unused:
                    return False
                info = await containers.find(self._engine, project)
                if info is None or not info.running or await self._count(info):
                    return True
                await self.record_drift(project)
                await self._engine.stop(info.id, STOP_GRACE)
        log.info("The container %s was stopped: no kernel has run in it for %g s", info.name, self.seconds)
        self._stopped(project, info)
        return True
