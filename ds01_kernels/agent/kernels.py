"""A kernel process, as the agent knows it."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Any, Dict, Optional

from . import files, logs, processes

if TYPE_CHECKING:
    from .client import Client
    from .kernel import Request


class Kernel:
    """One kernel process of `client`, who asked by `call`; `pid` is None until its start is reported."""

    def __init__(self, client: Client, request: Request, call: object) -> None:
        self.client = client
        self.id = request.kernel
        self.request = request
        self.call = call
        self.pid: Optional[int] = None
        self.ready = False
        self.over = asyncio.Event()
        self._how = self._note = ""
        self._ending = False
        client.kernels[self.id] = self
        client.agent.kernels[self.id] = self

    def started(self, pid: int, how: str, note: str) -> None:
        self.pid, self._how, self._note = pid, how, note
        self.tell_started()
        code = self.client.agent.claim(pid)
        if code is not None:
            self.exited(code)
        elif self._ending:
            self.end()

    def tell_started(self) -> None:
        self.client.send(
            kind="spawned", call=self.call, kernel=self.id, pid=self.pid, how=self._how, note=self._note
        )

    def is_ready(self) -> None:
        self.ready = True
        logs.shorten(self.request.log)
        self.client.send(kind="ready", kernel=self.id)

    def is_closed(self) -> None:
        self.client.send(kind="closed", kernel=self.id)

    def signal(self, signum: int) -> None:
        """To its process group."""
        if self.pid is not None:
            processes.signal_group(self.pid, signum)

    def end(self) -> None:
        """SIGKILL to it and to everything that it started; `exited` follows."""
        self._ending = True
        if self.pid is not None:
            self._end_all()

    def exited(self, code: int) -> None:
        """Its process has ended: end what it left, remove its files, tell the client."""
        self._end_all()
        ended = self._exit(code)
        self._remove()
        self.client.remember(self.id, ended)
        self.over.set()
        self.client.send(kind="exited", kernel=self.id, **ended)
        self.client.close_when_over()

    def _end_all(self) -> None:
        processes.end_kernel(self.id, self.pid, self.client.agent.pids - {self.pid or 0})

    def _exit(self, code: int) -> Dict[str, Any]:
        by_others = code == -signal.SIGKILL and not self._ending
        cause, limit = self.client.agent.memory.blame() if by_others else ("", 0)
        return {
            "code": code,
            "detail": "" if self.ready and code == 0 else logs.tail(self.request.log),
            "cause": cause,
            "limit": limit,
            "heard": not (self.request.notice and os.path.exists(self.request.notice)),
        }

    def belongs_to(self, client: Client) -> None:
        """Another client has taken it over."""
        self.client.kernels.pop(self.id, None)
        self.client = client
        client.kernels[self.id] = self

    def failed(self, reason: str) -> None:
        """No process could be made."""
        self._remove()
        self.client.send(kind="error", call=self.call, message=reason)
        self.client.close_when_over()

    def _remove(self) -> None:
        agent = self.client.agent
        self.client.kernels.pop(self.id, None)
        agent.kernels.pop(self.id, None)
        agent.forget_unclaimed()
        sockets = ["%s-%d" % (self.request.sockets, port) for port in range(1, 6)]
        files.remove(self.request.log, self.request.connection_file, self.request.notice, *sockets)
