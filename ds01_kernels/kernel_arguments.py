"""What a kernel is started with beyond its variables: ipykernel's arguments, and the folder."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from .projects import Project
from .variables import WORKSPACE


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
