"""REST for jobs and for a project's container: parse, call, serialise. Documented in ``openapi.yaml``."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

from . import container_jobs
from .errors import BadInputError, NotFoundError
from .handlers import PROJECT, Ds01Handler, permitted
from .jobs import JobState
from .projects import Project
from .request_body import FLAG, read_body
from .workbench import Workbench


class RecentJobsHandler(Ds01Handler):
    @permitted("read")
    async def get(self) -> None:
        projects = (await self.projects()).projects
        self.answer(
            [state.as_json() for state in await asyncio.to_thread(self.workbench.jobs.lately, projects)]
        )


class JobsHandler(Ds01Handler):
    @permitted("read")
    async def get(self, name: str) -> None:
        states = await asyncio.to_thread(self.workbench.jobs.all, await self.project(name))
        self.answer([state.as_json() for state in states])


class JobHandler(Ds01Handler):
    @permitted("read")
    async def get(self, name: str, job: str) -> None:
        state = await asyncio.to_thread(self.workbench.jobs.get, await self.project(name), job)
        self.answer(state.as_json())

    @permitted("execute")
    async def delete(self, name: str, job: str) -> None:
        project = await self.project(name)
        state = await self.workbench.run(self.workbench.jobs.cancel(project, job))
        self.answer(state.as_json())


class JobLogHandler(Ds01Handler):
    @permitted("read")
    async def get(self, name: str, job: str) -> None:
        project, offset = await self.project(name), _offset(self.get_argument("offset", "0"))
        text = await asyncio.to_thread(self.workbench.jobs.log, project, job, offset)
        self.answer(text.as_json())


class DeployHandler(Ds01Handler):
    @permitted("execute")
    async def post(self, name: str) -> None:
        read_body(self.request.body)
        accept(self, await container_jobs.deploy(self.workbench, await self.project(name)))


class RetireHandler(Ds01Handler):
    @permitted("execute")
    async def post(self, name: str) -> None:
        force = read_body(self.request.body, {"force": FLAG}).get("force", False)
        project = await self.project(name)
        accept(self, await container_jobs.retire(self.workbench, project, force=force))


class RestartHandler(Ds01Handler):
    @permitted("execute")
    async def post(self, name: str) -> None:
        read_body(self.request.body)
        accept(self, await container_jobs.restart(self.workbench, await self.project(name)))


class TerminalHandler(Ds01Handler):
    @permitted("execute")
    async def post(self, name: str) -> None:
        read_body(self.request.body)
        project = await self.project(name)
        terminals = self.settings.get("terminal_manager")
        if terminals is None or not self.settings.get("terminals_available"):
            raise NotFoundError(
                "This server has no terminals.",
                remedy=f"Ask its administrator for them, or run: jupyter ds01 shell {project.name}",
            )
        # Here, where its failure has a sentence; a terminal would only open and close.
        await self.workbench.run((await self.flows(project)).launcher.reach(project))
        model = terminals.create(**_shell(self.workbench, project))
        self.answer({"name": model["name"]})


JOB = PROJECT + r"/jobs/(?P<job>[^/]+)"
TABLE: list[tuple[str, type[Ds01Handler]]] = [
    ("jobs", RecentJobsHandler),
    (f"{PROJECT}/jobs", JobsHandler),
    (JOB, JobHandler),
    (f"{JOB}/log", JobLogHandler),
    (f"{PROJECT}/deploy", DeployHandler),
    (f"{PROJECT}/retire", RetireHandler),
    (f"{PROJECT}/restart", RestartHandler),
    (f"{PROJECT}/terminal", TerminalHandler),
]


def accept(handler: Ds01Handler, state: JobState) -> None:
    """Answer that a job has begun, with its id."""
    handler.set_status(202)
    handler.answer({"id": state.id})


def _offset(text: str) -> int:
    # So long a number is beyond every log, and Python refuses to read much longer ones.
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise BadInputError(
            "The offset must be a whole number of bytes, 0 or more.",
            remedy="Give the one of the last answer.",
        )
    return int(text)


def _shell(workbench: Workbench, project: Project) -> dict[str, Any]:
    """What makes a terminal one inside the project's container."""
    return {
        # -P: the folder that the server was started in is no place to import from.
        "shell_command": [sys.executable, "-P", "-m", "ds01_kernels.app", "shell", project.name],
        "extra_env": {"DS01_WORKSPACE": os.pathsep.join(map(str, workbench.folders))},
    }
