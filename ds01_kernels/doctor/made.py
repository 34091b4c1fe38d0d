"""What was made from the project: its image and its container."""

from __future__ import annotations

from collections.abc import Iterator

from ds01_kernels.containers import outdated
from ds01_kernels.doctor.facts import Dockerfile, Facts, Inside
from ds01_kernels.doctor.finding import Finding, Level, failed, moment
from ds01_kernels.engine import ContainerInfo, EngineInfo, ImageInfo
from ds01_kernels.errors import Ds01Error
from ds01_kernels.images import LABEL_DOCKERFILE
from ds01_kernels.settings import Settings

_INSTALL_PYTHON = (
    "Add a line to the Dockerfile that installs it, for example "
    "`RUN apt-get update && apt-get install -y python3 python-is-python3`, and build it again."
)


def image(facts: Facts) -> Iterator[Finding]:
    found = facts.image
    build = f"Build it with `jupyter ds01 image-update {facts.name}`."
    if isinstance(found, Ds01Error):
        yield failed("image", found)
    elif found is not None:
        yield _as_the_dockerfile_says(found, facts.dockerfile, build)
    elif isinstance(facts.engine, EngineInfo) and isinstance(facts.dockerfile, Dockerfile):
        if isinstance(facts.container, ContainerInfo):
            message = "The image is gone; the container that was made from it still stands."
            yield Finding("image", "error", message, build)
        else:
            yield Finding("image", "error", "The image has not been built yet.", build)


def _as_the_dockerfile_says(
    found: ImageInfo, dockerfile: Dockerfile | Ds01Error | None, build: str
) -> Finding:
    built = moment(found.created)
    if not isinstance(dockerfile, Dockerfile):
        return Finding("image", "ok", f"The image was built at {built}.")
    if known := found.labels.get(LABEL_DOCKERFILE):
        if known == dockerfile.digest:
            return Finding("image", "ok", f"The image is what the Dockerfile says; it was built at {built}.")
        message = f"The Dockerfile was changed after the image was built from it, at {built}."
        return Finding("image", "error", message, build)
    if found.created < dockerfile.changed:
        # An engine that had every step in its cache gives the image its old date: this is no proof.
        message = (
            f"The image is of {built}, the Dockerfile of {moment(dockerfile.changed)}: it may be outdated."
        )
        return Finding("image", "error", message, build)
    return Finding("image", "ok", f"The image, built at {built}, is newer than the Dockerfile.")


def container(facts: Facts) -> Iterator[Finding]:
    info = facts.container
    if isinstance(info, Ds01Error):
        yield failed("container", info)
    elif info is not None:
        yield _state(facts, info)
        yield from _age(facts, info)
    elif isinstance(facts.image, ImageInfo):
        message = (
            "There is no container yet. The first kernel makes it; only then is seen what the image holds."
        )
        remedy = f"To have it now: `jupyter ds01 container-deploy {facts.name}`."
        yield Finding("container", "notice", message, remedy)


def _state(facts: Facts, info: ContainerInfo) -> Finding:
    if info.running:
        where = f" on the node {info.node}" if info.node else ""
        return Finding("container", "ok", f"The container {info.name} runs{where}.")
    if info.state == "paused":
        message = f"The container {info.name} is paused."
        return Finding("container", "error", message, f"`docker unpause {info.name}` wakes it.")
    if info.problem:
        message = f"The container {info.name} does not run. {info.problem} The next kernel gets another one."
        return Finding("container", "notice", message)
    if info.state in ("dead", "removing", "restarting"):
        message = f"The container {info.name} is {info.state}."
        remedy = f"If it stays so, remove it: `jupyter ds01 container-retire {facts.name} --force`."
        return Finding("container", "error", message, remedy)
    # Said by the shell that looks for the holder's interpreter (`agent_stream.find_python`).
    if info.exit_code == 127 and "no Python" in facts.last_words:
        return Finding("python", "error", "There is no Python in this project's image.", _INSTALL_PYTHON)
    if info.oom_killed:
        message = f"The container {info.name} ran out of memory and ended; the next kernel starts it again."
        return Finding("container", "warning", message, "Use less memory, or raise `memory` in the settings.")
    code = f" (exit code {info.exit_code})" if info.exit_code else ""
    said = f" Its last words: {facts.last_words}" if facts.last_words.strip() else ""
    message = f"The container {info.name} is stopped{code}; the next kernel starts it.{said}"
    return Finding(
        "container", "notice", message, f"To have it now: `jupyter ds01 container-deploy {facts.name}`."
    )


def _age(facts: Facts, info: ContainerInfo) -> Iterator[Finding]:
    image = facts.image if isinstance(facts.image, ImageInfo) else None
    settings = facts.settings if isinstance(facts.settings, Settings) else None
    other = outdated(info, image, settings)
    if not other:
        return
    message = f"The container {info.name} was made {_AGES[other]} now."
    if not info.running or (isinstance(facts.inside, Inside) and not facts.inside.kernels):
        yield Finding("container", "notice", message, "The next kernel gets a new one by itself.")
        return
    remedy = "Shut its kernels down: the next gets a new one, without what was installed at run time."
    # An agent that does not answer is the cause then: it cannot be asked for kernels.
    level: Level = "error" if isinstance(facts.inside, Inside) else "warning"
    yield Finding("container", level, message, remedy)


_AGES = {
    ("image",): "from another image than there is",
    ("settings",): "with other settings than there are",
    ("image", "settings"): "from another image and with other settings than there are",
}
