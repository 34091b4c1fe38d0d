"""The kernels of this Jupyter server: which run in containers, their starts, restarts and ends, and the
websockets to them."""

from __future__ import annotations

import asyncio
import logging
import types
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from jupyter_core.utils import ensure_async
from jupyter_server.services.kernels.connection.base import BaseKernelWebsocketConnection
from jupyter_server.services.kernels.kernelmanager import MappingKernelManager
from tornado.web import HTTPError

from .projects import Project
from .provisioner import ProjectProvisioner

log = logging.getLogger("ds01_kernels")

#: Seconds between two looks at whether a kernel has started.
_PAUSE = 0.02


@dataclass(frozen=True)
class ServerKernel:
    """`id` is Jupyter's, `process` the agent's; `path` is the notebook's, empty when no session names one."""

    id: str
    name: str
    path: str
    state: str
    process: str

    def as_json(self) -> dict[str, str]:
        return {"id": self.id, "name": self.name, "path": self.path, "state": self.state}


class ServerKernels:
    """Those of one kernel manager; to be used in the server's own loop."""

    def __init__(self, kernel_manager: Any, session_manager: Any) -> None:
        self._kernels = kernel_manager
        self._sessions = session_manager
        self._restarting: set[str] = set()

    async def of(self, project: Project) -> list[ServerKernel]:
        """Those in the project's containers, by their notebook's path."""
        sessions = {one["kernel"]["id"]: one for one in await ensure_async(self._sessions.list_sessions())}
        found = []
        for id_ in list(self._kernels.list_kernel_ids()):
            kernel = self._kernels.get_kernel(id_)
            provisioner = kernel.provisioner
            if not isinstance(provisioner, ProjectProvisioner) or provisioner.place != str(project.path):
                continue
            session = sessions.get(id_, {})
            state = str(getattr(kernel, "execution_state", "unknown"))
            name, path = str(session.get("name") or ""), str(session.get("path") or "")
            found.append(
                ServerKernel(id_, name or path or kernel.kernel_name, path, state, provisioner.process)
            )
        return sorted(found, key=lambda one: (one.path, one.id))

    async def processes(self, project: Project, ids: Collection[str]) -> frozenset[str]:
        """The agent's names for those kernels; what has ended since is left out."""
        return frozenset(one.process for one in await self.of(project) if one.id in ids and one.process)

    async def restart(self, processes: frozenset[str]) -> None:
        """Restart the kernels that these processes are, as a user would; each failure is logged."""
        ids = [
            id_
            for id_ in list(self._kernels.list_kernel_ids())
            if getattr(self._kernels.get_kernel(id_).provisioner, "process", "") in processes
            # We may be told more than once.
            and id_ not in self._restarting
        ]
        self._restarting.update(ids)
        outcomes = await asyncio.gather(*map(self._restart, ids), return_exceptions=True)
        for id_, outcome in zip(ids, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                log.warning("Kernel %s could not be restarted in the new container: %r", id_, outcome)

    async def _restart(self, kernel_id: str) -> None:
        try:
            await ensure_async(self._kernels.restart_kernel(kernel_id))
        finally:
            self._restarting.discard(kernel_id)


def ending_started(parent: type[MappingKernelManager]) -> type[MappingKernelManager]:
    """A subclass that ends a kernel only when it does not just start, and for which one that goes is ended.

    While Jupyter starts one again, its end would be an `InvalidStateError`: the kernel would go on, and a
    server that is being stopped would never end. With a container to be made that is seconds. Nor would it
    where a kernel goes by itself at that moment, and is not found any more.
    https://github.com/jupyter/jupyter_client/blob/v8.10.0/jupyter_client/multikernelmanager.py#L320
    """

    async def shut_down(self: Any, kernel_id: str, now: bool = False, restart: bool = False) -> None:
        known = kernel_id in self
        # Each start has a limit, and one that fails is done as well. A restart makes another future.
        while kernel_id in self and not self.get_kernel(kernel_id).ready.done():  # noqa: ASYNC110
            await asyncio.sleep(_PAUSE)
        if known and kernel_id not in self:
            return
        end: Any = parent._async_shutdown_kernel
        try:
            await end(self, kernel_id, now=now, restart=restart)
        except (HTTPError, KeyError):
            if not known or kernel_id in self:
                raise

    body = {"_async_shutdown_kernel": shut_down, "shutdown_kernel": shut_down}
    return types.new_class("EndingStartedKernels", (parent,), exec_body=lambda made: made.update(body))


def knowing_started(parent: type[MappingKernelManager]) -> type[MappingKernelManager]:
    """A subclass that does not call a kernel "starting" which has already said that it can be reached.

    Jupyter waits for what such a kernel says next, looking every 50 ms, before it opens a channel to it.
    https://github.com/jupyter-server/jupyter_server/blob/v2.17.0/jupyter_server/services/kernels/connection/channels.py
    (`wait_for_activity`)
    """

    def watch(self: Any, kernel_id: str) -> None:
        parent.start_watching_activity(self, kernel_id)  # type: ignore[no-untyped-call]
        kernel = self.get_kernel(kernel_id)
        provisioner = kernel.provisioner
        is_ours = isinstance(provisioner, ProjectProvisioner)
        if is_ours and provisioner.is_answering and kernel.execution_state == "starting":
            kernel.execution_state = "idle"

    body = {"start_watching_activity": watch}
    return types.new_class("KnowingStartedKernels", (parent,), exec_body=lambda made: made.update(body))


def undelayed(parent: type[BaseKernelWebsocketConnection]) -> type[BaseKernelWebsocketConnection]:
    """A subclass that sends each message at once.

    Else a reply, which follows others, leaves only when these have been acknowledged: with the 40 ms that
    the other side may take for that, by Nagle's algorithm and delayed acknowledgements.
    https://www.tornadoweb.org/en/stable/websocket.html#tornado.websocket.WebSocketHandler.set_nodelay
    """

    def connect(self: Any) -> Any:
        self.websocket_handler.set_nodelay(True)
        open_channels: Any = parent.connect
        return open_channels(self)

    body = {"connect": connect}
    return types.new_class("UndelayedConnection", (parent,), exec_body=lambda made: made.update(body))
