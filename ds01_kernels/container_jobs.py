"""What is done with a project's container at somebody's request, as jobs."""

from __future__ import annotations

from collections.abc import Callable

from .engine import ContainerInfo
from .jobs import Job, JobState
from .projects import Project
from .waiting import for_room
from .workbench import Workbench


async def deploy(workbench: Workbench, project: Project) -> JobState:
    """Have the container running. Raises `Ds01Error` when no job can be started, as those below."""

    async def work(job: Job) -> None:
        job.report(phase="swap", name="Starting the container")
        info = await deployed(workbench, project, _waiting(job))
        job.say(f"{info.name} is {info.state}.\n")

    return await workbench.run(workbench.jobs.start(project, "deploy", work, join=True))


async def deployed(workbench: Workbench, project: Project, say: Callable[[str], None]) -> ContainerInfo:
    """The container, running as soon as there is room for it; `say` gets what is waited for."""

    async def attempt() -> ContainerInfo:
        return await (await workbench.flows(project)).launcher.deploy(project)

    return await for_room(attempt, say)


async def retire(workbench: Workbench, project: Project, *, force: bool) -> JobState:
    """Remove the container; unless `force` not while kernels run in it."""

    async def work(job: Job) -> None:
        job.report(phase="swap", name="Removing the container")
        removed = await (await workbench.flows(project)).launcher.retire(project, force=force)
        job.say("The container was removed.\n" if removed else "There was no container.\n")

    # Not joined: the other one may be gentler.
    return await workbench.run(workbench.jobs.start(project, "retire", work))


async def restart(workbench: Workbench, project: Project) -> JobState:
    """Stop the container and start it again; the kernels in it end."""

    async def work(job: Job) -> None:
        job.report(phase="restart", name="Restarting the container")
        await (await workbench.flows(project)).launcher.stop(project)
        info = await deployed(workbench, project, _waiting(job))
        job.say(f"{info.name} is {info.state}.\n")

    return await workbench.run(workbench.jobs.start(project, "restart", work, join=True))


def _waiting(job: Job) -> Callable[[str], None]:
    """Has the job tell what it waits for."""

    def say(text: str) -> None:
        job.report(name="Waiting for room")
        job.say(text)

    return say
