"""Real servers and command lines on a workspace of their own: subprocesses, with REST and websocket clients.

A `House` is a workspace with Jupyter's directories private to it. Nothing of the test process's own settings
is changed, so several houses, and houses of several users, can stand side by side.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import forked
import requests
import websocket
import yaml
from conftest import FROM_BASE, ProjectFolder, build_project, remove_projects_below, with_engine
from jsonschema import Draft202012Validator

import ds01_kernels
from ds01_kernels.engine.docker_connection import connect
from ds01_kernels.text import clean

OPENAPI = yaml.safe_load((Path(ds01_kernels.__file__).parent / "openapi.yaml").read_text())

#: Seconds for what takes one or two on an idle machine.
LIMIT = 90.0
TOKEN = "the-token-of-the-tests"

SERVER_SETTINGS = f"""\
c.IdentityProvider.token = {TOKEN!r}
c.ServerApp.allow_root = True
c.ServerApp.open_browser = False
c.ServerApp.port_retries = 0
c.ServerApp.jpserver_extensions = dict.fromkeys({{off}}, False)
"""

#: Of what a Jupyter installation has, these take most of the time that a server needs to start.
SLOW = ("jupyterlab", "jupyter_lsp", "notebook_shim", "jupyter_server_terminals")


@dataclass(frozen=True)
class House:
    """`command` is how Python is run for it; `env` all variables of its processes; `uid` whose they are."""

    root: Path
    env: Mapping[str, str]
    command: Sequence[str] = (sys.executable,)
    uid: int = field(default_factory=os.getuid)

    @property
    def workspace(self) -> Path:
        return self.root / "workspace"

    def configure(self, name: str, text: str) -> None:
        """Write ``<name>_config.py`` into Jupyter's configuration directory."""
        (self.root / "config" / f"{name}_config.py").write_text(f"c = get_config()\n{text}\n")

    def folder(self, name: str, dockerfile: str | None = FROM_BASE, *, unique: bool = True) -> ProjectFolder:
        """A new folder in the workspace, a project when it has a Dockerfile; nothing is built."""
        name = f"{name}-{secrets.token_hex(4)}" if unique else name
        made = ProjectFolder(
            name,
            self.workspace / name,
            f"ds01-{self.uid}/{name.lower()}:latest",
            f"{name.lower()}._.{self.uid}",
        )
        made.path.mkdir()
        if dockerfile is not None:
            (made.path / "Dockerfile").write_text(dockerfile, encoding="utf-8")
        return made

    def project(self, name: str, image: str) -> ProjectFolder:
        """A new project that starts from `image`, built."""
        made = self.folder(name, f"FROM {image}\n")
        with_engine(lambda engine: build_project(engine, made))
        return made

    def run(
        self,
        *words: str,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
        limit: float = LIMIT,
    ) -> subprocess.CompletedProcess[str]:
        """``python`` with these words, as this house's user; standard input is empty by default."""
        return subprocess.run(
            [*self.command, *words],
            input=stdin or "",
            capture_output=True,
            text=True,
            timeout=limit,
            env={**self.env, **(env or {})},
            cwd=self.root,
        )

    def ds01(
        self,
        *words: str,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
        limit: float = LIMIT,
    ) -> subprocess.CompletedProcess[str]:
        """``jupyter ds01`` with these words, otherwise like `run`."""
        # What only a new interpreter heeds takes one.
        if self.command != (sys.executable,) or any(name.startswith("PYTHON") for name in env or ()):
            return self.run("-m", "ds01_kernels.app", *words, stdin=stdin, env=env, limit=limit)
        return forked.ds01(
            words, stdin=stdin or "", env={**self.env, **(env or {})}, cwd=self.root, limit=limit
        )

    def with_variables(self, **env: str) -> House:
        return replace(self, env={**self.env, **env})

    @contextmanager
    def server(
        self, *, port: int | None = None, base: str = "/", settings: str = "", lab: bool = False
    ) -> Iterator[Server]:
        """A server whose root is the workspace, answering; at exit it is asked to end, and awaited.

        `settings` are further lines of its configuration file; with `lab` it has JupyterLab's extensions too.
        """
        port = port or free_port()
        off = () if lab else SLOW
        self.configure("jupyter_server", SERVER_SETTINGS.format(off=off) + settings)
        log = self.root / f"server-{port}-{secrets.token_hex(3)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [
                    *self.command,
                    "-m",
                    "jupyter_server",
                    f"--ServerApp.port={port}",
                    f"--ServerApp.base_url={base}",
                    f"--ServerApp.root_dir={self.workspace}",
                ],
                env=dict(self.env),
                cwd=self.root,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        server = Server(f"http://127.0.0.1:{port}{base}", port, process, log)
        try:
            server.wait_until_ready()
            yield server
        finally:
            server.stop()


@contextmanager
def a_house(place: Path | None = None, **more: Any) -> Iterator[House]:
    """A new house, in `place` or a directory of its own; its containers and images are gone afterwards."""
    # Short, as sockets want it.
    root = place or Path(tempfile.mkdtemp(prefix="ds01-test-")).resolve()
    for name in ("config", "data", "runtime", "workspace"):
        (root / name).mkdir(mode=0o700)
    env = {
        name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "DS01", "JPY"))
    }
    env |= {f"JUPYTER_{name.upper()}_DIR": str(root / name) for name in ("config", "data", "runtime")}
    env |= {"DS01_WORKSPACE": str(root / "workspace"), "PYTHONUNBUFFERED": "1"}
    env |= more.pop("env", {})
    try:
        yield House(root, env, **more)
    finally:
        remove_projects_below(root / "workspace")
        shutil.rmtree(root)


@dataclass
class Server:
    """A running Jupyter server and a REST client with its token."""

    url: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def __post_init__(self) -> None:
        self.http = requests.Session()
        # A proxy of this machine is not asked for 127.0.0.1.
        self.http.trust_env = False
        self.http.headers["Authorization"] = f"token {TOKEN}"

    def request(self, method: str, path: str, body: Any = None, limit: float = LIMIT) -> requests.Response:
        return self.http.request(method, self.url + path, json=body, timeout=limit)

    def get(self, path: str) -> Any:
        answer = self.request("GET", path)
        assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text}\n{self.said()}"
        return answer.json()

    def start_session(self, path: str, kernel: str) -> Kernel:
        """As JupyterLab and VS Code do it."""
        body = {"path": path, "name": path, "type": "notebook", "kernel": {"name": kernel}}
        return self._kernel(self.request("POST", "api/sessions", body), lambda answer: answer["kernel"]["id"])

    def start_kernel(self, kernel: str, **more: str) -> Kernel:
        return self._kernel(self.request("POST", "api/kernels", {"name": kernel, **more}), lambda a: a["id"])

    def _kernel(self, answer: requests.Response, id_of: Callable[[Any], str]) -> Kernel:
        assert answer.status_code == 201, f"{answer.status_code} {answer.text}\n{self.said()}"
        return Kernel(self, id_of(answer.json()))

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        """As if its machine had taken it away: no handler of its own runs."""
        self.process.kill()
        self.process.wait(LIMIT)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(LIMIT)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(LIMIT)
                raise
        self.http.close()

    def wait_until_ready(self) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, f"the server ended: {self.said()}"
            with suppress(requests.ConnectionError):
                return self.request("GET", "api/status").status_code == 200
            return False

        wait_for(ready, lambda: f"the server does not answer: {self.said()}")


@dataclass(frozen=True)
class Outcome:
    """What one cell gave: its streams, its last value as text, and its error's name (empty: none).

    `shown` is what it displayed, as text; `traceback` the lines that stand for the error, without colours.
    """

    status: str
    text: str = ""
    value: str = ""
    error: str = ""
    shown: str = ""
    traceback: tuple[str, ...] = ()


class Kernel:
    """A kernel of a server, used through the websocket as browsers use it."""

    def __init__(self, server: Server, kernel_id: str) -> None:
        self.server = server
        self.id = kernel_id
        self.path = f"api/kernels/{kernel_id}"
        self._session = uuid4().hex
        self._socket: websocket.WebSocket | None = None
        self._sending = threading.Lock()

    @contextmanager
    def connected(self) -> Iterator[Kernel]:
        url = f"ws{self.server.url.removeprefix('http')}{self.path}/channels?session_id={self._session}"
        self._socket = websocket.create_connection(
            url, timeout=LIMIT, header=[f"Authorization: token {TOKEN}"], http_no_proxy=["127.0.0.1"]
        )
        try:
            yield self
        finally:
            self._socket.close()
            self._socket = None

    def run(self, code: str) -> str:
        """What the code prints. Raises `AssertionError` when it fails."""
        outcome = self.execute(code)
        assert outcome.status == "ok", outcome
        return outcome.text

    def ask(self, expression: str) -> Any:
        """The value of a Python expression, through JSON."""
        return json.loads(self.run(f"import json; print(json.dumps({expression}))"))

    def execute(self, code: str) -> Outcome:
        with ExitStack() as stack:
            if self._socket is None:
                stack.enter_context(self.connected())
            return self.outcome(self.send("execute_request", code=code, silent=False, store_history=True))

    def send(self, kind: str, **content: Any) -> str:
        """Send on the shell channel; returns the message's id."""
        assert self._socket is not None
        header = {
            "msg_id": uuid4().hex,
            "msg_type": kind,
            "session": self._session,
            "username": "",
            "version": "5.3",
            "date": "",
        }
        message = {
            "header": header,
            "parent_header": {},
            "metadata": {},
            "content": {"user_expressions": {}, "allow_stdin": False, "stop_on_error": True, **content},
            "channel": "shell",
            "buffers": [],
        }
        with self._sending:
            self._socket.send(json.dumps(message))
        return str(header["msg_id"])

    def outcome(self, request: str) -> Outcome:
        """Read until that request is answered and its output has come."""
        text, value, shown, idle, reply = "", "", "", False, None
        deadline = time.monotonic() + LIMIT
        while not idle or reply is None:
            message = self._receive(deadline)
            if message["parent_header"].get("msg_id") != request:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                text += content["text"]
            elif kind == "execute_result":
                value = content["data"]["text/plain"]
            elif kind == "display_data":
                shown += content["data"]["text/plain"]
            elif kind == "status":
                idle = content["execution_state"] == "idle"
            elif kind == "execute_reply":
                reply = content
        traceback = tuple(clean(line, colours=False) for line in reply.get("traceback", ()))
        return Outcome(reply["status"], text, value, reply.get("ename", ""), shown, traceback)

    def receive_until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + LIMIT
        while not wanted(message := self._receive(deadline)):
            pass
        return message

    def _receive(self, deadline: float) -> dict[str, Any]:
        assert self._socket is not None
        while True:
            # With the control frames: the server's pings would make it wait for ever.
            opcode, frame = self._socket.recv_data_frame(control_frame=True)
            if opcode == websocket.ABNF.OPCODE_TEXT:
                message: dict[str, Any] = json.loads(frame.data)
                return message
            assert opcode != websocket.ABNF.OPCODE_CLOSE, "the server closed the connection"
            assert time.monotonic() < deadline, f"the message did not come: {self.server.said()}"

    def restart(self) -> None:
        answer = self.server.request("POST", f"{self.path}/restart")
        assert answer.status_code == 200, answer.text

    def interrupt(self) -> None:
        assert self.server.request("POST", f"{self.path}/interrupt").status_code == 204

    def delete(self) -> None:
        assert self.server.request("DELETE", self.path).status_code == 204

    def state(self) -> str:
        return str(self.server.get(self.path)["execution_state"])


def started_again(kernel: Kernel) -> None:
    """Wait for Jupyter's restart, and until what the new process publishes is heard."""
    asked: set[str] = set()
    is_heard = threading.Event()

    def ask() -> None:
        while not is_heard.wait(0.2):
            asked.add(kernel.send("kernel_info_request"))

    kernel.receive_until(
        lambda message: (
            message["msg_type"] == "status" and message["content"]["execution_state"] == "restarting"
        )
    )
    asking = threading.Thread(target=ask)
    asking.start()
    try:
        kernel.receive_until(
            lambda message: (
                message["msg_type"] == "status" and message["parent_header"].get("msg_id") in asked
            )
        )
    finally:
        is_heard.set()
        asking.join()


def check(schema: str, value: Any) -> None:
    """Raises `ValidationError` unless `value` is as the OpenAPI file says."""
    document = {**OPENAPI, "$ref": f"#/components/schemas/{schema}"}
    Draft202012Validator(document).validate(value)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], Any], otherwise: Callable[[], str] | str, limit: float = LIMIT) -> Any:
    """What `condition` gives as soon as that is true. Raises `AssertionError` with `otherwise`."""
    deadline = time.monotonic() + limit
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(otherwise if isinstance(otherwise, str) else otherwise())
        time.sleep(0.1)
    return found


def container_id(name: str) -> str | None:
    """The id of the container of that name, when there is one."""
    found = with_engine(lambda engine: engine.container(name))
    return found.id if found else None


def host_processes(container: str) -> dict[int, str]:
    """What runs in the container, by the host's pids: the command lines. Spare kernels, which come and go as
    there is room, are left out."""
    client = connect(60.0)
    try:
        listed = client.top(container, ps_args="-eo pid,args")["Processes"]
    finally:
        client.close()
    return {int(pid): arguments for pid, arguments in listed if not _is_spare(int(pid))}


def _is_spare(pid: int) -> bool:
    """Whether the OOM killer is to take it first."""
    try:
        return Path(f"/proc/{pid}/oom_score_adj").read_text() == "1000\n"
    except OSError:
        return False


def host_pid(container: str, inner: int) -> int:
    """The host's pid of the process that has the pid `inner` in that container."""
    for pid in host_processes(container):
        # https://man7.org/linux/man-pages/man5/proc_pid_status.5.html: NSpid ends with the innermost one.
        status = Path(f"/proc/{pid}/status").read_text()
        if int(status.partition("NSpid:")[2].partition("\n")[0].split()[-1]) == inner:
            return pid
    raise AssertionError(f"{container} has no process {inner}")


def is_alive(pid: int) -> bool:
    """Whether that process of this machine runs: a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def listening(pid: int) -> set[tuple[str, int]]:
    """The addresses and TCP ports that are listened on in the network that this process has."""
    return {(address, port) for address, port, _ in _listening(pid)}


def tcp_ports_of(pid: int) -> set[int]:
    """The TCP ports that this process of the machine itself listens on."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            target = os.readlink(descriptor)
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    return {port for _, port, inode in _listening(pid) if inode in inodes}


def _listening(pid: int) -> Iterator[tuple[str, int, str]]:
    # https://docs.kernel.org/networking/proc_net_tcp.html: 0A is LISTEN; addresses stand in memory's order.
    for family, table in ((socket.AF_INET, "tcp"), (socket.AF_INET6, "tcp6")):
        with suppress(FileNotFoundError):
            for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A":
                    address, _, port = fields[1].partition(":")
                    words = [int(address[at : at + 8], 16) for at in range(0, len(address), 8)]
                    packed = struct.pack(f"={len(words)}I", *words)
                    yield socket.inet_ntop(family, packed), int(port, 16), fields[9]
