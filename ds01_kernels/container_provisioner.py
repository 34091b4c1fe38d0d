"""A kernel in the container of one project, as Jupyter's provisioner."""

from __future__ import annotations

import asyncio
import math
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase

from .agent_client import KernelProcess
from .agent_requests import KernelRequest, new_process
from .connection import Channels
from .errors import Ds01Error, NoRoomError, NotBuiltError
from .explaining import ExplainingKernel, Say
from .kernel_arguments import host_path, inside_cwd, ipykernel_arguments
from .kernel_connection import for_clients, for_process
from .package_jobs import first_build
from .predecessor import Predecessor
from .projects import Project
from .reconnecting import hasten, lead_back
from .station import Started
from .successor import Successor
from .text import clean
from .variables import WORKSPACE, select
from .waiting import for_room
from .workbench import Workbench

#: Seconds for which a kernel that was asked to shut down is waited for, before Jupyter looks every 0.1 s.
SHUTDOWN_LIMIT = 0.5

#: Seconds for which Jupyter's control socket, once closed, still delivers what was sent: it lingers 0.1 s.
LINGER = 0.15


class ContainerProvisioner(KernelProvisionerBase):
    """A kernel in the container of one project."""

    def __init__(self, workbench: Workbench, find: Callable[[], Project], **kwargs: Any) -> None:
        """`find` looks the project up at each start. Raises `Ds01Error` when it cannot be used."""
        super().__init__(**kwargs)
        self._workbench = workbench
        self._find = find
        self._project: Project | None = None
        self._channels: Channels | None = None
        self._process: KernelProcess | ExplainingKernel | None = None
        #: What passes messages on to `_process`, when that was started by the first cell.
        self._passing: ExplainingKernel | None = None
        self._predecessor = Predecessor()
        #: What the last start was given; and what was begun for the next one, which is to be a restart.
        self._launched: dict[str, Any] | None = None
        self._successor: Successor | None = None
        self._cwd = PurePosixPath(WORKSPACE)
        self._is_restart = False
        #: A shutdown was asked of a process that had ended, and waits on Jupyter's side for the next one.
        self._asked_the_dead = False
        self._silent_until = 0.0

    # Starting

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """May be called again for each restart.

        Raises `Ds01Error` when there is no place for the channels.
        """
        self._is_restart = self._channels is not None
        if self._channels is None:
            self._channels = Channels()
            hasten(self._manager.context)
        encryption = kwargs.pop("transport_encryption", None)
        self.connection_info = for_clients(self._manager, self._channels.ip, encryption)
        arguments = ipykernel_arguments(self.kernel_spec.argv) + list(kwargs.pop("extra_arguments", []))
        # Fills in the kernelspec's own variables from all that we were given; the choice comes after.
        kwargs = await super().pre_launch(cmd=[*self.kernel_spec.argv, *arguments], **kwargs)
        kwargs["arguments"] = arguments
        return kwargs

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start the kernel, or one that explains why it cannot start: Jupyter calls idle what raises here."""
        self._launched = kwargs
        await self._end_passing()
        self._predecessor.judge()
        await asyncio.sleep(self._silent_until - time.monotonic())
        try:
            # Not in a thread of the caller's loop, which may be a forked process's: its threads are not.
            self._project = project = await self._workbench.run(asyncio.to_thread(self._find))
            self._cwd = inside_cwd(project, kwargs.get("cwd"))
            started = await self._workbench.run(self._start(project, kwargs))
        except NotBuiltError as error:
            await self._explain(error, kwargs)
        except NoRoomError as error:
            self.log.info("A kernel waits for room. %s", error)
            # Who has no cell to look at has waited already.
            await self._explain(error, None if self._is_headless else kwargs)
        except Ds01Error as error:
            self.log.warning("A kernel could not start. %s", error.sentence)
            await self._explain(error)
        except Exception as error:
            self.log.exception("A kernel could not start")
            await self._explain(Ds01Error(f"The kernel could not start: {type(error).__name__}: {error}."))
        else:
            self._adopt(started)
        finally:
            await self._drop_successor()
        return self.connection_info

    async def _start(self, project: Project, kwargs: dict[str, Any]) -> Started:
        assert self._channels is not None
        if (successor := self._successor) is not None:
            if taken := await successor.take(self._request(project, kwargs), self._patience):
                return taken
            # First, so that whoever was led to it comes to what is started instead.
            await successor.drop()
        # What asked for the kernel waits for it, where there is no cell yet in which to say something.
        limit = self._workbench.room_timeout if self._is_headless else 0.0
        try:
            started = await self._started(project, kwargs, self._log_line, limit)
        except NotBuiltError:
            if not self._is_headless:
                raise
            await first_build(self._workbench, project, self._log_line)
            started = await self._started(project, kwargs, self._log_line, limit)
        try:
            await self._lead_to(started.prefix)
        except BaseException:
            started.process.end()
            raise
        return started

    async def _started(
        self, project: Project, kwargs: dict[str, Any], say: Say, limit: float = math.inf
    ) -> Started:
        """Waits for room for so many seconds; `say` gets the reason."""

        async def attempt() -> Started:
            launcher = (await self._workbench.flows(project)).launcher
            return await launcher.start(project, self._request(project, kwargs))

        return await for_room(attempt, say, stop="Interrupt the kernel to wait no longer.", limit=limit)

    async def _lead_to(self, prefix: str) -> None:
        assert self._channels is not None
        if self._is_restart:
            await lead_back(self._channels, prefix, self._manager.context)
        else:
            self._channels.point_at(prefix)

    def _request(self, project: Project, kwargs: dict[str, Any]) -> KernelRequest:
        variables = select(
            kwargs.get("env", {}),
            named=(*self._workbench.pass_variables, *self.kernel_spec.env),
            project=project.path,
        )
        process = new_process()
        return KernelRequest(
            process=process,
            cwd=str(self._cwd),
            env=variables.plain,
            files=variables.files,
            connection=for_process(self.connection_info, process, self.kernel_spec.name),
            arguments=kwargs.get("arguments", []),
            notice=self._predecessor.notice,
        )

    def _adopt(self, started: Started) -> None:
        process, container = started.process, started.container
        self._process = process
        self._predecessor.is_now(process)
        where = (self.kernel_id, self._name, container.name, process.pid)
        self.log.info("Kernel %s of project %s runs in %s as process %d", *where)
        self._report_end(started)

    # When it cannot start

    async def _explain(self, reason: Ds01Error, kwargs: dict[str, Any] | None = None) -> None:
        """Let a kernel stand in that gives the reason.

        With `kwargs` its first cell does what there is to do (build the image, wait for room), and the kernel
        starts then.
        """
        assert self._channels is not None
        channels = self._channels
        prefix = channels.own_prefix()
        if self._project is not None and not reason.remedy:
            reason.remedy = f"`jupyter ds01 doctor {self._name}` looks for the cause."

        async def prepare(say: Say) -> str:
            assert self._project is not None
            assert kwargs is not None
            await first_build(self._workbench, self._project, say)
            if isinstance(reason, NotBuiltError):
                say("Starting the kernel.\n")
            self._predecessor.notice = explaining.notice
            started = await self._started(self._project, kwargs, say)
            self._passing = explaining
            self._adopt(started)
            return started.prefix

        explaining = ExplainingKernel(
            self.connection_info,
            prefix,
            reason,
            prepare=prepare if kwargs is not None else None,
            hand_over=channels.point_at,
            notice=self._predecessor.notice,
        )
        await self._workbench.run(explaining.open())
        await self._lead_to(prefix)
        self._process = explaining
        self._predecessor.is_now(explaining)

    async def _end_passing(self) -> None:
        passing, self._passing = self._passing, None
        if passing is not None:
            await self._tell(passing.end)

    @property
    def _manager(self) -> Any:
        return self.parent

    @property
    def _patience(self) -> float:
        """Seconds that Jupyter gives a kernel for its end."""
        return self.get_shutdown_wait_time(self._manager.shutdown_wait_time)

    @property
    def _is_headless(self) -> bool:
        # Servers watch their kernels; nbclient, papermill and scripts use managers that do not.
        return not hasattr(self._manager, "restarter_class")

    def _log_line(self, text: str) -> None:
        if text.strip():
            self.log.info("%s", clean(text, colours=False).rstrip())

    @property
    def _name(self) -> str:
        return self._project.name if self._project is not None else "?"

    def _report_end(self, started: Started) -> None:
        async def report() -> None:
            exit_ = await started.process.ended()
            expected = exit_.code == 0 or self._predecessor.was_told(started.process)
            level = "info" if expected or self._process is not started.process else "warning"
            getattr(self.log, level)(
                "Kernel process %d of project %s in %s ended: %s",
                started.process.pid,
                self._name,
                started.container.name,
                exit_.in_full,
            )

        self._workbench.submit(report())

    # The process

    @property
    def project_path(self) -> str:
        return str(self._project.path) if self._project is not None else ""

    @property
    def process_id(self) -> str:
        """The agent's name for the kernel process; empty while an explaining kernel stands in."""
        return self._process.id if isinstance(self._process, KernelProcess) else ""

    @property
    def has_process(self) -> bool:
        return self._process is not None

    async def poll(self) -> int | None:
        if self._process is None:
            return 0
        if self._process.exit is not None:
            return self._process.exit.code
        return 0 if self._is_followed else None

    async def wait(self) -> int | None:
        if self._process is None:
            return 0
        if not self._is_followed:
            await self._workbench.run(self._process.ended())
        code = await self.poll()
        self._process = None
        return code

    @property
    def _is_followed(self) -> bool:
        """Whether only the process that is to follow waits for this one's very end, and Jupyter need not."""
        process = self._process
        return self._successor is not None and isinstance(process, KernelProcess) and process.closed.is_set()

    async def send_signal(self, signum: int) -> None:
        if self._process is not None:
            await self._tell(self._process.signal, signum)

    async def kill(self, restart: bool = False) -> None:
        self._predecessor.is_told_to_end()
        if self._process is not None:
            await self._tell(self._process.end)

    async def terminate(self, restart: bool = False) -> None:
        self._predecessor.is_told_to_end()
        await self.send_signal(signal.SIGTERM)

    async def shutdown_requested(self, restart: bool = False) -> None:
        self._predecessor.is_told_to_end()
        await self._drop_successor()
        if self._process is not None:
            self._asked_the_dead = self._process.exit is not None
            if restart:
                await self._begin_successor(self._process)
            gone = self._process.ended() if self._successor is None else self._successor.former.closed.wait()
            try:
                await asyncio.wait_for(self._workbench.run(gone), SHUTDOWN_LIMIT)
            except TimeoutError:
                self.log.debug("The kernel takes its time to shut down")

    async def _begin_successor(self, process: KernelProcess | ExplainingKernel) -> None:
        """Not where something may have to be said of this process, which is not known yet."""
        project, kwargs, channels = self._project, self._launched, self._channels
        if project is None or kwargs is None or channels is None or self._predecessor.notice:
            return
        if isinstance(process, ExplainingKernel) or process.exit is not None:
            return

        async def begin() -> Successor:
            launcher = (await self._workbench.flows(project)).launcher
            request = replace(self._request(project, kwargs), after=process.id)
            return Successor(launcher, project, process, request, channels, self._manager.context)

        self._successor = await self._workbench.run(begin())

    async def _drop_successor(self) -> None:
        successor, self._successor = self._successor, None
        if successor is not None:
            await self._workbench.run(successor.drop())

    async def cleanup(self, restart: bool = False) -> None:
        if self._asked_the_dead:
            # Jupyter has just closed that socket. The next process must not get what it still has to deliver.
            self._asked_the_dead, self._silent_until = False, time.monotonic() + LINGER
        if restart and (successor := self._successor) is not None:
            # Jupyter has just removed the paths, and waits for a while.
            await self._tell(successor.former_has_closed, self._patience)
        if not restart:
            if self._successor is not None:
                await self._tell(self._successor.former.end)
            await self._drop_successor()
            await self.kill()
            await self._end_passing()
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
        return host_path(self._project, self._cwd, path) if self._project is not None else None

    async def get_provisioner_info(self) -> dict[str, Any]:
        info: dict[str, Any] = await super().get_provisioner_info()
        process = self._process
        real = process if isinstance(process, KernelProcess) else None
        info["project"] = self._name
        info["process"] = real.id if real else ""
        info["client"] = real.agent.identity.id if real else ""
        info["pid"] = real.pid if real else 0
        return info

    async def load_provisioner_info(self, provisioner_info: dict[str, Any]) -> None:
        """Take over a kernel that another process of ours started. Raises `Ds01Error` when it is gone."""
        await super().load_provisioner_info(provisioner_info)
        self._project = project = await self._workbench.run(asyncio.to_thread(self._find))
        self._channels = Channels()
        launcher = (await self._workbench.run(self._workbench.flows(project))).launcher
        started = await self._workbench.run(
            launcher.adopt(project, provisioner_info["process"], provisioner_info["client"])
        )
        self._channels.point_at(started.prefix)
        # The paths of the process that had it go with that process.
        self.connection_info = {**self.connection_info, "ip": self._channels.ip}
        self._adopt(started)
