"""The one container of a project: what it is made of, and how it comes to run."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import pwd
import re
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from .agent_stream import FIND_PYTHON
from .connection import SOCKETS, SocketDirectory
from .engine import ContainerFile, ContainerInfo, ContainerSpec, Engine, EngineInfo, ImageInfo, Mount
from .errors import ConflictError, ContainerExitedError, NotBuiltError
from .projects import Project
from .settings import Settings
from .text import clean
from .variables import WORKSPACE

IPYKERNEL = PurePosixPath("/opt/ds01/ipykernel")

LABEL_PROJECT = "ds01-kernels.project"
LABEL_UID = "ds01-kernels.uid"
LABEL_PATH = "ds01-kernels.path"
LABEL_SOCKETS = "ds01-kernels.sockets"
LABEL_SETTINGS = "ds01-kernels.settings"

#: The container's main process does nothing: kernels come and go beside it.
_HOLDER = "import signal\nwhile True: signal.pause()"


@dataclass(frozen=True)
class Running:
    """A project's container that runs; `sockets` is None when the host shares no directory with it."""

    info: ContainerInfo
    sockets: SocketDirectory | None


async def find(engine: Engine, project: Project) -> ContainerInfo | None:
    """The project's container, in whatever state. Raises `ConflictError` when its name is another's."""
    info = await engine.container(project.container_name(os.getuid()))
    if info is not None and not _is_of(info, project):
        raise ConflictError(
            f"There is a container named {info.name} that does not belong to {project.path}.",
            remedy="Rename the project's folder, or remove that container.",
        )
    return info


async def find_all(engine: Engine) -> dict[str, ContainerInfo]:
    """This user's containers by the path of their project."""
    found = await engine.containers({LABEL_UID: str(os.getuid())})
    return {info.labels[LABEL_PATH]: info for info in found if LABEL_PATH in info.labels}


async def ensure(
    engine: Engine,
    project: Project,
    settings: Settings,
    *,
    store: Path,
    is_idle: Callable[[ContainerInfo], Awaitable[bool]],
) -> Running:
    """The project's container, running: made when missing, started when stopped, replaced when it is out of
    date and idle.

    `store` is the directory of ipykernel copies. To be called under the project's lock. Raises
    `NotBuiltError` or `EngineError`.
    """
    info, image = await asyncio.gather(find(engine, project), engine.image(project.image_name(os.getuid())))
    is_outdated = info is not None and image is not None and _is_outdated(info, image, settings)
    if info is not None and is_outdated and (not info.running or await is_idle(info)):
        await retire(engine, info)
        info = None
    if info is None:
        if image is None:
            raise NotBuiltError(
                f"The image of project {project.name} has not been built yet.",
                remedy=f"Build it with `jupyter ds01 image-update {project.name}`.",
            )
        info = await _create(engine, project, image, settings, store)
    return await _run(engine, info)


async def retire(engine: Engine, info: ContainerInfo) -> None:
    """Remove a container of ours and the directory of its sockets."""
    await engine.remove(info.id)
    if sockets := SocketDirectory.recorded(info.labels.get(LABEL_SOCKETS, "")):
        sockets.remove()


def labels(project: Project) -> dict[str, str]:
    """What every container and image of this project carries; look-ups check all three."""
    return {
        LABEL_PROJECT: project.name,
        LABEL_UID: str(os.getuid()),
        LABEL_PATH: str(project.path),
    }


def _is_of(info: ContainerInfo, project: Project) -> bool:
    return all(info.labels.get(name) == value for name, value in labels(project).items())


def _is_outdated(info: ContainerInfo, image: ImageInfo, settings: Settings) -> bool:
    return info.image_id != image.id or has_other_settings(info, settings)


def has_other_settings(info: ContainerInfo, settings: Settings) -> bool:
    """Whether the container was made with other settings than these."""
    return info.labels.get(LABEL_SETTINGS) != _digest(settings)


def _digest(settings: Settings) -> str:
    return hashlib.sha256(json.dumps(asdict(settings), sort_keys=True, default=str).encode()).hexdigest()[:16]


async def _run(engine: Engine, info: ContainerInfo) -> Running:
    sockets = SocketDirectory.recorded(info.labels.get(LABEL_SOCKETS, ""))
    if info.running:
        return Running(info, sockets if sockets and sockets.is_usable() else None)
    if sockets is not None:
        # /tmp may have been cleaned since, or somebody may have put something else there.
        sockets.renew()
    await engine.start(info.id)
    started = await engine.container(info.id)
    if started is None or not started.running:
        said = clean(await engine.logs(info.id, 5), colours=False)
        raise ContainerExitedError(
            f"The container {info.name} ended as soon as it was started. {said}".strip()
        )
    return Running(started, sockets)


async def _create(
    engine: Engine, project: Project, image: ImageInfo, settings: Settings, store: Path
) -> ContainerInfo:
    host = await engine.info()
    sockets = SocketDirectory.new() if host.local else None
    person = person_in(host)
    try:
        info = await engine.create(_spec(project, image, settings, store, sockets, person))
    except BaseException as error:
        if sockets is not None:
            sockets.remove()
        if isinstance(error, ConflictError) and (rival := await find(engine, project)):
            # Another process of ours was faster.
            return rival
        raise
    passwd = await engine.read_file(info.id, PurePosixPath("/etc/passwd")) or b""
    group = await engine.read_file(info.id, PurePosixPath("/etc/group")) or b""
    await engine.write_files(
        info.id, _account(person, passwd.decode("utf-8", "replace"), group.decode("utf-8", "replace"))
    )
    return info


@dataclass(frozen=True)
class Person:
    """Whom the container runs as."""

    name: str
    uid: int
    gid: int

    @property
    def home(self) -> PurePosixPath:
        return PurePosixPath("/root") if self.uid == 0 else PurePosixPath("/home") / self.name


def person_in(host: EngineInfo) -> Person:
    """Whom that engine's containers run as, for files in the project to be this user's."""
    # Where uid 0 of a container is not the host's, it is the user's: files in the project stay theirs only
    # that way.
    if host.rootless or os.getuid() == 0:
        return Person("root", 0, 0)
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = ""
    # https://www.man7.org/linux/man-pages/man8/useradd.8.html, "CAVEATS"
    if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", name):
        name = "user"
    return Person(name, os.getuid(), os.getgid())


def _account(person: Person, passwd: str, group: str) -> list[ContainerFile]:
    """The files that make `person` a real user of the container: an entry, a group, a home."""
    entries = [line.split(":") for line in passwd.splitlines() if line.count(":") == 6]
    kept = [entry for entry in entries if entry[2] != str(person.uid) and entry[0] != person.name]
    shell = next((entry[6] for entry in entries if entry[2] == str(person.uid)), "/bin/sh")
    kept.append([person.name, "x", str(person.uid), str(person.gid), "", str(person.home), shell])
    groups = [line for line in group.splitlines() if line.count(":") == 3]
    if not any(line.split(":")[2] == str(person.gid) for line in groups):
        groups.append(f"{person.name}:x:{person.gid}:")
    return [
        ContainerFile(PurePosixPath("/etc/passwd"), _lines(":".join(entry) for entry in kept), 0, 0, 0o644),
        ContainerFile(PurePosixPath("/etc/group"), _lines(groups), 0, 0, 0o644),
        ContainerFile(person.home, None, person.uid, person.gid, 0o700),
    ]


def _spec(
    project: Project,
    image: ImageInfo,
    settings: Settings,
    store: Path,
    sockets: SocketDirectory | None,
    person: Person,
) -> ContainerSpec:
    name = project.container_name(os.getuid())
    mounts = [Mount(project.path, WORKSPACE), Mount(store, IPYKERNEL, read_only=True), *settings.mounts]
    extra_labels = {LABEL_SETTINGS: _digest(settings)}
    if sockets is not None:
        mounts.append(Mount(sockets.path, SOCKETS))
        extra_labels[LABEL_SOCKETS] = str(sockets.path)
    return ContainerSpec(
        name=name,
        image=image.id,
        entrypoint=("/bin/sh", "-c", FIND_PYTHON, "ds01", _HOLDER, settings.python),
        user=f"{person.uid}:{person.gid}",
        working_dir=str(WORKSPACE),
        env={
            "HOME": str(person.home),
            "LANG": image.env.get("LANG", "C.UTF-8"),
            # An install is the user's decision, and the container is theirs:
            # https://peps.python.org/pep-0668/
            "PIP_BREAK_SYSTEM_PACKAGES": "1",
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
    )


def _lines(lines: object) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()  # type: ignore[attr-defined]
