"""Drift: what is installed in a project's container against its image, noticed, recorded and told.

The agent says when something was installed; nothing here asks again and again. What is known is kept on this
side (`records`), since a container may be recycled by others at any time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import containers
from .agent_client import Agent
from .engine import ContainerInfo
from .errors import Ds01Error
from .events import DriftChanged, Event
from .launch import Launcher
from .packages import Drift, Installed
from .projects import Project
from .records import RecordedDrift, Records

log = logging.getLogger("ds01_kernels")


@dataclass(frozen=True)
class Look:
    """What there is to know of a project's packages.

    `installed` is None when the container does not run, `image` when neither a container nor an image of the
    project is there. `drift` is then what was recorded last. `lost` was in containers that are gone.
    """

    installed: Installed | None
    image: Installed | None
    drift: Drift
    lost: Drift

    def as_json(self) -> dict[str, Any]:
        """What REST and ``packages --json`` say; of a container that does not run, its image's packages."""
        known = self.installed or self.image
        return {
            "python": known.python if known else None,
            "running": self.installed is not None,
            "packages": [package.as_json() for package in known.packages] if known else [],
            "broken": [{"path": one.path, "reason": one.reason} for one in known.broken] if known else [],
            "drift": self.drift.as_json(),
            "lost": self.lost.as_json(),
        }


class Drifts:
    """The drift of every project whose container this process has reached; `tell` gets the changes."""

    def __init__(self, launcher: Launcher, records: Records, tell: Callable[[Event], None]) -> None:
        self._launcher = launcher
        self._records = records
        self._tell = tell
        #: What was told last of each project: its container's id, and the drift.
        self._told: dict[Path, tuple[str, Drift]] = {}
        self._looking: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()
        launcher.noticed = self._noticed

    async def look(self, project: Project) -> Look:
        """Look now; starts no container of the project. Raises `Ds01Error`."""
        info = await containers.find(self._launcher.engine, project)
        if info is not None and info.running:
            async with self._launcher.visit(info) as agent:
                return await self._look(project, info, agent)
        info = info if info and await self._keeps(info) else None
        image_id = info.image_id if info else await self._launcher.image_id(project)
        recorded = await asyncio.to_thread(self._records.drift, project)
        if recorded is None:
            return Look(None, await self._known_set(project, image_id), Drift(), Drift())
        image = await self._set_to_compare(project, image_id, recorded)
        if info is None and recorded.container:
            recorded = await self._keep(project, "", image_id or "", Drift())
        drift, lost = recorded.drift, recorded.lost
        if recorded.container != (info.id if info else ""):
            drift, lost = Drift(), lost.merged(drift)
        return Look(None, image, drift, _missing(lost, image))

    async def _keeps(self, info: ContainerInfo) -> bool:
        """Whether what was installed in a container that does not run is there when it does."""
        return info.state != "dead" and "keep" not in (await self._launcher.engine.info()).cannot

    async def image_set(self, project: Project, image_id: str) -> Installed:
        """The packages of the image itself, for which a container of it is started once.

        Raises `Ds01Error`.
        """
        known = await asyncio.to_thread(self._records.image_set, project, image_id)
        if known is None:
            async with self._launcher.trial(project, image_id) as agent:
                known = await listed(agent)
            await self.keep_image_set(project, image_id, known)
        return known

    async def keep_image_set(self, project: Project, image_id: str, installed: Installed) -> None:
        """What a container of that image had before anybody could install anything in it."""
        await asyncio.to_thread(self._records.keep_image_set, project, image_id, installed)

    async def begin_anew(self, project: Project, container: str, image_id: str) -> None:
        """The project has another container, in which nobody was yet. Raises `Ds01Error`."""
        await self._keep(project, container, image_id, Drift())

    async def forget_lost(self, project: Project, names: Collection[str]) -> None:
        """They were restored, or are not wanted any more. Raises `Ds01Error`."""
        await asyncio.to_thread(self._records.forget_lost, project, names)

    async def _known_set(self, project: Project, image_id: str | None) -> Installed | None:
        return await asyncio.to_thread(self._records.image_set, project, image_id) if image_id else None

    async def _set_to_compare(
        self, project: Project, image_id: str | None, recorded: RecordedDrift
    ) -> Installed | None:
        """The image's packages; where there is something to compare with them, they are found out."""
        if image_id and (recorded.lost or recorded.drift):
            with suppress(Ds01Error):
                return await self.image_set(project, image_id)
        return await self._known_set(project, image_id)

    def _noticed(self, project: Project, info: ContainerInfo, agent: Agent, is_new: bool) -> None:
        """The container was reached, or something was installed in it; one look at a time for each."""
        if info.id in self._looking:
            self._again.add(info.id)
            return
        task = asyncio.create_task(self._refresh(project, info, agent, is_new))
        self._looking[info.id] = task
        task.add_done_callback(lambda _: self._looked(project, info, agent))

    def _looked(self, project: Project, info: ContainerInfo, agent: Agent) -> None:
        del self._looking[info.id]
        if info.id in self._again:
            self._again.discard(info.id)
            self._noticed(project, info, agent, False)

    async def _refresh(self, project: Project, info: ContainerInfo, agent: Agent, is_new: bool) -> None:
        try:
            # It may have got another name since.
            if (now := await self._launcher.engine.container(info.id)) is not None:
                await self._look(project, now, agent, is_new=is_new)
        except Ds01Error as error:
            log.info("What is installed in %s is not known: %s", info.name, error)
        except Exception:
            log.exception("What is installed in %s could not be looked at", info.name)

    async def _look(
        self, project: Project, info: ContainerInfo, agent: Agent, *, is_new: bool = False
    ) -> Look:
        installed = await listed(agent)
        if is_new and await asyncio.to_thread(self._records.image_set, project, info.image_id) is None:
            # Nobody was in it before us: what it has, its image has.
            await self.keep_image_set(project, info.image_id, installed)
        image = await self.image_set(project, info.image_id)
        drift = Drift.between(image, installed)
        if not containers.is_current(info):
            # Beside the project's container during and after a rebuild: its packages are not the project's.
            return Look(installed, image, drift, Drift())
        recorded = await self._keep(project, info.id, info.image_id, drift)
        return Look(installed, image, drift, _missing(recorded.lost, installed))

    async def _keep(self, project: Project, container: str, image_id: str, drift: Drift) -> RecordedDrift:
        """Record it and tell of it, if it is new; what is on record then."""
        records, now = self._records, (container, drift)
        before = await asyncio.to_thread(records.drift, project)
        if before is None or (before.container, before.drift) != now:
            await asyncio.to_thread(records.keep_drift, project, container, image_id, drift)
        # Not by what is on record: another process may have recorded it, which told nobody here.
        told = self._told.get(project.path, (before.container, before.drift) if before else None)
        self._told[project.path] = now
        if told != now:
            self._tell(DriftChanged(project.name, **drift.counts))
        after = await asyncio.to_thread(records.drift, project)
        return after or RecordedDrift(container, image_id, 0.0, drift, Drift())


async def listed(agent: Agent) -> Installed:
    """What is installed where that agent runs. Raises `AgentError`."""
    # In a thread: a hostile list takes seconds to read.
    return await asyncio.to_thread(Installed.from_message, await agent.packages())


def _missing(lost: Drift, installed: Installed | None) -> Drift:
    return lost if installed is None else lost.not_in(installed)
