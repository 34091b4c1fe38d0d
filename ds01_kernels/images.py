"""A project's image: its Dockerfile, read safely, and the build."""

from __future__ import annotations

import asyncio
import hashlib
import os
import pwd
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

from .build_text import BuildText
from .containers import labels
from .engine import BuildProgress, BuildRequest, Engine
from .errors import BadInputError, BuildFailedError
from .project_files import read_text
from .projects import Project
from .text import clean, shown
from .variables import without_credentials

#: On images: the sha256 of the Dockerfile's text, to tell whether it was changed since.
LABEL_DOCKERFILE = "ds01-kernels.dockerfile"


async def build(
    engine: Engine,
    project: Project,
    *,
    text: str | None = None,
    tag: str = "",
    arguments: Mapping[str, str] | None = None,
    secrets: Mapping[str, Path] | None = None,
    files: Mapping[str, str] | None = None,
    no_cache: bool = False,
    pull: bool = False,
) -> AsyncIterator[BuildProgress]:
    """Build the project's image from its Dockerfile and tag it. Raises `BuildFailedError`, `BadInputError`.

    `text` takes the place of the Dockerfile, `files` of files beside it, `tag` of the image's own name. Of
    `arguments` the Dockerfile gets those that it declares, without passwords of package indexes, which belong
    into `secrets`; of these it gets the files that it asks for by their ids. In each value, `log` is what a
    person reads: a heading for each step, and its output.
    """
    text = await asyncio.to_thread(read_dockerfile, project) if text is None else text
    request = BuildRequest(
        directory=project.path,
        dockerfile=text,
        tag=tag or project.image_name(os.getuid()),
        args=_declared(text, {**(arguments or {}), **_user_arguments()}),
        labels={**labels(project), LABEL_DOCKERFILE: digest(text)},
        files=files or {},
        secrets=_mentioned(text, secrets or {}),
        no_cache=no_cache,
        pull=pull,
    )
    shown_text = BuildText()
    try:
        async with aclosing(engine.build(request)) as progress:  # type: ignore[type-var]
            async for value in progress:
                yield replace(value, log=shown_text.of(value))
    except BuildFailedError as error:
        raise _with_line(error, text) from error


def _with_line(error: BuildFailedError, text: str) -> BuildFailedError:
    """The same, with the Dockerfile's line, unless an instruction is quoted, with the reason that its command
    gave, and with something to do."""
    lines = text.splitlines()
    message, line = str(error), error.line
    if line is not None and 0 < line <= len(lines) and "`" not in message:
        message += f" Line {line} is `{shown(lines[line - 1].strip(), 100)}`."
    if "exit code" in message and (words := _last_words(error.log)):
        message += f" It said: {shown(words.rstrip('.'), 300)}."
    where = f"line {line} of the Dockerfile" if line else "the Dockerfile"
    remedy = error.remedy or f"Correct {where}, then try again."
    return BuildFailedError(message, remedy=remedy, line=line, log=error.log)


def _last_words(log: str) -> str:
    """What a command gave as its reason, as pip does, or else its last line.."""
    said = [line.strip() for line in clean(log, colours=False).splitlines() if line.strip()][1:]
    errors = [line.removeprefix("ERROR:").strip() for line in said if line.startswith("ERROR:")]
    return (errors or said or [""])[-1]


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


def beside(reference: str, tag: str) -> str:
    """The name of another image of the same repository."""
    repository, colon, last = reference.rpartition(":")
    return f"{repository if colon and '/' not in last else reference}:{tag}"


def digest(dockerfile: str) -> str:
    """What `LABEL_DOCKERFILE` says for that text."""
    return hashlib.sha256(dockerfile.encode()).hexdigest()


def _user_arguments() -> dict[str, str]:
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = "user"
    return {"DS01_USER_ID": str(os.getuid()), "DS01_GROUP_ID": str(os.getgid()), "DS01_USERNAME": name}


def _mentioned(dockerfile: str, secrets: Mapping[str, Path]) -> dict[str, Path]:
    """Those that the Dockerfile asks for: not every builder can take any.

    https://docs.docker.com/reference/dockerfile/#run---mounttypesecret
    """
    options = [one.split(",") for one in re.findall(r"--mount=(\S+)", dockerfile)]
    asked = {
        value
        for words in options
        if "type=secret" in words
        for name, _, value in (word.partition("=") for word in words)
        if name == "id"
    }
    return {name: path for name, path in secrets.items() if name in asked}


def _declared(dockerfile: str, arguments: dict[str, str]) -> dict[str, str]:
    """Those of the arguments that the Dockerfile declares: the engine complains of others."""
    found = set(re.findall(r"^\s*ARG\s+(\w+)", dockerfile, re.MULTILINE | re.IGNORECASE))
    return {name: _public(name, value) for name, value in arguments.items() if name in found}


def _public(name: str, value: str) -> str:
    # Arguments stay in the image's history, for everybody who may use the engine.
    if not name.upper().endswith("INDEX_URL"):
        return value
    return " ".join(without_credentials(url) for url in value.split())
