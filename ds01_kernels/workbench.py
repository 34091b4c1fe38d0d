"""Holds what a process of ours has one of: the configuration, the engine, the project locks, the agents it
has reached."""

from __future__ import annotations

import asyncio
import atexit
import os
import secrets
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from jupyter_core.application import JupyterApp
from traitlets import Bool, Dict, Float, Integer, List, TraitError, Unicode
from traitlets.config import Config, SingletonConfigurable

from . import connection
from .agent_client import Identity
from .background import Background
from .engine import Engine
from .errors import SettingError
from .launch import Launcher
from .project_files import read_text
from .projects import Project, Projects, discover
from .settings import (
    PROJECT_KEYS,
    Ceiling,
    Settings,
    parse_gpus,
    parse_mount,
    parse_python,
    parse_size,
    with_project,
)

T = TypeVar("T")


class ConfigurationFiles(JupyterApp):
    """Reads ``jupyter_config`` and ``jupyter_ds01_config``, which every process of ours shares."""

    name = "jupyter-ds01"
    # The default is to go on without: with a typing error in it, none of the admin's limits would hold.
    raise_config_file_errors = True


def shared_configuration() -> Config:
    """What those files say, from all of Jupyter's configuration directories. Raises `SettingError`."""
    application = ConfigurationFiles()
    try:
        application.load_config_file()
    except Exception as error:  # noqa: BLE001 - the files are programs
        raise SettingError(
            f"A configuration file cannot be read: {type(error).__name__}: {error}.",
            remedy="Correct jupyter_config.py or jupyter_ds01_config.py; `jupyter --paths` says where.",
        ) from None
    return application.config


class Workbench(SingletonConfigurable):
    """Kernels in the containers of projects: its settings, and its way to the engine.

    Made with `Workbench.open()`. All calls to engines and agents run in its own loop: `await
    workbench.run(...)`.
    """

    workspaces = List(
        Unicode(),
        ["~/workspace"],
        help="The folders whose sub-folders with a Dockerfile are projects. The variable DS01_WORKSPACE "
        "(several separated by ':') overrides this.",
    ).tag(config=True)
    orphan_grace = Float(
        30.0,
        min=0,
        help="Seconds that kernels live on after their server or client was lost, for it to come back.",
    ).tag(config=True)
    allow_host_kernels = Bool(
        True, help="Whether the plain python3 kernel may run on the host for notebooks outside all projects."
    ).tag(config=True)
    pass_variables = List(
        Unicode(), help="Further variables of the server that kernels get; shell patterns such as 'WANDB_*'."
    ).tag(config=True)
    variables = Dict(
        value_trait=Unicode(), key_trait=Unicode(), help="Variables that are set in every container."
    ).tag(config=True)
    memory = Unicode("", help="Memory of a container, for example '16g'. Empty: no limit.").tag(config=True)
    max_memory = Unicode("", help="The most that a project may set. Empty: what `memory` says.").tag(
        config=True
    )
    cpus = Float(0.0, min=0, help="CPUs that a container may use, for example 1.5. 0: all.").tag(config=True)
    max_cpus = Float(0.0, min=0, help="The most that a project may set. 0: what `cpus` says.").tag(
        config=True
    )
    shm_size = Unicode(
        "1g",
        help="Size of /dev/shm in a container, where PyTorch's data loaders share batches. "
        "Empty: the engine's default.",
    ).tag(config=True)
    max_shm_size = Unicode("", help="The most that a project may set. Empty: any size.").tag(config=True)
    gpus = Unicode(
        "", help="GPUs of a container: 'all', a count, or UUIDs (MIG too) separated by commas. Empty: none."
    ).tag(config=True)
    max_gpus = Integer(
        -1,
        min=-1,
        help="The most GPUs that a project may set; -1: any number. What `gpus` says is always given.",
    ).tag(config=True)
    pids_limit = Integer(0, min=0, help="Processes and threads that a container may have. 0: no limit.").tag(
        config=True
    )
    mounts = List(
        Unicode(), help="Further folders of the host in every container, as in '/data:/data:ro'."
    ).tag(config=True)
    network = Unicode("", help="Docker network of the containers. Empty: the engine's default.").tag(
        config=True
    )
    python = Unicode(
        "",
        help="Path of the interpreter inside images. Empty: /usr/bin/python, or what `python` means there.",
    ).tag(config=True)
    build_args = Dict(
        value_trait=Unicode(),
        key_trait=Unicode(),
        help="Build arguments, given to Dockerfiles that declare them.",
    ).tag(config=True)
    project_settings = List(
        Unicode(), list(PROJECT_KEYS), help="What a project may set in [tool.ds01] of its pyproject.toml."
    ).tag(config=True)
    engine_timeout = Float(60.0, min=1, help="Seconds until a call to the engine is given up.").tag(
        config=True
    )

    #: Who we are to the agents beyond the life of this process; the server sets it to its address.
    owner = Unicode("")

    _inherited: Workbench | None = None

    def __init__(self, *, engine: Engine | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._pid = os.getpid()
        self._background = Background("ds01-kernels")
        self._engine = engine
        self._launcher: Launcher | None = None
        atexit.register(self.close)

    @classmethod
    def open(cls, config: Config | None = None, **kwargs: Any) -> Workbench:
        """This process's workbench, made at the first call; `config` goes before what the files say.

        Raises `SettingError`.
        """
        if cls.initialized() and cls.instance()._pid != os.getpid():
            # A fork has neither our thread nor our place at the agents' streams. The object is kept: its
            # finalizers would reach into the loop of the process that it belongs to.
            cls._inherited = cls.instance()
            cls.clear_instance()
        if not cls.initialized():
            merged = shared_configuration()
            merged.merge(config or Config())
            try:
                return cls.instance(config=merged, **kwargs)
            except TraitError as error:
                raise SettingError(f"A setting cannot be used: {error}") from None
        return cls.instance()

    @property
    def folders(self) -> tuple[Path, ...]:
        """The workspaces, as absolute paths."""
        override = os.environ.get("DS01_WORKSPACE")
        names = override.split(os.pathsep) if override else self.workspaces
        return tuple(Path(name).expanduser().absolute() for name in names if name)

    def projects(self) -> Projects:
        """All projects, found afresh; no engine is asked."""
        return discover(self.folders)

    def settings(self, project: Project) -> Settings:
        """What applies to that project's container. Raises `SettingError`."""
        admin = self._admin_settings()
        text = read_text(project, "pyproject.toml")
        if text is None:
            return admin
        return with_project(admin, self._ceiling(admin), text, str(project.path / "pyproject.toml"))

    def _admin_settings(self) -> Settings:
        return Settings(
            memory=parse_size("Workbench.memory", self.memory),
            cpus=self.cpus or None,
            shm_size=parse_size("Workbench.shm_size", self.shm_size),
            pids_limit=self.pids_limit or None,
            gpus=parse_gpus("Workbench.gpus", self.gpus),
            network=self.network,
            python=parse_python("Workbench.python", self.python),
            mounts=tuple(parse_mount("Workbench.mounts", mount) for mount in self.mounts),
            env=dict(self.variables),
            build_args=dict(self.build_args),
        )

    def _ceiling(self, admin: Settings) -> Ceiling:
        return Ceiling(
            memory=parse_size("Workbench.max_memory", self.max_memory) or admin.memory,
            cpus=self.max_cpus or admin.cpus,
            shm_size=parse_size("Workbench.max_shm_size", self.max_shm_size),
            gpus=None if self.max_gpus < 0 else self.max_gpus,
            keys=tuple(self.project_settings),
        )

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            from .engine.docker import DockerEngine

            self._engine = DockerEngine(timeout=self.engine_timeout)
        return self._engine

    @property
    def launcher(self) -> Launcher:
        if self._launcher is None:
            identity = Identity(f"{os.getpid()}-{secrets.token_hex(8)}", self.owner, self.orphan_grace)
            self._launcher = Launcher(self.engine, self.settings, identity)
        return self._launcher

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
