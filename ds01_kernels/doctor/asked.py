"""The project, what it asks for, and the engine that is to give it."""

from __future__ import annotations

from collections.abc import Iterator

from ds01_kernels.doctor.facts import Facts
from ds01_kernels.doctor.finding import Finding, failed, size
from ds01_kernels.engine import EngineInfo, GpuRequest
from ds01_kernels.errors import Ds01Error
from ds01_kernels.projects import Project
from ds01_kernels.settings import Settings


def project(facts: Facts) -> Iterator[Finding]:
    for found in (facts.project, facts.dockerfile):
        if isinstance(found, Ds01Error):
            yield failed("project", found)
            return
    assert isinstance(facts.project, Project)
    path = facts.project.path
    if facts.is_writable:
        yield Finding("project", "ok", f"{path} is a project.")
    else:
        message = f"You cannot write to {path}, so neither can its kernels."
        yield Finding("project", "warning", message, "Ask its owner, or copy the folder.")


def settings(facts: Facts) -> Iterator[Finding]:
    if isinstance(facts.settings, Ds01Error):
        yield failed("settings", facts.settings)
    elif facts.settings is not None:
        limits = {
            "memory": facts.settings.memory and size(facts.settings.memory),
            "CPUs": facts.settings.cpus and f"{facts.settings.cpus:g}",
            "shared memory": facts.settings.shm_size and size(facts.settings.shm_size),
            "processes": facts.settings.pids_limit,
        }
        shown = ", ".join(f"{name} {limit}" for name, limit in limits.items() if limit)
        yield Finding("settings", "ok", f"Limits of the container: {shown or 'none'}.")


#: What an engine cannot do that is of interest where it is asked for: see `limits` and `gpus`.
_TOLD_WHERE_ASKED = ("memory", "cpus", "pids", "gpus")


def engine(facts: Facts) -> Iterator[Finding]:
    found = facts.engine
    if isinstance(found, Ds01Error):
        yield failed("engine", found)
        return
    where = "on this machine" if found.local else "elsewhere"
    kind = ", rootless or with remapped users" if found.rootless else ""
    message = f"{found.name} {found.version} answers, {where}{kind}."
    wanted = facts.settings.engine if isinstance(facts.settings, Settings) else "auto"
    if wanted not in ("auto", found.name):
        message = f"The project wants {wanted}, but {message}"
        remedy = "Take `engine` out of [tool.ds01], or have the administrator allow it: "
        remedy += "Workbench.engines_allowed."
        yield Finding("engine", "error", f"{message} {found.why}".strip(), remedy)
        return
    yield Finding("engine", "ok", f"{message} {found.why}".strip())
    for sentence in (found.cannot[key] for key in found.cannot if key not in _TOLD_WHERE_ASKED):
        yield Finding("engine", "notice", sentence)


def limits(facts: Facts) -> Iterator[Finding]:
    """What the engine would refuse, or drop without a word."""
    wanted, host = facts.settings, facts.engine
    if not isinstance(wanted, Settings) or not isinstance(host, EngineInfo):
        return
    # Of several machines each has its own: see `placed`.
    if wanted.cpus and host.cpus and wanted.cpus > host.cpus and not facts.nodes:
        message = (
            f"{wanted.cpus:g} CPUs are set, but the engine has {host.cpus} and refuses such a container."
        )
        yield Finding("limits", "error", message, f"Set `cpus` to {host.cpus} or less.")
    for path in facts.missing_mounts if host.local else ():
        message = f"The folder {path} is to be mounted into the container, and does not exist."
        yield Finding("limits", "error", message, "Make it, or take it out of Workbench.mounts.")
    if (wanted.node or wanted.constraints) and host.name in ("docker", "podman"):
        message = f"The project is to run on a certain node, and {host.name} has one machine: nothing starts."
        remedy = "Take `node` and `constraints` out of [tool.ds01], or use Docker Swarm."
        yield Finding("limits", "error", message, remedy)
    asked = {"memory": wanted.memory, "cpus": wanted.cpus, "pids": wanted.pids_limit}
    for key in (key for key, limit in asked.items() if limit and key in host.cannot):
        message = f"{host.cannot[key]} The limit that is set has no effect."
        yield Finding("limits", "warning", message, "Ask the administrator.")


def gpus(facts: Facts) -> Iterator[Finding]:
    wanted, host = facts.settings, facts.engine
    if not isinstance(wanted, Settings) or not isinstance(host, EngineInfo):
        return
    if host.deployer:
        asked = "1 GPU" if wanted.gpus is None else _words(wanted.gpus) if wanted.gpus else "no GPU"
        yield Finding("gpus", "ok", f"DS01 is asked for {asked}.")
    elif not wanted.gpus:
        yield Finding("gpus", "ok", "No GPUs are asked for.")
    elif "gpus" in host.cannot:
        yield Finding(
            "gpus",
            "error",
            f"The settings ask for {_words(wanted.gpus)}. {host.cannot['gpus']}",
            "Ask for no GPUs, or use Docker."
            if host.name == "podman"
            else "Ask the administrator to set up the NVIDIA Container Toolkit, or ask for no GPUs.",
        )
    else:
        runtimes = f" (its runtimes: {', '.join(host.runtimes)})" if host.runtimes else ""
        message = f"The settings ask for {_words(wanted.gpus)}, and the engine can give GPUs{runtimes}."
        yield Finding("gpus", "ok", message)


def _words(request: GpuRequest) -> str:
    if request.ids:
        return f"the GPU{'s' if len(request.ids) > 1 else ''} {', '.join(request.ids)}"
    if request.count < 0:
        return "all GPUs"
    return "1 GPU" if request.count == 1 else f"{request.count} GPUs"
