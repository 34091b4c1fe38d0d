"""A server that the tests of a module share, used by REST, and what its event bus says of us.

Its authorizer denies what a test asks it to deny.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import requests
import websocket
from conftest import ProjectFolder
from servers import LIMIT, TOKEN, House, Server, a_house, check, wait_for

# The file `denied` holds what the authorizer refuses.
CHOOSY = """\
from pathlib import Path
from jupyter_server.auth import Authorizer

class Choosy(Authorizer):
    def is_authorized(self, handler, user, action, resource):
        denied = Path({denied!r})
        return not denied.exists() or f"{{resource}}/{{action}}" != denied.read_text()

c.ServerApp.authorizer_class = Choosy
"""
FEW = """\
c.ServerApp.jpserver_extensions = dict.fromkeys(["jupyterlab", "jupyter_lsp", "notebook_shim"], False)
"""

OWN = "https://events.ds01-kernels.org"


@dataclass(frozen=True)
class Site:
    """A server that the tests of this module share."""

    house: House
    server: Server

    @contextmanager
    def denying(self, what: str) -> Iterator[None]:
        file = self.house.root / "denied"
        file.write_text(what)
        try:
            yield
        finally:
            file.unlink()

    def post(self, path: str, body: Any = None) -> requests.Response:
        return self.server.request("POST", f"ds01/{path}", body)

    def start(self, project: ProjectFolder, action: str, body: Any = None) -> str:
        answer = self.post(f"projects/{project.name}/{action}", body)
        assert answer.status_code == 202, f"{answer.text}\n{self.server.said()}"
        assert list(answer.json()) == ["id"]
        return str(answer.json()["id"])

    def job(self, project: ProjectFolder, id_: str) -> Any:
        state = self.server.get(f"ds01/projects/{project.name}/jobs/{id_}")
        check("Job", state)
        return state

    def over(self, project: ProjectFolder, id_: str) -> Any:
        """The job once it has ended."""
        return wait_for(
            lambda: (state := self.job(project, id_))["ended"] and state, lambda: self.server.said()
        )

    def run(self, project: ProjectFolder, action: str, body: Any = None) -> Any:
        return self.over(project, self.start(project, action, body))

    def log(self, project: ProjectFolder, id_: str, offset: int = 0) -> Any:
        log = self.server.get(f"ds01/projects/{project.name}/jobs/{id_}/log?offset={offset}")
        check("JobLog", log)
        return log

    def text(self, project: ProjectFolder, id_: str) -> str:
        """The whole log of a job that is over."""
        return str(
            wait_for(lambda: (log := self.log(project, id_))["done"] and log, "the log has no end")["text"]
        )


@contextmanager
def a_rest_site(settings: str = "") -> Iterator[Site]:
    """A server in a house of its own; `settings` are further lines of its configuration."""
    with a_house() as house:
        choosy = CHOOSY.format(denied=str(house.root / "denied"))
        with house.server(settings=choosy + FEW + settings) as server:
            yield Site(house, server)


class Ears:
    """What Jupyter's event bus says of us."""

    def __init__(self, socket: websocket.WebSocket) -> None:
        self._socket = socket
        self.heard: list[dict[str, Any]] = []

    def hear_until(self, **wanted: Any) -> None:
        """Read on until an event with these fields has come."""
        messages = received(self._socket)
        while not any(event.items() >= wanted.items() for event in self.heard):
            event = next(messages, None)
            assert event is not None, f"{wanted} did not come: {self.heard}"
            if event["schema_id"].startswith(OWN):
                self.heard.append(event)

    def phases(self, id_: str) -> list[str]:
        """Those of one job, without repetitions."""
        told = [event["phase"] for event in self.heard if event.get("id") == id_]
        return [phase for at, phase in enumerate(told) if phase not in told[:at]]


@contextmanager
def connected(server: Server, path: str) -> Iterator[websocket.WebSocket]:
    socket = websocket.create_connection(
        f"ws{server.url.removeprefix('http')}{path}",
        timeout=LIMIT,
        header=[f"Authorization: token {TOKEN}"],
        http_no_proxy=["127.0.0.1"],
    )
    try:
        yield socket
    finally:
        socket.close()


def received(socket: websocket.WebSocket) -> Iterator[Any]:
    """What comes, until the socket is closed or nothing has come for long."""
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        # With the control frames: the server's pings would make it wait for ever.
        opcode, frame = socket.recv_data_frame(control_frame=True)
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            return
        if opcode == websocket.ABNF.OPCODE_TEXT:
            yield json.loads(frame.data)


@contextmanager
def listening(server: Server) -> Iterator[Ears]:
    with connected(server, "api/events/subscribe") as socket:
        yield Ears(socket)
