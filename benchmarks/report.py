"""A run for people: the table, and the page of the documentation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .case import MAIN, Unit
from .results import CaseResult, Run, Verdict, WayResult

HEADINGS = ("case", "way", "median", "min", "max", "ratio", "expected", "reached")

PAGE = """\
<!-- Written by `python -m benchmarks --docs`; not to be edited by hand. -->

# How fast it is

Kernels of ds01-kernels beside kernels on the host and those of other ways to have a kernel in a container,
all measured in one run. A ratio is that of the medians, to the case's yardstick: the local kernel, ours
by ipc, `pip list`, or `docker build` and `docker run` by hand. Below 1 is faster, or lighter.

![Ratios to the local kernel, as bars]({picture})

{table}

{notes}

## The run

{facts}

What each case measures, how the peers are set up and how to run it again:
[benchmarks/README.md](../benchmarks/README.md). On a shared machine look at the ratios, and at the load,
before believing milliseconds.
"""


def text(run: Run) -> str:
    """For a terminal."""
    parts = [table(run), _details(run), *_notes(run)]
    parts += [f"{name + ':':<10}{value}" for name, value in _facts(run)]
    return "\n".join(part for part in parts if part)


def page(run: Run, picture: str) -> str:
    """``docs/benchmarks.md``; `picture` is its path from there."""
    return PAGE.format(
        picture=picture,
        table=table(run),
        notes="\n".join(f"- {note}" for note in _notes(run)),
        facts="\n".join(f"- {name}: {value}" for name, value in _facts(run)),
    )


def table(run: Run) -> str:
    """Markdown, aligned: a row for each way, and one for each expectation of it beyond the first."""
    rows = [row for case in run.cases for row in _rows(case)]
    widths = [max(len(row[column]) for row in [HEADINGS, *rows]) for column in range(len(HEADINGS))]
    rule = [
        "-" * (width - 1) + (":" if column in range(2, 6) else "-") for column, width in enumerate(widths)
    ]
    return "\n".join(_line(row, widths) for row in [HEADINGS, rule, *rows])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        f"{cell:>{width}}" if column in range(2, 6) else f"{cell:<{width}}"
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return f"| {' | '.join(padded)} |"


def _rows(case: CaseResult) -> Iterator[tuple[str, ...]]:
    title = case.title
    for way in case.ways:
        verdicts = [verdict for verdict in case.verdicts() if verdict.expected.way == way.key]
        # What is expected of its ratio to the yardstick stands beside that one.
        main = next((one for one in verdicts if one.of == case.yardstick), None)
        ratio = case.ratio(way.key)
        said = _judged(main) if main else ("", "")
        yield (title, way.title, *_numbers(way, case), f"{ratio:.2f}" if ratio is not None else "", *said)
        title = ""
        for verdict in verdicts:
            if verdict is not main:
                yield _further(verdict, way, case)


def _further(verdict: Verdict, way: WayResult, case: CaseResult) -> tuple[str, ...]:
    expected = verdict.expected
    if expected.of:
        ratio = f"{verdict.value:.2f}" if verdict.value is not None else ""
        return (
            "",
            f"- beside the best peer{f', {verdict.of}' * bool(verdict.of)}",
            "",
            "",
            "",
            ratio,
            *_judged(verdict),
        )
    numbers = _numbers(way, case, expected.figure)
    limit = f"at most {quantity(expected.at_most, case.unit)}"
    return ("", f"- {expected.figure}", *numbers, "", limit, _reached(verdict))


def _judged(verdict: Verdict) -> tuple[str, str]:
    return f"at most {verdict.expected.at_most:.2f}", _reached(verdict)


def _reached(verdict: Verdict) -> str:
    return "not measured" if verdict.value is None else "yes" if verdict.is_reached else "**no**"


def _numbers(way: WayResult, case: CaseResult, figure: str = MAIN) -> tuple[str, str, str]:
    values = way.values(figure)
    found = (case.median(way.key, figure), min(values, default=None), max(values, default=None))
    low, middle, high = (quantity(value, case.unit) if value is not None else "" for value in found)
    return low, middle, high


def quantity(value: float, unit: Unit) -> str:
    """Seconds as milliseconds, bytes as megabytes."""
    number = value * 1000 if unit == "ms" else value / 1e6
    return f"{number:.1f} {unit}" if number < 100 else f"{number:.0f} {unit}"


def _details(run: Run) -> str:
    """What else was measured, for who looks where the time goes."""
    lines = [
        f"  {case.title}: {way.title}: {figure}: {numbers[0]}"
        for case in run.cases
        for way in case.ways
        for figure in way.figures
        if figure != MAIN
        for numbers in [_numbers(way, case, figure)]
    ]
    return "\n".join(["Also measured, medians:", *lines]) if lines else ""


def _notes(run: Run) -> list[str]:
    reached = [verdict.is_reached for case in run.cases for verdict in case.verdicts()]
    notes = [f"{sum(reached)} of {len(reached)} expectations are reached."]
    return notes + [f"Left out: {what}: {why}" for what, why in run.left_out.items()]


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    yield "when", run.when
    yield "rounds", f"{run.rounds} after one to warm up; every way once a round, in rotated order"
    yield from run.machine.items()
    for kernel, keys in _kernels(run).items():
        yield "kernels", f"{kernel}: {', '.join(keys)}"
    yield "load", f"{run.load[0]} at first, {run.load[1]} at last (1, 5, 15 minutes)"


def _kernels(run: Run) -> dict[str, list[str]]:
    """Whose kernels are what."""
    found: dict[str, list[str]] = {}
    for key, about in run.kernels.items():
        found.setdefault("Python {python}, ipykernel {ipykernel}".format_map(about), []).append(key)
    return found
