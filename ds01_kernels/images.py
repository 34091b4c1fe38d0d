"""A project's image: its Dockerfile, read safely, and the build."""

from __future__ import annotations

import errno
import os
import pwd
import re
import stat
from collections.abc import AsyncIterator
from contextlib import aclosing

from .containers import labels
from .engine import BuildProgress, BuildRequest, Engine
from .errors import BadInputError
from .projects import Project

#: Bytes; a Dockerfile of more is a mistake.
DOCKERFILE_LIMIT = 1 << 20


async def build(
    engine: Engine, project: Project, *, no_cache: bool = False, pull: bool = False
) -> AsyncIterator[BuildProgress]:
    """Build the project's image from its Dockerfile and tag it. Raises `BuildFailedError`,
    `BadInputError`."""
    text = read_dockerfile(project)
    request = BuildRequest(
        directory=project.path,
        dockerfile=text,
        tag=project.image_name(os.getuid()),
        args=_declared(text, _user_arguments()),
        labels=labels(project),
        no_cache=no_cache,
        pull=pull,
    )
    async with aclosing(engine.build(request)) as progress:  # type: ignore[type-var]
        async for value in progress:
            yield value


def read_dockerfile(project: Project) -> str:
    """The Dockerfile's text. Raises `BadInputError`: missing, leading out of the project, too large, not
    text."""
    descriptor = _open_within(project)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BadInputError(
                f"{project.dockerfile} is not a regular file.", remedy="Replace it by a text file."
            )
        content = file.read(DOCKERFILE_LIMIT + 1)
    if len(content) > DOCKERFILE_LIMIT:
        raise BadInputError(
            f"{project.dockerfile} is larger than 1 MiB.", remedy="Is it really a Dockerfile?"
        )
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise BadInputError(
            f"{project.dockerfile} is not a text file.", remedy="A Dockerfile is text in UTF-8."
        )
    if not text.strip():
        raise BadInputError(
            f"{project.dockerfile} is empty.",
            remedy="Its first line names the image to start from: FROM ds01/base:latest.",
        )
    return text


def _open_within(project: Project) -> int:
    """Open the Dockerfile below the project's own descriptor, so that what is checked is what is read."""
    folder = os.open(project.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            return os.open(
                "Dockerfile", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder
            )
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
        target = os.path.relpath(os.path.realpath(project.dockerfile), project.path)
        if target.startswith(".."):
            raise BadInputError(
                f"{project.dockerfile} is a link that leads out of the project.",
                remedy="Replace it by a copy of the file.",
            )
        return os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        raise BadInputError(f"{project.dockerfile} cannot be read: {error.strerror}.") from None
    finally:
        os.close(folder)


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
