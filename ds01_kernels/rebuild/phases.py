"""What a rebuild goes through, as a table, and the values in which it is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from ..jobs import Phase

#: What may come after each phase. From ``swap`` on there is no way back but to undo it whole.
PHASES: Mapping[Phase | Literal["preview"], tuple[Phase, ...]] = {
    "preview": ("waiting",),
    "waiting": ("edit", "check", "failed", "cancelled"),
    "edit": ("build", "failed", "cancelled"),
    "build": ("check", "done", "failed", "cancelled"),
    "check": ("swap", "failed", "cancelled"),
    "swap": ("restart", "failed"),
    "restart": ("done", "rolled-back"),
    "done": (),
    "failed": (),
    "cancelled": (),
    "rolled-back": (),
}


@dataclass(frozen=True)
class Step:
    """Where a rebuild is: step `step` of `steps` within its phase (0: not counted), and what was printed."""

    phase: Phase
    step: int = 0
    steps: int = 0
    name: str = ""
    log: str = ""


@dataclass(frozen=True)
class Order:
    """What is to be rebuilt.

    `packages` are requirements to save; None: the whole drift; empty: none, only build. `sums` are the
    preview's
    two, which must still hold. `kernels`: the processes that may be restarted; None: all. `no_cache` builds
    every
    step again, `pull` looks for newer images to start from.
    """

    packages: tuple[str, ...] | None = None
    pin: bool = True
    sums: tuple[str, str] | None = None
    kernels: frozenset[str] | None = None
    no_cache: bool = False
    pull: bool = False


Report = Callable[[Step], None]


class Walk:
    """One walk through the table, told to `report`."""

    def __init__(self, report: Report) -> None:
        self.phase: Phase = "waiting"
        self._report = report

    def __call__(self, step: Step) -> None:
        """Be there now. Raises `ValueError` for a way that the table does not have."""
        if step.phase != self.phase and step.phase not in PHASES[self.phase]:
            raise ValueError(f"there is no way from {self.phase} to {step.phase}")
        self.phase = step.phase
        self._report(step)


def diagram() -> str:
    """The table as a Mermaid state diagram: https://mermaid.js.org/syntax/stateDiagram.html"""
    lines = ["stateDiagram-v2", "    [*] --> preview"]
    for phase, following in PHASES.items():
        lines += [f"    {_id(phase)} --> {_id(one)}" for one in following] or [f"    {_id(phase)} --> [*]"]
    return "\n".join(lines) + "\n"


def _id(phase: str) -> str:
    return phase.replace("-", "_")
