"""REST below ``<base_url>ds01/``: parse, call, serialise. Documented in ``openapi.yaml``."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from functools import wraps
from http.client import responses
from typing import Any

from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from jupyter_server.utils import url_path_join
from tornado import web

from . import status
from .errors import Ds01Error
from .workbench import Workbench

RESOURCE = "ds01"

Method = Callable[..., Awaitable[None]]


def routes(base_url: str, workbench: Workbench) -> list[tuple[str, type[web.RequestHandler], dict[str, Any]]]:
    """What `extension` adds to the server."""
    settings = {"workbench": workbench}
    project = r"(?P<name>[^/]+)"
    table = [
        ("projects", ProjectsHandler),
        (f"projects/{project}", ProjectHandler),
    ]
    return [(url_path_join(base_url, "ds01", path), handler, settings) for path, handler in table]


def permitted(action: str) -> Callable[[Method], Method]:
    """Authenticated, authorized for `action` on our resource, and our errors as status and ``{message, reason}``."""

    def decorate(method: Method) -> Method:
        checked: Method = web.authenticated(authorized(action, resource=RESOURCE)(_answering_errors(method)))
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
            handler.answer({"message": error.sentence, "reason": error.reason})

    return wrapper


class Ds01Handler(APIHandler):
    """A handler with the workbench; `auth_resource` is what an authorizer is asked about."""

    auth_resource = RESOURCE

    def initialize(self, workbench: Workbench) -> None:
        self.workbench = workbench

    def answer(self, value: Any) -> None:
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(value))


class ProjectsHandler(Ds01Handler):
    @permitted("read")
    async def get(self) -> None:
        self.answer([project.as_json() for project in await status.all_statuses(self.workbench)])


class ProjectHandler(Ds01Handler):
    @permitted("read")
    async def get(self, name: str) -> None:
        self.answer((await status.details(self.workbench, name)).as_json())
