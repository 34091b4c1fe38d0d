"""What a rebuild takes, and how long no kernel answers: ``python -m benchmarks.rebuild``.

Each round rebuilds a project in which one package was installed at run time while a kernel is used, from the
call to its end: preview, edit, build, check (a kernel answers in the new container, pip check), swap, the
kernel gone from the old container. That one is removed while the kernel's next process starts; when it is
gone is a figure of its own. And it does by hand the least that this could be: ``docker build`` of the same
edited Dockerfile, ``docker run`` of a container that only sleeps. A line that is another one each time keeps
both from using what the other has built.

Silence is the longest time between two replies of the kernel to a client that asks all the time.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import shutil
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import pairwise
from time import perf_counter

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager

from ds01_kernels.projects import Project
from ds01_kernels.rebuild import Order, Step
from ds01_kernels.workbench import Workbench

from .case import MAIN, QUIET, Case, Expected, Sample, UnavailableError, Way, WrongAnswerError, settle
from .contenders import retire
from .stage import LABEL, Stage

#: Installed in the container and then by both builds: small, pure Python, without dependencies.
PACKAGE = "six"
#: Seconds between questions to the kernel, and for one command. Asked every 5 ms, kernel and client take a
#: third of a core from the rebuild, and nothing from the floor.
PAUSE = 0.02
LIMIT = 600.0

SILENCE = "longest time without an answer"
GONE = "old container gone after"


@asynccontextmanager
async def rebuilding(stage: Stage) -> AsyncIterator[Sequence[Way]]:
    if shutil.which("docker") is None:
        raise UnavailableError("there is no docker command on the PATH for the floor")
    project = await stage.project("rebuild")
    try:
        yield [
            Way("ds01", "ds01-kernels, whole rebuild", partial(rebuild, stage, project)),
            Way("floor", "docker build + docker run", partial(floor, stage, project)),
        ]
    finally:
        await retire(project)


async def rebuild(stage: Stage, project: Project) -> Sample:
    workbench = Workbench.open()
    project.dockerfile.write_text(await _dockerfile(stage), encoding="utf-8")
    await workbench.run(workbench.rebuilds.rebuild(project, Order(packages=()), lambda step: None))
    manager = stage.manager(project.kernel_name)
    await manager.start_kernel(cwd=str(project.path))
    try:
        client: AsyncKernelClient = manager.client()
        client.start_channels(iopub=False, stdin=False, hb=False, control=False)
        await _install(client)
        await asyncio.sleep(1)
        sample = await _rebuild(stage, project, manager, client)
        client.stop_channels()
    finally:
        await manager.shutdown_kernel(now=True)
    return sample


async def _dockerfile(stage: Stage) -> str:
    return f"FROM {await stage.image()}\nENV ROUND={secrets.token_hex(4)}\n"


async def _install(client: AsyncKernelClient) -> None:
    reply = await client.execute(f"%pip install -q {PACKAGE}", reply=True, timeout=LIMIT)
    if reply["content"]["status"] != "ok":
        raise WrongAnswerError(f"{PACKAGE} could not be installed.")


async def _rebuild(
    stage: Stage, project: Project, manager: AsyncKernelManager, client: AsyncKernelClient
) -> Sample:
    workbench, loop = Workbench.open(), asyncio.get_running_loop()
    restarts: list[asyncio.Future[None]] = []

    def restart(processes: frozenset[str]) -> None:
        restarts.append(asyncio.run_coroutine_threadsafe(manager.restart_kernel(), loop))  # type: ignore[arg-type]

    workbench.on_replaced = restart
    phases: dict[str, float] = {}
    old = await stage.container(project)
    asking = asyncio.create_task(_ask(client))
    await asyncio.sleep(QUIET)
    began = perf_counter()

    def note(step: Step) -> None:
        phases.setdefault(step.phase, perf_counter() - began)

    await workbench.run(workbench.rebuilds.rebuild(project, Order(), note))
    seconds = perf_counter() - began
    while await stage.engine.container(old) is not None:
        await asyncio.sleep(PAUSE)
    gone = perf_counter() - began
    for one in restarts:
        await asyncio.wrap_future(one)
    await asyncio.sleep(1)
    asking.cancel()
    replies: list[float] = []
    with suppress(asyncio.CancelledError):
        replies = await asking
    if f'"{PACKAGE}==' not in project.dockerfile.read_text(encoding="utf-8") or not restarts:
        raise WrongAnswerError("The rebuild did not save the package, or restarted no kernel.")
    silence = max(after - before for before, after in pairwise(replies))
    begun = {f"{phase} begins after": at for phase, at in phases.items()}
    return {MAIN: seconds, SILENCE: silence, **begun, GONE: gone}


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


async def floor(stage: Stage, project: Project) -> Sample:
    # What the last rebuild has written, in another place and with another line.
    text = project.dockerfile.read_text(encoding="utf-8")
    text = re.sub(r"^ENV ROUND=.*$", f"ENV ROUND={secrets.token_hex(4)}", text, flags=re.MULTILINE)
    folder = stage.root / f"floor-{secrets.token_hex(4)}"
    folder.mkdir()
    (folder / "Dockerfile").write_text(text, encoding="utf-8")
    reference = f"ds01-benchmark/{stage.run}:floor"
    run = ("run", "--detach", "--init", "--label", f"{LABEL}={stage.run}")
    await settle()
    began = perf_counter()
    await _docker("build", "--quiet", "--tag", reference, str(folder))
    container = await _docker(*run, reference, "sleep", "infinity")
    seconds = perf_counter() - began
    await stage.engine.remove(container)
    return {MAIN: seconds}


async def _docker(*words: str) -> str:
    process = await asyncio.create_subprocess_exec(
        "docker", *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(LIMIT):
        said, errors = await process.communicate()
    if process.returncode != 0:
        raise WrongAnswerError(f"docker {words[0]} failed: {errors.decode(errors='replace')[-500:]}")
    return said.decode().strip()


CASES: tuple[Case, ...] = (
    Case(
        "rebuild",
        "Rebuild with one new package",
        rebuilding,
        (Expected("ds01", 1.2, of="floor"), Expected("ds01", 0.5, of="", figure=SILENCE)),
        yardstick="floor",
    ),
)

if __name__ == "__main__":
    from .suite import main

    sys.exit(main(["--only", *(case.key for case in CASES), *sys.argv[1:]]))
