"""The machines that containers run on, and what is still free there."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .containers import LABEL_PROJECT
from .engine import ContainerInfo, Engine, EngineInfo, NodeInfo
from .machine import available_memory

#: One folder for each GPU that NVIDIA's driver has found.
_GPUS = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True)
class Node:
    """A machine with an engine. Bytes for memory; None for what cannot be known from here.

    What is free is what no running container of this product's, of whatever user, was given: one without a
    limit counts for nothing. Of memory there is no more than this machine has available. `problem` is a
    sentence for why nothing starts there now, and then nothing is free.
    """

    name: str
    engine: str
    version: str
    local: bool
    containers: int
    cpus: int
    free_cpus: float
    memory: int
    free_memory: int
    gpus: int | None
    free_gpus: int | None
    why: str = ""
    problem: str = ""

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))


async def nodes(engine: Engine) -> list[Node]:
    """All of them: with Docker and Podman there is one. Raises `EngineError`."""
    info, found, machines = await asyncio.gather(engine.info(), engine.containers({}), engine.nodes())
    running = [one for one in found if one.running and LABEL_PROJECT in one.labels]
    available, gpus = None, None
    if info.local:
        available, gpus = available_memory(), await asyncio.to_thread(_gpus_here)
    here = 0 if "gpus" in info.cannot else gpus
    return [
        counted(info, _on(machine, running), available, here, machine)
        for machine in sorted(machines, key=lambda one: one.name)
    ]


def _on(machine: NodeInfo, running: Iterable[ContainerInfo]) -> list[ContainerInfo]:
    return [one for one in running if one.node in ("", machine.name)]


def counted(
    info: EngineInfo,
    running: Iterable[ContainerInfo],
    available: int | None,
    gpus: int | None,
    machine: NodeInfo | None = None,
) -> Node:
    """The node of that engine, or that `machine` of it, with what runs there.

    `available` memory and `gpus` are this machine's, where the engine is here.
    """
    running = list(running)
    machine = machine or NodeInfo(info.machine, info.cpus, info.memory)
    gpus = gpus if machine.gpus is None else machine.gpus
    free_gpus = None if gpus is None else _free_gpus(gpus, running)
    if gpus is not None and machine.given_gpus is not None:
        free_gpus = max(0, gpus - machine.given_gpus)
    free_memory = max(0, machine.memory - sum(one.memory or 0 for one in running))
    can_start = not machine.problem
    return Node(
        name=machine.name or (socket.gethostname() if info.local else "elsewhere"),
        engine=info.name,
        version=info.version,
        local=info.local,
        containers=len(running),
        cpus=machine.cpus,
        free_cpus=max(0.0, machine.cpus - sum(one.cpus or 0.0 for one in running)) * can_start,
        memory=machine.memory,
        free_memory=(free_memory if available is None else min(free_memory, available)) * can_start,
        gpus=gpus,
        free_gpus=None if free_gpus is None else free_gpus * can_start,
        why=info.why,
        problem=machine.problem,
    )


def _free_gpus(gpus: int, running: Iterable[ContainerInfo]) -> int:
    """Docker gives a count of GPUs from the first one on, so one GPU may be in several containers."""
    given = [one.gpus for one in running if one.gpus is not None]
    if any(request.count < 0 for request in given):
        return 0
    named = {name for request in given for name in request.ids}
    counted = max((request.count for request in given), default=0)
    # Names may be indices, which the counted ones have too.
    others = {name for name in named if not (name.isdigit() and int(name) < counted)}
    return max(0, gpus - counted - len(others))


def _gpus_here() -> int:
    try:
        return sum(1 for _ in _GPUS.iterdir())
    except OSError:
        return 0
