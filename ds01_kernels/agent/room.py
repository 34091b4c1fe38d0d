"""Whether the machine has room for what nobody has asked for yet."""

from __future__ import annotations

import os
from typing import Callable, Dict, NamedTuple, Tuple

from . import memory

#: Where the machine tells of itself; tests have their own.
PROC = os.environ.get("DS01_PROC_FOLDER") or "/proc"


class Limits(NamedTuple):
    """Beyond them memory is short.

    `pressure`: per cent of the last 10 s in which some process waited for memory
    (https://docs.kernel.org/accounting/psi.html). `available`: the share of memory that is to stay free.
    """

    pressure: float = 10.0
    available: float = 0.1


LIMITS = Limits()


class Room:
    """What the files below `proc` say, and the container's own control group."""

    def __init__(
        self, usage: Callable[[], Tuple[int, int]], proc: str = PROC, limits: Limits = LIMITS
    ) -> None:
        """`usage` gives the container's limit, 0 for none, and what it uses, in bytes."""
        self._usage = usage
        self._proc = proc
        self._limits = limits

    def is_calm(self) -> bool:
        """Whether a core is free: on the average of a minute, which is slow, or at this moment."""
        words = memory.text(os.path.join(self._proc, "loadavg")).split()
        cores = os.cpu_count() or 1
        try:
            # We run ourselves.
            running = int(words[3].partition("/")[0]) - 1
            return min(float(words[0]), running) < cores
        except (IndexError, ValueError):
            return True

    def is_short(self) -> bool:
        """Whether memory is short, on the machine or in the container."""
        if self._pressure() > self._limits.pressure:
            return True
        about = self._meminfo()
        total, available = about.get("MemTotal", 0), about.get("MemAvailable", 0)
        if total and available < total * self._limits.available:
            return True
        limit, used = self._usage()
        return limit > 0 and limit - used < limit * self._limits.available

    def _pressure(self) -> float:
        for line in memory.text(os.path.join(self._proc, "pressure", "memory")).splitlines():
            if line.startswith("some "):
                for word in line.split()[1:]:
                    name, _, value = word.partition("=")
                    if name == "avg10":
                        try:
                            return float(value)
                        except ValueError:
                            return 0.0
        return 0.0

    def _meminfo(self) -> Dict[str, int]:
        found: Dict[str, int] = {}
        for line in memory.text(os.path.join(self._proc, "meminfo")).splitlines():
            name, _, rest = line.partition(":")
            words = rest.split()
            if words and words[0].isdigit():
                found[name] = int(words[0])
        return found
