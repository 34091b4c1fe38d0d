"""The container's memory, as its control group counts it: what tells the OOM killer's SIGKILL from any other.

The kernel raises these counters before it sends the signal, so that they can be relied on afterwards.
https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files
https://docs.kernel.org/admin-guide/cgroup-v1/memory.html
"""

from __future__ import annotations

import os
from typing import Dict, NamedTuple, Optional, Sequence, Tuple

#: Where control groups are mounted in a container.
ROOT = "/sys/fs/cgroup"

#: What `Watch.blame` answers: the container's own limit was reached; memory ran out elsewhere.
LIMIT, ELSEWHERE = "memory", "machine-memory"

#: Bytes: version 1 writes "no limit" as the largest number of whole pages.
_NO_LIMIT = 1 << 60


class Count(NamedTuple):
    """`kills`: processes that the OOM killer ended here. `hits`: how often the limit was in the way.

    `limit` is in bytes, 0 for none. `reached`: as much as that has been in use at some time.
    """

    kills: int
    hits: int
    limit: int
    reached: bool = False


class Watch:
    """Compares the counters with those of some seconds ago; `look` is to be called now and then.

    A process whose memory is large takes a while to end. So the look before the last one counts: what was
    raised just before the last look is not lost.
    """

    def __init__(self, root: str = ROOT, groups: str = "/proc/self/cgroup") -> None:
        self._root = root
        self._groups = groups
        self._older = self._newer = self._read()

    def look(self) -> None:
        self._older, self._newer = self._newer, self._read()

    def blame(self) -> Tuple[str, int]:
        """What killed a process that ended just now by SIGKILL, and the limit; empty where nothing shows it.

        Each kill that was counted explains one process.
        """
        now = self._read()
        if now is None or self._older is None or self._newer is None or now.kills <= self._older.kills:
            return "", 0
        own = now.limit > 0 and (now.hits > self._older.hits or now.reached)
        explained = self._older.kills + 1
        self._older = self._older._replace(kills=explained)
        self._newer = self._newer._replace(kills=max(explained, self._newer.kills))
        return (LIMIT, now.limit) if own else (ELSEWHERE, 0)

    def used(self) -> Optional[int]:
        """Bytes in use here, without the cache of files that is given up first; None where nothing tells.

        It is what ``docker stats`` shows.
        https://github.com/docker/cli/blob/v26.1.5/cli/command/container/stats_helpers.go
        """
        second = [(one, "/memory.current", "inactive_file") for one in self._folders("", "")]
        first = self._folders("memory", "memory")
        for folder, name, cache in second + [
            (one, "/memory.usage_in_bytes", "total_inactive_file") for one in first
        ]:
            used = _number(folder + name)
            if used > 0:
                return max(used - _numbers(folder + "/memory.stat").get(cache, 0), 0)
        return None

    def usage(self) -> Tuple[int, int]:
        """Bytes: the limit, 0 for none, and what is in use and could not be dropped at once."""
        limits = [folder + "/memory.max" for folder in self._folders("", "")]
        limits += [folder + "/memory.limit_in_bytes" for folder in self._folders("memory", "memory")]
        return next((limit for limit in map(_limit, limits) if limit), 0), self.used() or 0

    def _read(self) -> Optional[Count]:
        return _second(self._folders("", "")) or _first(self._folders("memory", "memory"))

    def _folders(self, controller: str, mounted: str) -> Sequence[str]:
        """Where the group of this process may be: below its own path, or at the mount where that is all.

        https://man7.org/linux/man-pages/man7/cgroups.7.html (/proc/pid/cgroup)
        """
        root = os.path.join(self._root, mounted)
        for line in text(self._groups).splitlines():
            _, _, rest = line.partition(":")
            controllers, _, path = rest.partition(":")
            if controller in controllers.split(","):
                return [root + path, root]
        return [root]


def _second(folders: Sequence[str]) -> Optional[Count]:
    for folder in folders:
        events = _numbers(folder + "/memory.events")
        if "oom_kill" in events:
            return Count(events["oom_kill"], events.get("oom", 0), _limit(folder + "/memory.max"))
    return None


def _first(folders: Sequence[str]) -> Optional[Count]:
    for folder in folders:
        control = _numbers(folder + "/memory.oom_control")
        # Linux 4.13 is the first that counts them here.
        if "oom_kill" in control:
            hits = _number(folder + "/memory.failcnt")
            limit = _limit(folder + "/memory.limit_in_bytes")
            # Where no swap is allowed on top, the limit on both together is met first, and newer Linux counts
            # that nowhere.
            reached = _number(folder + "/memory.max_usage_in_bytes") >= limit * 0.99
            return Count(control["oom_kill"], hits, limit, reached)
    return None


def _numbers(path: str) -> Dict[str, int]:
    words = [line.split() for line in text(path).splitlines()]
    return {pair[0]: int(pair[1]) for pair in words if len(pair) == 2 and pair[1].isdigit()}


def _limit(path: str) -> int:
    limit = _number(path)
    return limit if limit < _NO_LIMIT else 0


def _number(path: str) -> int:
    digits = text(path).strip()
    return int(digits) if digits.isdigit() else 0


def text(path: str) -> str:
    """What a small file of the kernel's says; nothing when it cannot be read."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(1 << 16)
    except OSError:
        return ""
