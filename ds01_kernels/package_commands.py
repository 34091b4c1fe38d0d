"""The verbs of the command line for packages and rebuilds, one function each: ask, print, return the exit
code."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import threading
from collections.abc import Coroutine, Iterable
from typing import Any

from . import commands, package_jobs
from .errors import BadInputError, Ds01Error
from .jobs import JobState
from .packages import Drift, Item
from .printing import print_json, print_table
from .projects import Project
from .rebuild import Order, Plan
from .text import clean
from .workbench import Workbench

#: Seconds between looks at a job of another process.
LOOK = 0.5


def packages(workbench: Workbench, arguments: argparse.Namespace) -> None:
    project = workbench.projects().get(arguments.project)
    look = workbench.call(workbench.call(workbench.flows(project)).drifts.look(project))
    if arguments.json:
        print_json(look.as_json())
        return
    installed = look.installed or look.image
    if installed is None:
        print(
            f"Nothing is known yet: start the container with `jupyter ds01 container-deploy {project.name}`."
        )
        return
    if look.installed is None:
        print("The container does not run; these are the packages of its image.")
    print_table(
        ("PACKAGE", "VERSION", "REQUESTED", "ORIGIN"),
        (
            (one.name, one.version, "yes" if one.requested else "-", one.origin.url or one.origin.kind)
            for one in installed.packages
        ),
    )
    for broken in installed.broken:
        print(f"{broken.path}: {broken.reason}", file=sys.stderr)
    _print_drift(look.drift, look.lost, project)


def install(workbench: Workbench, arguments: argparse.Namespace) -> int:
    project = workbench.projects().get(arguments.project)
    return _follow(
        workbench, project, package_jobs.install(workbench, project, arguments.spec), arguments.json
    )


def restore(workbench: Workbench, arguments: argparse.Namespace) -> int:
    project = workbench.projects().get(arguments.project)
    return _follow(workbench, project, package_jobs.restore(workbench, project), arguments.json)


def save(workbench: Workbench, arguments: argparse.Namespace) -> None:
    project = workbench.projects().get(arguments.project)
    order = Order(tuple(arguments.spec) or None, not arguments.unpinned)
    rebuilds = workbench.call(workbench.flows(project)).rebuilds
    if arguments.diff:
        plan = workbench.call(rebuilds.preview(project, order.packages, pin=order.pin))
    else:
        plan = workbench.call(rebuilds.save(project, order))
    if arguments.json and arguments.diff:
        stops_first = workbench.call(rebuilds.stops_first(project))
        print_json({**plan.as_json(), "stops_first": stops_first, "kernels": []})
        return
    if arguments.json:
        print_json(plan.as_json())
        return
    if arguments.diff:
        sys.stdout.write(clean(plan.diff, colours=False))
    elif plan.changes:
        print(f"Wrote {project.path / plan.file}: {_summary(plan)}.")
        print(f"`jupyter ds01 rebuild {project.name}` builds it and swaps the container.")
    else:
        print(f"There is nothing to save: {plan.file} has it all.")
    _print_left(plan)


def rebuild(workbench: Workbench, arguments: argparse.Namespace) -> int:
    project = workbench.projects().get(arguments.project)
    chosen = [] if arguments.nothing else arguments.spec or None
    rebuilds = workbench.call(workbench.flows(project)).rebuilds
    plan = workbench.call(rebuilds.preview(project, chosen, pin=not arguments.unpinned))
    if not arguments.json:
        sys.stdout.write(clean(plan.diff, colours=False) or f"{plan.file} stays as it is.\n")
        _print_left(plan)
        if why := workbench.call(rebuilds.stops_first(project)):
            print(f"The old container is stopped first, with all its kernels: {why}.")
    if not arguments.yes and not _agreed("Rebuild, and restart the kernels of this project?", "--yes"):
        return 1
    order = Order(
        None if chosen is None else tuple(chosen), not arguments.unpinned, (plan.sha256, plan.result_sha256)
    )
    return _follow(
        workbench, project, package_jobs.rebuild(workbench, project, order), arguments.json, by_lines=True
    )


def rollback(workbench: Workbench, arguments: argparse.Namespace) -> int:
    project = workbench.projects().get(arguments.project)
    if not arguments.yes and not _agreed("Go back to the previous image and its Dockerfile?", "--yes"):
        return 1
    return _follow(
        workbench, project, package_jobs.rollback(workbench, project), arguments.json, by_lines=True
    )


def image_update(workbench: Workbench, arguments: argparse.Namespace) -> int:
    project = workbench.projects().get(arguments.project)
    order = Order(tuple(arguments.add), no_cache=arguments.no_cache, pull=arguments.pull)
    return _follow(workbench, project, package_jobs.build(workbench, project, order), arguments.json)


def container_retire(workbench: Workbench, arguments: argparse.Namespace) -> None:
    if not arguments.json:
        _offer_to_save(workbench, workbench.projects().get(arguments.project))
    commands.container_retire(workbench, arguments)


def prune(workbench: Workbench, arguments: argparse.Namespace) -> None:
    found = workbench.call(workbench.prune(dry=arguments.dry_run))
    if arguments.json:
        print_json(found.as_json())
        return
    for line in found.lines:
        print(clean(line, colours=False))


def _offer_to_save(workbench: Workbench, project: Project) -> None:
    """Before a container is removed: what would go with it, and where there is somebody to ask, a way to keep
    it."""
    try:
        flows = workbench.call(workbench.flows(project))
        drift = workbench.call(flows.drifts.look(project)).drift
        # It may all be written already, and not built yet.
        if not drift or not workbench.call(flows.rebuilds.preview(project)).changes:
            return
    except Ds01Error:
        return
    print(f"Not in the Dockerfile: {_names(drift.items)}.", file=sys.stderr)
    if sys.stdin is not None and sys.stdin.isatty() and _agreed("Save them into it first?", ""):
        plan = workbench.call(flows.rebuilds.save(project, Order()))
        print(f"Wrote {project.path / plan.file}: {_summary(plan)}.", file=sys.stderr)
    else:
        print(f"`jupyter ds01 restore {project.name}` installs them again.", file=sys.stderr)


# Following a job


def _follow(
    workbench: Workbench,
    project: Project,
    begin: Coroutine[Any, Any, JobState],
    as_json: bool,
    *,
    by_lines: bool = False,
) -> int:
    """Print what the job prints, until it is over; as JSON only then, the job with all of its `log`.

    `by_lines`: as JSON too, one line each time that it has moved, with what it has logged since.

    An interrupt cancels it. Raises `Ds01Error` with its error.
    """
    wake = threading.Event()
    workbench.listen(lambda event: wake.set())
    state = asyncio.run(begin)
    log, offset, interrupted = "", 0, False
    shown: dict[str, Any] = {}
    while True:
        try:
            wake.clear()
            text = workbench.jobs.log(project, state.id, offset)
            offset = text.offset
            state = workbench.jobs.get(project, state.id)
            if as_json and by_lines:
                shown = _print_moved(shown, {**state.as_json(), "log": text.text})
            elif as_json:
                log += text.text
            else:
                # A failed job ends its log with the sentence that is printed below.
                said = f"{state.error.message}\n" if state.error else ""
                print(text.text.removesuffix(said), end="", flush=True)
            if text.done:
                break
            if not text.text:
                wake.wait(LOOK)
        except KeyboardInterrupt:
            if interrupted:
                raise
            # What was begun is taken back first; who cannot wait for that interrupts again.
            interrupted = True
            workbench.call(workbench.jobs.cancel(project, state.id))
    if as_json and not by_lines:
        print_json({**state.as_json(), "log": log})
    if state.error is not None:
        raise Ds01Error(state.error.message)
    if state.phase == "cancelled":
        is_partly_done = state.kind in ("install", "restore")
        left = "what was installed by then is there" if is_partly_done else "everything is as it was"
        print(f"Cancelled; {left}.", file=sys.stderr)
        return 130 if interrupted else 1
    return 0


def _print_moved(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """One line, unless nothing has happened."""
    if now["log"] or now != {**before, "log": ""}:
        print(json.dumps(now), flush=True)
    return now


# Printing


def _print_drift(drift: Drift, lost: Drift, project: Project) -> None:
    for title, items in (
        ("Not in the image", (*drift.added, *drift.changed)),
        ("In the image, but uninstalled", drift.removed),
        ("Cannot be written into the Dockerfile", drift.unpinnable),
        ("Lost with an earlier container", lost.items),
    ):
        if items:
            print(f"\n{title}: {_names(items)}.")
    if drift:
        print(f"`jupyter ds01 save {project.name} --diff` shows what would be written.")
    if lost:
        print(f"`jupyter ds01 restore {project.name}` installs what was lost again.")


def _print_left(plan: Plan) -> None:
    for left in plan.left:
        print(f"{left.name} is left as it is: {clean(left.reason, colours=False)}.", file=sys.stderr)


def _summary(plan: Plan) -> str:
    parts = [f"{', '.join(plan.install)}"] if plan.install else []
    parts += [f"without {', '.join(plan.remove)}"] if plan.remove else []
    return "; ".join(parts)


def _names(items: Iterable[Item]) -> str:
    return ", ".join(
        f"{item.name} {item.version}" + (f" ({item.reason})" if item.reason else "") for item in items
    )


def _agreed(question: str, option: str) -> bool:
    if sys.stdin is None or not sys.stdin.isatty():
        raise BadInputError("There is nobody to ask.", remedy=f"Add {option} to agree beforehand.")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
