"""Projects and kernels on the real engine that several tests of a module share, and what is seen of them.

A `Site` is what the fixtures `workspace` and `make_project` give to one test, while its ``with`` lasts.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import FROM_BASE, ProjectFolder, build_project, remove_projects_below, set_apart, with_engine
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager
from jupyter_client.provisioning import KernelProvisionerFactory

from ds01_kernels.connection import run_root
from ds01_kernels.engine.docker_connection import connect
from ds01_kernels.kernelspecs import PROVISIONER, install
from ds01_kernels.projects import discover
from ds01_kernels.workbench import Workbench

#: Seconds for what takes well under one on an idle machine.
LIMIT = 60.0


@dataclass(frozen=True)
class Site:
    """A workspace with Jupyter's directories private to it, all below `root`."""

    root: Path

    @property
    def workspace(self) -> Path:
        return self.root / "workspace"

    @property
    def runtime(self) -> Path:
        return self.root / "runtime"

    @property
    def kernels(self) -> Path:
        return self.root / "data" / "kernels"

    def configure(self, settings: str) -> None:
        (self.root / "config" / "jupyter_ds01_config.py").write_text(f"c = get_config()\n{settings}\n")

    def project(
        self, name: str = "p", *, dockerfile: str = FROM_BASE, built: bool = True, unique: bool = True
    ) -> ProjectFolder:
        """A new project with its static kernelspec; `unique` adds random hex to its name."""
        name = f"{name}-{secrets.token_hex(4)}" if unique else name
        made = ProjectFolder(
            name=name,
            path=self.workspace / name,
            image=f"ds01-{os.getuid()}/{name.lower()}:latest",
            container=f"{name.lower()}._.{os.getuid()}",
        )
        made.path.mkdir()
        (made.path / "Dockerfile").write_text(dockerfile, encoding="utf-8")
        if built:
            with_engine(lambda engine: build_project(engine, made))
        install(discover([self.workspace]).get(name), kernels_dir=self.kernels)
        return made

    def spec(self, name: str, **fields: Any) -> str:
        """A kernelspec that another product installed."""
        folder = self.kernels / name
        folder.mkdir(parents=True)
        spec = {"display_name": name, "language": "python", **fields}
        (folder / "kernel.json").write_text(json.dumps(spec))
        return name


@contextmanager
def a_site(settings: str = "") -> Iterator[Site]:
    """A `Site`; at its end this process's kernels are gone, and containers and images of its projects."""
    # Short, as sockets want it.
    site = Site(Path(tempfile.mkdtemp(prefix="ds01-test-")).resolve())
    with pytest.MonkeyPatch.context() as patch, forgetting_singletons():
        set_apart(patch, site.root)
        patch.setenv("JUPYTER_DEFAULT_PROVISIONER_NAME", PROVISIONER)
        site.configure(settings)
        try:
            yield site
        finally:
            leave()
            sockets = _socket_directories(site)
            remove_projects_below(site.workspace)
            for directory in sockets:
                shutil.rmtree(directory, ignore_errors=True)
            shutil.rmtree(site.root)


@contextmanager
def forgetting_singletons() -> Iterator[None]:
    """Inside, this process's workbench and provisioner factory are made anew when they are asked for."""
    leave()
    try:
        yield
    finally:
        leave()


def leave() -> None:
    """End this process's kernels and forget its settings."""
    if Workbench.initialized():
        Workbench.instance().close()
    Workbench.clear_instance()
    KernelProvisionerFactory.clear_instance()


#: A program that starts the kernel that is named to it; what is to become of that follows.
STARTING = """
import sys
from jupyter_client.manager import KernelManager
manager = KernelManager(kernel_name=sys.argv[1])
manager.start_kernel()
client = manager.client()
client.start_channels()
client.wait_for_ready(timeout=60)"""


@contextmanager
def another(*command: str, **more: Any) -> Iterator[subprocess.Popen[str]]:
    """A process of its own, of this Python, that has said ``ready``; `more` is Popen's."""
    with subprocess.Popen(
        [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **more
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


@dataclass
class LiveKernel:
    """A kernel and a client that is connected to it."""

    manager: KernelManager
    client: BlockingKernelClient

    def run(self, code: str, limit: float = LIMIT) -> str:
        """What the code printed. Raises `AssertionError` with the kernel's traceback."""
        text, error = self.outcome(self.client.execute(code), limit)
        assert not error, error
        return text

    def outcome(self, request: str, limit: float = LIMIT) -> tuple[str, str]:
        """What that execute request printed, and its traceback (empty: none)."""
        printed, deadline = "", time.monotonic() + limit
        while True:
            message = self.client.get_iopub_msg(timeout=deadline - time.monotonic())
            if message["parent_header"].get("msg_id") != request:
                continue
            content = message["content"]
            if message["msg_type"] == "stream":
                printed += content["text"]
            elif message["msg_type"] == "status" and content["execution_state"] == "idle":
                break
        while True:
            reply = self.client.get_shell_msg(timeout=deadline - time.monotonic())
            if reply["parent_header"].get("msg_id") == request:
                content = reply["content"]
                return printed, "\n".join(content.get("traceback") or [content.get("ename", "")]).strip()

    def started(self, code: str) -> str:
        """The request of an execution that has begun, and has printed something."""
        request = self.client.execute(code)
        while True:
            message = self.client.get_iopub_msg(timeout=LIMIT)
            if message["parent_header"].get("msg_id") == request and message["msg_type"] == "stream":
                return request

    def shown(self, code: str, limit: float = LIMIT) -> str:
        """All that the cell shows, with what is said in it beside the code's own output."""
        request, shown, deadline = self.client.execute(code), "", time.monotonic() + limit
        while True:
            message = self.client.get_iopub_msg(timeout=deadline - time.monotonic())
            if message["parent_header"].get("msg_id") != request:
                continue
            content = message["content"]
            shown += content.get("text", "") + content.get("data", {}).get("text/plain", "")
            if content.get("execution_state") == "idle":
                return shown

    def explanation(self) -> str:
        """Why it runs no code: what every cell is answered."""
        text, error = self.outcome(self.client.execute("1 + 1"))
        assert error, f"it ran the code, and printed {text!r}"
        return error

    @property
    def code(self) -> int | None:
        """What the provisioner's `poll` says."""
        return _sync(self.manager.provisioner.poll())

    def restart(self, **arguments: Any) -> None:
        self.manager.restart_kernel(**arguments)
        self.client.wait_for_ready(timeout=LIMIT)


@contextmanager
def a_kernel(name: str, *, manager: KernelManager | None = None, **arguments: Any) -> Iterator[LiveKernel]:
    """A kernel that answers; it is shut down at the end, unless that was done before."""
    manager = manager or KernelManager(kernel_name=name)
    manager.start_kernel(**arguments)
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=LIMIT)
        yield LiveKernel(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def _sync(coroutine: Any) -> Any:
    from jupyter_core.utils import run_sync

    async def run() -> Any:
        return await coroutine

    return run_sync(run)()


def until(condition: Callable[[], Any], limit: float = LIMIT) -> Any:
    """Wait for a true value of `condition`, and return it."""
    deadline = time.monotonic() + limit
    while not (value := condition()):
        assert time.monotonic() < deadline, f"it did not come within {limit:.0f} s"
        time.sleep(0.02)
    return value


# What is there


@contextmanager
def docker() -> Iterator[Any]:
    """The engine's API, beside the product's own way to it."""
    client = connect(60.0)
    try:
        yield client
    finally:
        client.close()


def inspect(project: ProjectFolder) -> dict[str, Any]:
    with docker() as client:
        found: dict[str, Any] = client.inspect_container(project.container)
        return found


def containers_of(site: Site) -> list[str]:
    """The ids of all containers whose project lies in the workspace."""
    with docker() as client:
        found = client.containers(all=True, filters={"label": "ds01-kernels.path"})
    return [one["Id"] for one in found if Path(one["Labels"]["ds01-kernels.path"]).parent == site.workspace]


def _socket_directories(site: Site) -> list[str]:
    with docker() as client:
        found = [client.inspect_container(container)["Config"]["Labels"] for container in containers_of(site)]
    return [labels["ds01-kernels.sockets"] for labels in found if "ds01-kernels.sockets" in labels]


def in_container(project: ProjectFolder, code: str) -> str:
    """What a Python program prints that runs in the project's container, beside the agent."""
    with docker() as client:
        started = client.exec_create(project.container, ["/usr/bin/python", "-I", "-c", code])
        output = client.exec_start(started["Id"]).decode()
        assert client.exec_inspect(started["Id"])["ExitCode"] == 0, output
    return str(output)


_LOOK = """
import json, os
def command(pid):
    try:
        with open(f"/proc/{pid}/oom_score_adj") as file:
            if file.read() == "1000\\n":
                return ""  # a spare
        with open(f"/proc/{pid}/cmdline") as file:
            return file.read().replace("\\0", " ").strip() or f"zombie {pid}"
    except OSError:
        return ""
agent = f"/tmp/.ds01-agent-{os.getuid()}"
print(json.dumps({
    "commands": [command(pid) for pid in os.listdir("/proc") if pid.isdigit() and int(pid) != os.getpid()],
    "sockets": os.listdir("/run/ds01") if os.path.isdir("/run/ds01") else [],
    "files": [name for name in os.listdir(agent)] if os.path.isdir(agent) else [],
}))
"""

_RELAY = "exec(read(int.from_bytes("
_OUR_COMMANDS = ("docker-init", "signal.pause()", "# ds01 agent", "# ds01 zygote", "# ds01 rehearsal", _RELAY)
_AGENTS_FILES = (".sock", ".sock.lock", ".sock.log", "prepared")


def leftovers(site: Site, project: ProjectFolder) -> dict[str, list[str]]:
    """What is there beside the container, its agent and its zygote: nothing, when no kernel runs."""
    look = json.loads(in_container(project, _LOOK))
    own = (run_root() / "k").glob(f"{os.getpid()}-*/*")
    found = {
        "processes": [
            command
            for command in look["commands"]
            if command and not any(ours in command for ours in _OUR_COMMANDS)
        ],
        "zygotes": [command for command in look["commands"] if "# ds01 zygote" in command][1:],
        "agents": [command for command in look["commands"] if "# ds01 agent" in command][1:],
        "sockets": [name for name in look["sockets"] if not _is_of_spare(name)],
        "connection files and logs": [
            name for name in look["files"] if not name.endswith(_AGENTS_FILES) and not _is_of_spare(name)
        ],
        # Other kernels of this process may live elsewhere.
        "links": [str(path) for path in own if not (path / "s-1").exists()],
        "Jupyter's connection files": [path.name for path in site.runtime.iterdir() if not _leads_on(path)],
    }
    return {kind: things for kind, things in found.items() if things}


def _is_of_spare(name: str) -> bool:
    return name.startswith("spare-")


def _leads_on(file: Path) -> bool:
    """Whether Jupyter's connection file is one of a kernel of ours that has its sockets."""
    connection = json.loads(file.read_text())
    return Path(f"{connection['ip']}-{connection['shell_port']}").exists()


def nothing_left(site: Site, project: ProjectFolder, limit: float = 10.0) -> None:
    """Wait for `leftovers` to be empty: killed processes take a moment to go."""
    deadline = time.monotonic() + limit
    while left := leftovers(site, project):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
