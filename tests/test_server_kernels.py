"""The kernels of a Jupyter server: their starts and ends, and the websockets to them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from tornado.web import HTTPError

from ds01_kernels.provisioner import ProjectProvisioner
from ds01_kernels.server_kernels import ending_started, knowing_started, undelayed


class Starting:
    """As much of a kernel's manager as its end looks at."""

    def __init__(self) -> None:
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Kernels(AsyncMappingKernelManager):
    """It says which kernels were ended, and how."""

    ended: tuple[tuple[str, object, object], ...] = ()

    async def _async_shutdown_kernel(self, kernel_id: str, now: Any = False, restart: Any = False) -> None:
        assert self.get_kernel(kernel_id).ready.exception() is None
        self.ended += ((kernel_id, now, restart),)
        del self._kernels[kernel_id]


def test_a_kernel_that_starts_is_ended_afterwards() -> None:
    async def work() -> None:
        kernels: Any = ending_started(Kernels)()
        first, second = Starting(), Starting()
        kernels._kernels = {"first": first, "second": second}
        second.ready.set_result(None)
        ends = [asyncio.create_task(kernels.shutdown_all(now=True))]
        ends.append(asyncio.create_task(kernels.shutdown_kernel("first", now=True)))
        await asyncio.wait(ends, timeout=0.1)
        assert kernels.ended == (("second", True, False),)
        # Started once more, at that very moment.
        first.ready.set_result(None)
        first.ready = asyncio.get_running_loop().create_future()
        await asyncio.wait(ends, timeout=0.1)
        assert len(kernels.ended) == 1
        first.ready.set_result(None)
        await asyncio.wait_for(asyncio.gather(*ends), 60)
        assert kernels.ended == (("second", True, False), ("first", True, False))
        with pytest.raises(HTTPError, match="404"):
            await kernels.shutdown_kernel("first")

    asyncio.run(work())


class Vanishing(AsyncMappingKernelManager):
    async def _async_shutdown_kernel(self, kernel_id: str, now: Any = False, restart: Any = False) -> None:
        await asyncio.sleep(0)
        if kernel_id == "gone":
            self._kernels.pop(kernel_id, None)
        self.get_kernel(kernel_id)
        raise HTTPError(500, "it does not end")


def test_a_kernel_that_goes_while_it_is_ended_is_ended() -> None:
    async def work() -> None:
        kernels: Any = ending_started(Vanishing)()
        kernels._kernels = {"gone": Starting(), "stays": Starting()}
        for kernel in kernels._kernels.values():
            kernel.ready.set_result(None)
        await kernels.shutdown_kernel("gone")
        for kernel_id, status in (("gone", "404"), ("stays", "500")):
            with pytest.raises(HTTPError, match=status):
                await kernels.shutdown_kernel(kernel_id)

    asyncio.run(work())


class Watched:
    """As much of a kernel's manager as is looked at when Jupyter begins to watch it."""

    def __init__(self, provisioner: object, state: str = "starting") -> None:
        self.provisioner = provisioner
        self.execution_state = state


class Watching(AsyncMappingKernelManager):
    def start_watching_activity(self, kernel_id: str) -> None:
        self.get_kernel(kernel_id).watched = True


class Answering(ProjectProvisioner):
    is_answering = True


class Silent(ProjectProvisioner):
    is_answering = False


def test_a_kernel_that_can_be_reached_is_no_longer_starting() -> None:
    async def work() -> None:
        kernels: Any = knowing_started(Watching)()
        kernels._kernels = {
            "ours": Watched(Answering()),
            "on the host": Watched(ProjectProvisioner()),
            "ended": Watched(Silent()),
            "somebody else's": Watched(object()),
            "busy": Watched(Answering(), "busy"),
        }
        for kernel_id in kernels._kernels:
            kernels.start_watching_activity(kernel_id)
        found = {id_: one.execution_state for id_, one in kernels._kernels.items() if one.watched}
        assert found == {
            "ours": "idle",
            "on the host": "starting",
            "ended": "starting",
            "somebody else's": "starting",
            "busy": "busy",
        }

    asyncio.run(work())


def test_messages_to_a_page_are_sent_at_once() -> None:
    done: list[object] = []

    class Handler:
        def set_nodelay(self, value: bool) -> None:
            done.append(value)

    class Connection:
        """Not Jupyter's, whose traits want the handler of a server."""

        websocket_handler = Handler()

        def connect(self) -> str:
            done.append("connected")
            return "what it returns"

    parent: Any = Connection
    connection: Any = undelayed(parent)()
    assert connection.connect() == "what it returns"
    assert done == [True, "connected"]
