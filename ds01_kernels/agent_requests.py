"""Who asks something of an agent, for what kernel, and how long it is waited for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from .agent_stream import CONNECT_LIMIT
from .projects import Project
from .variables import WORKSPACE


@dataclass(frozen=True)
class Limits:
    """Seconds: to reach the agent, for its answer to a call, for a kernel process to bind its sockets, for
    our last words to get through; and between attempts to reach the agent again.
    """

    connect: float = CONNECT_LIMIT
    call: float = 90.0
    ready: float = 60.0
    goodbye: float = 2.0
    pause: float = 0.5


USUAL = Limits()


@dataclass(frozen=True)
class Identity:
    """Who a process is to the agents it talks to.

    `owner` outlives the process (the server on that host and port): its next holder ends this one's kernels.
    Empty: nobody succeeds it. `grace` is in seconds.
    """

    id: str
    owner: str
    grace: float


@dataclass(frozen=True)
class KernelRequest:
    """A kernel process to be started. `cwd` is a path in the container; `arguments` go to ipykernel.

    `notice` is one line that its first cell is to say.
    """

    process: str
    cwd: str
    env: Mapping[str, str]
    files: Mapping[str, str]
    connection: Mapping[str, Any]
    arguments: Sequence[str] = ()
    notice: str = ""


def ipykernel_arguments(argv: list[str]) -> list[str]:
    """What a kernelspec's argv passes to ipykernel itself, without the connection file."""
    rest = argv[argv.index("-m") + 2 :] if "-m" in argv else argv[1:]
    kept: list[str] = []
    for argument in rest:
        if argument == "{connection_file}":
            if kept and kept[-1] == "-f":
                kept.pop()
        else:
            kept.append(argument)
    return kept


def inside_cwd(project: Project, cwd: str | os.PathLike[str] | None) -> PurePosixPath:
    """The notebook's folder as the container sees it; the project's own when the notebook lies elsewhere.

    Without `cwd` it is this process's own folder, as a kernel on the host inherits it: papermill counts on
    that.
    """
    try:
        real = Path(cwd or ".").resolve()
    except OSError:  # our own folder was removed
        return WORKSPACE
    return WORKSPACE / real.relative_to(project.path) if real.is_relative_to(project.path) else WORKSPACE


def host_path(project: Project, cwd: PurePosixPath, path: str) -> str | None:
    """This machine's path of a file that a kernel in `cwd` names, when it lies in the project."""
    if path.startswith("~"):
        return None
    place = PurePosixPath(os.path.normpath(cwd / path))
    if not place.is_relative_to(WORKSPACE):
        return None
    host = project.path / place.relative_to(WORKSPACE)
    # A link that the kernel made to /etc means the container's there, and would mean ours here.
    try:
        within = host.resolve().is_relative_to(project.path)
    except (OSError, RuntimeError, ValueError):
        return None
    return str(host) if within and host.exists() else None
