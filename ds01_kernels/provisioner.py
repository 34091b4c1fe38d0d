"""Jupyter's kernel lifecycle, translated into `launch`.

`ProjectProvisioner` decides where a kernel belongs, once, and from then on passes every call to that place: a
project's container, or the host as Jupyter always did it.
https://jupyter-client.readthedocs.io/en/stable/provisioning.html
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase
from traitlets import Unicode

from .container_provisioner import ContainerProvisioner
from .errors import NoSuchProjectError, SettingError
from .projects import Project
from .workbench import Workbench

#: What cannot be read must not let a kernel onto the host: the whole configuration, and this option.
_ON_HOST = ("", "allow_host_kernels")


class ProjectProvisioner(KernelProvisionerBase):
    """The provisioner ``ds01-provisioner``.

    `project` is set by kernelspecs of projects. Without it a Python kernel belongs to the project in which
    its working directory lies, or to the host; kernels of other languages always belong to the host.
    """

    project = Unicode("", help="The name of the project in whose container the kernel runs.")

    _place: KernelProvisionerBase | None = None

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        if self._place is None:
            self._place = await self._choose(kwargs.get("cwd"))
        return await self._place.pre_launch(**kwargs)

    async def _choose(self, cwd: str | os.PathLike[str] | None) -> KernelProvisionerBase:
        workbench = Workbench.open(log=self.log)
        given = {
            "kernel_id": self.kernel_id,
            "kernel_spec": self.kernel_spec,
            "parent": self.parent,
            "log": self.log,
        }
        is_python = self.kernel_spec.language.lower() == "python"
        # Looked up at each start, since projects come, go and are mended meanwhile.
        if self.project:
            return ContainerProvisioner(workbench, lambda: workbench.projects().get(self.project), **given)
        # Not in the caller's loop: a home may be on a file system that makes one wait.
        if (
            is_python
            and cwd is not None
            and await workbench.run(asyncio.to_thread(_is_owned, workbench, cwd))
        ):
            return ContainerProvisioner(workbench, lambda: _owner_of(workbench, cwd), **given)
        if is_python and not _is_host_allowed(workbench):
            return ContainerProvisioner(workbench, lambda: _refuse_host(workbench), **given)
        return LocalProvisioner(**given)

    @property
    def _chosen(self) -> KernelProvisionerBase:
        assert self._place is not None, "pre_launch comes first"
        return self._place

    @property
    def is_on_host(self) -> bool:
        """Whether the kernel was started on this machine, outside every container."""
        return isinstance(self._place, LocalProvisioner)

    @property
    def place(self) -> str:
        """The path of the project in whose container it runs; empty on the host, or if it could not start."""
        return self._place.project_path if isinstance(self._place, ContainerProvisioner) else ""

    @property
    def process(self) -> str:
        """The agent's name for the kernel process; empty where there is none."""
        return self._place.process_id if isinstance(self._place, ContainerProvisioner) else ""

    @property
    def is_answering(self) -> bool:
        """Whether there is a kernel in a container, or what stands in for it: a start waits for that."""
        return isinstance(self._place, ContainerProvisioner) and self._place.has_process

    @property
    def has_process(self) -> bool:
        return self._place is not None and self._place.has_process

    @property
    def connection_info(self) -> KernelConnectionInfo:  # type: ignore[override]
        return self._place.connection_info if self._place is not None else {}

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        return await self._chosen.launch_kernel(cmd, **kwargs)

    async def post_launch(self, **kwargs: Any) -> None:
        await self._chosen.post_launch(**kwargs)

    async def poll(self) -> int | None:
        return await self._place.poll() if self._place is not None else 0

    async def wait(self) -> int | None:
        return await self._place.wait() if self._place is not None else 0

    async def send_signal(self, signum: int) -> None:
        if self._place is not None:
            await self._place.send_signal(signum)

    async def kill(self, restart: bool = False) -> None:
        if self._place is not None:
            await self._place.kill(restart)

    async def terminate(self, restart: bool = False) -> None:
        if self._place is not None:
            await self._place.terminate(restart)

    async def cleanup(self, restart: bool = False) -> None:
        if self._place is not None:
            await self._place.cleanup(restart)

    async def shutdown_requested(self, restart: bool = False) -> None:
        if self._place is not None:
            await self._place.shutdown_requested(restart)

    def get_shutdown_wait_time(self, recommended: float = 5.0) -> float:
        return self._chosen.get_shutdown_wait_time(recommended)

    def get_stable_start_time(self, recommended: float = 10.0) -> float:
        return self._chosen.get_stable_start_time(recommended)

    def resolve_path(self, path: str) -> str | None:
        return self._place.resolve_path(path) if self._place is not None else None

    async def get_provisioner_info(self) -> dict[str, Any]:
        info: dict[str, Any] = await self._chosen.get_provisioner_info()
        return info

    async def load_provisioner_info(self, provisioner_info: dict[str, Any]) -> None:
        if self._place is None:
            self.project = provisioner_info.get("project", "")
            self._place = await self._choose(None)
        await self._place.load_provisioner_info(provisioner_info)


def _is_owned(workbench: Workbench, cwd: str | os.PathLike[str]) -> bool:
    try:
        projects = workbench.projects()
    except SettingError:
        # Nobody knows; `_owner_of` says why.
        return True
    return projects.owner(cwd) is not None or projects.rejected_owner(cwd) is not None


def _owner_of(workbench: Workbench, cwd: str | os.PathLike[str]) -> Project:
    """The project that the folder lies in. Raises the error of one that cannot be used."""
    projects = workbench.projects()
    if rejected := projects.rejected_owner(cwd):
        raise rejected.error
    if (owner := projects.owner(cwd)) is None:
        raise NoSuchProjectError(
            f"{Path(cwd)} lies in no project any more.",
            remedy="Restore its Dockerfile, or pick another kernel.",
        )
    return owner


def _is_host_allowed(workbench: Workbench) -> bool:
    return workbench.allow_host_kernels and not any(name in workbench.problems for name in _ON_HOST)


def _refuse_host(workbench: Workbench) -> Project:
    for name in _ON_HOST:
        if name in workbench.problems:
            raise workbench.problems[name]
    raise NoSuchProjectError(
        "This notebook lies in no project, and kernels on the host are switched off here.",
        remedy="Move it into a project's folder, or pick a project's kernel.",
    )
