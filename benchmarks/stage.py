"""Where a run takes place: a private directory, images, projects and containers, all removed at its end.

Whatever the engine holds of a run carries the label ``ds01-kernels.benchmark=<run>``: images get it in their
first layer, and containers, those of peers too, inherit it from their images.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager

from ds01_kernels import images, kernelspecs
from ds01_kernels.connection import SocketDirectory
from ds01_kernels.containers import LABEL_SOCKETS
from ds01_kernels.engine import BuildRequest, Engine
from ds01_kernels.engine.docker import DockerEngine
from ds01_kernels.engine.docker_connection import RAISED, connect
from ds01_kernels.projects import Project
from ds01_kernels.workbench import Workbench

LABEL = "ds01-kernels.benchmark"
BASE_IMAGE = "ds01/base:latest"

#: Debian's pip wants to be told: https://peps.python.org/pep-0668/
PIP_INSTALL = "pip install --no-cache-dir --break-system-packages --quiet --root-user-action=ignore"

#: Seconds for which what was just asked for may still appear on the engine after we have stopped asking.
AFTERMATH = 1.0


class Stage:
    """Made before anything else of a run, and `remove`d after everything else, however the run ended."""

    def __init__(self, given_image: str = "") -> None:
        self.given_image = given_image
        self.run = secrets.token_hex(6)
        # Short, because socket paths may have 107 bytes.
        self.root = Path("/tmp").resolve() / f"ds01-bench-{self.run}"
        self.root.mkdir(mode=0o700)
        self.workspace = self._directory("workspace")
        #: Why something is not measured, by what it is.
        self.left_out: dict[str, str] = {}
        #: What kernels said of themselves, by whose they are.
        self.kernels: dict[str, dict[str, str]] = {}
        #: Whose images and kernelspecs are there.
        self.prepared: set[str] = set()
        self._log_path = self.root / "log"
        self._log = self._log_path.open("ab")
        self._engine: Engine | None = None
        self._kept: set[str] = set()
        self._images: dict[str, str] = {}
        self._set_variables()
        # Where servers look, too.
        self.specs = self.root / "jupyter_data_dir" / "kernels"
        self.specs.mkdir()

    def _directory(self, name: str) -> Path:
        path = self.root / name
        path.mkdir(mode=0o700)
        return path

    def _set_variables(self) -> None:
        """For us and the kernels on the host: nothing of the user's is touched, and `python` is this one."""
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
            os.environ[name] = str(self._directory(name.lower()))
        for name in ("JUPYTER_PATH", "JUPYTER_CONFIG_PATH"):
            os.environ.pop(name, None)
        os.environ["DS01_WORKSPACE"] = str(self.workspace)
        os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])

    def configure(self, settings: Mapping[str, Any]) -> None:
        """For the `Workbench` of every process of this run; to be called before there is one."""
        lines = ["c = get_config()", *(f"c.Workbench.{name} = {value!r}" for name, value in settings.items())]
        folder = Path(os.environ["JUPYTER_CONFIG_DIR"])
        (folder / "jupyter_ds01_config.py").write_text("\n".join(lines) + "\n", encoding="utf-8")

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            self._engine = DockerEngine()
        return self._engine

    @property
    def popen(self) -> dict[str, Any]:
        """For start_kernel of what runs through a process on the host: its output is kept out of ours."""
        return {"cwd": str(self.root), **self.output}

    @property
    def output(self) -> dict[str, Any]:
        return {"stdout": self._log, "stderr": self._log}

    def leave_out(self, what: str, why: str) -> None:
        """Go on without it; said once."""
        if what not in self.left_out:
            self.left_out[what] = why
            print(f"{what} is left out: {why}", file=sys.stderr, flush=True)

    def log_end(self) -> str:
        """The last lines that such processes wrote."""
        return "\n".join(self._log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-10:])

    # Making

    async def image(self) -> str:
        """The one with ipykernel: the host's version of it, unless an image was given."""
        if self.given_image:
            return await self.build("ipykernel", self.given_image)
        install = f"RUN {PIP_INSTALL} ipykernel=={installed('ipykernel')}"
        return await self.build("ipykernel", BASE_IMAGE, install)

    async def build(self, name: str, parent: str, *lines: str) -> str:
        """An image from `parent` and these lines of a Dockerfile, labelled; built once.

        Raises `BuildFailedError`.
        """
        if name not in self._images:
            reference = f"ds01-benchmark/{self.run}:{name}"
            text = "\n".join((f"FROM {parent}", f"LABEL {LABEL}={self.run}", *lines, ""))
            context = self._directory(f"build-{name}")
            async for _ in self.engine.build(BuildRequest(context, text, reference)):
                pass
            self._images[name] = reference
        return self._images[name]

    async def project(self, name: str) -> Project:
        """The project of that name, on the image that has ipykernel: built, and its kernelspec installed."""
        folder = await self.folder(name)
        project = Workbench.open().projects().get(folder.name)
        if name not in self.prepared:
            async for _ in images.build(self.engine, project):
                pass
            kernelspecs.install(project, kernels_dir=self.specs)
            self.prepared.add(name)
        return project

    async def folder(self, name: str) -> Path:
        """That project's."""
        folder = self.workspace / f"{name}-{self.run}"
        if not folder.exists():
            folder.mkdir()
            (folder / "Dockerfile").write_text(f"FROM {await self.image()}\n", encoding="utf-8")
        return folder

    async def container(self, project: Project) -> str:
        """The id of that project's container."""
        info = await self.engine.container(project.container_name(os.getuid()))
        assert info is not None, "the container is there while a contender is"
        return info.id

    def manager(self, kernel_name: str, **traits: Any) -> AsyncKernelManager:
        """A fresh KernelManager that knows the kernelspecs of this run alone."""
        specs = KernelSpecManager(kernel_dirs=[str(self.specs)], ensure_native_kernel=False)
        traits.setdefault("connection_file", str(self.root / f"{secrets.token_hex(4)}.json"))
        return AsyncKernelManager(kernel_name=kernel_name, kernel_spec_manager=specs, **traits)

    # Between measurements

    async def keep(self) -> None:
        """From now on `remove_strays` leaves alone the containers that there are."""
        self._kept |= {info.id for info in await self.engine.containers({LABEL: self.run})}

    async def remove_strays(self) -> None:
        """What a peer left running must not disturb the next measurement."""
        for info in await self.engine.containers({LABEL: self.run}):
            if info.id not in self._kept:
                await self.engine.remove(info.id)

    # The end

    def remove(self) -> None:
        """Everything: kernels, child processes, containers, images, sockets, files. Without an event loop."""
        if Workbench.initialized():
            Workbench.instance().close()
            Workbench.clear_instance()
        _end_children()
        try:
            self._clear_engine()
        finally:
            self._log.close()
            shutil.rmtree(self.root, ignore_errors=True)

    def _clear_engine(self) -> None:
        try:
            client = connect(60.0)
        except RAISED:
            return
        try:
            filters = {"label": f"{LABEL}={self.run}"}
            deadline = time.monotonic() + AFTERMATH
            while time.monotonic() < deadline:
                for container in client.containers(all=True, filters=filters):
                    with contextlib.suppress(*RAISED):
                        client.remove_container(container["Id"], v=True, force=True)
                    _remove_sockets(container["Labels"])
                # A parent can go when its children have gone: hence again and again.
                for image in client.images(filters=filters, all=True):
                    with contextlib.suppress(*RAISED):
                        client.remove_image(image["Id"], force=True)
                if client.containers(all=True, filters=filters) or client.images(filters=filters, all=True):
                    deadline = max(deadline, time.monotonic() + AFTERMATH)
                time.sleep(0.1)
        finally:
            client.close()


def _end_children() -> None:
    children = psutil.Process().children(recursive=True)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(children, timeout=10)


def _remove_sockets(labels: Mapping[str, str]) -> None:
    if sockets := SocketDirectory.recorded(labels.get(LABEL_SOCKETS, "")):
        sockets.remove()


def installed(distribution: str) -> str:
    """The version that is installed on this side; empty for none."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
