"""Jupyter's kernel lifecycle, translated into `launch`.

`ProjectProvisioner` decides where a kernel belongs, once, and from then on passes every call to that place: a
project's container, or the host
as Jupyter always did it. https://jupyter-client.readthedocs.io/en/stable/provisioning.html
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path, PurePosixPath
from typing import Any

import zmq
from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase
from traitlets import Unicode

from .agent_client import Exit, KernelProcess, KernelRequest
from .connection import PORTS, Channels, inside
from .containers import WORKSPACE
from .errors import Ds01Error, NoSuchProjectError
from .launch import Started
from .projects import Project
from .variables import select
from .workbench import Workbench

#: Seconds for which a kernel that was asked to shut down is waited for, before Jupyter starts to look every
#: 0.1 s.
SHUTDOWN_LIMIT = 1.0


class ProjectProvisioner(KernelProvisionerBase):
    """The provisioner ``ds01-provisioner``.

    `project` is set by kernelspecs of projects. Without it a Python kernel belongs to the project in which
    its working directory
    lies, or to the host; kernels of other languages always belong to the host.
    """

    project = Unicode("", help="The name of the project in whose container the kernel runs.")

    _place: KernelProvisionerBase | None = None

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        if self._place is None:
            self._place = self._choose(kwargs.get("cwd"))
        return await self._place.pre_launch(**kwargs)

    def _choose(self, cwd: str | os.PathLike[str] | None) -> KernelProvisionerBase:
        workbench = Workbench.open(log=self.log)
        name = self.project
        is_python = self.kernel_spec.language.lower() == "python"
        if not name and cwd is not None and is_python:
            name = _owner_of(workbench, cwd)
        if name:
            return ContainerProvisioner(
                workbench,
                name,
                kernel_id=self.kernel_id,
                kernel_spec=self.kernel_spec,
                parent=self.parent,
                log=self.log,
            )
        if is_python and not workbench.allow_host_kernels:
            raise NoSuchProjectError(
                "This notebook lies in no project, and kernels on the host are switched off here.",
                remedy="Move it into a project's folder, or pick a project's kernel.",
            )
        return LocalProvisioner(
            kernel_id=self.kernel_id, kernel_spec=self.kernel_spec, parent=self.parent, log=self.log
        )

    @property
    def _chosen(self) -> KernelProvisionerBase:
        assert self._place is not None, "pre_launch comes first"
        return self._place

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
            self._place = self._choose(None)
        await self._place.load_provisioner_info(provisioner_info)


class ContainerProvisioner(KernelProvisionerBase):
    """A kernel in the container of one project."""

    def __init__(self, workbench: Workbench, project: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._workbench = workbench
        self._name = project
        self._project: Project | None = None
        self._channels: Channels | None = None
        self._process: KernelProcess | None = None
        #: Stands for a process when a restart could not start one: Jupyter must not see a provisioner raise
        #: then.
        self._failure: Exit | None = None
        self._launched = False
        self._cwd = PurePosixPath(WORKSPACE)

    # Starting

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """May be called again for each restart. Raises `Ds01Error` before the first launch only."""
        if self._channels is None:
            self._channels = Channels()
        self.connection_info = self._connection(kwargs.pop("transport_encryption", None))
        arguments = _ipykernel_arguments(self.kernel_spec.argv) + list(kwargs.pop("extra_arguments", []))
        # Fills in the kernelspec's own variables from all that we were given; the choice comes after.
        kwargs = await super().pre_launch(cmd=[*self.kernel_spec.argv, *arguments], **kwargs)
        kwargs["arguments"] = arguments
        return kwargs

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        self._failure = None
        try:
            started = await self._start(kwargs)
        except Ds01Error as error:
            if not self._launched:
                raise
            self.log.error("The kernel of project %s did not start again. %s", self._name, error.sentence)  # noqa: TRY400
            self._process, self._failure = None, Exit(1, error.sentence)
            return self.connection_info
        self._launched = True
        self._process = started.process
        self._report_end(started)
        return self.connection_info

    async def _start(self, kwargs: dict[str, Any]) -> Started:
        assert self._channels is not None
        self._project = project = self._workbench.projects().get(self._name)
        self._cwd = _inside_cwd(project, kwargs.get("cwd"))
        variables = select(
            kwargs.get("env", {}),
            named=(*self._workbench.pass_variables, *self.kernel_spec.env),
            project=project.path,
            workspace=WORKSPACE,
        )
        process = f"{os.getpid():x}-{os.urandom(6).hex()}"
        request = KernelRequest(
            process=process,
            cwd=str(self._cwd),
            env=variables.plain,
            files=variables.files,
            connection=self._kernel_connection(process),
            arguments=kwargs.get("arguments", []),
        )
        started = await self._workbench.run(self._workbench.launcher.start(project, request))
        self._channels.point_at(started.sockets, process)
        self.log.info(
            "Kernel %s of project %s runs in %s as process %d",
            self.kernel_id,
            project.name,
            started.container.name,
            started.process.pid,
        )
        return started

    def _report_end(self, started: Started) -> None:
        async def report() -> None:
            exit_ = await started.process.ended()
            level = "info" if exit_.code == 0 or self._process is not started.process else "warning"
            getattr(self.log, level)(
                "Kernel process %d of project %s in %s ended: %s%s",
                started.process.pid,
                self._name,
                started.container.name,
                _describe(exit_.code),
                f" ({exit_.reason.strip()})" if exit_.reason.strip() else "",
            )

        self._workbench.submit(report())

    # The process

    @property
    def has_process(self) -> bool:
        return self._process is not None or self._failure is not None

    async def poll(self) -> int | None:
        if self._process is not None:
            return None if self._process.exit is None else self._process.exit.code
        return self._failure.code if self._failure is not None else 0

    async def wait(self) -> int | None:
        code = 0
        if self._process is not None:
            code = (await self._workbench.run(self._process.ended())).code
        elif self._failure is not None:
            code = self._failure.code
        self._process = self._failure = None
        return code

    async def send_signal(self, signum: int) -> None:
        if self._process is not None:
            await self._tell(self._process.signal, signum)

    async def kill(self, restart: bool = False) -> None:
        if self._process is not None:
            await self._tell(self._process.end)

    async def terminate(self, restart: bool = False) -> None:
        await self.send_signal(signal.SIGTERM)

    async def shutdown_requested(self, restart: bool = False) -> None:
        if self._process is not None:
            try:
                await asyncio.wait_for(self._workbench.run(self._process.ended()), SHUTDOWN_LIMIT)
            except TimeoutError:
                self.log.debug("The kernel takes its time to shut down")

    async def cleanup(self, restart: bool = False) -> None:
        if not restart:
            await self.kill()
            if self._channels is not None:
                self._channels.remove()
                self._channels = None

    async def _tell(self, method: Any, *arguments: Any) -> None:
        async def tell() -> None:
            method(*arguments)

        try:
            await self._workbench.run(tell())
        except Ds01Error as error:
            self.log.debug("The kernel process could not be told: %s", error)

    # What Jupyter asks

    def resolve_path(self, path: str) -> str | None:
        """The host's path of a file that the kernel names, when it lies in the project."""
        if self._project is None or path.startswith("~"):
            return None
        place = PurePosixPath(os.path.normpath(self._cwd / path))
        if not place.is_relative_to(WORKSPACE):
            return None
        host = self._project.path / place.relative_to(WORKSPACE)
        return str(host) if host.exists() else None

    async def get_provisioner_info(self) -> dict[str, Any]:
        info: dict[str, Any] = await super().get_provisioner_info()
        process = self._process
        info["project"] = self._name
        info["process"] = process.id if process else ""
        info["client"] = process.agent.identity.id if process else ""
        info["pid"] = process.pid if process else 0
        return info

    async def load_provisioner_info(self, provisioner_info: dict[str, Any]) -> None:
        """Take over a kernel that another process of ours started. Raises `Ds01Error` when it is gone."""
        await super().load_provisioner_info(provisioner_info)
        self._project = project = self._workbench.projects().get(self._name)
        self._channels = Channels()
        started = await self._workbench.run(
            self._workbench.launcher.adopt(project, provisioner_info["process"], provisioner_info["client"])
        )
        self._channels.point_at(started.sockets, started.process.id)
        # The paths of the process that had it go with that process.
        self.connection_info = {**self.connection_info, "ip": self._channels.ip}
        self._launched = True
        self._process = started.process
        self._report_end(started)

    # Connection

    def _connection(self, encryption: str | None) -> KernelConnectionInfo:
        """What Jupyter connects to: its own paths and key, the same for the life of the kernel."""
        assert self._channels is not None
        manager: Any = self.parent
        info: KernelConnectionInfo = {
            "transport": "ipc",
            "ip": self._channels.ip,
            "key": manager.session.key,
            "signature_scheme": manager.session.signature_scheme,
            **PORTS,  # type: ignore[typeddict-item]
        }
        if _wants_encryption(manager, encryption):
            # As LocalProvisioner does it: made once, and kept over restarts as the session's key is.
            if manager.curve_publickey is None:
                manager.curve_publickey, manager.curve_secretkey = zmq.curve_keypair()
            info["curve_publickey"] = manager.curve_publickey.decode()
            info["curve_secretkey"] = manager.curve_secretkey.decode()
        return info

    def _kernel_connection(self, process: str) -> dict[str, Any]:
        """The same as the kernel process has it: in the directory that it shares with us."""
        info: dict[str, Any] = {
            **self.connection_info,
            "ip": inside(process),
            "kernel_name": self.kernel_spec.name,
        }
        info["key"] = info["key"].decode()
        return info


def _owner_of(workbench: Workbench, cwd: str | os.PathLike[str]) -> str:
    """The project that the folder lies in; empty for none. Raises the error of one that cannot be used."""
    projects = workbench.projects()
    if rejected := projects.rejected_owner(cwd):
        raise rejected.error
    owner = projects.owner(cwd)
    return owner.name if owner else ""


def _wants_encryption(manager: Any, given: str | None) -> bool:
    policy = given if given is not None else getattr(manager, "transport_encryption", "disabled")
    return policy == "required" or (policy == "auto" and manager._kernel_supports_curve_encryption())


def _ipykernel_arguments(argv: list[str]) -> list[str]:
    """What a kernelspec's argv passes to ipykernel itself, without the connection file."""
    rest = argv[argv.index("-m") + 2 :] if "-m" in argv else argv[1:]
    kept: list[str] = []
    for argument in rest:
        if argument == "{connection_file}":
            if kept and kept[-1] == "-f":
                kept.pop()
        else:
            kept.append(argument)
    return kept


def _inside_cwd(project: Project, cwd: str | os.PathLike[str] | None) -> PurePosixPath:
    """The notebook's folder as the container sees it; the project's own when the notebook lies elsewhere."""
    if cwd is None:
        return WORKSPACE
    real = Path(cwd).resolve()
    return WORKSPACE / real.relative_to(project.path) if real.is_relative_to(project.path) else WORKSPACE


def _describe(code: int) -> str:
    if code < 0:
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"killed by signal {-code}"
    return f"exit code {code}"
