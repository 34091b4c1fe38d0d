"""Holds what a process of ours has one of: the configuration, the engine, the project locks, the agents it
has reached."""

from __future__ import annotations

import asyncio
import atexit
import os
import secrets
from collections.abc import Callable, Coroutine, Sequence
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
from .errors import SettingError
from .events import Event, Listeners
from .housekeeping import Housekeeping
from .jobs import Jobs
from .launch import Launcher
from .options import Options, usable
from .project_files import read_text
from .projects import Project, Projects, discover
from .rebuild import Journals, Rebuilds
from .records import Records
from .setting_values import parse_engine, parse_variables
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
    _drifts: Drifts
    _rebuilds: Rebuilds

    def __init__(self, *, engine: Engine | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._pid = os.getpid()
        self._background = Background("ds01-kernels")
        self._engine = engine
        self._launcher: Launcher | None = None
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

    @property
    def chosen_engine(self) -> Engine:
        """What runs the containers: found as `engine` says, at the first call that needs it."""
        if self._engine is None:
            from .engine.choosing import ChosenEngine, choose

            name = parse_engine(self._where("engine"), self.engine)
            find = partial(choose, name, self.engine_timeout, swarm=self._swarm)
            self._engine = self._beside_ds01(name) or ChosenEngine(find)
        return self._engine

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
        if commands is None or name in ("podman", "swarm"):
            return None
        from .engine.docker import DockerEngine

        docker = DockerEngine(timeout=self.engine_timeout)
        return Ds01Engine(docker, commands, limit=self.deploy_timeout, variables=variables)

    @property
    def launcher(self) -> Launcher:
        if self._launcher is None:
            identity = Identity(f"{os.getpid()}-{secrets.token_hex(8)}", self.owner, self.orphan_grace)
            self._launcher = launcher = Launcher(self.chosen_engine, self.settings, identity)
            launcher.changed = self.emit
            launcher.replaced = self._replaced
            launcher.why_ended = partial(why_ended, self.deploy_events)
            launcher.idling.seconds = self.idle_stop
            launcher.spare_kernels = self.spare_kernels
            self._drifts = Drifts(launcher, self.records, self.emit)
            launcher.idling.record_drift = self._drifts.look
            self._rebuilds = Rebuilds(
                launcher,
                self._drifts,
                Journals(self.records),
                self.settings,
                build_limit=self.build_timeout,
                exclusive_gpus=self.exclusive_gpus,
            )
        return self._launcher

    @property
    def drifts(self) -> Drifts:
        assert self.launcher is not None
        return self._drifts

    @property
    def rebuilds(self) -> Rebuilds:
        assert self.launcher is not None
        return self._rebuilds

    @property
    def housekeeping(self) -> Housekeeping:
        return Housekeeping(self.launcher)

    async def begin(self) -> None:
        """What a server does first: end what others had begun, and watch what they left running."""
        found = await asyncio.to_thread(self._found)
        await self.rebuilds.settle_all(found)
        is_left = await self.housekeeping.retire_replaced()
        await self.launcher.idling.watch(self.projects, self.orphan_grace)
        if is_left:
            # By then the kernels have ended that a server before this one left there.
            await asyncio.sleep(self.orphan_grace + GRACE_OVER)
            await self.housekeeping.retire_replaced()

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
        launcher, self._launcher = self._launcher, None
        if launcher is not None:
            try:
                self.call(launcher.close(), timeout=5)
            except (TimeoutError, RuntimeError, asyncio.CancelledError) as error:
                self.log.debug("The agents could not be left in time: %r", error)
        self._background.stop()
        connection.leave()
