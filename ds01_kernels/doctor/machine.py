"""What the machine has left, and what else is on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ds01_kernels.doctor.facts import THE_IMAGES, THE_PROJECT, THE_SOCKETS, Disk, Facts, Inside
from ds01_kernels.doctor.finding import Finding, failed, size
from ds01_kernels.ds01_host import Commands
from ds01_kernels.engine import EngineInfo
from ds01_kernels.errors import Ds01Error
from ds01_kernels.settings import Settings

#: Bytes that have to be free for what lies on a disk to work, and below which there is trouble soon.
NEEDS = {THE_PROJECT: 64 << 20, THE_SOCKETS: 1 << 20, THE_IMAGES: 1 << 30}
LOW_DISK = 1 << 30

#: Bytes of memory that a container takes whose kernel has done nothing yet, and a kernel with numpy.
LEAST_MEMORY, LOW_MEMORY = 128 << 20, 512 << 20


def disk(facts: Facts) -> Iterator[Finding]:
    for found in facts.host.disks:
        message = f"{size(found.free)} are free at {found.path}, the place of {_listed(found)}."
        is_full = found.free < max(NEEDS[what] for what in found.holds)
        # Sockets take no room: a small file system is right for them.
        if not is_full and (found.free >= LOW_DISK or found.holds == (THE_SOCKETS,)):
            yield Finding("disk", "ok", message)
            continue
        remedy = "Remove what is not needed."
        if THE_IMAGES in found.holds:
            remedy += " `docker system df` shows what images take, `docker image prune` removes unused ones."
        yield Finding("disk", "error" if is_full else "warning", message, remedy)


def _listed(found: Disk) -> str:
    *others, last = found.holds
    return f"{', '.join(others)} and {last}" if others else last


def memory(facts: Facts) -> Iterator[Finding]:
    engine, available = facts.engine, facts.host.memory
    limit = facts.settings.memory if isinstance(facts.settings, Settings) else None
    if isinstance(engine, EngineInfo) and limit and engine.memory and limit > engine.memory:
        message = (
            f"The limit of {size(limit)} is more than the {size(engine.memory)} of the engine's machine."
        )
        yield Finding("memory", "warning", message, "Set `memory` lower: as it is, it protects nobody.")
    if limit and limit < LEAST_MEMORY:
        message = f"The limit of {size(limit)} is less than a container with one kernel takes."
        yield Finding("memory", "error", message, f"Set `memory` to {size(LOW_MEMORY)} or more.")
        return
    if available is None or (isinstance(engine, EngineInfo) and not engine.local):
        return
    of = f"; the container may use {size(limit)}" if limit else ""
    message = f"{size(available)} of memory are available on this machine{of}."
    shut = "Shut down kernels that are not needed; `jupyter ds01 list` shows the containers."
    if available < LOW_MEMORY:
        yield Finding("memory", "error" if available < LEAST_MEMORY else "warning", message, shut)
    elif limit and available < limit:
        yield Finding("memory", "notice", message, shut)
    else:
        yield Finding("memory", "ok", message)


def sockets(facts: Facts) -> Iterator[Finding]:
    if isinstance(facts.host.sockets, Ds01Error):
        yield failed("sockets", facts.host.sockets)
    elif _is_apart(facts):
        message = (
            "The container shares no directory with this machine for the kernels' sockets: their messages go "
            "through the connection to the engine."
        )
        yield Finding("sockets", "ok", message)
    elif isinstance(facts.inside, Inside) and not facts.inside.shares_sockets:
        message = (
            "The container does not see the directory of the kernels' sockets: it was removed or replaced."
        )
        remedy = (
            f"`jupyter ds01 container-retire {facts.name} --force`; the next kernel makes a new container."
        )
        yield Finding("sockets", "error", message, remedy)
    else:
        shared = ", and the container sees its own part of it" if isinstance(facts.inside, Inside) else ""
        message = f"The directory of the kernels' sockets, {facts.host.sockets}, is private{shared}."
        yield Finding("sockets", "ok", message)


def _is_apart(facts: Facts) -> bool:
    if isinstance(facts.inside, Inside):
        return facts.inside.shares_sockets is None
    return isinstance(facts.engine, EngineInfo) and not facts.engine.local


def ds01(facts: Facts) -> Iterator[Finding]:
    host = facts.host
    if host.ds01 is not None:
        yield from _beside_ds01(facts, host.ds01)
    elif len(host.wrappers) == 1:
        message = f"Of DS01's commands only {host.wrappers[0]} is on the PATH, so they make no containers."
        remedy = "Correct the PATH of the server, or name both commands in the settings."
        yield Finding("ds01", "warning", message, remedy)
    elif host.wrappers:
        message = (
            f"DS01 is installed on this machine ({', '.join(host.wrappers)}), and the settings keep its "
            "commands from making the containers: it knows nothing of their GPUs."
        )
        remedy = "Take Workbench.deploy_command and Workbench.retire_command out of the settings."
        yield Finding("ds01", "notice", message, remedy)


def _beside_ds01(facts: Facts, commands: Commands) -> Iterator[Finding]:
    if not commands.docker:
        message = "There is no docker on the PATH: with DS01, what changes containers goes through its own."
        yield Finding("ds01", "error", message, "Start the server with the PATH that you have in a terminal.")
        return
    found = f"{commands.deploy}, {commands.retire} and {commands.docker}"
    message = f"DS01 makes and removes the containers here, with {found}."
    settings = facts.settings
    unused = []
    if isinstance(settings, Settings):
        usual = Settings(shm_size=settings.shm_size)
        names = ("memory", "cpus", "pids_limit", "network", "mounts")
        unused = [name for name in names if getattr(settings, name) != getattr(usual, name)]
    if unused:
        message += f" It decides on {', '.join(unused)}: what the settings say of that is of no effect."
    yield Finding("ds01", "notice", message)


def host_python(facts: Facts, notebooks: Sequence[str]) -> Iterator[Finding]:
    for notebook in notebooks:
        message = f"The notebook {notebook} runs on the host's Python, not in the container."
        yield Finding("host-python", "error", message, f"Pick the kernel '{facts.name} (container)' for it.")
