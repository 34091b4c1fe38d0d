"""The next process of a kernel that is restarted, begun while the one before it ends.

An interpreter takes some 30 ms for its end, after the last of what a user has asked to be done there. The
next one is asked for something only when that is over, and only if it is what Jupyter starts then.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import replace
from typing import Any

import zmq

from .agent_client import KernelProcess
from .agent_requests import KernelRequest
from .connection import Channels
from .errors import Ds01Error
from .launch import Launcher
from .projects import Project
from .reconnecting import listeners_are_back, point_listeners, point_requests
from .station import Started

log = logging.getLogger("ds01_kernels")


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
        """`context` is that of the kernel's clients."""
        self._launcher = launcher
        self._project = project
        self._request = request
        self._channels = channels
        self._context = context
        self._is_taken = False
        self._leading: asyncio.Future[None] | None = None
        launcher.reserved.add(request.process)
        self._beginning = asyncio.ensure_future(self._begin(former))
        _let_fail(self._beginning)

    def former_has_ended(self) -> None:
        """Lead there those who listened to it: nobody is connected to it any more."""
        if self._leading is None:
            self._leading = asyncio.ensure_future(self._lead())
            _let_fail(self._leading)

    async def take(self, request: KernelRequest) -> Started | None:
        """The process, now the kernel; None when another one has to be started.

        To be called when the former one has ended.
        """
        if _essence(request) != _essence(self._request):
            return None
        self.former_has_ended()
        assert self._leading is not None
        try:
            # Others may have changed the image or the settings: looked at as for every start.
            async with self._launcher.idling.busy(self._project):
                station = await self._launcher.reach(self._project)
                started = await self._beginning
                if started.process.exit is not None or station.agent is not started.process.agent:
                    return None
                await self._leading
                point_requests(self._channels, started.prefix)
                self._launcher.follow(self._project, started.process)
        except (Ds01Error, OSError) as error:
            log.debug("What was begun for a restart cannot be used: %s", error)
            return None
        self._is_taken = True
        return started

    async def drop(self) -> None:
        """End what was not taken."""
        if self._leading is not None:
            self._leading.cancel()
        if not self._is_taken:
            self._beginning.cancel()
            with suppress(asyncio.CancelledError, Ds01Error, OSError):
                (await self._beginning).process.end()
        self._launcher.reserved.discard(self._request.process)

    async def _begin(self, former: KernelProcess) -> Started:
        station = self._launcher.station_of(former.agent)
        if station is None:
            raise Ds01Error("The kernel's container is another one now.")
        async with self._launcher.idling.busy(self._project):
            process = await station.spawn(self._request)
            try:
                await process.ready()
                return await station.started(process)
            except BaseException:
                process.end()
                raise

    async def _lead(self) -> None:
        started = await asyncio.shield(self._beginning)
        point_listeners(self._channels, started.prefix)
        await listeners_are_back(self._channels, self._context)


def _let_fail(work: asyncio.Future[Any]) -> None:
    """Nobody may be waiting when it does."""
    work.add_done_callback(lambda done: done.cancelled() or done.exception())


def _essence(request: KernelRequest) -> KernelRequest:
    """What of it makes a difference to the kernel: all but the name of the process."""
    return replace(request, process="", connection={**request.connection, "ip": ""})
