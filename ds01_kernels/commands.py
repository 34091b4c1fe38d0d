"""The verbs of the command line, one function each: ask, print, return the exit code."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

from jupyter_core.paths import jupyter_data_dir

from . import base_image as base
from . import container_jobs, containers, creating, doctor, kernelspecs
from . import status as statuses
from .doctor.finding import size
from .errors import Ds01Error, NotFoundError
from .nodes import nodes
from .printing import print_json, print_table
from .projects import valid_name
from .terminal import attach
from .text import clean
from .variables import select
from .waiting import for_room
from .workbench import Workbench

Command = Callable[[Workbench, argparse.Namespace], int | None]


def list_projects(workbench: Workbench, arguments: argparse.Namespace) -> None:
    found = asyncio.run(statuses.all_statuses(workbench))
    if arguments.json:
        print_json([project.as_json() for project in found])
        return
    if not found:
        folders = ", ".join(map(str, workbench.folders))
        print(f"There are no projects in {folders}. Make one with `jupyter ds01 init NAME`.")
        return
    print_table(
        ("PROJECT", "CONTAINER", "STATE", "KERNEL", "PATH"),
        ((p.name, p.container or "-", _state(p), p.kernel_name or "-", p.path) for p in found),
    )
    for sentence in dict.fromkeys(project.error for project in found if project.error):
        print(clean(sentence, colours=False), file=sys.stderr)
    for project in found:
        if project.lost:
            print(_offer(project.name), file=sys.stderr)


def _state(project: statuses.ProjectStatus) -> str:
    return f"{project.state or '-'} on {project.node}" if project.node else project.state or "-"


def status(workbench: Workbench, arguments: argparse.Namespace) -> None:
    details = asyncio.run(statuses.details(workbench, arguments.project)).as_json()
    if arguments.json:
        print_json(details)
        return
    for key, value in details.items():
        if value not in (None, {}):
            shown = json.dumps(value) if isinstance(value, dict) else value
            print(f"{key + ':':14}{clean(str(shown), colours=False)}")
    if details["lost"]:
        print(_offer(arguments.project), file=sys.stderr)


def list_nodes(workbench: Workbench, arguments: argparse.Namespace) -> None:
    of_each = workbench.call(workbench.on_each_engine(lambda flows: nodes(flows.engine)))
    found = [node for some in of_each for node in some]
    if arguments.json:
        print_json([node.as_json() for node in found])
        return
    print_table(
        ("NODE", "ENGINE", "CONTAINERS", "FREE CPUS", "FREE MEMORY", "FREE GPUS"),
        (
            (
                clean(node.name, colours=False),
                f"{node.engine} {node.version}",
                str(node.containers),
                f"{node.free_cpus:g} of {node.cpus}",
                f"{size(node.free_memory)} of {size(node.memory)}",
                "not known" if node.gpus is None else f"{node.free_gpus} of {node.gpus}",
            )
            for node in found
        ),
    )
    for said in dict.fromkeys(text for node in found for text in (node.why, node.problem) if text):
        print(clean(said, colours=False), file=sys.stderr)


def _offer(project: str) -> str:
    return f"Packages of {project} were lost with an earlier container: `jupyter ds01 restore {project}`."


def examine(workbench: Workbench, arguments: argparse.Namespace) -> int:
    findings = asyncio.run(doctor.examine(workbench, arguments.project))
    if arguments.json:
        print_json([finding.as_json() for finding in findings])
    else:
        encoding = sys.stdout.encoding or "ascii"
        marks = _marks(encoding)
        for finding in findings:
            lines = [f"{marks[finding.level]} {finding.check}: {finding.message}"]
            lines += [f"  {finding.remedy}"] if finding.remedy else []
            for line in lines:
                # A folder's name may have letters that this terminal does not know.
                print(line.encode(encoding, "backslashreplace").decode(encoding))
    return int(any(finding.level == "error" for finding in findings))


def init(workbench: Workbench, arguments: argparse.Namespace) -> None:
    valid_name(arguments.project)
    templates = creating.TEMPLATES
    source = arguments.source
    text = templates[source] if source in templates else creating.of_folder(source)
    dockerfile = creating.create(workbench.projects(), arguments.project, text)
    project = workbench.projects().get(arguments.project)
    if arguments.json:
        print_json({"name": project.name, "path": str(project.path), "kernel_name": project.kernel_name})
    else:
        print(f"Made {dockerfile}. Build it with `jupyter ds01 image-update {project.name}`.")


def base_image(workbench: Workbench, arguments: argparse.Namespace) -> None:
    report = (lambda _: None) if arguments.json else print
    engine = workbench.call(workbench.all_flows.named(arguments.engine)).engine
    image = workbench.call(base.build_base_image(engine, suite=arguments.suite, report=report))
    if arguments.json:
        print_json({"id": image.id, "tags": list(image.tags), "size": image.size})


def container_deploy(workbench: Workbench, arguments: argparse.Namespace) -> None:
    project = workbench.projects().get(arguments.project)
    info = workbench.call(container_jobs.deployed(workbench, project, _say_aside))
    if arguments.json:
        print_json({"container": info.name, "id": info.id, "state": info.state})
    else:
        print(f"{info.name} is {info.state}.")


def container_retire(workbench: Workbench, arguments: argparse.Namespace) -> None:
    project = workbench.projects().get(arguments.project)
    launcher = workbench.call(workbench.flows(project)).launcher
    removed = workbench.call(launcher.retire(project, force=arguments.force))
    name = project.container_name(os.getuid())
    if arguments.json:
        print_json({"container": name, "removed": removed})
    else:
        print(f"{name} was removed." if removed else f"There was no container {name}.")


def shell(workbench: Workbench, arguments: argparse.Namespace) -> int:
    project = workbench.projects().get(arguments.project)
    variables = select(os.environ, named=workbench.pass_variables, project=project.path)
    command = arguments.command or ["/bin/sh", "-c", "exec $(command -v bash || command -v sh) -l"]
    flows = workbench.call(workbench.flows(project))
    stack = AsyncExitStack()
    # Whoever is at a shell must not see the container stopped for want of kernels.
    workbench.call(stack.enter_async_context(flows.launcher.idling.busy(project)))
    try:
        station = workbench.call(for_room(lambda: flows.launcher.reach(project), _say_aside))
        code = attach(workbench, flows.engine, station.running.info.id, command, dict(variables.plain))
        # Nobody else may be there to see what was installed.
        with suppress(Ds01Error):
            workbench.call(flows.drifts.look(project))
        return code
    finally:
        workbench.call(stack.aclose())


def logs(workbench: Workbench, arguments: argparse.Namespace) -> None:
    project = workbench.projects().get(arguments.project)
    engine = workbench.call(workbench.flows(project)).engine
    info = workbench.call(containers.find(engine, project))
    if info is None:
        raise NotFoundError(
            f"Project {project.name} has no container.",
            remedy=f"Start it with `jupyter ds01 container-deploy {project.name}`.",
        )
    text = clean(workbench.call(engine.logs(info.id, arguments.tail)))
    if arguments.json:
        print_json({"container": info.name, "text": text})
    else:
        print(text, end="" if text.endswith("\n") or not text else "\n")


def kernelspec_install(workbench: Workbench, arguments: argparse.Namespace) -> None:
    found = workbench.projects()
    chosen = [found.get(arguments.project)] if arguments.project else list(found.projects)
    places = [kernelspecs.install(project, kernels_dir=_kernels_dir(arguments.prefix)) for project in chosen]
    _print_places(arguments.json, "Installed", places)


def kernelspec_remove(workbench: Workbench, arguments: argparse.Namespace) -> None:
    directory = _kernels_dir(arguments.prefix)
    names = (
        [arguments.project]
        if arguments.project
        else [name.removeprefix("ds01-") for name in kernelspecs.installed(directory)]
    )
    _print_places(
        arguments.json, "Removed", [kernelspecs.remove(name, kernels_dir=directory) for name in names]
    )


def _say_aside(text: str) -> None:
    """What is not the result, and is not to be read as one."""
    print(clean(text, colours=False), end="", file=sys.stderr, flush=True)


def _marks(encoding: str) -> dict[doctor.Level, str]:
    try:
        "✔✘".encode(encoding)
    except UnicodeEncodeError:
        return {"error": "x", "warning": "!", "notice": "i", "ok": "+"}
    return {"error": "✘", "warning": "!", "notice": "i", "ok": "✔"}


def _kernels_dir(prefix: str | None) -> Path:
    data = Path(prefix).absolute() / "share" / "jupyter" if prefix else Path(jupyter_data_dir())
    return data / "kernels"


def _print_places(as_json: bool, done: str, places: Iterable[Path]) -> None:
    listed = [str(place) for place in places]
    if as_json:
        print_json(listed)
        return
    for place in listed:
        print(f"{done} {place}")
    if not listed:
        print(f"{done} nothing: there are none.")
