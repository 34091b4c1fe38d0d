"""What a rebuild takes, and how long no kernel answers: ``python -m benchmarks.rebuild``.

Each round rebuilds a project in which one package was installed at run time while a kernel is used, and then
does by hand the least that it could be: ``docker build`` of the same edited Dockerfile and ``docker run``. A
line that is another one each time keeps both from using what the other has built. The first round warms up
and is not counted. Progress goes to standard error, the table to standard output.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager

from ds01_kernels.projects import Project
from ds01_kernels.rebuild import Order, Step
from ds01_kernels.workbench import Workbench

from . import report
from .conduct import conduct, rounds, say
from .measure import QUIET, WrongAnswerError
from .stage import LABEL, Stage

#: Installed in the container and then by both builds: small, pure Python, without dependencies.
PACKAGE = "six"
#: Seconds between questions to the kernel, and for one command.
PAUSE = 0.005
LIMIT = 600.0

NOTES = """\
Rebuild: from the call to its end: preview, edit, build, check (a kernel answers in the new container, pip
check), swap, the kernel restarted, the old container removed. Floor: docker build of the same text, docker
run of a container that only sleeps. Silence: the longest time between two replies of the kernel to a client
that asks all the time, which falls on the restart; expected at most 1 s."""


@dataclass(frozen=True)
class Round:
    """Seconds."""

    rebuild: float
    floor: float
    silence: float
    phases: dict[str, float]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rebuild", description=__doc__)
    parser.add_argument("--rounds", type=rounds, default=7, help="how many count (default 7)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    arguments = parser.parse_args()
    return conduct(lambda stage: _run(stage, arguments))


async def _run(stage: Stage, arguments: argparse.Namespace) -> None:
    if shutil.which("docker") is None:
        raise WrongAnswerError("There is no docker command on the PATH for the floor.")
    before = report.load()
    say(f"Run {stage.run}: preparing an image and a project.")
    await stage.build("ipykernel", "ds01/base:latest")
    project = await stage.project("rebuild")
    found = []
    for number in range(arguments.rounds + 1):
        say("Round 0, to warm up." if number == 0 else f"Round {number} of {arguments.rounds}.")
        one = await _round(stage, project)
        if number > 0:
            found.append(one)
    engine = await stage.engine.info()
    machine = report.machine(f"{engine.name} {engine.version}")
    print(table(found))
    print(f"\nRounds: {len(found)} after one to warm up, both ways in each.\n{NOTES}\n")
    for name, text in machine.items():
        print(f"{name + ':':<10}{text}")
    print(f"{'load:':<10}{before} at first, {report.load()} at last (1, 5, 15 min)")
    if arguments.json:
        facts = {"run": stage.run, "machine": machine, "rounds": [dict(vars(one)) for one in found]}
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


async def _round(stage: Stage, project: Project) -> Round:
    workbench = Workbench.open()
    base = f"FROM {stage.image}\nENV ROUND={secrets.token_hex(4)}\n"
    project.dockerfile.write_text(base, encoding="utf-8")
    await workbench.run(workbench.rebuilds.rebuild(project, Order(packages=()), lambda step: None))
    manager = stage.manager(project.kernel_name)
    await manager.start_kernel(cwd=str(project.path))
    try:
        client: AsyncKernelClient = manager.client()
        client.start_channels(iopub=False, stdin=False, hb=False, control=False)
        await _install(client)
        await asyncio.sleep(1 + QUIET)
        seconds, silence, phases = await _rebuild(workbench, project, manager, client)
        client.stop_channels()
    finally:
        await manager.shutdown_kernel(now=True)
    text = project.dockerfile.read_text(encoding="utf-8").replace("ENV ROUND=", "ENV FLOOR=")
    return Round(seconds, await _floor(stage, text), silence, phases)


async def _install(client: AsyncKernelClient) -> None:
    reply = await client.execute(f"%pip install -q {PACKAGE}", reply=True, timeout=LIMIT)
    if reply["content"]["status"] != "ok":
        raise WrongAnswerError(f"{PACKAGE} could not be installed.")


async def _rebuild(
    workbench: Workbench, project: Project, manager: AsyncKernelManager, client: AsyncKernelClient
) -> tuple[float, float, dict[str, float]]:
    loop = asyncio.get_running_loop()
    restarts: list[asyncio.Future[None]] = []

    def restart(processes: frozenset[str]) -> None:
        restarts.append(asyncio.run_coroutine_threadsafe(manager.restart_kernel(), loop))  # type: ignore[arg-type]

    workbench.on_replaced = restart
    phases: dict[str, float] = {}
    asking = asyncio.create_task(_ask(client))
    await asyncio.sleep(QUIET)
    began = perf_counter()

    def note(step: Step) -> None:
        phases.setdefault(step.phase, perf_counter() - began)

    await workbench.run(workbench.rebuilds.rebuild(project, Order(), note))
    seconds = perf_counter() - began
    for one in restarts:
        await asyncio.wrap_future(one)  # type: ignore[arg-type]
    await asyncio.sleep(1)
    asking.cancel()
    replies: list[float] = []
    with suppress(asyncio.CancelledError):
        replies = await asking
    if f'"{PACKAGE}==' not in project.dockerfile.read_text(encoding="utf-8") or not restarts:
        raise WrongAnswerError("The rebuild did not save the package, or restarted no kernel.")
    return seconds, max(after - before for before, after in pairwise(replies)), phases


async def _ask(client: AsyncKernelClient) -> list[float]:
    """Ask all the time, until cancelled; when the replies came."""
    replies: list[float] = []
    try:
        while True:
            client.kernel_info()
            with suppress(Exception):
                await client.get_shell_msg(timeout=0.05)
                replies.append(perf_counter())
            await asyncio.sleep(PAUSE)
    except asyncio.CancelledError:
        return replies


async def _floor(stage: Stage, text: str) -> float:
    folder = stage.root / f"floor-{secrets.token_hex(4)}"
    folder.mkdir()
    (folder / "Dockerfile").write_text(text, encoding="utf-8")
    reference = f"ds01-benchmark/{stage.run}:floor"
    await asyncio.sleep(QUIET)
    began = perf_counter()
    await _docker("build", "--quiet", "--tag", reference, str(folder))
    await _docker(
        "run", "--detach", "--init", "--label", f"{LABEL}={stage.run}", reference, "sleep", "infinity"
    )
    seconds = perf_counter() - began
    await stage.remove_strays()
    return seconds


async def _docker(*words: str) -> None:
    process = await asyncio.create_subprocess_exec(
        "docker", *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(LIMIT):
        said, _ = await process.communicate()
    if process.returncode != 0:
        raise WrongAnswerError(f"docker {words[0]} failed: {said.decode(errors='replace')[-500:]}")


def table(found: list[Round]) -> str:
    """Aligned, milliseconds; `ratio` to the floor."""
    floor = median(one.floor for one in found)
    lines = [f"{'ms':<44}" + "".join(f"{name:>8}" for name in ("median", "min", "max", "ratio")), "-" * 76]
    for title, values, ratio in (
        ("ds01-kernels, whole rebuild", [one.rebuild for one in found], True),
        ("docker build + docker run", [one.floor for one in found], True),
        ("silence of the kernel", [one.silence for one in found], False),
    ):
        numbers = (value * 1000 for value in (median(values), min(values), max(values)))
        last = f"{median(values) / floor:>8.2f}" if ratio else f"{'-':>8}"
        lines.append(f"{title:<44}" + "".join(f"{number:>8.0f}" for number in numbers) + last)
    for phase in found[0].phases:
        values = [one.phases[phase] for one in found if phase in one.phases]
        lines.append(f"{f'  {phase} begins after':<44}{median(values) * 1000:>8.0f}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
