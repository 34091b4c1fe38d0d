"""A project's image: its Dockerfile, read safely, and the build."""

from __future__ import annotations

import hashlib
import os
import pwd
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing

from .containers import labels
from .engine import BuildProgress, BuildRequest, Engine
from .errors import BadInputError
from .project_files import read_text
from .projects import Project

#: On images: the sha256 of the Dockerfile's text, to tell whether it was changed since.
LABEL_DOCKERFILE = "ds01-kernels.dockerfile"


async def build(
    engine: Engine,
    project: Project,
    *,
    arguments: Mapping[str, str] | None = None,
    no_cache: bool = False,
    pull: bool = False,
) -> AsyncIterator[BuildProgress]:
    """Build the project's image from its Dockerfile and tag it. Raises `BuildFailedError`, `BadInputError`.

    Of `arguments` the Dockerfile gets those that it declares.
    """
    text = read_dockerfile(project)
    request = BuildRequest(
        directory=project.path,
        dockerfile=text,
        tag=project.image_name(os.getuid()),
        args=_declared(text, {**(arguments or {}), **_user_arguments()}),
        labels={**labels(project), LABEL_DOCKERFILE: digest(text)},
        no_cache=no_cache,
        pull=pull,
    )
    async with aclosing(engine.build(request)) as progress:  # type: ignore[type-var]
        async for value in progress:
            yield value


def read_dockerfile(project: Project) -> str:
    """The Dockerfile's text.

    Raises `BadInputError` when it is missing, leads out of the project, is too large, or is no text.
    """
    text = read_text(project, "Dockerfile")
    if text is None:
        raise BadInputError(f"There is no Dockerfile in {project.path}.", remedy="Make one, or restore it.")
    if not text.strip():
        raise BadInputError(
            f"{project.dockerfile} is empty.",
            remedy="Its first line names the image to start from: FROM ds01/base:latest.",
        )
    return text


def digest(dockerfile: str) -> str:
    """What `LABEL_DOCKERFILE` says for that text."""
    return hashlib.sha256(dockerfile.encode()).hexdigest()


def _user_arguments() -> dict[str, str]:
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = "user"
    return {"DS01_USER_ID": str(os.getuid()), "DS01_GROUP_ID": str(os.getgid()), "DS01_USERNAME": name}


def _declared(dockerfile: str, arguments: dict[str, str]) -> dict[str, str]:
    """Those of the arguments that the Dockerfile declares: the engine complains of others."""
    found = set(re.findall(r"^\s*ARG\s+(\w+)", dockerfile, re.MULTILINE | re.IGNORECASE))
    return {name: value for name, value in arguments.items() if name in found}
