"""Measures a case: every way once a round, each round beginning with another one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from .case import Case, Sample, Way
from .conduct import say
from .results import CaseResult, WayResult
from .stage import Stage

T = TypeVar("T")


async def measure(stage: Stage, case: Case, count: int) -> CaseResult:
    """`count` rounds after one that warms up. What else the machine does falls on all ways alike."""
    samples: dict[str, list[Sample]] = {}
    failed: set[str] = set()
    say(f"{case.title}: preparing.")
    async with case.prepare(stage) as ways:
        for number in range(count + 1):
            say(f"{case.title}: round {number} of {count}." if number else f"{case.title}: warming up.")
            for way in rotated(ways, number):
                if way.key in failed:
                    continue
                sample = await _sample(stage, case, way)
                if sample is None:
                    failed.add(way.key)
                elif number > 0:
                    samples.setdefault(way.key, []).append(sample)
    measured = [way for way in ways if way.key in samples and way.key not in failed]
    return CaseResult(
        key=case.key,
        title=case.title,
        unit=case.unit,
        yardstick=case.yardstick,
        expected=case.expected,
        ways=tuple(WayResult(way.key, way.title, way.is_peer, tuple(samples[way.key])) for way in measured),
    )


async def _sample(stage: Stage, case: Case, way: Way) -> Sample | None:
    """One measurement; None when a peer cannot be measured."""
    try:
        return await way.once()
    except Exception as error:
        if not way.is_peer:
            raise
        stage.leave_out(f"{way.key}, {case.key}", f"{type(error).__name__}: {error}")
        return None


def rotated(things: Sequence[T], number: int) -> list[T]:
    start = number % len(things)
    return [*things[start:], *things[:start]]
