"""One thing that was found, and the words that findings share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from ds01_kernels.errors import Ds01Error
from ds01_kernels.text import clean

#: The worst first.
Level = Literal["error", "warning", "notice", "ok"]

#: Characters; texts may come from inside a container.
LONGEST = 1000


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: `message` says how it is, `remedy` what to do (empty: nothing).

    error: no kernel starts, or not in the container and with the packages that the Dockerfile and the
    settings mean, or it will not get far. warning: something about kernels will disappoint. notice: worth
    knowing.
    """

    check: str
    level: Level
    message: str
    remedy: str = ""

    def shown(self) -> Finding:
        """The same with texts of one line that are safe to show."""
        return replace(self, message=_line(self.message), remedy=_line(self.remedy))

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))


def failed(check: str, error: Ds01Error) -> Finding:
    return Finding(check, "error", str(error), error.remedy)


def moment(when: datetime) -> str:
    return when.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def size(count: int) -> str:
    """Bytes, as in '1.5 GiB'."""
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    power = min(max(count.bit_length() - 1, 0) // 10, len(units) - 1)
    return f"{count / 1024**power:.3g} {units[power]}" if power else f"{count} B"


def _line(text: str) -> str:
    line = " ".join(clean(text, colours=False).split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}…"
