"""The new container in the place of the old one, and the kernels after it."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TypeVar

from .. import containers, images
from ..agent_client import Agent
from ..drifts import Drifts
from ..engine import ContainerInfo, Engine, EngineInfo
from ..errors import Ds01Error
from ..launch import Launcher
from ..projects import Project
from ..settings import Settings
from .checking import check
from .exchange import Exchanges
from .journal import Exchange, Journals
from .phases import Report, Step
from .redeployment import Redeployment, check_consent, tell

log = logging.getLogger("ds01_kernels")

T = TypeVar("T")

#: Seconds for kernels to leave the old container after they were asked to; between looks, first and last.
LEAVE_LIMIT = 60.0
LOOK, LAST_LOOK = 0.01, 0.2
#: Bytes: with less than this, a second container with its agent would make the machine swap.
MEMORY_FOR_BOTH = 512 << 20


class Swaps:
    """`exclusive_gpus`: no two containers can have the same GPU; `memory`: bytes that are left here."""

    def __init__(
        self,
        launcher: Launcher,
        drifts: Drifts,
        exchanges: Exchanges,
        journals: Journals,
        settings: Callable[[Project], Settings],
        *,
        exclusive_gpus: bool,
        memory: Callable[[], int | None],
    ) -> None:
        self._launcher = launcher
        self._drifts = drifts
        self._exchanges = exchanges
        self._journals = journals
        self._settings = settings
        self._exclusive_gpus = exclusive_gpus
        self._memory = memory

    @property
    def _engine(self) -> Engine:
        return self._launcher.engine

    async def swap(
        self,
        project: Project,
        exchange: Exchange,
        wanted: Sequence[str],
        report: Report,
        host: EngineInfo | None = None,
    ) -> None:
        """The new container beside the old one, and then in its place. `host`: the engine, if known."""
        host = host or await self._engine.info()
        if host.deployer:
            await self._swap_redeployed(project, exchange, wanted, report, host)
            return
        if await self.stops_first(project, host):
            await self._swap_stopped(project, exchange, wanted, report, host)
            return
        exchange = await self._try(project, exchange, wanted, report, host)
        await through(self._swap_beside(project, exchange, report))

    async def _swap_redeployed(
        self,
        project: Project,
        exchange: Exchange,
        wanted: Sequence[str],
        report: Report,
        host: EngineInfo,
    ) -> None:
        """The same where a command makes the container, which can only be done when the old one is gone."""
        old = await containers.find(self._engine, project)
        await check_consent(self._launcher, old, exchange.kernels)
        exchange = await self._try(project, exchange, wanted, report, host)
        redeployment = Redeployment(self._launcher, self._drifts, project, exchange)
        await redeployment.end_trial()
        report(Step("swap"))
        async with self._launcher.locks.hold(project.path):
            await through(redeployment.carry_out(self.carry_out))
            await self._journals.forget(project)
        report(Step("restart"))
        await self._look_again(project)

    async def _swap_beside(self, project: Project, exchange: Exchange, report: Report) -> None:
        report(Step("swap"))
        async with self._launcher.locks.hold(project.path):
            old = await self.carry_out(project, exchange)
        report(Step("restart"))
        await asyncio.gather(self._leave(project, old, exchange.kernels), self._begin_anew(project, exchange))

    async def _swap_stopped(
        self,
        project: Project,
        exchange: Exchange,
        wanted: Sequence[str],
        report: Report,
        host: EngineInfo | None,
    ) -> None:
        """The same where there is no room for both: the old one is stopped first, and started again on
        failure."""
        # Held all the time: Jupyter restarts kernels that die, and would start the old container for them.
        async with self._launcher.locks.hold(project.path):
            old = await containers.find(self._engine, project)
            was_running = old is not None and old.running
            await check_consent(self._launcher, old, exchange.kernels)
            try:
                if old is not None:
                    await through(self._engine.stop(old.id, containers.STOP_GRACE))
                exchange = await self._try(project, exchange, wanted, report, host)
                report(Step("swap"))
                await through(self.carry_out(project, exchange))
            except BaseException:
                if old is not None and was_running:
                    await through(self._start_again(project, old))
                raise
        report(Step("restart"))
        await asyncio.gather(self._leave(project, old, exchange.kernels), self._begin_anew(project, exchange))

    async def _start_again(self, project: Project, old: ContainerInfo) -> None:
        try:
            await self._exchanges.settle(project, back=True)
            if (now := await self._engine.container(old.id)) is not None:
                await containers.run(self._engine, now)
        except Ds01Error as error:
            log.warning("The container %s is not started again: %s", old.name, error)

    async def stops_first(self, project: Project, host: EngineInfo | None = None) -> str:
        """Why the old container has to be stopped before the new one starts, which ends all kernels; else
        empty. `host` as in `swap`."""
        host = host or await self._engine.info()
        if host.deployer:
            return "DS01 makes the containers here, and a project has one"
        settings = await asyncio.to_thread(self._settings, project)
        if settings.gpus and self._exclusive_gpus:
            return "its GPUs can be in one container only"
        memory = await asyncio.to_thread(self._memory)
        if memory is not None and memory < MEMORY_FOR_BOTH and host.local:
            return "this machine has not enough memory for two containers"
        return ""

    async def _try(
        self,
        project: Project,
        exchange: Exchange,
        wanted: Sequence[str],
        report: Report,
        host: EngineInfo | None,
    ) -> Exchange:
        """Have a container of the new image up, with a warm agent, and see that kernels can live in it.

        The journal need not know of it yet: until the swap begins it is found by its name.
        """
        report(Step("check"))
        image = exchange.new_image
        assert image is not None
        station = await self._launcher.stand_by(project, image, f"next-{exchange.id}", host)
        keep = partial(self._drifts.keep_image_set, project, image)
        await check(self._engine, station, wanted, lambda: self._before(project), keep)
        return replace(exchange, new_container=station.running.info.id)

    @asynccontextmanager
    async def _before(self, project: Project) -> AsyncIterator[Agent | None]:
        """In a running container with the packages that kernels have now: the project's, or one on trial."""
        info = await containers.find(self._engine, project)
        if info is not None and info.running:
            async with self._launcher.visit(info) as agent:
                yield agent
        elif (image_id := await self._launcher.image_id(project)) is not None:
            async with self._launcher.trial(project, image_id) as agent:
                yield agent
        else:
            yield None

    async def carry_out(
        self, project: Project, exchange: Exchange, then: Callable[[], Awaitable[None]] | None = None
    ) -> ContainerInfo | None:
        """The container that the new one took the place of; `then` as in `Exchanges.carry_out`."""
        latest = project.image_name(os.getuid())
        image, older, current = await asyncio.gather(
            self._engine.image(latest),
            self._engine.image(images.beside(latest, "previous")),
            containers.find(self._engine, project),
        )
        old = current if exchange.new_container or exchange.in_place else None
        exchange = replace(
            exchange,
            old_image=image.id if image else None,
            older_image=older.id if older else None,
            old_container=old.id if old else None,
        )
        await self._exchanges.carry_out(project, exchange, then)
        return old

    async def tell(self, exchange: Exchange) -> None:
        """Have kernels of the old container restarted by those who own them; does not wait for them.

        The container is removed when there are none, or by whoever ends the last. Raises nothing.
        """
        if exchange.old_container is None:
            return
        try:
            info = await self._engine.container(exchange.old_container)
            if info is not None and info.running:
                await tell(self._launcher, info, exchange.kernels)
            if exchange.in_place and info is not None:
                await containers.retire(self._engine, info)
            elif not exchange.in_place:
                await self._launcher.former.retire_if_idle(exchange.old_container)
        except Ds01Error as error:
            log.info("Kernels of a container that was replaced were not told: %s", error)

    async def _leave(
        self, project: Project, old: ContainerInfo | None, kernels: frozenset[str] | None
    ) -> None:
        """The same, but wait for them. Raises nothing: all is exchanged."""
        if old is None:
            return
        try:
            info = await self._engine.container(old.id)
            if info is not None and info.running:
                async with self._launcher.visit(info) as agent, asyncio.timeout(LEAVE_LIMIT):
                    agent.replaced(kernels)
                    left = await agent.kernels()
                    # They know now, whatever becomes of us.
                    await self._journals.forget(project)
                    pause = LOOK
                    while left if kernels is None else kernels & left:
                        await asyncio.sleep(pause)
                        pause = min(1.25 * pause, LAST_LOOK)
                        left = await agent.kernels()
        except (TimeoutError, Ds01Error) as error:
            log.info("Not all kernels have left %s: %s", old.name, error or "it takes too long")
        await self._journals.forget(project)
        self._launcher.former.leave(old.id)

    async def _begin_anew(self, project: Project, exchange: Exchange) -> None:
        assert exchange.new_container is not None
        assert exchange.new_image is not None
        try:
            await self._drifts.begin_anew(project, exchange.new_container, exchange.new_image)
        except Ds01Error as error:
            log.info("That nothing is installed in the new container is not recorded yet: %s", error)

    async def _look_again(self, project: Project) -> None:
        try:
            await self._drifts.look(project)
        except Ds01Error as error:
            log.info("What is installed in the new container is not known yet: %s", error)


async def through(work: Awaitable[T]) -> T:
    """Await `work` to its end: to cancel this comes too late."""
    task = asyncio.ensure_future(work)
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise
    return task.result()
