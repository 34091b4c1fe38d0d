"""Notices what is installed and removed, whoever does it, by looking at the times of a few folders.

All that touches the disk happens in a thread of its own: the agent's loop must not wait for a file system.
The folders of a kernel's path change with every install. But an installer goes on writing into a package's
metadata folder after it has made it, so those that changed of late are looked at too.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import sys
import threading
import time
from typing import Any, Callable, Dict, List, Optional, Tuple

from . import logs, paths
from .asked import Asked, make_report
from .packages import Package, list_packages
from .protocol import MAX_FRAME
from .survey import markers

#: Where pip's report and what users asked for are, in containers that were made for it.
NOTES = os.environ.get("DS01_PIP_FOLDER") or "/opt/ds01/pip"

#: Seconds: between looks, and looks for pip's report alone, which the next install writes anew; without a
#: change until packages are listed; at most until then, if changes go on.
PAUSE = 0.5
REPORT_PAUSE = 0.1
QUIET = 0.4
PATIENCE = 10.0
#: Seconds after a change within which another may leave a folder's time as it is: file systems round.
STEP = 2.0
#: Seconds for which a metadata folder that has changed is looked at.
YOUNG = 600.0
#: Seconds for which pip is believed to be at work on a package whose metadata it has put aside. A large one
#: would be told as uninstalled, and then as installed.
ASIDE = 60.0

#: Bytes of a listing: one that is longer loses its tail.
LONGEST = MAX_FRAME - 64 * 1024

Listed = Dict[str, Any]
_Stamp = Optional[Tuple[int, int]]


class PackageWatch:
    """`on_change` is called on the loop when the packages differ from those at its last call, or at start."""

    def __init__(self, folder: str, on_change: Callable[[], None]) -> None:
        make_report(NOTES)
        self._asked = Asked(NOTES, folder)
        self._on_change = on_change
        self._loop = asyncio.get_event_loop()
        #: Done when the packages that there were at the start are known.
        self.baseline: asyncio.Future[None] = self._loop.create_future()
        self._requests: queue.SimpleQueue[Optional[asyncio.Future[Listed]]] = queue.SimpleQueue()
        self._is_active = False
        self._known: List[Package] = []
        self._path: List[str] = []
        self._young: List[str] = []
        self._stamps: Dict[str, _Stamp] = {}
        self._changed = 0.0
        self._due: Optional[float] = None
        self._is_replacing = False
        self._was_told_otherwise = False

    def start(self) -> None:
        threading.Thread(target=self._run, name="packages", daemon=True).start()

    def set_active(self, active: bool) -> None:
        """Look for changes from now on, or no more."""
        self._is_active = active
        self._requests.put(None)

    async def listed(self) -> Listed:
        """The fields of the answer to `packages`, as they are now."""
        wanted: asyncio.Future[Listed] = self._loop.create_future()
        self._requests.put(wanted)
        return await wanted

    def add_asked(self, specs: List[str]) -> None:
        """A client is about to install these."""
        self._asked.add(specs)

    # In the thread

    def _run(self) -> None:
        try:
            self._path = paths.kernel_path()
            self._known = self._list_since(self._look())
        except Exception as error:
            logs.say("the packages could not be listed at the start: %.500r" % error)
        self._tell(_set, self.baseline, None)
        looked = time.monotonic()
        while True:
            try:
                wanted = self._requests.get(timeout=REPORT_PAUSE)
            except queue.Empty:
                wanted = None
            try:
                self._keep_report()
                if wanted is not None:
                    listed = self._list()
                    # Amid an install, perhaps one that leaves all as it was: that must be told.
                    self._was_told_otherwise |= listed["packages"] != self._known
                    self._tell(_set, wanted, listed)
                if self._is_active and (wanted is not None or time.monotonic() - looked >= PAUSE):
                    self._check()
                    looked = time.monotonic()
            except Exception as error:
                logs.say("the packages could not be listed: %.500r" % error)
                if wanted is not None:
                    self._tell(_fail, wanted, error)

    def _tell(self, function: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            sys.exit()  # the loop is closed: the agent ends

    def _keep_report(self) -> None:
        """All that cannot wait, also when no client is there: the next install writes its report over this
        one."""
        path = self._asked.report
        stamp = _stamp(path)
        if stamp != self._stamps.get(path):
            self._stamps[path] = stamp
            self._asked.take_report()
            self._is_due(time.monotonic())

    def _check(self) -> None:
        """Look, and list when something has changed and is quiet since."""
        stamps = self._look()
        now = time.monotonic()
        if stamps != self._stamps:
            self._stamps = stamps
            self._is_due(now)
        if self._due is not None and now >= self._due:
            self._due = None
            self._compare(now)

    def _is_due(self, now: float) -> None:
        """Something has changed."""
        if self._due is None:
            self._changed = now
        self._due = min(now + QUIET, self._changed + PATIENCE)

    def _compare(self, now: float) -> None:
        before = self._stamps
        packages = self._list_since(before)
        if self._is_replacing:
            self._changed, self._due = now, now + QUIET
            return
        if packages != self._known or self._was_told_otherwise:
            self._known, self._was_told_otherwise = packages, False
            self._tell(self._on_change)
        newest = max((stamp[0] for stamp in before.values() if stamp is not None), default=0)
        age = time.time() - newest / 1e9
        if 0 <= age < STEP:
            self._changed, self._due = now, now + STEP - age

    def _list_since(self, before: Dict[str, _Stamp]) -> List[Package]:
        """The packages. What has changed since that look may be among them, or not: it is seen again."""
        packages: List[Package] = self._list()["packages"]
        self._stamps = {**self._look(), **{path: before[path] for path in self._watched() if path in before}}
        return packages

    def _list(self) -> Listed:
        self._asked.take_report()
        self._path = paths.kernel_path()
        listing = list_packages(self._path, paths.site_folders())
        self._asked.tell(listing.packages)
        now = time.time()
        self._young = [name for name, changed in listing.folders.items() if changed / 1e9 > now - YOUNG]
        self._is_replacing = any(changed / 1e9 > now - ASIDE for changed in listing.aside.values())
        return _fitted(
            {
                "python": sys.executable,
                "markers": markers(),
                "packages": listing.packages,
                "broken": listing.broken,
            }
        )

    def _watched(self) -> List[str]:
        return [*self._path, *self._young, self._asked.report, self._asked.typed]

    def _look(self) -> Dict[str, _Stamp]:
        return {path: _stamp(path) for path in self._watched()}


def _stamp(path: str) -> _Stamp:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_ino


def _fitted(listed: Listed) -> Listed:
    """No longer than a frame may be; what was left out is said."""
    while listed["packages"] and len(json.dumps(listed)) > LONGEST:
        kept = len(listed["packages"]) // 2
        path = listed["packages"][kept]["location"]
        del listed["packages"][kept:]
        listed["broken"].append({"path": path, "reason": "there is too much to be told"})
    return listed


def _set(future: asyncio.Future[Any], value: Any) -> None:
    if not future.done():
        future.set_result(value)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
