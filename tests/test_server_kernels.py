"""The kernels of a Jupyter server: their ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from tornado.web import HTTPError

from ds01_kernels.server_kernels import ending_started


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
