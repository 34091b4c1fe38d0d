"""The machines that containers run on, and what is still free there."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .containers import LABEL_PROJECT
from .engine import ContainerInfo, Engine, EngineInfo
from .machine import available_memory

#: One folder for each GPU that NVIDIA's driver has found.
_GPUS = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True)
class Node:
    """A machine with an engine. Bytes for memory; None for what cannot be known from here.

    What is free is what no running container of this product's, of whatever user, was given: one without a
    limit counts for nothing. Of memory there is no more than this machine has available.
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

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))


async def nodes(engine: Engine) -> list[Node]:
    """All of them: with Docker and Podman there is one. Raises `EngineError`."""
    info = await engine.info()
    found = await engine.containers({})
    running = [one for one in found if one.running and LABEL_PROJECT in one.labels]
    available, gpus = None, None
    if info.local:
        available, gpus = available_memory(), await asyncio.to_thread(_gpus_here)
    return [counted(info, running, available, 0 if "gpus" in info.cannot else gpus)]


def counted(
    info: EngineInfo, running: Iterable[ContainerInfo], available: int | None, gpus: int | None
) -> Node:
    """The node of that engine: `available` memory and `gpus` are this machine's, where the engine is here."""
    running = list(running)
    free_memory = max(0, info.memory - sum(one.memory or 0 for one in running))
    return Node(
        name=info.machine or (socket.gethostname() if info.local else "elsewhere"),
        engine=info.name,
        version=info.version,
        local=info.local,
        containers=len(running),
        cpus=info.cpus,
        free_cpus=max(0.0, info.cpus - sum(one.cpus or 0.0 for one in running)),
        memory=info.memory,
        free_memory=free_memory if available is None else min(free_memory, available),
        gpus=gpus,
        free_gpus=None if gpus is None else _free_gpus(gpus, running),
        why=info.why,
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
