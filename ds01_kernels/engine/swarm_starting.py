"""From a service to its running task, or to why there is none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ds01_kernels.engine import ContainerInfo
from ds01_kernels.engine.docker_connection import refused
from ds01_kernels.engine.swarm_values import ENDED, Found, error_of, name_of, node_problem
from ds01_kernels.errors import (
    ContainerExitedError,
    Ds01Error,
    EngineError,
    EngineTimeoutError,
    NoRoomError,
)

T = TypeVar("T")

#: Seconds for a node to get an image from the registry.
PULL_LIMIT = 1800.0
#: What the scheduler says of nodes that are lost, paused or drained.
_NOT_AVAILABLE = "not available for new tasks"
#: Seconds between looks: the first ones, and the last one again and again.
_PAUSES = (0.05, 0.1, 0.1, 0.2)


async def until_running(look: Callable[[], Awaitable[Found]], info: ContainerInfo, limit: float) -> Found:
    """Wait until the one task of the service runs, or has run.

    Raises `NoRoomError` when no node has room for it, `ContainerExitedError` when its node is lost before
    that, `EngineError` when it cannot be started, and `EngineTimeoutError`.
    """
    began = time.monotonic()
    deadline, looks = began + limit, 0
    while True:
        found = await look()
        state = found.task_state
        if found.is_lost:
            raise ContainerExitedError(
                f"Docker Swarm could not start {info.name}: "
                f"{node_problem(found.node) if found.node else 'its node has left the swarm.'}",
                remedy="Try again: it goes to another node.",
            )
        if state == "running":
            return found
        if state in ENDED:
            if error := _why_not(found, info):
                raise error
            return found
        if state == "pending" and (said := error_of(found.task)):
            raise _unplaced(info, found, said)
        # Its node gets the image first.
        if time.monotonic() > (began + PULL_LIMIT if state == "preparing" else deadline):
            raise EngineTimeoutError(
                f"Docker Swarm took too long to start {info.name}: its task is {state}"
                f"{f' on the node {name_of(found.node)}' if found.node else ''}.",
                remedy="`docker service ps` on a manager shows more.",
            )
        await asyncio.sleep(_PAUSES[min(looks, len(_PAUSES) - 1)])
        looks += 1


async def whole(work: Awaitable[T]) -> T:
    """Await `work` to its end, also when this is cancelled: it goes on in its thread all the same, and what
    undoes it must not come before.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _unplaced(info: ContainerInfo, found: Found, said: str) -> Ds01Error:
    """No node takes it, in the scheduler's words."""
    placement = found.service["Spec"]["TaskTemplate"].get("Placement") or {}
    where = ", ".join(placement.get("Constraints") or ())
    count = info.gpus.count if info.gpus else 0
    wants = [f"{count} GPU{'s' if count > 1 else ''}"] if count else []
    wants += [where] if where else []
    wanted = f" It wants {' and '.join(wants)}." if wants else ""
    message = f"No node of the swarm takes {info.name} now: {said.rstrip('.')}.{wanted}"
    if _NOT_AVAILABLE in said:
        # Whoever waits for a node that is lost, or drained, is to know it.
        message = f"{message} `jupyter ds01 nodes` says why a node is not available."
    if "insufficient resources" in said or _NOT_AVAILABLE in said:
        return NoRoomError(message, remedy="Try again when others have ended theirs, or ask for less.")
    return EngineError(
        message,
        remedy="`jupyter ds01 nodes` lists the nodes. Correct `node` and `constraints` in the settings; "
        "without Workbench.swarm_registry, containers run where the images are built.",
    )


def _why_not(found: Found, info: ContainerInfo) -> Ds01Error | None:
    """Why its task has never run; None when it has, and has ended since."""
    said = error_of(found.task)
    if found.task_state not in ("rejected", "orphaned") and "starting container failed" not in said:
        return None
    place = f" on the node {name_of(found.node)}" if found.node else ""
    error = refused(500, said or "the node gave no reason", f"start {info.name}{place}")
    if "No such image" in said:
        error.remedy = "Can that node reach the registry? `docker pull` there says why not."
    elif "does not exist where the engine runs" in str(error):
        error.args = (str(error).replace("where the engine runs", "there"),)
        error.remedy = "All nodes need the same file system at the same path, by NFS for example."
    return error
