"""One event loop in a thread of its own, for everything that talks to engines and agents.

Jupyter calls a provisioner from whatever loop the client happens to have: the server's, nbclient's, or, for a
blocking KernelManager, one that runs only during the call (``jupyter_core.utils.run_sync``). A kernel's exit
must reach us between the calls too.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

#: Seconds between looks at what is awaited. A forked process that goes on with its parent's loop (a pool of
#: nbclients) shares the pipe that wakes the loop, and the other one may take the wake-up.
LOOK = 0.2


class Background:
    """Runs coroutines for other threads and loops; its thread starts with the first one."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work` from any loop; cancelling this cancels `work`."""
        future = asyncio.wrap_future(self.submit(work))
        try:
            while not future.done():
                await asyncio.wait((future,), timeout=LOOK)
        except asyncio.CancelledError:
            future.cancel()
            raise
        return future.result()

    def call(self, work: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Wait for `work` where there is no loop. Raises `TimeoutError` after `timeout` seconds."""
        future = self.submit(work)
        try:
            return future.result(timeout)
        except TimeoutError:
            future.cancel()
            raise

    def submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._started())

    def stop(self) -> None:
        """End the thread; what still runs is cancelled."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None:
            loop.call_soon_threadsafe(loop.stop)

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._serve, args=(self._loop,), name=self._name, daemon=True).start()
            return self._loop

    @staticmethod
    def _serve(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()
