"""A real Jupyter server, used as JupyterLab uses it: REST, and a websocket for a kernel's channels."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

from .case import WrongAnswerError
from .stage import Stage

#: Seconds for one answer, and for a server to come up or to end.
LIMIT = 60.0

SETTINGS = """\
c = get_config()
c.IdentityProvider.token = {token!r}
c.ServerApp.allow_root = True
c.ServerApp.open_browser = False
c.ServerApp.port_retries = 0
c.ServerApp.root_dir = {root!r}
c.ServerApp.jpserver_extensions = {extensions!r}
"""
#: They are not used here, and take most of a server's start.
OTHERS = ("jupyterlab", "jupyter_lsp", "notebook_shim", "jupyter_server_terminals")


@dataclass(frozen=True)
class Kernel:
    """A kernel of a server, and the session that it was started for."""

    id: str
    session: str


@dataclass(frozen=True)
class Server:
    url: str
    token: str = field(repr=False)

    async def begin(self, path: str, kernel_name: str) -> Kernel:
        """A session for a new notebook, as JupyterLab and VS Code ask for it."""
        body = {"path": path, "name": path, "type": "notebook", "kernel": {"name": kernel_name}}
        made = await self.request("POST", "api/sessions", body)
        return Kernel(made["kernel"]["id"], made["id"])

    async def restart(self, kernel: Kernel) -> None:
        await self.request("POST", f"api/kernels/{kernel.id}/restart")

    async def end(self, kernel: Kernel) -> None:
        await self.request("DELETE", f"api/sessions/{kernel.session}")

    @asynccontextmanager
    async def connected(self, kernel: Kernel) -> AsyncIterator[Websocket]:
        url = f"ws{self.url.removeprefix('http')}api/kernels/{kernel.id}/channels?session_id={uuid4().hex}"
        socket = await websocket_connect(HTTPRequest(url, headers=self._headers))
        try:
            yield Websocket(socket)
        finally:
            socket.close()

    async def request(self, method: str, path: str, body: Any = None) -> Any:
        """The answer's JSON. Raises `WrongAnswerError` when it is an error."""
        request = HTTPRequest(
            self.url + path,
            method,
            headers=self._headers,
            body=json.dumps(body) if body is not None else None,
            allow_nonstandard_methods=True,
            request_timeout=LIMIT,
        )
        try:
            answer = await AsyncHTTPClient().fetch(request)
        except HTTPClientError as error:
            said = error.response.body.decode(errors="replace") if error.response else ""
            raise WrongAnswerError(f"{method} {path}: {error} {said}".strip()) from error
        return json.loads(answer.body) if answer.body else None

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"token {self.token}"}


class Websocket:
    """Asks a kernel through a server."""

    def __init__(self, connection: WebSocketClientConnection) -> None:
        self._connection = connection
        self._session = uuid4().hex

    async def kernel_info(self) -> None:
        await self._ask("kernel_info", {})

    async def execute(self, code: str, expressions: Mapping[str, str]) -> Mapping[str, Any]:
        return await self._ask(
            "execute",
            {"code": code, "silent": False, "store_history": True, "user_expressions": dict(expressions)},
        )

    async def _ask(self, kind: str, content: Mapping[str, Any]) -> Mapping[str, Any]:
        id_ = uuid4().hex
        header = {"msg_id": id_, "msg_type": f"{kind}_request", "session": self._session, "version": "5.3"}
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content}
        await self._connection.write_message(json.dumps({**message, "channel": "shell", "buffers": []}))
        async with asyncio.timeout(LIMIT):
            while (text := await self._connection.read_message()) is not None:
                reply = json.loads(text)
                if reply["parent_header"].get("msg_id") == id_ and reply["channel"] == "shell":
                    found: Mapping[str, Any] = reply["content"]
                    return found
        raise WrongAnswerError("The server closed the connection to the kernel.")


@asynccontextmanager
async def serving(stage: Stage, *, ours: bool) -> AsyncIterator[Server]:
    """A server that answers; without `ours` as if ds01-kernels were not installed."""
    port, token = _free_port(), secrets.token_hex(16)
    extensions = {**dict.fromkeys(OTHERS, False), "ds01_kernels": ours}
    settings = stage.root / f"server_{port}.py"
    settings.write_text(SETTINGS.format(token=token, root=str(stage.workspace), extensions=extensions))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "jupyter_server", f"--config={settings}", f"--ServerApp.port={port}"),
        cwd=stage.root,
        # For gateway_provisioners, which starts no kernels for the user root.
        env={**os.environ, "KERNEL_USERNAME": "user"},
        stdin=asyncio.subprocess.DEVNULL,
        **stage.output,
    )
    server = Server(f"http://127.0.0.1:{port}/", token)
    try:
        await _answers(server, process)
        yield server
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(LIMIT):
                await process.wait()


async def _answers(server: Server, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(LIMIT):
        while process.returncode is None:
            with suppress(OSError):
                await server.request("GET", "api/status")
                return
            await asyncio.sleep(0.1)
    raise WrongAnswerError("The server has ended.")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
