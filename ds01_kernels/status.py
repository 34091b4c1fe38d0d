"""What there is to say about projects, for REST and the command line alike."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from . import containers
from .engine import ContainerInfo
from .errors import Ds01Error
from .projects import Project, RejectedProject
from .settings import Settings
from .text import clean
from .workbench import Workbench


@dataclass(frozen=True)
class ProjectStatus:
    """A project as it stands; `state` is the container's: an engine's word, ``missing``, or ``unknown``.

    `error` is a sentence when something is wrong with it. `drift` is None while it is not known.
    """

    name: str
    path: str
    kernel_name: str | None = None
    image: str | None = None
    container: str | None = None
    state: str | None = None
    drift: Mapping[str, int] | None = None
    error: str | None = None

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class ProjectDetails(ProjectStatus):
    """The same with what takes a question to the engine or the agent.

    `kernels`: how many run in the container, of all clients; None when it does not run. `limits` in bytes and
    CPUs.
    """

    built: bool = False
    outdated: bool = False
    python: Mapping[str, Any] | None = None
    pip: str | None = None
    kernels: int | None = None
    engine: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, Any] = field(default_factory=dict)


async def all_statuses(workbench: Workbench) -> list[ProjectStatus]:
    """Every project of the workspaces, with one question to the engine.

    An engine that is away becomes their `error`.
    """
    found = workbench.projects()
    known: dict[str, ContainerInfo] | None = None
    error = None
    if found.projects:
        try:
            known = await workbench.run(containers.find_all(workbench.engine))
        except Ds01Error as problem:
            error = clean(problem.sentence, colours=False)
    statuses = [_status(project, known, error) for project in found.projects]
    statuses += [_rejected(rejected) for rejected in found.rejected]
    return sorted(statuses, key=lambda status: status.name)


async def details(workbench: Workbench, name: str) -> ProjectDetails:
    """One project, in full. Raises `NoSuchProjectError` or `SettingError`.

    No container and no kernel is started for the answer.
    """
    project = workbench.projects().get(name)
    settings = workbench.settings(project)
    limits = {
        "memory": settings.memory,
        "cpus": settings.cpus,
        "shm_size": settings.shm_size,
        "pids_limit": settings.pids_limit,
    }
    try:
        return await workbench.run(_ask(workbench, project, settings, limits))
    except Ds01Error as problem:
        status = _status(project, None, clean(problem.sentence, colours=False))
        return ProjectDetails(**vars(status), limits=limits)


async def _ask(
    workbench: Workbench, project: Project, settings: Settings, limits: dict[str, Any]
) -> ProjectDetails:
    engine = workbench.engine
    host = await engine.info()
    info = await containers.find(engine, project)
    image = await engine.image(project.image_name(os.getuid()))
    survey: Mapping[str, Any] = {}
    kernels = None
    if info is not None and info.running:
        survey, kernels = await workbench.launcher.look(info, settings.python)
    status = _status(project, {str(project.path): info} if info else {}, None)
    return ProjectDetails(
        **vars(status),
        built=image is not None,
        outdated=info is not None and image is not None and info.image_id != image.id,
        python={key: survey[key] for key in ("executable", "version", "ipykernel")} if survey else None,
        pip=survey.get("pip"),
        kernels=kernels,
        engine={"name": host.name, "version": host.version, "cannot": dict(host.cannot)},
        limits=limits,
    )


def _status(project: Project, known: dict[str, ContainerInfo] | None, error: str | None) -> ProjectStatus:
    uid = os.getuid()
    if known is None:
        state = "unknown"
    else:
        info = known.get(str(project.path))
        state = info.state if info else "missing"
    return ProjectStatus(
        name=project.name,
        path=str(project.path),
        kernel_name=project.kernel_name,
        image=project.image_name(uid),
        container=project.container_name(uid),
        state=state,
        error=error,
    )


def _rejected(rejected: RejectedProject) -> ProjectStatus:
    return ProjectStatus(name=rejected.name, path=str(rejected.path), error=rejected.error.sentence)
