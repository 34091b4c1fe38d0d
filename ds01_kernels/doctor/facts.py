"""What can be seen of a project, its image and its container, without starting any of them.

An agent may be started in a container that runs.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, ParamSpec, TypeVar

from ds01_kernels import containers, elsewhere, images, ipykernel_store
from ds01_kernels.connection import SOCKETS, SocketDirectory, check_private, run_root
from ds01_kernels.ds01_host import DEPLOY, RETIRE, Commands
from ds01_kernels.engine import ContainerInfo, Engine, EngineInfo, ImageInfo, NodeInfo
from ds01_kernels.errors import BadInputError, Ds01Error, NoSuchProjectError
from ds01_kernels.flows import Flows
from ds01_kernels.machine import available_memory
from ds01_kernels.projects import Project, valid_name
from ds01_kernels.settings import Settings
from ds01_kernels.workbench import Workbench

P = ParamSpec("P")
T = TypeVar("T")

#: The commands with which DS01 makes and removes containers.
WRAPPERS = (DEPLOY, RETIRE)

#: What a file system may hold that kernels need.
THE_PROJECT, THE_SOCKETS, THE_IMAGES = "the project", "the kernels' sockets", "the engine's images"

#: Seconds for a command in the container, and bytes that it may print.
COMMAND_LIMIT = 15.0
OUTPUT_LIMIT = 4096

_PREFIXES = """\
for python; do
    "$python" -I -c "import sys; print(sys.prefix, sys.version_info[:2])" || echo "cannot run"
done"""


@dataclass(frozen=True)
class Dockerfile:
    digest: str
    changed: datetime


@dataclass(frozen=True)
class Disk:
    """A file system with what lies on it; `free` in bytes, for this user."""

    holds: tuple[str, ...]
    path: Path
    free: int


@dataclass(frozen=True)
class Host:
    """This machine. `memory`: bytes that programs can still get; `wrappers`: DS01's commands on the PATH;
    `ds01`: those that make the containers, if they do, and `is_wrapped`: whether its docker may be DS01's."""

    sockets: Path | Ds01Error
    store: Path | Ds01Error
    disks: tuple[Disk, ...] = ()
    memory: int | None = None
    wrappers: tuple[str, ...] = ()
    ds01: Commands | None = None
    is_wrapped: bool = True


@dataclass(frozen=True)
class Inside:
    """A container that runs. `survey` is the agent's (`agent.survey.survey`), checked for its types only.

    `is_pips`: whether the survey's ``pip`` is the survey's interpreter, by whatever name; None when there is
    no ``pip``, or it is no script of a Python. `shares_sockets`: whether it sees the directory of the
    kernels' sockets; None where it was made without. `files`: why its project folder is not this machine's.
    """

    survey: Mapping[str, Any]
    kernels: int
    is_pips: bool | None = None
    shares_sockets: bool | None = True
    files: Ds01Error | None = None


@dataclass(frozen=True)
class Facts:
    """A `Ds01Error` stands where a look failed; None for what is not there, or could not be looked for.

    `nodes` are the machines of an engine that has several.
    """

    name: str
    project: Project | Ds01Error
    host: Host
    engine: EngineInfo | Ds01Error
    nodes: Sequence[NodeInfo] | Ds01Error = ()
    dockerfile: Dockerfile | Ds01Error | None = None
    is_writable: bool = True
    settings: Settings | Ds01Error | None = None
    missing_mounts: tuple[Path, ...] = ()
    image: ImageInfo | Ds01Error | None = None
    container: ContainerInfo | Ds01Error | None = None
    last_words: str = ""
    inside: Inside | Ds01Error | None = None


async def gather(workbench: Workbench, name: str) -> Facts:
    """To be awaited in the workbench's own loop. Raises `NoSuchProjectError` when there is no such folder."""
    project = await asyncio.to_thread(_project, workbench, name)
    known: dict[str, Any] = {}
    if isinstance(project, Project):
        known |= await asyncio.to_thread(_files, workbench, project)
    flows = await workbench.flows(project) if isinstance(project, Project) else workbench.all_flows.of_usual
    engine = await _attempt(flows.engine.info())
    if isinstance(engine, EngineInfo) and engine.name == "swarm":
        known["nodes"] = await _attempt(flows.engine.nodes())
    if isinstance(engine, EngineInfo) and isinstance(project, Project):
        known |= await _contained(flows, project, known["settings"])
    commands = _attempted(workbench.ds01_commands)
    host = await asyncio.to_thread(_host, project, engine)
    if isinstance(commands, Commands):
        is_wrapped = await asyncio.to_thread(lambda: commands.is_wrapper)
        host = replace(host, ds01=commands, is_wrapped=is_wrapped)
    return Facts(name=name, project=project, host=host, engine=engine, **known)


def _project(workbench: Workbench, name: str) -> Project | Ds01Error:
    try:
        return workbench.projects().get(name)
    except NoSuchProjectError as error:
        with suppress(Ds01Error, OSError):
            valid_name(name)
            if any((folder / name).is_dir() for folder in workbench.folders):
                return error
        raise
    except Ds01Error as error:
        return error


def _files(workbench: Workbench, project: Project) -> dict[str, Any]:
    settings = _attempted(workbench.settings, project)
    mounts = settings.mounts if isinstance(settings, Settings) else ()
    return {
        "dockerfile": _attempted(_dockerfile, project),
        "is_writable": os.access(project.path, os.W_OK | os.X_OK),
        "settings": settings,
        "missing_mounts": tuple(mount.source for mount in mounts if _is_missing(mount.source)),
    }


def _dockerfile(project: Project) -> Dockerfile:
    text = images.read_dockerfile(project)
    try:
        changed = project.dockerfile.stat().st_mtime
    except OSError as error:
        raise BadInputError(f"{project.dockerfile} cannot be read: {error.strerror}.") from error
    return Dockerfile(images.digest(text), datetime.fromtimestamp(changed, UTC))


def _is_missing(path: Path) -> bool:
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except OSError:
        # The engine may see what we may not.
        return False
    return False


# The engine's side


async def _contained(flows: Flows, project: Project, settings: Settings | Ds01Error) -> dict[str, Any]:
    engine = flows.engine
    found = await _attempt(containers.find(engine, project))
    known: dict[str, Any] = {
        "image": await _attempt(engine.image(project.image_name(os.getuid()))),
        "container": found,
    }
    if isinstance(found, ContainerInfo):
        if found.running:
            python = settings.python if isinstance(settings, Settings) else ""
            known["inside"] = await _attempt(_inside(flows, project, found, python))
        else:
            with suppress(Ds01Error):
                known["last_words"] = await engine.logs(found.id, 5)
    return known


async def _inside(flows: Flows, project: Project, info: ContainerInfo, python: str) -> Inside:
    survey, load = await flows.launcher.look(info, python)
    engine, pip = flows.engine, survey["pip"]
    is_pips = None
    if pip is not None and "py" in PurePosixPath(pip).name:
        is_pips = pip == survey["executable"]
        is_pips = is_pips or await _is_one_python(engine, info.id, survey["executable"], pip)
    shares_sockets = await _shares_sockets(engine, info)
    files = None
    if shares_sockets is None:
        async with flows.launcher.visit(info, python) as agent:
            files = await _attempt(elsewhere.check_files(project, info, agent))
    return Inside(survey, load.kernels, is_pips, shares_sockets, files)


async def _is_one_python(engine: Engine, container: str, one: str, other: str) -> bool:
    """Whether both names lead to one installation; packages belong to its prefix."""
    printed = await _output(engine, container, ["/bin/sh", "-c", _PREFIXES, "ds01", one, other])
    lines = printed.splitlines()
    return len(lines) == 2 and lines[0] == lines[1]


async def _shares_sockets(engine: Engine, info: ContainerInfo) -> bool | None:
    if containers.LABEL_SOCKETS not in info.labels:
        return None
    directory = SocketDirectory.recorded(info.labels.get(containers.LABEL_SOCKETS, ""))
    if directory is None or not directory.is_usable():
        return False
    try:
        name, content = directory.write_nonce()
    except OSError:
        return False
    try:
        return await _output(engine, info.id, ["cat", str(SOCKETS / name)]) == content
    finally:
        directory.remove_nonce(name)


async def _output(engine: Engine, container: str, argv: Sequence[str]) -> str:
    """What a command in the container prints; what it printed so far when it fails."""
    printed = b""
    with suppress(Ds01Error, OSError, TimeoutError):
        async with asyncio.timeout(COMMAND_LIMIT):
            stream = await engine.exec(container, argv)
            try:
                await stream.end_input()
                while len(printed) < OUTPUT_LIMIT and (data := await stream.read()):
                    printed += data
            finally:
                await stream.close()
    return printed[:OUTPUT_LIMIT].decode("utf-8", "replace")


# This machine


def _host(project: Project | Ds01Error, engine: EngineInfo | Ds01Error) -> Host:
    sockets, store = _attempted(_socket_directory), _attempted(ipykernel_store.store_root)
    places: list[tuple[str, Path]] = []
    if isinstance(project, Project):
        places.append((THE_PROJECT, project.path))
    if isinstance(sockets, Path):
        places.append((THE_SOCKETS, sockets))
    if isinstance(engine, EngineInfo) and engine.local and engine.data_root:
        places.append((THE_IMAGES, Path(engine.data_root)))
    return Host(
        sockets=sockets,
        store=store,
        disks=_disks(places),
        memory=available_memory(),
        wrappers=tuple(path for path in map(shutil.which, WRAPPERS) if path),
    )


def _socket_directory() -> Path:
    root = run_root()
    # It was found once, and may have been replaced since.
    try:
        check_private(root)
    except OSError as error:
        raise Ds01Error(
            f"The directory of the kernels' sockets, {root}, cannot be used: {error.strerror}.",
            remedy="It is made anew when the server is restarted.",
        ) from error
    return root


def _disks(places: Sequence[tuple[str, Path]]) -> tuple[Disk, ...]:
    """One for each file system; those that are not ours to enter are left out."""
    found: dict[int, Disk] = {}
    for what, path in places:
        with suppress(OSError):
            device = path.stat().st_dev
            holds = found[device].holds if device in found else ()
            found.setdefault(device, Disk((), path, shutil.disk_usage(path).free))
            found[device] = Disk((*holds, what), found[device].path, found[device].free)
    return tuple(found.values())


async def _attempt(look: Awaitable[T]) -> T | Ds01Error:
    try:
        return await look
    except Ds01Error as error:
        return error


def _attempted(look: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | Ds01Error:
    try:
        return look(*args, **kwargs)
    except Ds01Error as error:
        return error
