"""What is wrong with a project, and what to do: findings about everything that its kernels stand on.

`facts` looks; the checks judge: pure functions, in the order in which one thing rests on another. A check
says nothing when what it rests on has failed already, so that the first error is the cause.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import get_args

from ds01_kernels.doctor import asked, inside, machine, made, placed
from ds01_kernels.doctor.facts import Facts, gather
from ds01_kernels.doctor.finding import Finding, Level
from ds01_kernels.workbench import Workbench

__all__ = ["Facts", "Finding", "Level", "examine", "judge"]

_CHECKS: tuple[Callable[[Facts], Iterable[Finding]], ...] = (
    asked.project,
    asked.settings,
    asked.engine,
    asked.limits,
    asked.gpus,
    placed.nodes,
    made.image,
    made.container,
    inside.agent,
    inside.files,
    inside.python,
    inside.pip,
    inside.ipykernel,
    inside.user,
    machine.disk,
    machine.memory,
    machine.sockets,
    machine.ds01,
)


async def examine(workbench: Workbench, name: str, host_notebooks: Sequence[str] = ()) -> list[Finding]:
    """All findings about the project of that name: errors first, a cause before what follows from it.

    `host_notebooks` are notebooks of the project whose kernels are known to run on the host's Python.
    Nothing is started but an agent in a container that runs. Raises `NoSuchProjectError` when there is no
    folder of that name.
    """
    return judge(await workbench.run(gather(workbench, name)), host_notebooks)


def judge(facts: Facts, host_notebooks: Sequence[str] = ()) -> list[Finding]:
    """The same from what was seen."""
    found = [finding for check in _CHECKS for finding in check(facts)]
    found += machine.host_python(facts, host_notebooks)
    levels = get_args(Level)
    return sorted((one.shown() for one in found), key=lambda finding: levels.index(finding.level))
