"""Flow 1: project -> running container -> agent -> kernel process."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from . import containers, images, ipykernel_store
from .agent.kernel import is_start_bound
from .agent_client import Agent, Identity, KernelProcess, KernelRequest
from .connection import SocketDirectory
from .containers import IPYKERNEL, Running
from .engine import ContainerInfo, Engine
from .errors import AgentError, AgentLostError, ContainerExitedError, KernelsRunningError
from .locks import ProjectLocks
from .projects import Project
from .settings import Settings
from .variables import select

log = logging.getLogger("ds01_kernels")

#: Seconds that a build of the same image by somebody else is waited for.
BUILD_LIMIT = 3600.0


@dataclass(frozen=True)
class Started:
    """A kernel process that answers, and the directory in which its sockets are."""

    process: KernelProcess
    container: ContainerInfo
    sockets: SocketDirectory

    @property
    def prefix(self) -> str:
        """What comes before the port in the paths of its sockets."""
        return str(self.sockets.path / self.process.id)


@dataclass
class _Station:
    """A container whose agent is connected."""

    running: Running
    agent: Agent
    #: None until the agent knows where ipykernel is; then whether that one can encrypt.
    prepared: bool | None = None


class Launcher:
    """Starts kernel processes in the containers of projects, and keeps the agents that it has reached."""

    def __init__(self, engine: Engine, settings: Callable[[Project], Settings], identity: Identity) -> None:
        self.engine = engine
        self.locks = ProjectLocks()
        self._settings = settings
        self._identity = identity
        self._stations: dict[str, _Station] = {}

    async def start(self, project: Project, request: KernelRequest) -> Started:
        """Start a kernel process and wait until it is ready. Raises an error of `errors.py`."""
        try:
            return await self._start(project, request)
        except (AgentLostError, ContainerExitedError) as error:
            # The container may have been stopped or replaced between our look and the start: look afresh,
            # once.
            log.info("Starting the kernel of project %s again: %s", project.name, error)
            return await self._start(project, request)

    async def _start(self, project: Project, request: KernelRequest) -> Started:
        station = await self.reach(project)
        await self._prepare(station, curve="curve_secretkey" in request.connection)
        process = await station.agent.spawn(request)
        try:
            await process.ready()
        except BaseException:
            process.end()
            raise
        return _started(station, process)

    async def reach(self, project: Project) -> _Station:
        """The project's container, running, with its agent connected."""
        async with self.locks.hold(project.path):
            settings = await asyncio.to_thread(self._settings, project)
            running = await containers.ensure(
                self.engine,
                project,
                settings,
                store=await asyncio.to_thread(ipykernel_store.store_root),
                is_idle=self._is_idle,
            )
            return await self._station(running, settings.python)

    async def adopt(self, project: Project, process: str, client: str) -> Started:
        """Take over a kernel process that another process of ours, `client`, has started."""
        station = await self.reach(project)
        return _started(station, await station.agent.adopt(process, client))

    async def build_if_missing(self, project: Project, say: Callable[[str], None]) -> None:
        """Build the project's image unless there is one. Raises `Ds01Error`.

        `say` gets what the build prints.
        """
        # Not the project's own lock: a build takes minutes, and kernels in the container may start meanwhile.
        async with self.locks.hold(project.path / "build", limit=BUILD_LIMIT):
            if await self.engine.image(project.image_name(os.getuid())) is not None:
                return
            say(f"The image of project {project.name} is being built.\n")
            settings = await asyncio.to_thread(self._settings, project)
            build = images.build(self.engine, project, arguments=settings.build_args)
            async with aclosing(build) as progress:  # type: ignore[type-var]
                async for value in progress:
                    say(value.log)

    async def deploy(self, project: Project) -> ContainerInfo:
        """Have the project's container running, and its agent ready for kernels."""
        station = await self.reach(project)
        await self._prepare(station, curve=False)
        return station.running.info

    async def retire(self, project: Project, *, force: bool) -> bool:
        """Remove the project's container; False when there is none.

        Raises `KernelsRunningError` unless `force`.
        """
        async with self.locks.hold(project.path):
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
            return True

    async def count_kernels(self, info: ContainerInfo) -> int:
        """How many kernels run in that container, of all clients. Raises `AgentError` or `EngineError`."""
        async with self._visit(info) as agent:
            return await agent.count_kernels()

    async def look(self, info: ContainerInfo, python: str = "") -> tuple[Mapping[str, Any], int]:
        """The interpreter's survey and the number of kernels of a running container. Raises the same.

        `python` is the interpreter to prefer when no agent runs there yet.
        """
        async with self._visit(info, python) as agent:
            return agent.survey, await agent.count_kernels()

    @asynccontextmanager
    async def _visit(self, info: ContainerInfo, python: str = "") -> AsyncIterator[Agent]:
        station = self._stations.get(info.id)
        if station is not None and station.agent.lost is None:
            yield station.agent
            return
        # Not as ourselves: to say hello with our name would end a predecessor's kernels.
        stranger = Identity(f"visitor-{os.urandom(8).hex()}", "", 0)
        visitor = Agent(self.engine, info.id, stranger, ("", ""), python)
        await visitor.connect()
        try:
            yield visitor
        finally:
            await visitor.close()

    async def close(self) -> None:
        """End our kernels and leave the agents."""
        stations, self._stations = list(self._stations.values()), {}
        await asyncio.gather(*(station.agent.close() for station in stations), return_exceptions=True)
        await self.engine.close()

    async def _is_idle(self, info: ContainerInfo) -> bool:
        try:
            return await self.count_kernels(info) == 0
        except AgentError as error:
            log.warning("The container %s is kept, since its agent does not answer: %s", info.name, error)
            return False

    async def _station(self, running: Running, python: str) -> _Station:
        known = self._stations.get(running.info.id)
        if known is not None and known.agent.lost is None:
            return known
        nonce = running.sockets.write_nonce() if running.sockets else ("", "")
        agent = Agent(self.engine, running.info.id, self._identity, nonce, python)
        try:
            await agent.connect()
        finally:
            if running.sockets:
                running.sockets.remove_nonce(nonce[0])
        if agent.ended:
            log.warning(
                "%d kernels that a previous server left in %s were ended", len(agent.ended), running.info.name
            )
        self._stations = {
            id_: station for id_, station in self._stations.items() if station.agent.lost is None
        }
        station = self._stations[running.info.id] = _Station(running, agent)
        return station

    async def _prepare(self, station: _Station, *, curve: bool) -> None:
        """Have an ipykernel in place, and the agent's zygote warming."""
        if station.prepared or (station.prepared is not None and not curve):
            return
        survey = station.agent.survey
        found = survey["ipykernel"]
        path: list[str] = []
        if found is None or not ipykernel_store.is_sufficient(found, curve=curve):
            name = await ipykernel_store.provide(_target(survey), curve=curve)
            path = [str(IPYKERNEL / name)]
        env = {name: value for name, value in select(os.environ).plain.items() if is_start_bound(name)}
        station.agent.prepare(path, first=bool(path) and found is not None, env=env)
        station.prepared = curve


def _started(station: _Station, process: KernelProcess) -> Started:
    if station.running.sockets is None or not station.agent.shares_directory:
        process.end()
        raise AgentError(
            f"The container {station.running.info.name} cannot share a directory with this machine.",
            remedy="Use an engine that runs on this machine.",
        )
    return Started(process, station.running.info, station.running.sockets)


def _target(survey: Mapping[str, Any]) -> ipykernel_store.Target:
    return ipykernel_store.Target(
        version=tuple(survey["version"][:2]),
        implementation=survey["implementation"],
        libc=survey["libc"],
        libc_version=tuple(survey["libc_version"]),
        machine=survey["machine"],
    )
