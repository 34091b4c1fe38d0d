"""The kernels of this Jupyter server that run in containers: which they are, and their restarts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from jupyter_core.utils import ensure_async

from .projects import Project
from .provisioner import ProjectProvisioner

log = logging.getLogger("ds01_kernels")


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
