"""What kernels find in the container: the interpreter, pip, ipykernel, the user."""

from __future__ import annotations

import os
from collections.abc import Iterator

from ds01_kernels import ipykernel_store
from ds01_kernels.account import person_in
from ds01_kernels.doctor.facts import Facts, Inside
from ds01_kernels.doctor.finding import Finding, failed
from ds01_kernels.engine import EngineInfo
from ds01_kernels.errors import Ds01Error, NoPythonError
from ds01_kernels.projects import Project
from ds01_kernels.settings import Settings
from ds01_kernels.variables import WORKSPACE

USUAL = "/usr/bin/python"


def agent(facts: Facts) -> Iterator[Finding]:
    if isinstance(facts.inside, Ds01Error):
        yield failed("python" if isinstance(facts.inside, NoPythonError) else "agent", facts.inside)
    elif facts.inside is not None:
        count = facts.inside.kernels
        yield Finding(
            "agent", "ok", f"The agent answers; {count} kernel{' runs' if count == 1 else 's run'}."
        )


def files(facts: Facts) -> Iterator[Finding]:
    if not isinstance(facts.inside, Inside):
        return
    if facts.inside.files is not None:
        yield failed("files", facts.inside.files)
    elif facts.inside.shares_sockets is None:
        yield Finding("files", "ok", f"{WORKSPACE} in the container is the project's folder of this machine.")


def python(facts: Facts) -> Iterator[Finding]:
    if not isinstance(facts.inside, Inside):
        return
    survey = facts.inside.survey
    executable, version = survey["executable"], ".".join(map(str, survey["version"]))
    wanted = facts.settings.python if isinstance(facts.settings, Settings) else ""
    message = f"Kernels use {_short(executable)}, Python {version}"
    if wanted and executable != wanted:
        remedy = (
            "Install it in the image, or correct `python` in the settings; then remove the container: "
            f"`jupyter ds01 container-retire {facts.name}`."
        )
        yield Finding("python", "error", f"{message}, not {wanted}, which the settings name.", remedy)
    elif executable == USUAL:
        yield Finding("python", "ok", f"{message}.")
    elif wanted:
        yield Finding("python", "notice", f"{message}, since the settings name it.")
    else:
        remedy = "To have that one, install python-is-python3 in the Dockerfile."
        yield Finding("python", "notice", f"{message}, since the image has no {USUAL}.", remedy)


def pip(facts: Facts) -> Iterator[Finding]:
    if not isinstance(facts.inside, Inside):
        return
    owner, executable = facts.inside.survey["pip"], _short(facts.inside.survey["executable"])
    if owner is None:
        remedy = "Install python3-pip in the Dockerfile."
        yield Finding("pip", "notice", "There is no `pip` command in the container.", remedy)
    elif facts.inside.is_pips:
        yield Finding("pip", "ok", f"`pip` installs for {executable}.")
    elif facts.inside.is_pips is False:
        yield Finding(
            "pip",
            "error",
            f"`pip` in the container belongs to {_short(owner)}, but kernels use {executable}: "
            "what it installs cannot be imported.",
            f"Use `%pip install` in a cell, or `{executable} -m pip install` in a terminal; "
            "or set `python` to the interpreter that has the packages.",
        )


def ipykernel(facts: Facts) -> Iterator[Finding]:
    if isinstance(facts.host.store, Ds01Error):
        yield failed("ipykernel", facts.host.store)
    if not isinstance(facts.inside, Inside):
        return
    version = facts.inside.survey["ipykernel"]
    if version is None:
        yield Finding("ipykernel", "ok", "The image has no ipykernel; a copy from the server stands in.")
    elif ipykernel_store.is_sufficient(version, curve=False):
        yield Finding("ipykernel", "ok", f"The image has ipykernel {_short(version)}.")
    else:
        yield Finding(
            "ipykernel",
            "notice",
            f"The image's ipykernel {_short(version)} is older than {ipykernel_store.MINIMUM}; "
            "a copy from the server is used in its place.",
            "Update it in the Dockerfile.",
        )


def user(facts: Facts) -> Iterator[Finding]:
    if not isinstance(facts.engine, EngineInfo) or not isinstance(facts.project, Project):
        return
    person = person_in(facts.engine)
    if isinstance(facts.inside, Inside) and (seen := facts.inside.survey["user"]) != person.uid:
        message = f"The container runs as uid {seen}, not as {person.uid}: what kernels write is not yours."
        remedy = f"Remove it: `jupyter ds01 container-retire {facts.name}`; the next kernel makes a new one."
        yield Finding("user", "error", message, remedy)
        return
    how = ", which the engine maps to you" if facts.engine.rootless else ""
    message = f"Kernels run as {person.name} ({person.uid}:{person.gid}{how}); what they write in {WORKSPACE}"
    yield Finding("user", "ok", f"{message} belongs to uid {os.getuid()} on this machine.")


def _short(text: str) -> str:
    """A container may call its interpreter anything."""
    return text if len(text) <= 200 else f"{text[:200]}…"
