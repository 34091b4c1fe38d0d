"""A container that is up and whose agent is connected, and the way to the kernels that run there."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from .agent_client import Agent, KernelProcess
from .agent_requests import KernelRequest
from .containers import Running
from .engine import ContainerInfo


@dataclass(frozen=True)
class Started:
    """A kernel process that answers; `prefix` is what comes before the port in the paths of its sockets."""

    process: KernelProcess
    container: ContainerInfo
    prefix: str


@dataclass
class Station:
    """A container whose agent is connected."""

    running: Running
    agent: Agent
    #: None until the agent knows where ipykernel is; then whether that one can encrypt.
    prepared: bool | None = None

    def is_prepared(self, *, curve: bool) -> bool:
        """Whether kernels can start, with `curve` also such as encrypt."""
        return self.prepared is not None and (self.prepared or not curve)

    async def begin(self, request: KernelRequest) -> Started:
        """Start a kernel process and wait until it can be reached; what cannot be ends.

        Raises `KernelFailedError`, another `Ds01Error`, or `OSError`.
        """
        process = await self.spawn(request)
        try:
            await process.ready()
        except BaseException:
            process.end()
            raise
        return await self.started(process)

    async def spawn(self, request: KernelRequest) -> KernelProcess:
        """Start a kernel process; it is not `ready` yet. Raises `AgentError`."""
        if self._shared is None:
            # In a folder of the agent's, which is reached through it.
            request = replace(request, connection={**request.connection, "ip": ""})
        return await self.agent.spawn(request)

    async def started(self, process: KernelProcess) -> Started:
        """That process, which is ready, and the way to it. Raises `OSError` or `Ds01Error`."""
        try:
            prefix = self._shared_prefix(process) or await self.agent.listen(process)
            return Started(process, self.running.info, prefix)
        except BaseException:
            process.end()
            raise

    def _shared_prefix(self, process: KernelProcess) -> str | None:
        prefix = f"{self._shared}/{process.id}"
        # Another directory of that name may have been made after ours was deleted.
        return prefix if self._shared is not None and os.path.lexists(f"{prefix}-1") else None

    @property
    def _shared(self) -> str | None:
        """The directory that the container and this machine share, if they do."""
        sockets = self.running.sockets
        return str(sockets.path) if sockets is not None and self.agent.shares_directory else None
