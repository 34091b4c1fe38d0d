"""REST below ``<base_url>ds01/``: parse, call, serialise. Documented in ``openapi.yaml``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from functools import cached_property, wraps
from http.client import responses
from pathlib import Path
from typing import Any

from jupyter_core.utils import ensure_async
from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from jupyter_server.utils import url_path_join
from tornado import web

from . import creating, doctor, status
from .errors import BadInputError, Ds01Error
from .flows import Flows
from .projects import Project, Projects
from .provisioner import ProjectProvisioner
from .request_body import TEXT, read_body
from .text import clean
from .workbench import Workbench

RESOURCE = "ds01"

Method = Callable[..., Awaitable[None]]
Checked = Callable[..., Awaitable[None] | None]


def routes(
    base_url: str, workbench: Workbench, table: Iterable[tuple[str, type[Ds01Handler]]]
) -> list[tuple[str, type[web.RequestHandler], dict[str, Any]]]:
    """What `extension` adds to the server: the handlers of a `TABLE`, below our own path."""
    settings = {"workbench": workbench}
    return [(url_path_join(base_url, "ds01", path), handler, settings) for path, handler in table]


def permitted(action: str) -> Callable[[Method], Checked]:
    """Authenticated, and authorized for `action` on our resource.

    Our errors become their status and ``{message, reason}``.
    """

    def decorate(method: Method) -> Checked:
        checked: Checked = web.authenticated(authorized(action, resource=RESOURCE)(_answering_errors(method)))
        return checked

    return decorate


def _answering_errors(method: Method) -> Method:
    @wraps(method)
    async def wrapper(handler: Ds01Handler, *args: Any, **kwargs: Any) -> None:
        try:
            await method(handler, *args, **kwargs)
        except Ds01Error as error:
            # Tornado knows no phrase for some of the codes.
            handler.set_status(error.status, responses.get(error.status, "Error"))
            handler.answer({"message": clean(error.sentence, colours=False), "reason": error.reason})

    return wrapper


class Ds01Handler(APIHandler):
    """A handler with the workbench; `auth_resource` is what an authorizer is asked about."""

    auth_resource = RESOURCE

    def initialize(self, workbench: Workbench) -> None:
        self.workbench = workbench

    def answer(self, value: Any) -> None:
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(value))

    async def projects(self) -> Projects:
        """Found in a thread: a home may be on a file system that makes one wait."""
        return await asyncio.to_thread(self.workbench.projects)

    async def project(self, name: str) -> Project:
        return (await self.projects()).get(name)

    async def flows(self, project: Project) -> Flows:
        """What is done with that project, on its engine."""
        return await self.workbench.run(self.workbench.flows(project))

    def located(self, project: status.ProjectStatus) -> dict[str, Any]:
        """The project with its folder as Jupyter's contents call it; None outside the server's root."""
        root, path = self._root, Path(project.path)
        inside = path.relative_to(root).as_posix() if path.is_relative_to(root) else None
        return {**project.as_json(), "contents_path": inside}

    @cached_property
    def _root(self) -> Path:
        return Path(getattr(self.contents_manager, "root_dir", "/")).resolve()


class ProjectsHandler(Ds01Handler):
    @permitted("read")
    async def get(self) -> None:
        self.answer([self.located(project) for project in await status.all_statuses(self.workbench)])

    @permitted("execute")
    async def post(self) -> None:
        wanted = read_body(
            self.request.body, {"name": TEXT, "template": TEXT, "from": TEXT}, required=("name",)
        )
        if "template" in wanted and "from" in wanted:
            raise BadInputError(
                "A project is made from a template or from another project, not both.",
                remedy="Leave out 'template' or 'from'.",
            )
        found = await self.projects()
        if "from" in wanted:
            text = creating.of_project(found, wanted["from"])
        else:
            text = creating.template(wanted.get("template", creating.TEMPLATE))
        await asyncio.to_thread(creating.create, found, wanted["name"], text)
        made = {project.name: project for project in await status.all_statuses(self.workbench)}
        self.set_status(201)
        self.answer(self.located(made[wanted["name"]]))


class ProjectHandler(Ds01Handler):
    @permitted("read")
    async def get(self, name: str) -> None:
        self.answer(self.located(await status.details(self.workbench, name)))


class KernelsHandler(Ds01Handler):
    @permitted("read")
    async def get(self) -> None:
        names = {str(project.path): project.name for project in (await self.projects()).projects}
        manager = self.kernel_manager
        kernels = {id_: manager.get_kernel(id_).provisioner for id_ in manager.list_kernel_ids()}
        self.answer(
            [
                {"id": id_, "project": names.get(one.place), "is_on_host": one.is_on_host}
                for id_, one in kernels.items()
                if isinstance(one, ProjectProvisioner)
            ]
        )


class DoctorHandler(Ds01Handler):
    @permitted("read")
    async def get(self, name: str) -> None:
        findings = await doctor.examine(self.workbench, name, await self._host_notebooks(name))
        self.answer([finding.as_json() for finding in findings])

    async def _host_notebooks(self, name: str) -> list[str]:
        """The project's notebooks whose Python kernels this server runs outside every container."""
        root = Path(getattr(self.contents_manager, "root_dir", "/"))
        projects = await self.projects()
        found = []
        sessions: Any = self.session_manager
        for session in await ensure_async(sessions.list_sessions()):
            owner = projects.owner(root / session["path"])
            kernel = self.kernel_manager.get_kernel(session["kernel"]["id"])
            provisioner = kernel.provisioner
            on_host = isinstance(provisioner, ProjectProvisioner) and provisioner.is_on_host
            if on_host and owner is not None and owner.name == name and _is_python(kernel):
                found.append(session["path"])
        return found


def _is_python(kernel: Any) -> bool:
    spec = kernel.kernel_spec
    return spec is not None and spec.language.lower() == "python"


PROJECT = r"projects/(?P<name>[^/]+)"
TABLE: list[tuple[str, type[Ds01Handler]]] = [
    ("projects", ProjectsHandler),
    ("kernels", KernelsHandler),
    (PROJECT, ProjectHandler),
    (f"{PROJECT}/doctor", DoctorHandler),
]
