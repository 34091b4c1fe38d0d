"""An extension for the tests' servers: whether the event loop is blocked, for how long, and in whose code.

A task on the loop ticks. A thread looks whether it does, and once it has not for `LIMIT` seconds takes
samples of what the loop's thread is executing. On a loaded machine a loop is late without being blocked: what
counts is the time for which it computed, or the time in which no thread of this process waited for a core
(https://docs.kernel.org/scheduler/sched-stats.html).
"""

from __future__ import annotations

import asyncio
import json
import os
import selectors
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from jupyter_server.base.handlers import APIHandler
from jupyter_server.utils import url_path_join
from tornado import web

import ds01_kernels
from ds01_kernels.workbench import Workbench

PACKAGE = str(Path(ds01_kernels.__file__).parent) + os.sep

#: Seconds that a loop may be blocked for; between two ticks, and two looks at them.
LIMIT = 0.05
TICK = 0.005
LOOK = 0.01

#: More than any pool has threads.
POOL = 32


class Heart:
    """Of the loop in which `beat` runs. What is seen is kept until `begin`."""

    def __init__(self) -> None:
        self._ticked = time.perf_counter()
        self._ticks = 0
        self._thread, self._task = threading.get_ident(), threading.get_native_id()
        self._over = threading.Event()
        self.begin()
        self._before = times()
        self._watchdog = threading.Thread(target=self._watch, daemon=True)

    def begin(self) -> None:
        #: Seconds: the longest time without a tick, as it was and as it counts.
        self.longest = 0.0
        self.blocked = 0.0
        #: The functions of ours that blocked the loop, or kept the GIL from it; else the innermost of others.
        self.ours: dict[str, float] = {}
        self.others: dict[str, float] = {}

    async def beat(self) -> None:
        """Until cancelled."""
        self._watchdog.start()
        try:
            while True:
                if (late := time.perf_counter() - self._ticked) > LIMIT:
                    # Whoever kept the GIL may have given it to us and not to the watchdog.
                    before, now = self._before, times()
                    self._keep(self._who_keeps_the_gil(before, now), late, self._counted(before, now, late))
                self._ticked = time.perf_counter()
                self._ticks += 1
                await asyncio.sleep(TICK)
        finally:
            self._over.set()

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("longest", "blocked", "ours", "others")}

    def _watch(self) -> None:
        seen = -1
        while not self._over.wait(LOOK):
            if self._ticks != seen:
                seen, self._before = self._ticks, times()
                continue
            before, now = self._before, times()
            frame = sys._current_frames().get(self._thread)
            if frame is not None and frame.f_code.co_filename == selectors.__file__:
                frame = self._who_keeps_the_gil(before, now) or frame
            late = time.perf_counter() - self._ticked
            # It may have gone on since, and be elsewhere.
            if late > LIMIT and self._ticks == seen:
                self._keep(frame, late, self._counted(before, now, late))

    def _who_keeps_the_gil(self, before: Times, now: Times) -> FrameType | None:
        """What the thread does that computed most, if that was for long, and it is not the loop's own."""
        seconds, busiest = max((value, task) for task, value in now.computed_since(before).items())
        idents = {thread.native_id: thread.ident for thread in threading.enumerate()}
        ident = idents.get(busiest)
        if seconds <= LIMIT or ident is None or ident == self._thread:
            return None
        return sys._current_frames().get(ident)

    def _counted(self, before: Times, now: Times, late: float) -> float:
        computed = now.computed_since(before).get(self._task, 0.0)
        return min(late, max(computed, late - (now.waited - before.waited)))

    def _keep(self, where: FrameType | None, late: float, blocked: float) -> None:
        self.longest, self.blocked = max(self.longest, late), max(self.blocked, blocked)
        if blocked > LIMIT and where is not None:
            own = _innermost_of_ours(where)
            name, kept = (own, self.ours) if own else (_name(where), self.others)
            kept[name] = max(kept.get(name, 0.0), blocked)


def _innermost_of_ours(frame: FrameType | None) -> str:
    while frame is not None:
        if frame.f_code.co_filename.startswith(PACKAGE):
            return _name(frame)
        frame = frame.f_back
    return ""


def _name(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename.removeprefix(PACKAGE)}:{frame.f_code.co_qualname}"


@dataclass(frozen=True)
class Times:
    """Seconds: for which each thread computed, and for which those of this process waited for a core.

    All of them: one that has to wait may hold the GIL.
    """

    computed: Mapping[int, float]
    waited: float

    def computed_since(self, before: Times) -> dict[int, float]:
        return {task: value - before.computed.get(task, 0.0) for task, value in self.computed.items()}


def times() -> Times:
    computed, waited = {}, 0.0
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/schedstat") as file:
                on_core, in_queue = (int(field) / 1e9 for field in file.read().split()[:2])
        except OSError:  # it has ended, or this kernel does not count
            continue
        computed[int(task)] = on_core
        waited += in_queue
    return Times(computed, waited)


class HeartHandler(APIHandler):
    """GET: what was seen since the last POST."""

    def initialize(self, heart: Heart) -> None:
        self.heart = heart

    @web.authenticated
    def get(self) -> None:
        self.finish(json.dumps(self.heart.as_json()))

    @web.authenticated
    def post(self) -> None:
        self.heart.begin()
        self.set_status(204)


async def fill_pools(workbench: Workbench) -> None:
    """Have all threads of pools there, so that they are not counted as more later."""
    await _fill()
    # Found at the first call; its pool is nobody else's business.
    await workbench.run(workbench.chosen_engine.info())
    engine = getattr(workbench.chosen_engine, "_choice").engine  # noqa: B009
    await workbench.run(_fill(getattr(engine, "_threads")))  # noqa: B009


async def _fill(*pools: ThreadPoolExecutor) -> None:
    """The pool of this loop, and these."""
    loop = asyncio.get_running_loop()
    await asyncio.gather(
        *(loop.run_in_executor(pool, time.sleep, 0.1) for pool in (None, *pools) for _ in range(POOL))
    )


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "heartbeat"}]


def _load_jupyter_server_extension(server: Any) -> None:
    heart, loop = Heart(), asyncio.get_event_loop()
    server.heart_tasks = [
        loop.create_task(heart.beat()),
        loop.create_task(fill_pools(Workbench.open())),
    ]
    server.web_app.add_handlers(
        ".*$", [(url_path_join(server.base_url, "heart"), HeartHandler, {"heart": heart})]
    )
