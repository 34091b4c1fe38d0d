"""What a run has found, as a table and as JSON; and the machine that it was found on."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from .measure import Sample
from .stage import installed

MOMENTS = ("kernel_info", "first_result")
HEADINGS = {"kernel_info": "kernel_info reply", "first_result": "result of the first 1+1"}
#: What each case is compared with.
YARDSTICK = {"start": "local", "restart": "local-restart"}


@dataclass(frozen=True)
class Row:
    """One case: `samples` in seconds, one for each round; `about` is what its kernel says of itself."""

    key: str
    title: str
    what: str
    samples: tuple[Sample, ...]
    about: Mapping[str, str]


@dataclass(frozen=True)
class Summary:
    """Milliseconds; `ratio` of the median to the local kernel's, None when that was not measured."""

    median: float
    least: float
    most: float
    ratio: float | None


def summarise(rows: Sequence[Row]) -> dict[str, dict[str, Summary]]:
    """By case and moment. Starts are compared with the local start, restarts with the local restart."""
    medians = {row.key: {moment: median(_values(row, moment)) for moment in MOMENTS} for row in rows}
    summaries: dict[str, dict[str, Summary]] = {}
    for row in rows:
        yardstick = medians.get(YARDSTICK[row.what])
        summaries[row.key] = {
            moment: Summary(
                median=medians[row.key][moment],
                least=min(_values(row, moment)),
                most=max(_values(row, moment)),
                ratio=medians[row.key][moment] / yardstick[moment] if yardstick else None,
            )
            for moment in MOMENTS
        }
    return summaries


def _values(row: Row, moment: str) -> list[float]:
    return [getattr(sample, moment) * 1000 for sample in row.samples]


def table(rows: Sequence[Row]) -> str:
    """Aligned, one line per case."""
    summaries = summarise(rows)
    wide = max(len(row.title) for row in rows)
    columns = "".join(f"{name:>8}" for name in ("median", "min", "max", "ratio"))
    lines = [
        " " * wide + "".join(f"  | {HEADINGS[moment] + ', ms':<32}" for moment in MOMENTS),
        " " * wide + f"  | {columns}" * len(MOMENTS),
        "-" * wide + ("--+-" + "-" * 32) * len(MOMENTS),
    ]
    for row in rows:
        cells = "".join(f"  | {_cells(summaries[row.key][moment])}" for moment in MOMENTS)
        lines.append(f"{row.title:<{wide}}{cells}")
    return "\n".join(line.rstrip() for line in lines)


def _cells(summary: Summary) -> str:
    ratio = "-" if summary.ratio is None else f"{summary.ratio:.2f}"
    return f"{summary.median:>8.0f}{summary.least:>8.0f}{summary.most:>8.0f}{ratio:>8}"


def kernels(rows: Sequence[Row]) -> dict[str, list[str]]:
    """The cases by what their kernels are."""
    found: dict[str, list[str]] = {}
    for row in rows:
        kernel = "Python {python}, ipykernel {ipykernel}".format_map(row.about)
        found.setdefault(kernel, []).append(row.key)
    return found


def machine(engine: str) -> dict[str, str]:
    """What the figures depend on, for people. `engine` is its name and version."""
    libraries = ", ".join(f"{name} {installed(name)}" for name in ("jupyter_client", "pyzmq"))
    return {
        "CPU": f"{_cpu_model()}, {len(os.sched_getaffinity(0))} of {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.release()}",
        "engine": engine,
        "client": f"Python {platform.python_version()}, {libraries}",
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def load() -> str:
    return " ".join(f"{value:.2f}" for value in os.getloadavg())


def as_json(rows: Sequence[Row], facts: Mapping[str, Any]) -> dict[str, Any]:
    """`facts`, and for each case the samples in seconds and the summary in milliseconds."""
    summaries = summarise(rows)
    cases = [
        {
            "key": row.key,
            "title": row.title,
            "what": row.what,
            "kernel": dict(row.about),
            "samples": [asdict(sample) for sample in row.samples],
            "summary": {moment: asdict(summary) for moment, summary in summaries[row.key].items()},
        }
        for row in rows
    ]
    return {**facts, "cases": cases}
