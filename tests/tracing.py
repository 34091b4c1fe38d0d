"""How busy a page keeps its browser: the tasks of its main thread, by the processor's time that each took."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

#: Tasks, and the page's own marks among them.
CATEGORIES = ("disabled-by-default-devtools.timeline", "blink.user_timing")

#: Milliseconds from which a task is a long one: https://www.w3.org/TR/longtasks-1/
LONG = 50.0

#: Keeps what the browser itself says: by the clock, so that on a busy machine any task may be long.
OBSERVER = """
window.longTasks = [];
new PerformanceObserver(list => window.longTasks.push(...list.getEntries()))
    .observe({type: 'longtask', buffered: true});
"""

#: What was asked for is rendered and painted then, and what that set off as well.
_SETTLED = """new Promise(resolve =>
    requestAnimationFrame(() => requestAnimationFrame(() => requestIdleCallback(resolve, {timeout: 1000}))))
"""


class Trace:
    """What a page did, step by step."""

    def __init__(self, page: Any) -> None:
        self._page = page
        #: Of each step, the milliseconds of its longest task; there when the trace is over.
        self.longest: Mapping[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """All that is done meanwhile, and what that entails, counts as that step."""
        self._page.evaluate("name => void performance.mark(`begin ${name}`)", name)
        yield
        self._page.evaluate(_SETTLED)
        self._page.evaluate("name => void performance.mark(`end ${name}`)", name)


@contextmanager
def traced(chromium: Any, page: Any) -> Iterator[Trace]:
    chromium.start_tracing(page=page, categories=list(CATEGORIES))
    trace = Trace(page)
    try:
        yield trace
    finally:
        written = chromium.stop_tracing()
    trace.longest = longest_tasks(json.loads(written)["traceEvents"])


def longest_tasks(events: list[dict[str, Any]]) -> dict[str, float]:
    """By the steps' names, in milliseconds of the thread on which the marks were set."""
    marks = [one for one in events if one["name"].partition(" ")[0] in ("begin", "end")]
    begins = {one["name"].removeprefix("begin "): one for one in marks if one["name"].startswith("begin ")}
    ends = {one["name"].removeprefix("end "): one for one in marks if one["name"].startswith("end ")}
    assert begins.keys() == ends.keys(), marks
    found = {}
    for name, begin in begins.items():
        thread = begin["pid"], begin["tid"]
        inside = [
            one["tdur"] / 1000
            for one in events
            # The processor's time is missing in a few that the browser is in while it begins to look.
            if one["name"] == "RunTask"
            and "tdur" in one
            and (one["pid"], one["tid"]) == thread
            and begin["ts"] <= one["ts"] + one["dur"]
            and one["ts"] < ends[name]["ts"]
        ]
        assert inside, f"there is no task in {name}"
        found[name] = max(inside)
    return found
