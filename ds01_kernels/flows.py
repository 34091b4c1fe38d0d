"""What is done with projects, on the engine that each of them is on."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from . import containers
from .agent_client import Agent
from .drifts import Drifts
from .engine import ContainerInfo, Engine, EngineName
from .errors import ConflictError, Ds01Error, SettingError
from .housekeeping import Housekeeping
from .launch import Launcher
from .projects import Project
from .rebuild import Rebuilds

log = logging.getLogger("ds01_kernels")

#: Seconds before each attempt to clear up on other engines: one may be away for the moment.
ATTEMPTS = (0.0, 10.0, 120.0, 1800.0)


@dataclass(frozen=True)
class Flows:
    """Kernels, drift and rebuilds on one engine. `name` is what was asked for, ``"auto"``: what there is."""

    name: EngineName
    engine: Engine
    launcher: Launcher
    drifts: Drifts
    rebuilds: Rebuilds

    @property
    def housekeeping(self) -> Housekeeping:
        return Housekeeping(self.launcher)


@dataclass
class AllFlows:
    """Those of a process, made when they are needed; everything here belongs to its loop.

    `make` makes those of an engine. `usual` names the engine that projects are on unless they choose another
    one, which can be one of `allowed`; `real_name` says what an engine really is, empty where that is not
    known. `wanted` reads which one a project asks for.
    """

    make: Callable[[EngineName], Flows]
    usual: EngineName
    allowed: Collection[EngineName]
    real_name: Callable[[Engine], Awaitable[str]]
    wanted: Callable[[Project], EngineName]
    _made: dict[EngineName, Flows] = field(default_factory=dict)
    #: By project's path, on which engine its container was last seen to be.
    _seen: dict[Path, EngineName] = field(default_factory=dict)
    _clearing: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def made(self) -> list[Flows]:
        return list(self._made.values())

    @property
    def of_usual(self) -> Flows:
        return self._of(self.usual)

    async def of(self, project: Project) -> Flows:
        """Those on that project's engine. Where it may not have the one that it asks for, they are the usual
        ones, which make no container for it."""
        if not self.allowed:
            return self.of_usual
        return await self._named(await asyncio.to_thread(self.wanted, project))

    async def named(self, name: EngineName) -> Flows:
        """Those on the engine of that name. Raises `SettingError` when no project may be there."""
        flows = await self._named(name)
        if name not in ("auto", flows.name) and name != await self.real_name(flows.engine):
            raise SettingError(
                f"No project may be on {name} here.",
                remedy="The administrator can allow it by Workbench.engines_allowed.",
            )
        return flows

    async def by_engine(self, projects: Iterable[Project]) -> list[tuple[Flows, list[Project]]]:
        """The usual ones, and those of the other engines that these projects are on, with their projects."""
        found: dict[EngineName, list[Project]] = {self.usual: []}
        wanted = {}
        if self.allowed:
            wanted = await asyncio.to_thread(lambda: {one.path: self.wanted(one) for one in projects})
        for project in projects:
            flows = await self._named(wanted.get(project.path, "auto"))
            found.setdefault(flows.name, []).append(project)
        return [(self._of(name), those) for name, those in found.items()]

    async def _named(self, name: EngineName) -> Flows:
        if name in ("auto", self.usual) or name not in self.allowed:
            return self.of_usual
        # The usual one may be that one, found by itself: two ways to one engine would get into each other's.
        return self.of_usual if await self.real_name(self.of_usual.engine) == name else self._of(name)

    def _of(self, name: EngineName) -> Flows:
        if name not in self._made:
            flows = self._made[name] = self.make(name)
            noticed = flows.launcher.noticed

            def tell(project: Project, info: ContainerInfo, agent: Agent, is_new: bool) -> None:
                noticed(project, info, agent, is_new)
                self._is_on(project, flows, is_new)

            flows.launcher.noticed = tell
        return self._made[name]

    # What a project leaves when it changes its engine

    def _is_on(self, project: Project, flows: Flows, is_new: bool) -> None:
        """Its container runs there: if that is news, it must have none elsewhere."""
        is_news = is_new or self._seen.get(project.path) != flows.name
        self._seen[project.path] = flows.name
        if self.allowed and is_news:
            task = asyncio.create_task(self._clear(project))
            self._clearing.add(task)
            task.add_done_callback(self._clearing.discard)

    async def _clear(self, project: Project) -> None:
        left = {await self._named(name) for name in ("auto", *self.allowed)}
        for pause in ATTEMPTS:
            await asyncio.sleep(pause)
            left = {flows for flows in left if not await self._is_clear(project, flows)}
            if not left:
                return

    async def _is_clear(self, project: Project, flows: Flows) -> bool:
        """Whether that engine has no container of the project's, or is the project's engine."""
        try:
            async with flows.launcher.locks.hold(project.path):
                if await self.of(project) is flows:
                    return True
                if (info := await containers.find(flows.engine, project)) is not None:
                    log.info("Container %s is on an engine that its project has left", info.name)
                    await _set_aside(flows, info)
        except ConflictError:
            # It is somebody else's.
            return True
        except Ds01Error as error:
            log.info("Whether project %s left a container is not known: %s", project.name, error)
            return False
        return True

    async def close(self) -> None:
        """End this process's kernels and leave all engines."""
        clearing = list(self._clearing)
        for task in clearing:
            task.cancel()
        made, self._made = self.made, {}
        await asyncio.gather(*clearing, *(one.launcher.close() for one in made), return_exceptions=True)


async def _set_aside(flows: Flows, info: ContainerInfo) -> None:
    """Remove it, or keep it for the kernels that still run in it. Raises `Ds01Error`."""
    if not (await flows.engine.info()).deployer:
        # As after a rebuild: it goes with the last of its kernels, whichever process has that.
        await flows.engine.rename(info.id, f"{info.name}.old-{secrets.token_hex(4)}")
        if info.running:
            async with flows.launcher.visit(info) as agent:
                agent.replaced(frozenset())
        await flows.launcher.former.retire_if_idle(info.id)
    elif not info.running or not await flows.launcher.count_kernels(info):
        await containers.retire(flows.engine, info)
