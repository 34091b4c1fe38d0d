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
    (https://docs.kernel.org/accounting/psi.html). `available`: the share of memory that is to stay free, and
    `least`: the bytes, which is more where a container's limit is small.
    """

    pressure: float = 10.0
    available: float = 0.1
    least: int = 96 << 20


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

    def is_short(self, needed: int = 0) -> bool:
        """Whether memory is short, here or on the machine, or would be with `needed` bytes less."""
        if self._pressure() > self._limits.pressure:
            return True
        about = self._meminfo()
        limit, used = self._usage()
        return self._is_little(
            about.get("MemAvailable", 0) - needed, about.get("MemTotal", 0)
        ) or self._is_little(limit - used - needed, limit)

    def _is_little(self, free: int, total: int) -> bool:
        """Of a total of 0 nothing is known."""
        return total > 0 and free < max(total * self._limits.available, self._limits.least)

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
        """In bytes."""
        found: Dict[str, int] = {}
        for line in memory.text(os.path.join(self._proc, "meminfo")).splitlines():
            name, _, rest = line.partition(":")
            words = rest.split()
            if words and words[0].isdigit():
                found[name] = int(words[0]) << 10
        return found
