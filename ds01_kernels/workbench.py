"""Holds what a process of ours has one of: the configuration, the engine, the project locks, the agents it
has reached."""

from __future__ import annotations

import asyncio
import atexit
import os
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from traitlets import Unicode
from traitlets.config import Config

from . import connection
from .agent_requests import Identity
from .background import Background
from .configuration import Source, shared_configuration
from .drifts import Drifts
from .ds01_host import Ds01Engine, why_ended
from .engine import Engine, EngineName
from .errors import Ds01Error, EngineError, SettingError
from .events import Event, Listeners
from .flows import AllFlows, Flows
from .housekeeping import Housekeeping, Leftovers
from .jobs import Jobs
from .launch import Launcher
from .options import Options, usable
from .project_files import read_text
from .projects import Project, Projects, discover
from .rebuild import Journals, Rebuilds
from .records import Records
from .setting_values import parse_engine, parse_engines, parse_variables
from .settings import MOST_BYTES, Settings, with_project

T = TypeVar("T")

#: Seconds after the grace time of a process's kernels in which they have ended.
GRACE_OVER = 5.0


class Workbench(Options):
    """Kernels in the containers of projects: its settings, and its way to the engine.

    Made with `Workbench.open()`. All calls to engines and agents run in its own loop: `await
    workbench.run(...)`.
    """

    #: Who we are to the agents beyond the life of this process; the server sets it to its address.
    owner = Unicode("")

    _inherited: Workbench | None = None

    def __init__(
        self,
        *,
        engine: Engine | None = None,
        engines: Mapping[EngineName, Engine] | None = None,
        **kwargs: Any,
    ) -> None:
        """`engine` takes the place of the one that the option of that name means, `engines` of others."""
        super().__init__(**kwargs)
        self._pid = os.getpid()
        self._background = Background("ds01-kernels")
        self._engine = engine
        self._engines = dict(engines or {})
        self._flows: AllFlows | None = None
        self._listeners = Listeners()
        self.records = Records()
        self.jobs = Jobs(self.records, self.emit)
        #: Called with kernel processes of ours that are to be restarted, since their container was replaced.
        self.on_replaced: Callable[[frozenset[str]], None] = lambda processes: None
        atexit.register(self.close)

    @classmethod
    def open(cls, config: Config | None = None, *, files: Sequence[str] = (), **kwargs: Any) -> Workbench:
        """This process's workbench, made at the first call; `config` goes before what the files say.

        `files` are those that `config` was read from. Settings that cannot be used are in its `problems`: it
        can say so wherever somebody asks, and starts nothing.
        """
        if cls.initialized() and cls.instance()._pid != os.getpid():
            # A fork has neither our thread nor our place at the agents' streams. The object is kept: its
            # finalizers would reach into the loop of the process that it belongs to.
            cls._inherited = cls.instance()
            cls.clear_instance()
        if not cls.initialized():
            problems: dict[str, SettingError] = {}
            try:
                merged, source = shared_configuration(files)
            except SettingError as error:
                merged, source, problems[""] = Config(), Source(tuple(files)), error
            merged.merge(config or Config())
            kept, unusable = usable(merged, source)
            workbench = cls.instance(config=kept, **kwargs)
            workbench.source, workbench.problems = source, problems | unusable
        return cls.instance()

    @property
    def folders(self) -> tuple[Path, ...]:
        """The workspaces, as absolute paths."""
        override = os.environ.get("DS01_WORKSPACE")
        names = override.split(os.pathsep) if override else self.workspaces
        # Not Path.expanduser: it raises where there is no such home.
        found = (os.path.expanduser(name) for name in names if name and "\0" not in name)  # noqa: PTH111
        return tuple(Path(name).absolute() for name in found)

    def projects(self) -> Projects:
        """All projects, found afresh; no engine is asked.

        Raises `SettingError` when it is not known where they are.
        """
        for name in self.FOUNDATIONS:
            if name in self.problems:
                raise self.problems[name]
        return discover(self.folders, self.names)

    def settings(self, project: Project) -> Settings:
        """What applies to that project's container. Raises `SettingError`, `BadInputError` for its file."""
        self.check()
        admin = self._admin_settings()
        text = read_text(project, "pyproject.toml", most=MOST_BYTES)
        if text is None:
            return admin
        return with_project(admin, self._ceiling(admin), text, str(project.path / "pyproject.toml"))

    async def flows(self, project: Project) -> Flows:
        """What is done with that project, on its own engine. To be awaited in the workbench's own loop."""
        return await self.all_flows.of(project)

    @property
    def all_flows(self) -> AllFlows:
        """To be used in the workbench's own loop. Raises `SettingError`."""
        if self._flows is None:
            identity = Identity(f"{os.getpid()}-{secrets.token_hex(8)}", self.owner, self.orphan_grace)
            usual = parse_engine(self._where("engine"), self.engine)
            self._flows = AllFlows(
                make=lambda name: self._make(name, identity),
                usual=usual,
                allowed=parse_engines(self._where("engines_allowed"), self.engines_allowed),
                real_name=_real_name,
                wanted=self._wanted,
            )
        return self._flows

    async def on_each_engine(self, work: Callable[[Flows], Awaitable[T]]) -> list[T]:
        """What `work` gives on each engine that projects are on, as far as they answer.

        Raises the `Ds01Error` of the first when none does.
        """
        found = await asyncio.to_thread(self._found)
        those = [flows for flows, _ in await self.all_flows.by_engine(found)]
        outcomes = await asyncio.gather(*(work(flows) for flows in those), return_exceptions=True)
        failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        for failure in failures:
            if not isinstance(failure, Ds01Error) or len(failures) == len(outcomes):
                raise failure
            self.log.warning("%s", failure.sentence)
        return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]

    async def prune(self, *, dry: bool = False) -> Leftovers:
        """Remove what is left over on all engines, or with `dry` only look. Raises `Ds01Error`."""
        found = await self.on_each_engine(
            lambda flows: flows.housekeeping.look() if dry else flows.housekeeping.prune()
        )
        return Leftovers(
            tuple(info for some in found for info in some.containers),
            tuple(image for some in found for image in some.images),
        )

    # Those of the engine that projects are on unless they choose another one.

    @property
    def chosen_engine(self) -> Engine:
        """The one that the option `engine` stands for: found at the first call that needs it."""
        return self.all_flows.of_usual.engine

    @property
    def launcher(self) -> Launcher:
        return self.all_flows.of_usual.launcher

    @property
    def drifts(self) -> Drifts:
        return self.all_flows.of_usual.drifts

    @property
    def rebuilds(self) -> Rebuilds:
        return self.all_flows.of_usual.rebuilds

    @property
    def housekeeping(self) -> Housekeeping:
        return self.all_flows.of_usual.housekeeping

    def _wanted(self, project: Project) -> EngineName:
        try:
            return self.settings(project).engine
        except Ds01Error:
            # Whoever starts something is told.
            return "auto"

    def _make(self, name: EngineName, identity: Identity) -> Flows:
        engine = self._engine_named(name)
        launcher = Launcher(engine, self.settings, identity)
        launcher.changed = self.emit
        launcher.replaced = self._replaced
        launcher.why_ended = partial(why_ended, self.deploy_events)
        launcher.idling.seconds = self.idle_stop
        launcher.preparations.spare_kernels = self.spare_kernels
        drifts = Drifts(launcher, self.records, self.emit)
        launcher.idling.record_drift = drifts.look
        rebuilds = Rebuilds(
            launcher,
            drifts,
            Journals(self.records),
            self.settings,
            build_limit=self.build_timeout,
            exclusive_gpus=self.exclusive_gpus,
        )
        return Flows(name, engine, launcher, drifts, rebuilds)

    def _engine_named(self, name: EngineName) -> Engine:
        is_usual = name == self.engine
        given = self._engine if is_usual else self._engines.get(name)
        if given is not None:
            return given
        from .engine.choosing import ChosenEngine, choose

        who = "Workbench.engine" if is_usual else "[tool.ds01] engine"
        find = partial(choose, name, self.engine_timeout, said_by=who, swarm=self._swarm)
        return self._beside_ds01(name) or ChosenEngine(find)

    def _swarm(self) -> Engine:
        from .engine.swarm import SwarmEngine

        return SwarmEngine(self.swarm_options(), timeout=self.engine_timeout)

    def _beside_ds01(self, name: EngineName) -> Engine | None:
        """Docker behind DS01's commands, where those are there; they know of no other engine."""
        try:
            commands = self.ds01_commands()
            variables = parse_variables("", self.variables)
        except SettingError:
            # Whatever starts something is told (`check`), and nothing of DS01's is known for ours.
            return None
        if commands is None or name not in ("auto", "docker"):
            return None
        from .engine.docker import DockerEngine

        docker = DockerEngine(timeout=self.engine_timeout)
        return Ds01Engine(docker, commands, limit=self.deploy_timeout, variables=variables)

    async def begin(self) -> None:
        """What a server does first: end what others had begun, and watch what they left running."""
        found = await asyncio.to_thread(self._found)
        # Side by side: an engine that does not answer takes its time to say so.
        await asyncio.gather(*(self._begin(*some) for some in await self.all_flows.by_engine(found)))

    async def _begin(self, flows: Flows, projects: Sequence[Project]) -> None:
        await flows.rebuilds.settle_all(projects)
        is_left = await flows.housekeeping.retire_replaced()
        await flows.launcher.idling.watch(projects, self.orphan_grace)
        if is_left:
            # By then the kernels have ended that a server before this one left there.
            await asyncio.sleep(self.orphan_grace + GRACE_OVER)
            await flows.housekeeping.retire_replaced()

    def _found(self) -> tuple[Project, ...]:
        try:
            return self.projects().projects
        except SettingError:
            return ()

    def _replaced(self, processes: frozenset[str]) -> None:
        self.on_replaced(processes)

    def listen(self, callback: Callable[[Event], None]) -> None:
        """Have `callback` told of every event, in whatever thread it happens; it must not block."""
        self._listeners.add(callback)

    def emit(self, event: Event) -> None:
        """Tell those who listen; from any thread."""
        self._listeners.tell(event)

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work`, which talks to engines or agents, from any loop."""
        return await self._background.run(work)

    def submit(self, work: Coroutine[Any, Any, Any]) -> None:
        """Let `work` run there; nobody waits for it."""
        self._background.submit(work)

    def call(self, work: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """The same where there is no loop: blocks."""
        return self._background.call(work, timeout)

    def close(self) -> None:
        """End this process's kernels and leave the engine; also done at exit."""
        atexit.unregister(self.close)
        if self._pid != os.getpid():
            return
        flows, self._flows = self._flows, None
        if flows is not None:
            try:
                self.call(flows.close(), timeout=5)
            except (TimeoutError, RuntimeError, asyncio.CancelledError) as error:
                self.log.debug("The agents could not be left in time: %r", error)
        self._background.stop()
        connection.leave()


async def _real_name(engine: Engine) -> str:
    """What that engine is, which was asked for as whatever there is; empty when that is not known."""
    from .engine.choosing import ChosenEngine

    if isinstance(engine, Ds01Engine):
        return "docker"
    if isinstance(engine, ChosenEngine):
        return await engine.found_name()
    try:
        return (await engine.info()).name
    except EngineError:
        return ""
