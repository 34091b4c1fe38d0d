"""Two runs beside each other: what has become slower or faster.

Ratios are compared, since both runs may have been on different machines, or on one that was busy; where there
is none, medians.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .case import MAIN
from .report import quantity
from .results import CaseResult, Run

#: Changes of less than this part are noise.
NOISE = 0.1


@dataclass(frozen=True)
class Change:
    """`factor` is what the new value is to the old one; above 1 it is slower, or larger."""

    case: str
    way: str
    old: str
    new: str
    factor: float


def compare(old: Run, new: Run) -> str:
    """Sentences, the worst first."""
    changes = sorted(_changes(old, new), key=lambda change: -change.factor)
    slower = [change for change in changes if change.factor > 1 + NOISE]
    faster = [change for change in reversed(changes) if change.factor < 1 / (1 + NOISE)]
    lines = [f"Compared with the run of {old.when}:"]
    for word, found in (("slower", slower), ("faster", faster)):
        lines += [
            f"  {word}: {one.case}, {one.way}: {one.old} -> {one.new} ({one.factor:.2f} times)"
            for one in found
        ]
    lines.append(
        f"  {len(changes) - len(slower) - len(faster)} others are within {NOISE:.0%} of what they were."
    )
    missing = sorted({case.key for case in old.cases} - {case.key for case in new.cases})
    if missing:
        lines.append(f"  not measured this time: {', '.join(missing)}")
    return "\n".join(lines)


def _changes(old: Run, new: Run) -> Iterator[Change]:
    before = {case.key: case for case in old.cases}
    for case in new.cases:
        if (former := before.get(case.key)) is None:
            continue
        for way in case.ways:
            if way.key != case.yardstick:
                yield from _change(former, case, way.key, MAIN)
        for expected in case.expected:
            if expected.figure != MAIN:
                yield from _change(former, case, expected.way, expected.figure)


def _change(old: CaseResult, new: CaseResult, way: str, figure: str) -> Iterator[Change]:
    title = way if figure == MAIN else f"{way}, {figure}"
    was, is_ = old.ratio(way), new.ratio(way)
    if figure == MAIN and was and is_:
        yield Change(new.title, title, f"{was:.2f} of {new.yardstick}", f"{is_:.2f}", is_ / was)
        return
    was, is_ = old.median(way, figure), new.median(way, figure)
    if was and is_:
        yield Change(new.title, title, quantity(was, new.unit), quantity(is_, new.unit), is_ / was)
