"""The verbs of the command line, one function each: ask, print, return the exit code."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing
from pathlib import Path
from typing import Any

from jupyter_core.paths import jupyter_data_dir

from . import base_image as base
from . import containers, doctor, images, kernelspecs
from . import status as statuses
from .engine import BuildProgress
from .errors import BadInputError, BuildFailedError, ConflictError, NotFoundError
from .projects import Project, valid_name
from .terminal import attach
from .text import clean
from .variables import select
from .workbench import Workbench

Command = Callable[[Workbench, argparse.Namespace], int | None]

TEMPLATES = {
    "debian": "# A local image: build it once with `jupyter ds01 base-image`.\nFROM ds01/base:latest\n",
    "python": "FROM python:3.12-slim\n",
}


def list_projects(workbench: Workbench, arguments: argparse.Namespace) -> None:
    found = asyncio.run(statuses.all_statuses(workbench))
    if arguments.json:
        _print_json([project.as_json() for project in found])
        return
    if not found:
        folders = ", ".join(map(str, workbench.folders))
        print(f"There are no projects in {folders}. Make one with `jupyter ds01 init NAME`.")
        return
    _print_table(
        ("PROJECT", "CONTAINER", "STATE", "KERNEL", "PATH"),
        ((p.name, p.container or "-", p.state or "-", p.kernel_name or "-", p.path) for p in found),
    )
    for sentence in dict.fromkeys(project.error for project in found if project.error):
        print(clean(sentence, colours=False), file=sys.stderr)


def status(workbench: Workbench, arguments: argparse.Namespace) -> None:
    details = asyncio.run(statuses.details(workbench, arguments.project)).as_json()
    if arguments.json:
        _print_json(details)
        return
    for key, value in details.items():
        if value not in (None, {}):
            shown = json.dumps(value) if isinstance(value, dict) else value
            print(f"{key + ':':14}{clean(str(shown), colours=False)}")


def examine(workbench: Workbench, arguments: argparse.Namespace) -> int:
    findings = asyncio.run(doctor.examine(workbench, arguments.project))
    if arguments.json:
        _print_json([finding.as_json() for finding in findings])
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
    text = _template(arguments.source)
    dockerfile = workbench.folders[0] / arguments.project / "Dockerfile"
    _write_new(dockerfile, text)
    project = workbench.projects().get(arguments.project)
    if arguments.json:
        _print_json({"name": project.name, "path": str(project.path), "kernel_name": project.kernel_name})
    else:
        print(f"Made {dockerfile}. Build it with `jupyter ds01 image-update {project.name}`.")


def base_image(workbench: Workbench, arguments: argparse.Namespace) -> None:
    report = (lambda _: None) if arguments.json else print
    image = workbench.call(base.build_base_image(workbench.engine, suite=arguments.suite, report=report))
    if arguments.json:
        _print_json({"id": image.id, "tags": list(image.tags), "size": image.size})


def image_update(workbench: Workbench, arguments: argparse.Namespace) -> int:
    project = workbench.projects().get(arguments.project)
    progress = images.build(
        workbench.engine,
        project,
        arguments=workbench.settings(project).build_args,
        no_cache=arguments.no_cache,
        pull=arguments.pull,
    )
    try:
        built = workbench.call(_follow(progress, arguments.json))
    except BuildFailedError as error:
        if arguments.json:
            _print_json(
                {"message": error.sentence, "reason": error.reason, "line": error.line, "log": error.log}
            )
        raise
    if arguments.json:
        _print_json({"image": project.image_name(os.getuid()), "id": built})
    else:
        print(
            f"Built {project.image_name(os.getuid())}. "
            "New kernels use it as soon as none runs in the container."
        )
    return 0


def container_deploy(workbench: Workbench, arguments: argparse.Namespace) -> None:
    project = workbench.projects().get(arguments.project)
    info = workbench.call(workbench.launcher.deploy(project))
    if arguments.json:
        _print_json({"container": info.name, "id": info.id, "state": info.state})
    else:
        print(f"{info.name} is {info.state}.")


def container_retire(workbench: Workbench, arguments: argparse.Namespace) -> None:
    project = workbench.projects().get(arguments.project)
    removed = workbench.call(workbench.launcher.retire(project, force=arguments.force))
    name = project.container_name(os.getuid())
    if arguments.json:
        _print_json({"container": name, "removed": removed})
    else:
        print(f"{name} was removed." if removed else f"There was no container {name}.")


def shell(workbench: Workbench, arguments: argparse.Namespace) -> int:
    project = workbench.projects().get(arguments.project)
    station = workbench.call(workbench.launcher.reach(project))
    variables = select(os.environ, named=workbench.pass_variables, project=project.path)
    command = arguments.command or ["/bin/sh", "-c", "exec $(command -v bash || command -v sh) -l"]
    return attach(workbench, station.running.info.id, command, dict(variables.plain))


def logs(workbench: Workbench, arguments: argparse.Namespace) -> None:
    project = workbench.projects().get(arguments.project)
    info = workbench.call(containers.find(workbench.engine, project))
    if info is None:
        raise NotFoundError(
            f"Project {project.name} has no container.",
            remedy=f"Start it with `jupyter ds01 container-deploy {project.name}`.",
        )
    text = clean(workbench.call(workbench.engine.logs(info.id, arguments.tail)))
    if arguments.json:
        _print_json({"container": info.name, "text": text})
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


def _marks(encoding: str) -> dict[doctor.Level, str]:
    try:
        "✔✘".encode(encoding)
    except UnicodeEncodeError:
        return {"error": "x", "warning": "!", "notice": "i", "ok": "+"}
    return {"error": "✘", "warning": "!", "notice": "i", "ok": "✔"}


async def _follow(progress: AsyncIterator[BuildProgress], quiet: bool) -> str:
    """Print a build as it goes; returns the image's id."""
    image_id, shown = "", 0
    async with aclosing(progress) as values:  # type: ignore[type-var]
        async for value in values:
            image_id = value.image_id or image_id
            if quiet:
                continue
            if value.step > shown:
                shown = value.step
                print(f"[{value.step}/{value.steps}] {clean(value.name)}", flush=True)
            # The classic builder's own headings say the same once more.
            if value.log and not value.log.startswith(f"Step {value.step}/"):
                print(clean(value.log), end="", flush=True)
    return image_id


def _write_new(dockerfile: Path, text: str) -> None:
    folder = dockerfile.parent
    if folder.is_symlink():
        raise ConflictError(
            f"{folder} is a link, and a project is a folder of its own.", remedy="Choose another name."
        )
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with dockerfile.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConflictError(
            f"There is a Dockerfile in {folder} already.", remedy="Choose another name."
        ) from None


def _template(source: str) -> str:
    if source in TEMPLATES:
        return TEMPLATES[source]
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise BadInputError(
            f"{source!r} is neither a folder nor a template.",
            remedy=f"Templates are: {', '.join(TEMPLATES)}.",
        )
    return images.read_dockerfile(Project(folder.name, folder.resolve(), folder.resolve().parent))


def _kernels_dir(prefix: str | None) -> Path:
    data = Path(prefix).absolute() / "share" / "jupyter" if prefix else Path(jupyter_data_dir())
    return data / "kernels"


def _print_places(as_json: bool, done: str, places: Iterable[Path]) -> None:
    listed = [str(place) for place in places]
    if as_json:
        _print_json(listed)
        return
    for place in listed:
        print(f"{done} {place}")
    if not listed:
        print(f"{done} nothing: there are none.")


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=None if not sys.stdout.isatty() else 2))


def _print_table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    table = [header, *(tuple(clean(cell, colours=False) for cell in row) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
