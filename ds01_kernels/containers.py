"""The one container of a project: what it is made of, and how it comes to run."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath

from .account import PIP_REPORT, Person, account, person_in
from .agent.kernel import Preparation
from .agent_listener import AgentListener
from .agent_stream import early_start, find_python
from .connection import AGENT, SOCKETS, SocketDirectory
from .engine import ContainerInfo, ContainerSpec, Engine, EngineInfo, ImageInfo, Mount
from .errors import (
    ConflictError,
    ContainerExitedError,
    Ds01Error,
    KernelsRunningError,
    NoRoomError,
    NotBuiltError,
    SettingError,
)
from .projects import Project
from .settings import Settings
from .unreachable import why_ended
from .variables import WORKSPACE

IPYKERNEL = PurePosixPath("/opt/ds01/ipykernel")

LABEL_PROJECT = "ds01-kernels.project"
LABEL_UID = "ds01-kernels.uid"
LABEL_PATH = "ds01-kernels.path"
LABEL_SOCKETS = "ds01-kernels.sockets"
LABEL_SETTINGS = "ds01-kernels.settings"
#: The name of the project's one container. One that carries it and is called otherwise stands beside that
#: one: it is on trial, about to take its place, or kept for kernels that still run in it.
LABEL_NAME = "ds01-kernels.name"
#: Whose a container is, to DS01: set by its commands and by its `docker` alone, never by us.
LABEL_DS01_USER = "ds01.user"

PIP_VARIABLES = {
    # An install is the user's decision, and the container is theirs: https://peps.python.org/pep-0668/
    "PIP_BREAK_SYSTEM_PACKAGES": "1",
    # What pip advises on that user, and on its own version, is no use to somebody who has no choice.
    "PIP_ROOT_USER_ACTION": "ignore",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
}

#: Seconds that a container's main process has for its end.
STOP_GRACE = 10.0

#: The container's main process does nothing: kernels come and go beside it. It must live on whatever happens.
_HOLDER = """\
import signal
while True: signal.pause()"""

#: Beside it the agent is started, as whoever started the container has put it there, in an interpreter that a
#: kernel may be a fork of (`agent.early`): not isolated, and away from the project's files.
_EARLY = f"""\
if [ -e {SOCKETS / AGENT} ]; then
    program="exec(open('{SOCKETS / AGENT}', encoding='utf-8').read())"
    (cd / && exec "$python" -Xfrozen_modules=off -c "$program # $0 zygote" &)
fi
"""


#: Most images have an ipykernel of their own, or soon will: a wrong guess costs some ms of a core.
NOTHING_KNOWN = Preparation([], False, {})


@dataclass(frozen=True)
class Running:
    """A project's container that runs; `sockets` is None when the host shares no directory with it.

    `is_new`: it was made by the call that returned this.
    """

    info: ContainerInfo
    sockets: SocketDirectory | None
    is_new: bool = False

    @property
    def is_foreign(self) -> bool:
        """Whether it was made without any directory of this machine's, except for the project's perhaps."""
        return LABEL_SOCKETS not in self.info.labels


async def find(engine: Engine, project: Project) -> ContainerInfo | None:
    """The project's container, in whatever state. Raises `ConflictError` when its name is another's."""
    info = await engine.container(project.container_name(os.getuid()))
    if info is not None and not _is_of(info, project):
        raise _is_anothers(info, project)
    return info


def _is_anothers(info: ContainerInfo, project: Project) -> ConflictError:
    if LABEL_DS01_USER in info.labels and info.mounts.get(str(WORKSPACE)) == str(project.path):
        return ConflictError(
            f"The container {info.name} was made by DS01, whose commands this process does not find.",
            remedy="Have container-deploy and container-retire on the PATH, or name them as "
            "Workbench.deploy_command and Workbench.retire_command.",
        )
    return ConflictError(
        f"There is a container named {info.name} that does not belong to {project.path}.",
        remedy="Rename the project's folder, or remove that container.",
    )


async def find_all(engine: Engine) -> dict[str, ContainerInfo]:
    """This user's containers by the path of their project."""
    found = await engine.containers({LABEL_UID: str(os.getuid())})
    ours = [info for info in found if {LABEL_PATH, LABEL_NAME} <= info.labels.keys()]
    return {info.labels[LABEL_PATH]: info for info in ours if is_current(info)}


async def find_beside(engine: Engine, project: Project) -> list[ContainerInfo]:
    """The project's containers other than its one container, in whatever state."""
    return [info for info in await engine.containers(labels(project)) if not is_current(info)]


def is_current(info: ContainerInfo) -> bool:
    """Whether it is the project's one container, and none beside it."""
    return info.labels.get(LABEL_NAME, info.name) == info.name


async def ensure(
    engine: Engine,
    project: Project,
    settings: Settings,
    *,
    store: Path,
    is_idle: Callable[[ContainerInfo], Awaitable[bool]],
    guess: Preparation = NOTHING_KNOWN,
    listener: AgentListener | None = None,
) -> Running:
    """The project's container, running: made when missing, started when stopped, replaced when it is out of
    date and idle.

    `store` is the directory of ipykernel copies; `guess` and `listener` as in `run`. To be called under the
    project's lock. Raises `NotBuiltError` or `EngineError`.
    """
    info, image = await asyncio.gather(find(engine, project), engine.image(project.image_name(os.getuid())))
    if info is not None and info.state == "created":
        # Whoever made it was gone before it was complete, or could not start it.
        await retire(engine, info)
        info = None
    if info is not None and outdated(info, image, settings) and (not info.running or await is_idle(info)):
        await retire(engine, info)
        info = None
    if info is not None and info.running and _is_cut_off(info):
        info = await _stopped(engine, info, is_idle)
    if info is not None:
        return await run(engine, info, guess, listener)
    if image is None:
        raise NotBuiltError(
            f"The image of project {project.name} has not been built yet.",
            remedy=f"Build it with `jupyter ds01 image-update {project.name}`.",
        )
    info = await create(engine, project, image, settings, store)
    try:
        return replace(await run(engine, info, guess, listener), is_new=True)
    except (NoRoomError, asyncio.CancelledError):
        # Whoever waits makes another one; whoever does not has nothing lying about.
        await asyncio.shield(_retire_unless_running(engine, info))
        raise


def _is_cut_off(info: ContainerInfo) -> bool:
    """Whether the directory that it shares with this machine is there no more."""
    sockets = SocketDirectory.recorded(info.labels.get(LABEL_SOCKETS, ""))
    return sockets is not None and not sockets.is_usable()


async def _stopped(
    engine: Engine, info: ContainerInfo, is_idle: Callable[[ContainerInfo], Awaitable[bool]]
) -> ContainerInfo | None:
    """The same container, stopped: when it is started again it gets the directory that is made then."""
    if not await is_idle(info):
        raise KernelsRunningError(
            f"The directory that {info.name} shares with this machine was deleted while kernels run there.",
            remedy="Shut down the other kernels of the project, then restart this one: that starts the "
            "container anew.",
        )
    await engine.stop(info.id, STOP_GRACE)
    return await engine.container(info.id)


async def retire(engine: Engine, info: ContainerInfo) -> None:
    """Remove a container of ours and the directory of its sockets."""
    await engine.remove(info.id)
    if sockets := SocketDirectory.recorded(info.labels.get(LABEL_SOCKETS, "")):
        sockets.remove()


async def _retire_unless_running(engine: Engine, info: ContainerInfo) -> None:
    with suppress(Ds01Error):
        now = await engine.container(info.id)
        if now is not None and not now.running:
            await retire(engine, info)


def labels(project: Project) -> dict[str, str]:
    """What every container and image of this project carries; look-ups check all three."""
    return {
        LABEL_PROJECT: project.name,
        LABEL_UID: str(os.getuid()),
        LABEL_PATH: str(project.path),
    }


def _is_of(info: ContainerInfo, project: Project) -> bool:
    # Images have the same labels, and whatever is made of one has them too, but for that name.
    return LABEL_NAME in info.labels and labels(project).items() <= info.labels.items()


def outdated(info: ContainerInfo, image: ImageInfo | None, settings: Settings | None) -> tuple[str, ...]:
    """What is another now than when the container was made: ``image``, ``settings``, both, or nothing.

    Without an image there is nothing to make a newer one from. None for settings that are not known.
    """
    if image is None:
        return ()
    # One that others have made does not say, and has what they chose.
    made_with = info.labels.get(LABEL_SETTINGS)
    has_other_settings = settings is not None and made_with not in (None, _digest(settings))
    changed = {"image": info.image_id != image.id, "settings": has_other_settings}
    return tuple(name for name, is_another in changed.items() if is_another)


def _digest(settings: Settings) -> str:
    given = asdict(settings)
    # Where packages are saved, what a build may read, and which engine it has to be, says nothing about the
    # container.
    del given["packages"], given["build_secrets"], given["engine"]
    # Containers of before these were known have another digest otherwise.
    for name in ("node", "constraints", "swarm_constraints"):
        if not given[name]:
            del given[name]
    return hashlib.sha256(json.dumps(given, sort_keys=True, default=str).encode()).hexdigest()[:16]


async def run(
    engine: Engine,
    info: ContainerInfo,
    guess: Preparation = NOTHING_KNOWN,
    listener: AgentListener | None = None,
) -> Running:
    """Start it if it does not run. Raises `ContainerExitedError` or `EngineError`.

    `guess` is what its agent will be told, which comes to `listener` where it can.
    """
    sockets = SocketDirectory.recorded(info.labels.get(LABEL_SOCKETS, ""))
    if info.running:
        return Running(info, sockets if sockets and sockets.is_usable() else None)
    if sockets is not None:
        # /tmp may have been cleaned since, or somebody may have put something else there.
        sockets.renew()
        name = listener.open(sockets.path) if listener is not None else ""
        program = early_start(guess, SOCKETS / AGENT, SOCKETS / name if name else None)
        await asyncio.to_thread(sockets.write_agent, program)
    # By its name, which is in what may be said of it.
    await engine.start(info.name)
    started = await engine.container(info.id)
    if started is None:
        raise ContainerExitedError(f"The container {info.name} was removed as soon as it was started.")
    if not started.running:
        raise await why_ended(engine, started)
    # One that could not be started again as it was is as new.
    return Running(started, sockets, is_new=started.id != info.id)


async def create(
    engine: Engine,
    project: Project,
    image: ImageInfo,
    settings: Settings,
    store: Path,
    *,
    beside: str = "",
    host: EngineInfo | None = None,
) -> ContainerInfo:
    """Make a container of that image: the project's one, or one beside it whose name ends in `beside`.

    `host` is what the engine is, where that is known. Raises `EngineError`, and `SettingError` when the
    project wants another engine.
    """
    host = host or await engine.info()
    if settings.engine not in ("auto", host.name):
        raise SettingError(
            f"Project {project.name} wants {settings.engine}, and its containers would be {host.name}'s.",
            remedy="Take `engine` out of [tool.ds01] in its pyproject.toml, or have the administrator allow "
            "that one by Workbench.engines_allowed.",
        )
    person = person_in(host)
    is_deployed = bool(host.deployer) and not beside
    sockets = SocketDirectory.new() if host.local and not is_deployed else None
    try:
        spec = _spec(project, image, settings, store, sockets, person)
        if host.name == "swarm":
            everywhere = (*settings.swarm_constraints, *spec.constraints)
            spec = replace(spec, constraints=tuple(dict.fromkeys(everywhere)))
        info = await _created(engine, replace(spec, name=f"{spec.name}.{beside}") if beside else spec)
    except BaseException as error:
        if sockets is not None:
            sockets.remove()
        if isinstance(error, ConflictError) and not beside and (rival := await find(engine, project)):
            # Another process of ours was faster.
            return rival
        raise
    # Who deploys it gives it an account as well. Each look into a container, and each write, takes as long as
    # a quarter of its start; an image has root, and what else root needs its processes can make themselves
    # (`agent.asked.make_report`).
    if not is_deployed and person.uid != 0:
        await engine.write_files(info.id, await account(engine, info, person))
    return info


async def _created(engine: Engine, spec: ContainerSpec) -> ContainerInfo:
    creating = asyncio.ensure_future(engine.create(spec))
    try:
        return await asyncio.shield(creating)
    except asyncio.CancelledError:
        # The engine is at it all the same, and nobody else will know of what it makes.
        with suppress(Ds01Error):
            await engine.remove((await creating).id)
        raise


def _spec(
    project: Project,
    image: ImageInfo,
    settings: Settings,
    store: Path,
    sockets: SocketDirectory | None,
    person: Person,
) -> ContainerSpec:
    name = project.container_name(os.getuid())
    mounts = [Mount(project.path, WORKSPACE), *settings.mounts]
    extra_labels = {LABEL_SETTINGS: _digest(settings), LABEL_NAME: name}
    if sockets is not None:
        mounts += [Mount(store, IPYKERNEL, read_only=True), Mount(sockets.path, SOCKETS)]
        extra_labels[LABEL_SOCKETS] = str(sockets.path)
    return ContainerSpec(
        name=name,
        image=image.id,
        entrypoint=("/bin/sh", "-c", find_python(_EARLY), "ds01", _HOLDER, settings.python),
        user=f"{person.uid}:{person.gid}",
        working_dir=str(WORKSPACE),
        env={
            "HOME": str(person.home),
            "LANG": image.env.get("LANG", "C.UTF-8"),
            **PIP_VARIABLES,
            # Where the agent learns of extras: https://pip.pypa.io/en/stable/reference/installation-report/
            "PIP_REPORT": str(PIP_REPORT),
            **settings.env,
            "DS01_PROJECT": project.name,
            "DS01_CONTAINER": name,
        },
        labels=labels(project) | extra_labels,
        mounts=tuple(mounts),
        hostname=re.sub(r"[^a-z0-9-]", "-", project.name.lower())[:63].strip("-") or "project",
        network=settings.network,
        shm_size=settings.shm_size,
        memory=settings.memory,
        cpus=settings.cpus,
        pids_limit=settings.pids_limit,
        gpus=settings.gpus,
        node=settings.node,
        constraints=settings.constraints,
    )
