"""What a container needs that mounts nothing of this machine but the project, if that: its files checked, and
ipykernel brought there."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from .agent_client import Agent
from .containers import IPYKERNEL
from .engine import ContainerFile, ContainerInfo, Engine
from .errors import EngineError
from .projects import Project
from .variables import WORKSPACE

#: Stands in a copy of ipykernel that is complete.
_COMPLETE = ".complete"
#: Bytes of a file by which a folder is recognised where nothing can be written into it.
_BEGINNING = 100


async def check_files(project: Project, info: ContainerInfo, agent: Agent) -> None:
    """See that the container has the project's folder of this machine. Raises `EngineError`, `AgentError`."""
    mark = _Mark(project.path)
    try:
        name, content = await asyncio.to_thread(mark.set)
        seen = await agent.look(str(WORKSPACE / name))
    finally:
        await asyncio.to_thread(mark.remove)
    if seen != content:
        raise EngineError(
            f"{WORKSPACE} in {info.name} is not {project.path} of this machine: the engine runs where "
            "something else is at that path.",
            remedy="Have one file system at the same path on both machines (by NFS, for example), or use an "
            f"engine on this machine. Then `jupyter ds01 container-retire {project.name}`; the next kernel "
            "gets a new container.",
        )


class _Mark:
    """A file that is in the project's folder for a moment, by which the folder is recognised."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made = ""

    def set(self) -> tuple[str, str]:
        """Its name and content. Raises `EngineError`."""
        name, content = f".ds01-mark-{secrets.token_hex(8)}", secrets.token_hex(16)
        try:
            with _opened(self._folder) as folder:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                descriptor = os.open(name, flags, 0o644, dir_fd=folder)
                self._made = name
                with os.fdopen(descriptor, "w") as file:
                    file.write(content)
                return name, content
        except OSError:
            # It cannot be written to, or is full.
            return "Dockerfile", self._dockerfile()

    def _dockerfile(self) -> str:
        try:
            with _opened(self._folder) as folder:
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                with os.fdopen(os.open("Dockerfile", flags, dir_fd=folder), "rb") as file:
                    return file.read(_BEGINNING).decode("ascii", "replace")
        except OSError as error:
            raise EngineError(
                f"It cannot be seen whether the container has the files of {self._folder}: {error.strerror}."
            ) from error

    def remove(self) -> None:
        # Kernels in the container may have removed it, or moved the folder.
        with suppress(OSError):
            if self._made:
                with _opened(self._folder) as folder:
                    os.unlink(self._made, dir_fd=folder)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


async def bring_ipykernel(engine: Engine, agent: Agent, store: Path, name: str) -> None:
    """Have the copy of that name of `store` in the container, where the store is not mounted.

    Raises `AgentError` or `EngineError`.
    """
    place = IPYKERNEL / name
    if await agent.look(str(place / _COMPLETE)) == name:
        return
    await engine.write_files(agent.container, await asyncio.to_thread(_files, store / name, place))
    # Apart, since an archive may be taken in half.
    await engine.write_files(agent.container, [_file(place / _COMPLETE, name.encode())])


def _files(folder: Path, place: PurePosixPath) -> list[ContainerFile]:
    found = [ContainerFile(one, None, 0, 0, 0o755) for one in (place.parent.parent, place.parent)]
    for parent, _, names in os.walk(folder):
        inside = place / PurePosixPath(parent).relative_to(folder)
        found.append(ContainerFile(inside, None, 0, 0, 0o755))
        found += [_file(inside / name, Path(parent, name).read_bytes()) for name in names]
    return found


def _file(path: PurePosixPath, content: bytes) -> ContainerFile:
    return ContainerFile(path, content, 0, 0, 0o644)
