"""What is done with a project's container at somebody's request, as jobs."""

from __future__ import annotations

from .jobs import Job, JobState
from .projects import Project
from .workbench import Workbench


async def deploy(workbench: Workbench, project: Project) -> JobState:
    """Have the container running. Raises `Ds01Error` when no job can be started, as those below."""

    async def work(job: Job) -> None:
        job.report(phase="swap", name="Starting the container")
        info = await (await workbench.flows(project)).launcher.deploy(project)
        job.say(f"{info.name} is {info.state}.\n")

    return await workbench.run(workbench.jobs.start(project, "deploy", work, join=True))


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
        info = await (await workbench.flows(project)).launcher.restart(project)
        job.say(f"{info.name} is {info.state}.\n")

    return await workbench.run(workbench.jobs.start(project, "restart", work, join=True))
