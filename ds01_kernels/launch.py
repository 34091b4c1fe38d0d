"""Flow 1: project -> running container -> agent -> kernel process."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import containers, elsewhere, ipykernel_store
from .agent_client import Agent, KernelProcess
from .agent_listener import AgentListener
from .agent_requests import Identity, KernelRequest
from .agent_stream import Load
from .containers import STOP_GRACE, Running
from .engine import ContainerInfo, Engine, EngineInfo
from .errors import (
    AgentError,
    AgentLostError,
    ContainerExitedError,
    Ds01Error,
    KernelsRunningError,
    NotBuiltError,
)
from .events import ContainerChanged
from .exits import Exit
from .former import FormerContainers
from .idling import Idling
from .locks import ProjectLocks
from .preparing import Preparations
from .projects import Project
from .settings import Settings
from .station import Started, Station
from .unreachable import why_unreachable
from .vanishing import tell_end

log = logging.getLogger("ds01_kernels")

#: A container of that project, its agent, and whether this process has just made it.
Noticed = Callable[[Project, ContainerInfo, Agent, bool], None]


class Launcher:
    """Starts kernel processes in the containers of projects, and keeps the agents that it has reached."""

    def __init__(self, engine: Engine, settings: Callable[[Project], Settings], identity: Identity) -> None:
        self.engine = engine
        self.preparations = Preparations(engine)
        self.locks = ProjectLocks()
        #: Told of every container that was reached for its project, and when something was installed in it.
        self.noticed: Noticed = lambda project, info, agent, is_new: None
        #: Told when a container has come to run, or was removed.
        self.changed: Callable[[ContainerChanged], None] = lambda event: None
        #: Told of kernel processes of ours whose container has been replaced: they are to be restarted.
        self.replaced: Callable[[frozenset[str]], None] = lambda kernels: None
        #: What is known beyond that of how the kernels of a container, a name, have ended with it.
        self.why_ended: Callable[[str, Exit], Awaitable[Exit | None]] = _nothing
        #: Ends what a rebuild of a process that is gone had begun, before the project's container is used.
        self.settle: Callable[[Project], Awaitable[None]] = _nothing
        self._settings = settings
        self._identity = identity
        #: Kernel processes of ours that may be needed soon and are nobody's yet: they keep no container.
        self.reserved: set[str] = set()
        #: Kernel processes that are over in a moment, by SIGKILL if need be, and what sees to that.
        self.ending: dict[KernelProcess, asyncio.Task[None]] = {}
        self._stations: dict[str, Station] = {}
        #: By the project's path, where it was reached the last time.
        self._reached: dict[Path, Station] = {}
        self._seeing_out: set[asyncio.Task[None]] = set()
        self.former = FormerContainers(lambda: self.engine, self._is_idle)
        self.idling = Idling(engine, self.locks, self.count_kernels, self._was_stopped)

    async def start(self, project: Project, request: KernelRequest) -> Started:
        """Start a kernel process and wait until it is ready. Raises an error of `errors.py`."""
        async with self.idling.busy(project):
            try:
                started = await self._start(project, request)
            except (AgentLostError, ContainerExitedError) as error:
                # The container may have been stopped or replaced between our look and the start: look
                # afresh, once.
                log.info("Starting the kernel of project %s again: %s", project.name, error)
                started = await self._start(project, request)
            if started.process.agent.has_successor:
                # Its container was replaced while it started.
                started.process.end()
                started = await self._start(project, request)
            self.follow(project, started.process)
            return started

    def station_of(self, agent: Agent) -> Station | None:
        """The container of that agent, as far as it can still be used."""
        station = self._stations.get(agent.container)
        is_that = station is not None and station.agent is agent and agent.lost is None
        return station if is_that and not agent.has_successor else None

    def follow(self, project: Project, process: KernelProcess) -> None:
        """That process is a kernel: its container is needed until it has ended."""
        self.idling.follow(project, process)
        self._see_out(process)

    def _see_out(self, process: KernelProcess) -> None:
        """Once it has ended, remove its container if that was only kept for the kernels in it."""

        async def wait() -> None:
            await process.ended()
            if process.agent.has_successor:
                self.former.leave(process.agent.container)

        self._keep(wait())

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        # asyncio keeps only weak references to tasks.
        task = asyncio.create_task(work)
        self._seeing_out.add(task)
        task.add_done_callback(self._seeing_out.discard)

    async def _start(self, project: Project, request: KernelRequest) -> Started:
        """Begin it where the project was reached the last time, and see beside that whether this is right.

        The look asks the engine, which takes as long as a third of the rest.
        """
        curve = "curve_secretkey" in request.connection
        likely = self._reached.get(project.path)
        begun: asyncio.Task[Started] | None = None
        if likely is not None and likely is self.station_of(likely.agent) and likely.is_prepared(curve=curve):
            begun = asyncio.create_task(likely.begin(request))
        # Nobody's yet.
        self.reserved.add(request.process)
        try:
            station = await self.reach(project)
            if begun is not None and station is likely:
                taken, begun = begun, None
                return await self._outcome(taken, likely)
        finally:
            self.reserved.discard(request.process)
            if begun is not None:
                self._keep(self._end(begun))
        await self.preparations.make(project, station, curve=curve)
        # What was begun may have been in the same container, before that was started anew, and be ending.
        return await station.begin(request if begun is None else request.anew())

    async def _outcome(self, begun: Awaitable[Started], station: Station) -> Started:
        try:
            return await begun
        except Ds01Error as error:
            if station.agent.lost is None:
                raise
            # The look has started the container anew, and the agent's loss was not known yet.
            raise AgentLostError(str(error)) from error

    async def _end(self, begun: Awaitable[Started]) -> None:
        with suppress(Ds01Error, OSError):
            process = (await begun).process
            self._see_out(process)
            process.end()

    async def reach(self, project: Project) -> Station:
        """The project's container, running, with its agent connected."""
        async with self.locks.hold(project.path):
            await self.settle(project)
            return await self.reach_held(project)

    async def reach_held(self, project: Project) -> Station:
        """The same for who holds the project's lock."""
        settings = await asyncio.to_thread(self._settings, project)
        with AgentListener() as listener:
            running = await containers.ensure(
                self.engine,
                project,
                settings,
                store=await asyncio.to_thread(ipykernel_store.store_root),
                is_idle=self._is_idle,
                guess=self.preparations.guess(project),
                listener=listener,
            )
            station = await self._station(project, running, settings.python, listener)
        self._reached[project.path] = station
        return station

    async def adopt(self, project: Project, process: str, client: str) -> Started:
        """Take over a kernel process that another process of ours, `client`, has started."""
        station = await self.reach(project)
        started = await station.started(await station.agent.adopt(process, client))
        self.idling.follow(project, started.process)
        return started

    async def deploy(self, project: Project) -> ContainerInfo:
        """Have the project's container running, and its agent ready for kernels."""
        station = await self.reach(project)
        await self.preparations.make(project, station, curve=False)
        return station.running.info

    async def retire(self, project: Project, *, force: bool) -> bool:
        """Remove the project's container; False when there is none.

        Raises `KernelsRunningError` unless `force`.
        """
        async with self.locks.hold(project.path):
            await self.settle(project)
            info = await containers.find(self.engine, project)
            if info is None:
                return False
            if not force and info.running and (count := await self.count_kernels(info)):
                raise KernelsRunningError(
                    f"{count} kernel{'s' if count > 1 else ''} of project {project.name} still "
                    f"run{'' if count > 1 else 's'} in {info.name}.",
                    remedy="Shut them down first, or use --force to end them.",
                )
            await containers.retire(self.engine, info)
        self.changed(ContainerChanged(project.name, info.name, "removed"))
        return True

    async def stop(self, project: Project) -> None:
        """Stop the project's container, and all kernels with it."""
        async with self.locks.hold(project.path):
            await self.settle(project)
            info = await containers.find(self.engine, project)
            if info is not None and info.running:
                if "keep" in (await self.engine.info()).cannot:
                    with suppress(Ds01Error):
                        await self.idling.record_drift(project)
                await self.engine.stop(info.id, STOP_GRACE)
                self._was_stopped(project, info)

    async def count_kernels(self, info: ContainerInfo) -> int:
        """How many kernels run in that container, of all clients. Raises `AgentError` or `EngineError`."""
        async with self.visit(info) as agent:
            return await agent.count_kernels()

    async def look(self, info: ContainerInfo, python: str = "") -> tuple[Mapping[str, Any], Load]:
        """The interpreter's survey of a running container, and what is on it now. Raises the same.

        `python` is the interpreter to prefer when no agent runs there yet.
        """
        async with self.visit(info, python) as agent:
            return agent.survey, await agent.load()

    @asynccontextmanager
    async def visit(
        self, info: ContainerInfo, python: str = "", listener: AgentListener | None = None
    ) -> AsyncIterator[Agent]:
        """The agent of a running container, whether or not kernels of ours run there. Raises the same."""
        station = self._stations.get(info.id)
        if station is not None and station.agent.lost is None:
            yield station.agent
            return
        # Not as ourselves: to say hello with our name would end a predecessor's kernels.
        stranger = Identity(f"visitor-{os.urandom(8).hex()}", "", 0)
        visitor = Agent(self.engine, info.id, stranger, ("", ""), python)
        await visitor.connect(listener)
        try:
            yield visitor
        finally:
            await visitor.close()

    async def image_id(self, project: Project) -> str | None:
        """The id of the project's image; None when it has not been built. Raises `EngineError`."""
        image = await self.engine.image(project.image_name(os.getuid()))
        return image.id if image else None

    @asynccontextmanager
    async def trial(self, project: Project, image_id: str) -> AsyncIterator[Agent]:
        """The agent of a container of that image, made as the project's would be and removed afterwards.

        Raises `AgentError`, `EngineError`, or `NotBuiltError` when there is no such image.
        """
        settings = await asyncio.to_thread(self._settings, project)
        info = await self._create_beside(project, image_id, settings, f"trial-{os.urandom(4).hex()}")
        try:
            with AgentListener() as listener:
                guess = self.preparations.guess(project)
                running = await containers.run(self.engine, info, guess, listener)
                async with self.visit(running.info, settings.python, listener) as agent:
                    yield agent
        finally:
            await asyncio.shield(containers.retire(self.engine, info))

    async def stand_by(
        self, project: Project, image_id: str, beside: str, host: EngineInfo | None = None
    ) -> Station:
        """A container of that image beside the project's, up and ready for kernels.

        Its name ends in `beside`; `host` is what the engine is, where that is known. Raises the same. What is
        there then is the caller's to remove, and what is installed in it the caller's to find out.
        """
        settings = await asyncio.to_thread(self._settings, project)
        info = await self._create_beside(project, image_id, settings, beside, host)
        with AgentListener() as listener:
            guess = self.preparations.guess(project)
            running = replace(await containers.run(self.engine, info, guess, listener), is_new=True)
            station = await self._station(project, running, settings.python, listener, is_noticed=False)
        await self.preparations.make(project, station, curve=False)
        return station

    async def _create_beside(
        self,
        project: Project,
        image_id: str,
        settings: Settings,
        beside: str,
        host: EngineInfo | None = None,
    ) -> ContainerInfo:
        image = await self.engine.image(image_id)
        if image is None:
            raise NotBuiltError(f"There is no image {image_id} any more.", remedy="Build it again.")
        store = await asyncio.to_thread(ipykernel_store.store_root)
        return await containers.create(self.engine, project, image, settings, store, beside=beside, host=host)

    async def close(self) -> None:
        """End our kernels and leave the agents."""
        await self.idling.close()
        stations, self._stations = list(self._stations.values()), {}
        agents = (station.agent.close() for station in stations)
        await asyncio.gather(self.former.close(), *agents, return_exceptions=True)
        await self.engine.close()

    def _was_stopped(self, project: Project, info: ContainerInfo) -> None:
        # Its agent will see that it is lost, but not before the container is reached again.
        self._stations.pop(info.id, None)
        self.changed(ContainerChanged(project.name, info.name, "stopped"))

    async def _is_idle(self, info: ContainerInfo) -> bool:
        try:
            async with self.visit(info) as agent:
                others = await agent.kernels() - self.reserved
                ending = [process for process in self.ending if process.id in others]
                await asyncio.gather(*(process.ended() for process in ending))
                return len(others) == len(ending)
        except AgentError as error:
            log.warning("The container %s is kept, since its agent does not answer: %s", info.name, error)
            return False

    async def _station(
        self,
        project: Project,
        running: Running,
        python: str,
        listener: AgentListener,
        *,
        is_noticed: bool = True,
    ) -> Station:
        known = self._stations.get(running.info.id)
        if known is not None and known.agent.lost is None:
            # It may have got another name since.
            known.running = replace(known.running, info=running.info)
            return known
        nonce = running.sockets.write_nonce() if running.sockets else ("", "")
        agent = Agent(
            self.engine,
            running.info.id,
            self._identity,
            nonce,
            python,
            on_change=lambda: self.noticed(project, running.info, agent, False),
            on_replaced=lambda kernels: self.replaced(kernels),
            started=running.info.started,
            why_ended=lambda exit_: self.why_ended(running.info.name, exit_),
        )
        try:
            await agent.connect(listener)
        except (AgentError, ContainerExitedError) as error:
            raise await why_unreachable(self.engine, running.info, error) from error
        finally:
            if running.sockets:
                running.sockets.remove_nonce(nonce[0])
        if running.is_foreign:
            await self._check_files(project, running, agent)
        if agent.ended:
            log.warning(
                "%d kernels that a previous server left in %s were ended", len(agent.ended), running.info.name
            )
        self._stations = {
            id_: station for id_, station in self._stations.items() if station.agent.lost is None
        }
        station = self._stations[running.info.id] = Station(running, agent)
        self._keep(tell_end(self.engine, project, station, lambda event: self.changed(event)))
        if is_noticed:
            self.noticed(project, running.info, agent, running.is_new)
        self.changed(ContainerChanged(project.name, running.info.name, "running"))
        return station

    async def _check_files(self, project: Project, running: Running, agent: Agent) -> None:
        try:
            await elsewhere.check_files(project, running.info, agent)
        except BaseException:
            await agent.close()
            if running.is_new:
                await asyncio.shield(containers.retire(self.engine, running.info))
            raise


async def _nothing(*of: object) -> None:
    return
