"""The next process of a kernel that is restarted, begun while the one before it ends.

An interpreter needs some 40 ms after its last socket was closed, and a client some 10 ms to connect again.
So Jupyter is told of the end when the sockets are closed, and led to the next process meanwhile, if that is
what Jupyter starts then. It takes requests at once, and serves them when the former is over: `agent.holding`.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import replace
from functools import partial
from signal import SIGTERM
from typing import Any

import zmq

from .agent_client import KernelProcess
from .agent_requests import KernelRequest
from .connection import Channels
from .errors import Ds01Error
from .launch import Launcher
from .projects import Project
from .reconnecting import listeners_are_back, point_listeners, point_requests
from .station import Started, Station

log = logging.getLogger("ds01_kernels")

#: Seconds for a process that was killed to be gone, after which Jupyter goes on without.
KILL_LIMIT = 5.0


class Successor:
    """Made in the workbench's loop when `former` was asked to end; to be dropped, whether taken or not."""

    def __init__(
        self,
        launcher: Launcher,
        project: Project,
        former: KernelProcess,
        request: KernelRequest,
        channels: Channels,
        context: zmq.Context[zmq.Socket[bytes]],
    ) -> None:
        """`request` is to come after `former`; `context` is that of the kernel's clients."""
        self._launcher = launcher
        self._project = project
        self.former = former
        self._request = request
        self._channels = channels
        self._context = context
        self._is_taken = False
        #: Since the former has closed its sockets. Its end is seen to even when this is dropped.
        self._ending: asyncio.Task[None] | None = None
        self._leading: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[Station] | None = None
        launcher.reserved.add(request.process)
        self._beginning = asyncio.ensure_future(self._begin())
        _let_fail(self._beginning)

    def former_has_closed(self, patience: float) -> None:
        """See to its end, and lead there those who listened to it: nobody is connected to it any more.

        `patience` is how many seconds Jupyter gives a kernel for its end.
        """
        if self._ending is not None:
            return
        all_ending = self._launcher.ending
        self._ending = all_ending[self.former] = asyncio.create_task(_see_out(self.former, patience))
        self._ending.add_done_callback(lambda _: all_ending.pop(self.former, None))
        # Others may have changed the image or the settings: looked at as for every start.
        self._looking = asyncio.create_task(self._launcher.reach(self._project))
        self._leading = asyncio.create_task(self._lead())
        _let_fail(self._looking)
        _let_fail(self._leading)

    async def take(self, request: KernelRequest, patience: float) -> Started | None:
        """The process, now the kernel; None when another one has to be started.

        To be called when the former one has closed its sockets. Where another has to be started that one is
        over; else it will be.
        """
        self.former_has_closed(patience)
        assert self._ending is not None
        async with self._launcher.idling.busy(self._project):
            is_wanted = _essence(request) == _essence(self._request)
            started = await self._led() if is_wanted else None
            if started is None or started.process.exit is not None:
                await asyncio.wait([self._ending])
                return None
            point_requests(self._channels, started.prefix)
            self._launcher.follow(self._project, started.process)
        self._is_taken = True
        return started

    async def _led(self) -> Started | None:
        """What was begun, once clients listen to it; None when it cannot be used."""
        assert self._looking is not None
        assert self._leading is not None
        try:
            station = await self._looking
            started = await self._beginning
            await self._leading
        except (Ds01Error, OSError) as error:
            log.debug("What was begun for a restart cannot be used: %s", error)
            return None
        return started if station.agent is started.process.agent else None

    async def drop(self) -> None:
        """End what was not taken."""
        for begun in (self._leading, self._looking):
            if begun is not None:
                begun.cancel()
        if not self._is_taken:
            self._beginning.cancel()
            with suppress(asyncio.CancelledError, Ds01Error, OSError):
                (await self._beginning).process.end()
        self._launcher.reserved.discard(self._request.process)

    async def _begin(self) -> Started:
        station = self._launcher.station_of(self.former.agent)
        if station is None:
            raise Ds01Error("The kernel's container is another one now.")
        async with self._launcher.idling.busy(self._project):
            return await station.begin(self._request)

    async def _lead(self) -> None:
        started = await asyncio.shield(self._beginning)
        point_listeners(self._channels, started.prefix)
        await listeners_are_back(self._channels, self._context)


async def _see_out(process: KernelProcess, patience: float) -> None:
    """Wait for its end as Jupyter does: half of its patience, then as long again after SIGTERM, then SIGKILL.

    https://github.com/jupyter/jupyter_client/blob/v8.6.3/jupyter_client/manager.py (`finish_shutdown`)
    """
    for limit, go_on in (
        (patience / 2, partial(process.signal, SIGTERM)),
        (patience / 2, process.end),
        (KILL_LIMIT, partial(log.warning, "Kernel process %d does not end", process.pid)),
    ):
        try:
            await asyncio.wait_for(process.ended(), limit)
        except TimeoutError:
            go_on()
        else:
            return


def _let_fail(work: asyncio.Future[Any]) -> None:
    """Nobody may be waiting when it does."""
    work.add_done_callback(lambda done: done.cancelled() or done.exception())


def _essence(request: KernelRequest) -> KernelRequest:
    """What of it makes a difference to the kernel: all but the names of processes."""
    return replace(request, process="", after="", connection={**request.connection, "ip": ""})
