"""The ratios of a run as bars: to the left of 1 is faster, or lighter."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

from .results import CaseResult, Run, WayResult

OURS = "#1f77b4"
OTHERS = "#b8b8b8"
LIMIT = "#d62728"

#: Inches of a bar, and between two cases.
BAR = 0.24
GAP = 0.45


def draw(run: Run, path: Path) -> None:
    """A PNG: for each case, each way but the yardstick, whose ratio is 1 by definition."""
    cases = [case for case in run.cases if _bars(case)]
    heights = [len(_bars(case)) * BAR + GAP for case in cases]
    figure, axes = pyplot.subplots(figsize=(9, sum(heights) + 1.2), layout="constrained")
    place = 0.0
    for case, height in zip(cases, heights, strict=True):
        _case(axes, case, place)
        place -= height
    _frame(axes, place)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Software": None})
    pyplot.close(figure)


def _bars(case: CaseResult) -> list[tuple[WayResult, float]]:
    ratios = [(way, case.ratio(way.key)) for way in case.ways if way.key != case.yardstick]
    return [(way, ratio) for way, ratio in ratios if ratio]


def _case(axes: Axes, case: CaseResult, top: float) -> None:
    yardstick = case.way(case.yardstick)
    title = f"{case.title}, beside {yardstick.title if yardstick else case.yardstick}"
    across = axes.get_yaxis_transform()
    axes.text(0.0, top, title, transform=across, weight="bold", size=9, va="center")
    limits = {one.way: one.at_most for one in case.expected if one.of == case.yardstick}
    for number, (way, ratio) in enumerate(_bars(case)):
        place = top - GAP / 2 - BAR * (number + 0.5)
        is_ours = way.key.startswith("ds01")
        limit = limits.get(way.key)
        # On a logarithmic axis a bar begins at 1, where both are equal.
        axes.barh(place, ratio - 1, BAR * 0.8, left=1, color=OURS if is_ours else OTHERS)
        axes.text(-0.01, place, way.title, transform=across, ha="right", va="center", size=8)
        is_reached = limit is None or round(ratio, 2) <= limit
        color, weight = ("black" if is_reached else LIMIT), ("bold" if is_ours else "normal")
        axes.text(
            1.0,
            place,
            f"{ratio:.2f}",
            transform=across,
            ha="right",
            va="center",
            size=8,
            color=color,
            weight=weight,
        )
        if limit is not None:
            axes.plot([limit, limit], [place - BAR / 2, place + BAR / 2], color=LIMIT, linewidth=2)


def _frame(axes: Axes, bottom: float) -> None:
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.05) * 0.8, max(high, 2.0) * 1.5)
    axes.set_ylim(bottom, GAP)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks([])
    ticks = [
        tick for tick in (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if low * 0.8 <= tick <= high * 1.3
    ]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.set_xlabel(
        "ratio of medians: left of 1 is faster or lighter; red: at most so much is expected", size=9
    )
