"""What there is to say about projects, for REST and the command line alike."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from . import containers
from .engine import ContainerInfo, GpuRequest
from .errors import Ds01Error
from .flows import Flows
from .packages import Drift
from .projects import Project, RejectedProject
from .records import Records
from .settings import Settings
from .text import clean
from .workbench import Workbench

#: Seconds for the answer of each engine, where there are several.
LIMIT_BESIDE_OTHERS = 10.0


@dataclass(frozen=True)
class ProjectStatus:
    """A project as it stands; `state` is the container's: an engine's word, ``missing``, or ``unknown``.

    `node` is the name of the machine that it runs or last ran on, None where the engine has one only. `error`
    is a sentence when something is wrong with it. `drift` counts packages, and is None while it is
    not known; `lost` counts those of containers that are gone, which can be restored.
    """

    name: str
    path: str
    kernel_name: str | None = None
    image: str | None = None
    container: str | None = None
    state: str | None = None
    node: str | None = None
    drift: Mapping[str, int] | None = None
    lost: Mapping[str, int] | None = None
    error: str | None = None

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class ProjectDetails(ProjectStatus):
    """The same with what takes a question to the engine or the agent.

    `kernels`: how many run in the container, of all clients; None when it does not run. `limits` in bytes and
    CPUs. Of the container as it is: `created`, and `started` while it runs, in ISO 8601; `memory` while it
    runs, in bytes, `used` and `limit`, None where that is not known or there is none; `gpus` that it was made
    with, `count` (None: all) and `ids`.
    """

    built: bool = False
    outdated: bool = False
    python: Mapping[str, Any] | None = None
    pip: str | None = None
    kernels: int | None = None
    engine: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, Any] = field(default_factory=dict)
    created: str | None = None
    started: str | None = None
    memory: Mapping[str, int | None] | None = None
    gpus: Mapping[str, Any] | None = None


async def all_statuses(workbench: Workbench) -> list[ProjectStatus]:
    """Every project of the workspaces, with one question to each engine that they are on.

    An engine that is away, or a setting that cannot be used, becomes the `error` of its projects.
    """
    found = await asyncio.to_thread(workbench.projects)
    known: list[_Known] = []
    if found.projects:
        try:
            workbench.check()
            known = await workbench.run(_asked(workbench, found.projects))
        except Ds01Error as problem:
            known = [_Known(found.projects, error=clean(problem.sentence, colours=False))]
    statuses = await asyncio.to_thread(
        lambda: [
            _status(workbench.records, project, some.containers, some.error)
            for some in known
            for project in some.projects
        ]
    )
    statuses += [_rejected(rejected) for rejected in found.rejected]
    return sorted(statuses, key=lambda status: status.name)


@dataclass(frozen=True)
class _Known:
    """Projects of one engine, and its containers by their paths; None and a sentence when it is away."""

    projects: Sequence[Project]
    containers: dict[str, ContainerInfo] | None = None
    error: str | None = None


async def _asked(workbench: Workbench, projects: Sequence[Project]) -> list[_Known]:
    by_engine = [some for some in await workbench.all_flows.by_engine(projects) if some[1]]
    # The projects of others are not to wait for one that does not answer.
    limit = LIMIT_BESIDE_OTHERS if len(by_engine) > 1 else None
    return list(await asyncio.gather(*(_on(*some, limit) for some in by_engine)))


async def _on(flows: Flows, projects: Sequence[Project], limit: float | None) -> _Known:
    try:
        async with asyncio.timeout(limit):
            return _Known(projects, await containers.find_all(flows.engine))
    except TimeoutError:
        return _Known(projects, error=f"The engine did not answer within {limit:.0f} s.")
    except Ds01Error as problem:
        return _Known(projects, error=clean(problem.sentence, colours=False))


async def details(workbench: Workbench, name: str) -> ProjectDetails:
    """One project, in full. Raises `NoSuchProjectError` or `SettingError`.

    No container and no kernel is started for the answer.
    """
    project, settings = await asyncio.to_thread(_looked_up, workbench, name)
    limits = {
        "memory": settings.memory,
        "cpus": settings.cpus,
        "shm_size": settings.shm_size,
        "pids_limit": settings.pids_limit,
    }
    try:
        return await workbench.run(_ask(workbench, project, settings, limits))
    except Ds01Error as problem:
        sentence = clean(problem.sentence, colours=False)
        status = await asyncio.to_thread(_status, workbench.records, project, None, sentence)
        return ProjectDetails(**vars(status), limits=limits)


def _looked_up(workbench: Workbench, name: str) -> tuple[Project, Settings]:
    project = workbench.projects().get(name)
    return project, workbench.settings(project)


async def _ask(
    workbench: Workbench, project: Project, settings: Settings, limits: dict[str, Any]
) -> ProjectDetails:
    flows = await workbench.flows(project)
    engine = flows.engine
    host = await engine.info()
    info = await containers.find(engine, project)
    image = await engine.image(project.image_name(os.getuid()))
    survey: Mapping[str, Any] = {}
    load = None
    if info is not None and info.running:
        survey, load = await flows.launcher.look(info, settings.python)
    # So that what is recorded is how it is now.
    await flows.drifts.look(project)
    known = {str(project.path): info} if info else {}
    status = await asyncio.to_thread(_status, workbench.records, project, known, None)
    return ProjectDetails(
        **vars(status),
        built=image is not None,
        outdated=info is not None and bool(containers.outdated(info, image, settings)),
        python={key: survey[key] for key in ("executable", "version", "ipykernel")} if survey else None,
        pip=survey.get("pip"),
        kernels=load.kernels if load else None,
        engine={"name": host.name, "version": host.version, "cannot": dict(host.cannot)},
        limits=limits,
        created=_iso(info.created) if info else None,
        started=_iso(info.started) if info and info.running and info.started else None,
        memory={"used": load.memory, "limit": info.memory} if info and load else None,
        gpus=_gpus(info.gpus) if info and info.gpus else None,
    )


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def _gpus(request: GpuRequest) -> dict[str, Any]:
    count = None if request.count < 0 else len(request.ids) or request.count
    return {"count": count, "ids": list(request.ids)}


def _status(
    records: Records, project: Project, known: dict[str, ContainerInfo] | None, error: str | None
) -> ProjectStatus:
    uid = os.getuid()
    info = known.get(str(project.path)) if known is not None else None
    state = "unknown" if known is None else info.state if info else "missing"
    recorded = records.drift(project)
    drift, lost = (recorded.drift, recorded.lost) if recorded else (None, None)
    there = info if info and info.state != "dead" else None
    if recorded and known is not None and recorded.container != (there.id if there else ""):
        # It was the drift of a container that somebody has removed, or whose machine is lost.
        drift, lost = (None if there else Drift()), recorded.lost.merged(recorded.drift)
    return ProjectStatus(
        name=project.name,
        path=str(project.path),
        kernel_name=project.kernel_name,
        image=project.image_name(uid),
        container=project.container_name(uid),
        state=state,
        node=clean(info.node, colours=False) or None if info else None,
        drift=drift.counts if drift is not None else None,
        lost=lost.counts if lost else None,
        error=error or (clean(info.problem, colours=False) or None if info else None),
    )


def _rejected(rejected: RejectedProject) -> ProjectStatus:
    return ProjectStatus(name=rejected.name, path=str(rejected.path), error=rejected.error.sentence)
