"""What changes a project's packages at somebody's request, as jobs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

from . import installing
from .dockerfile import read_requirements
from .errors import BadInputError, ConflictError, Ds01Error
from .jobs import Job, JobState, Phase
from .packages import Drift
from .projects import Project
from .rebuild import Order, Report, Step
from .variables import Variables, select
from .workbench import Workbench

#: Seconds that a build of the same image by somebody else is waited for.
BUILD_LIMIT = 3600.0
#: Seconds that another install in the same container is waited for.
INSTALL_LIMIT = 3600.0

#: What the log says when a phase begins.
TITLES: Mapping[Phase, str] = {
    "build": "Building the image.\n",
    "check": "Checking that kernels can live in it.\n",
    "swap": "Putting it in the place of the old one.\n",
    "restart": "Restarting the kernels.\n",
}


async def install(workbench: Workbench, project: Project, specs: Sequence[str]) -> JobState:
    """Install requirements in the running container. Raises `BadInputError`, or `Ds01Error` when no job can
    start."""
    if not specs:
        raise BadInputError("There is nothing to install.", remedy="Name at least one package.")
    read_requirements(specs)

    async def work(job: Job) -> None:
        async with _alone(workbench, project):
            job.report(phase="swap", name=f"Installing {', '.join(specs)}")
            given = variables(workbench, project)
            launcher = (await workbench.flows(project)).launcher
            await installing.install(launcher, project, specs, given, job.say)

    return await workbench.run(workbench.jobs.start(project, "install", work))


async def restore(workbench: Workbench, project: Project) -> JobState:
    """Install again what was in a container that is gone. Raises `Ds01Error` when no job can start."""

    async def work(job: Job) -> None:
        flows = await workbench.flows(project)
        async with _alone(workbench, project):
            job.report(phase="swap", name="Installing what was lost")
            lost = (await flows.drifts.look(project)).lost
            if not lost:
                job.say("Nothing was lost.\n")
                return
            given = variables(workbench, project)
            await installing.restore(flows.launcher, project, lost, given, job.say)
            for item in lost.unpinnable:
                job.say(f"{item.name} is not installed again: {item.reason}.\n")
        await flows.drifts.forget_lost(project, _named(lost))

    return await workbench.run(workbench.jobs.start(project, "restore", work, join=True))


async def rebuild(workbench: Workbench, project: Project, order: Order) -> JobState:
    """Make the drift permanent; one that runs already is joined. Raises `ConflictError` for a preview that no
    longer holds, or `Ds01Error` when no job can start."""

    async def work(job: Job) -> None:
        await (await workbench.flows(project)).rebuilds.rebuild(project, order, _reporter(job))

    return await workbench.run(workbench.jobs.start(project, "rebuild", work, join=True))


async def build(workbench: Workbench, project: Project, order: Order) -> JobState:
    """Build the image, and leave the container. Raises `Ds01Error` when no job can start."""

    async def work(job: Job) -> None:
        await (await workbench.flows(project)).rebuilds.update(project, order, _reporter(job))
        name = project.image_name(os.getuid())
        job.say(f"Built {name}. New kernels use it as soon as none runs in the container.\n")

    return await workbench.run(workbench.jobs.start(project, "build", work))


async def first_build(workbench: Workbench, project: Project, say: installing.Say) -> None:
    """Build the image unless there is one, as a job whose output `say` gets too. Raises `Ds01Error`.

    To be awaited in the workbench's own loop; to cancel it cancels the job.
    """
    flows = await workbench.flows(project)
    launcher = flows.launcher
    async with launcher.locks.hold(project.path / "build", limit=BUILD_LIMIT):
        if await launcher.image_id(project) is not None:
            return
        say(f"The image of project {project.name} is being built. Wait for it: then this cell runs.\n")
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def work(job: Job) -> None:
            tell = _reporter(job)

            def report(step: Step) -> None:
                tell(step)
                say(step.log)

            try:
                await flows.rebuilds.update(project, Order(packages=()), report, limit=BUILD_LIMIT)
                _settle(over)
            except asyncio.CancelledError:
                _settle(over, ConflictError("The build was cancelled.", remedy="Run the cell again."))
                raise
            except Exception as error:
                _settle(over, error)
                raise

        state = await workbench.jobs.start(project, "build", work)
        try:
            await over
        except asyncio.CancelledError:
            await workbench.jobs.cancel(project, state.id)
            raise


async def rollback(workbench: Workbench, project: Project) -> JobState:
    """Back to the previous image and its Dockerfile. Raises `Ds01Error` when no job can start."""

    async def work(job: Job) -> None:
        await (await workbench.flows(project)).rebuilds.rollback(project, _reporter(job))

    return await workbench.run(workbench.jobs.start(project, "rollback", work, join=True))


def variables(workbench: Workbench, project: Project) -> Variables:
    """Those that an install gets: the same as kernels."""
    return select(os.environ, named=workbench.pass_variables, project=project.path)


@asynccontextmanager
async def _alone(workbench: Workbench, project: Project) -> AsyncIterator[None]:
    """One after the other: two pips at once get into each other's way, and into each other's report.

    What is there in the end is recorded, though nobody but us may have been connected.
    """
    flows = await workbench.flows(project)
    launcher = flows.launcher
    async with (
        launcher.idling.busy(project),
        launcher.locks.hold(project.path / "packages", limit=INSTALL_LIMIT),
    ):
        try:
            yield
        finally:
            with suppress(Ds01Error):
                await flows.drifts.look(project)


def _reporter(job: Job) -> Report:
    """Brings a rebuild's steps to its job: where it is, and a log that one can read on its own."""

    titles = dict(TITLES)

    def report(step: Step) -> None:
        # Of a build nothing is said before there is one: the engine may be away.
        if step.phase != "build" or step.log:
            job.say(titles.pop(step.phase, ""))
        job.report(phase=step.phase, step=step.step, steps=step.steps, name=step.name)
        if step.log:
            job.say(step.log)

    return report


def _settle(over: asyncio.Future[None], error: Exception | None = None) -> None:
    """Unless nobody waits any more."""
    if over.done():
        return
    if error is None:
        over.set_result(None)
    else:
        over.set_exception(error)


def _named(drift: Drift) -> list[str]:
    return [item.name for item in drift.items]
