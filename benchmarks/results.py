"""What a run has found: samples, what follows from them, and the same as JSON for later runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from .case import BEST_PEER, MAIN, Expected, Sample, Unit

#: Of the JSON; another number is not read.
FORMAT = 1


@dataclass(frozen=True)
class WayResult:
    """`samples` has one of each round that counts."""

    key: str
    title: str
    is_peer: bool
    samples: tuple[Sample, ...]

    def values(self, figure: str = MAIN) -> list[float]:
        """Seconds or bytes, of the rounds that gave it."""
        return [sample[figure] for sample in self.samples if figure in sample]

    @property
    def figures(self) -> list[str]:
        """The names of all that was measured, the main one first."""
        return list(dict.fromkeys([MAIN, *(name for sample in self.samples for name in sample)]))


@dataclass(frozen=True)
class Verdict:
    """An expectation and what became of it: `value` is the ratio or the figure, None when not measured."""

    expected: Expected
    value: float | None
    #: The key of the way that it was compared with.
    of: str = ""

    @property
    def is_reached(self) -> bool:
        if self.value is None:
            return False
        # What is printed with two places is judged with two places: ratios are.
        return (round(self.value, 2) if self.expected.of else self.value) <= self.expected.at_most


@dataclass(frozen=True)
class CaseResult:
    key: str
    title: str
    unit: Unit
    yardstick: str
    ways: tuple[WayResult, ...]
    expected: tuple[Expected, ...] = ()

    def way(self, key: str) -> WayResult | None:
        return next((way for way in self.ways if way.key == key), None)

    def median(self, key: str, figure: str = MAIN) -> float | None:
        """Seconds or bytes; None when that was not measured."""
        way = self.way(key)
        values = way.values(figure) if way else []
        return median(values) if values else None

    def ratio(self, key: str, of: str = "", figure: str = MAIN) -> float | None:
        """Of the medians, to the yardstick's unless `of` names another way."""
        one, other = self.median(key, figure), self.median(of or self.yardstick)
        return one / other if one is not None and other else None

    def verdicts(self) -> list[Verdict]:
        return [self._verdict(expected) for expected in self.expected]

    def _verdict(self, expected: Expected) -> Verdict:
        if not expected.of:
            return Verdict(expected, self.median(expected.way, expected.figure))
        of = self._best_peer() if expected.of == BEST_PEER else expected.of
        return Verdict(expected, self.ratio(expected.way, of, expected.figure) if of else None, of)

    def _best_peer(self) -> str:
        peers = [way.key for way in self.ways if way.is_peer]
        return min(peers, key=lambda key: self.median(key) or 0.0, default="")


@dataclass(frozen=True)
class Run:
    """`machine` is for people; `left_out` says why; `kernels` is what each kind of kernel says of itself."""

    when: str
    rounds: int
    machine: Mapping[str, str]
    load: tuple[str, str]
    cases: tuple[CaseResult, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    kernels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    id: str = ""

    def as_json(self) -> dict[str, Any]:
        """All of it, and for each way its median and ratio beside the samples it comes from."""
        value: dict[str, Any] = {"format": FORMAT, **asdict(self)}
        for case, made in zip(self.cases, value["cases"], strict=True):
            for way in made["ways"]:
                way["median"], way["ratio"] = case.median(way["key"]), case.ratio(way["key"])
            made["verdicts"] = [
                {"value": verdict.value, "is_reached": verdict.is_reached} for verdict in case.verdicts()
            ]
        return value

    @classmethod
    def from_json(cls, value: Any) -> Run:
        """Raises `ValueError` for what no run of this suite has written."""
        try:
            if value["format"] != FORMAT:
                raise ValueError(f"it has the format {value['format']}, and only {FORMAT} is known")
            names = ("when", "rounds", "machine", "left_out", "kernels", "id")
            cases = tuple(_case(case) for case in value["cases"])
            return cls(load=tuple(value["load"]), cases=cases, **{name: value[name] for name in names})
        except (KeyError, TypeError) as error:
            raise ValueError(f"it is no result of this suite: {error!r}") from error


def _case(value: Any) -> CaseResult:
    return CaseResult(
        **{name: value[name] for name in ("key", "title", "unit", "yardstick")},
        ways=tuple(
            WayResult(way["key"], way["title"], way["is_peer"], tuple(way["samples"]))
            for way in value["ways"]
        ),
        expected=tuple(Expected(**expected) for expected in value["expected"]),
    )
