"""Projects whose containers are only played: their kernels are processes of this machine, with no engine."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest
from conftest import FROM_BASE, set_apart
from jupyter_client.manager import KernelManager
from live import forgetting_singletons, until
from traitlets.config import Config

from ds01_kernels import images
from ds01_kernels.engine import ContainerInfo, ContainerSpec, EngineInfo, EngineName
from ds01_kernels.kernelspecs import PROVISIONER, install
from ds01_kernels.projects import Project
from ds01_kernels.testing import FakeEngine
from ds01_kernels.workbench import Workbench

T = TypeVar("T")

#: Tells the agents of one container from others, as the container would.
_FOLDER = "DS01_AGENT_FOLDER"


class Pretended(FakeEngine):
    """An engine whose containers have agents of their own, below `root`."""

    def __init__(self, root: Path, name: str = "fake", **more: Any) -> None:
        info = EngineInfo(name, "1", local=True, cpus=2, memory=2**32, machine=f"{name}-machine")
        super().__init__(**{"info": info, **more})
        self._root = root

    async def create(self, spec: ContainerSpec) -> ContainerInfo:
        return await super().create(self._apart(spec))

    async def start(self, container: str) -> None:
        found = self._at(container)
        before = found.info.id
        await super().start(container)
        if found.info.id != before:
            found.spec = self._apart(found.spec)

    def _apart(self, spec: ContainerSpec) -> ContainerSpec:
        folder = tempfile.mkdtemp(prefix="a-", dir=self._root)
        home = tempfile.mkdtemp(prefix="h-", dir=self._root)
        return replace(spec, env={**spec.env, _FOLDER: f"{folder}/a", "HOME": home})

    def break_streams(self, container: str) -> None:
        """Let all open streams into it break; what runs there goes on."""
        for process in self._at(container).processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def names(self) -> list[str]:
        """Of all containers, whatever their state."""
        return sorted(info.name for info in asyncio.run(self.containers({})))


class Pretence:
    """A workspace, and this process's workbench, on engines that are only played."""

    def __init__(self, root: Path, workspace: Path) -> None:
        self.root = root
        self.workspace = workspace
        self.workbench: Workbench

    def open(
        self, engine: FakeEngine, engines: Mapping[EngineName, FakeEngine] | None = None, **settings: Any
    ) -> Workbench:
        """The interpreter of the containers is this one, which has ipykernel."""
        config = Config(Workbench={"python": sys.executable, "spare_kernels": 0, **settings})
        self.workbench = Workbench.open(config, engine=engine, engines=engines)
        return self.workbench

    def project(self, name: str, settings: str = "", *, on: FakeEngine | None = None) -> Project:
        """A new project with what its ``[tool.ds01]`` says; its image is there `on` that engine."""
        folder = self.workspace / name
        folder.mkdir()
        (folder / "Dockerfile").write_text(FROM_BASE)
        project = Project(name, folder, self.workspace)
        self.set(project, settings)
        install(project, kernels_dir=self.root / "data" / "kernels")
        if on is not None:
            self.build(project, on)
        return project

    def set(self, project: Project, settings: str) -> None:
        (project.path / "pyproject.toml").write_text(f"[tool.ds01]\n{settings}\n")

    def build(self, project: Project, engine: FakeEngine) -> None:
        async def build() -> None:
            async with aclosing(images.build(engine, project)) as progress:  # type: ignore[type-var]
                async for _ in progress:
                    pass

        asyncio.run(build())

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        return self.workbench.call(work, 60)


@contextmanager
def a_pretence() -> Iterator[Pretence]:
    """At its end nothing of it is left."""
    root = Path(tempfile.mkdtemp(prefix="ds01-test-")).resolve()
    with pytest.MonkeyPatch.context() as patch, forgetting_singletons():
        pretence = Pretence(root, set_apart(patch, root))
        patch.setenv("JUPYTER_DEFAULT_PROVISIONER_NAME", PROVISIONER)
        try:
            yield pretence
        finally:
            if Workbench.initialized():
                Workbench.instance().close()
            end_agents(root)
            shutil.rmtree(root)


def end_agents(root: Path) -> None:
    """End what runs in containers that are played below `root`: no container ends with them."""

    def found() -> list[psutil.Process]:
        those = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(_FOLDER, "").startswith(f"{root}/") and process.pid != os.getpid():
                    those.append(process)
        return those

    def are_gone() -> bool:
        left = found()
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        return not left

    until(are_gone)


class WatchedManager(KernelManager):
    """As a server's: somebody looks after its kernels, and there are cells in which something can be said."""

    restarter_class: Callable[..., object] = object
