"""Tells when a container has gone in which none of our kernels runs any more: nobody else would notice.

Where kernels run, their ends tell it; and whoever goes through us tells it at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from .engine import Engine
from .errors import EngineError
from .events import ContainerChanged
from .projects import Project
from .station import Station

#: Seconds before each look: whoever removes a container stops it first, and may take a while in between.
LOOKS = (0.1, 1.0, 3.0, 10.0, 30.0)


async def tell_end(
    engine: Engine, project: Project, station: Station, tell: Callable[[ContainerChanged], None]
) -> None:
    """Once the agent is lost, tell what has become of its container; nothing while that one runs."""
    if not await station.agent.is_lost() or station.agent.has_successor:
        return
    told = ""
    for pause in LOOKS:
        await asyncio.sleep(pause)
        # An engine that does not answer now may do so at the next look.
        with suppress(EngineError):
            info = await engine.container(station.agent.container)
            # One whose processes have just been ended is called running for a moment.
            if info is not None and info.running:
                continue
            # What was in one whose machine is lost is as gone.
            is_there = info is not None and info.state != "dead"
            state = "stopped" if is_there else "removed"
            if state != told:
                told = state
                tell(ContainerChanged(project.name, station.running.info.name, state))
            if info is None:
                return
