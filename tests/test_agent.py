"""The real agent, its relays, zygote and kernels, as processes of this machine: no engine is needed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
from jupyter_client.asynchronous.client import AsyncKernelClient

from ds01_kernels.agent import logs, protocol
from ds01_kernels.agent_client import Agent, KernelProcess
from ds01_kernels.agent_requests import Identity, KernelRequest, Limits
from ds01_kernels.agent_stream import programs
from ds01_kernels.engine import ContainerSpec
from ds01_kernels.errors import AgentError, KernelFailedError
from ds01_kernels.exits import Cause, Exit
from ds01_kernels.testing import FakeEngine

LIMIT = 60.0
#: The interpreter that stands for the image's; it must have ipykernel.
PYTHON = os.environ.get("DS01_TEST_PYTHON", sys.executable)
PORTS = {"shell_port": 1, "iopub_port": 2, "stdin_port": 3, "control_port": 4, "hb_port": 5}
CHILD = "import subprocess; child = subprocess.Popen(['sleep', '1000']{}).pid"


class Site:
    """A "container" of this machine: a folder that is home, with the agent's private one and all sockets."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.agent_folder = folder / "agent"
        self.packages = folder / "packages"
        self.packages.mkdir()
        self.engine = FakeEngine()
        #: Further variables of the container.
        self.env: dict[str, str] = {}

    async def start(self) -> None:
        env = {"DS01_AGENT_FOLDER": str(self.agent_folder), "HOME": str(self.folder), "LANG": "C.UTF-8"}
        env |= self.env
        await self.engine.create(ContainerSpec("c", "ds01/base:latest", ("sleep",), env=env))
        await self.engine.start("c")

    async def connect(
        self,
        name: str = "me",
        *,
        owner: str = "",
        grace: float = 30.0,
        env: dict[str, str] | None = None,
        path: tuple[Path, ...] = (),
        prepared: bool = True,
        spares: int = 0,
    ) -> Agent:
        identity = Identity(name, owner, grace)
        agent = Agent(self.engine, "c", identity, ("", ""), PYTHON, Limits(pause=0.05, goodbye=LIMIT))
        await agent.connect()
        if prepared:
            agent.prepare([str(folder) for folder in path], first=True, env=env or {}, spares=spares)
            await agent.count_kernels()  # so the agent has got it
        return agent

    def request(self, **fields: Any) -> KernelRequest:
        name = secrets.token_hex(4)
        connection = {
            **PORTS,
            "transport": "ipc",
            "ip": str(self.folder / name),
            "key": "secret",
            "signature_scheme": "hmac-sha256",
            "kernel_name": "",
        }
        return KernelRequest(
            **{"process": name, "cwd": "/", "env": {}, "files": {}, "connection": connection, **fields}
        )

    async def kernel(self, agent: Agent, **fields: Any) -> KernelProcess:
        """A kernel that is ready."""
        process = await agent.spawn(self.request(**fields))
        await process.ready()
        return process

    async def run(self, process: KernelProcess, code: str, expression: str = "None") -> str:
        """Run `code` in that kernel; the representation of `expression` afterwards."""
        async with self.client(process) as client:
            wanted = client.execute(code, user_expressions={"value": expression})
            while True:
                reply = await client.get_shell_msg(timeout=LIMIT)
                if reply["parent_header"].get("msg_id") == wanted:
                    break
        assert reply["content"]["status"] == "ok", reply["content"]
        value = reply["content"]["user_expressions"]["value"]
        assert value["status"] == "ok", value
        return str(value["data"]["text/plain"])

    async def submit(self, process: KernelProcess, code: str) -> None:
        """Have `code` run, with no wait: it may end the kernel."""
        async with self.client(process) as client:
            client.execute(code)
            await process.ended()

    @contextlib.asynccontextmanager
    async def client(self, process: KernelProcess) -> AsyncIterator[AsyncKernelClient]:
        client = AsyncKernelClient()
        client.load_connection_info(
            {
                **PORTS,
                "transport": "ipc",
                "ip": str(self.folder / process.id),
                "key": "secret",
                "signature_scheme": "hmac-sha256",
            }
        )
        client.start_channels(hb=False)
        try:
            yield client
        finally:
            client.stop_channels()

    def pids(self, command: str) -> set[int]:
        """Our processes with `command` in their command line."""
        mark = f"DS01_AGENT_FOLDER={self.agent_folder}".encode()
        found = set()
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if (
                    entry.name.isdigit()
                    and mark in (entry / "environ").read_bytes().split(b"\0")
                    and command.encode() in (entry / "cmdline").read_bytes()
                ):
                    found.add(int(entry.name))
        return found

    def agents(self) -> set[int]:
        return self.pids("# ds01 agent")

    def agent_pid(self) -> int:
        (pid,) = self.agents()
        return pid

    def zygotes(self, *kernels: KernelProcess) -> set[int]:
        """Forked kernels share the zygote's command line."""
        return self.pids("# ds01 zygote") - {kernel.pid for kernel in kernels}

    def relays(self) -> set[int]:
        return self.pids("exec(read(int.from_bytes(")

    def socket(self) -> Path:
        (path,) = self.agent_folder.glob("*.sock")
        return path

    def end(self) -> None:
        """Nothing that a test started lives on, whatever became of the test."""
        for _ in range(100):
            left = self.pids("")
            if not left:
                break
            for pid in left:
                kill(pid, signal.SIGKILL)
            wait_until_sync(lambda: not self.pids(""))


@pytest.fixture
def site() -> Iterator[Site]:
    folder = Path(tempfile.mkdtemp(prefix="ds01-"))  # sockets want a short path
    made = Site(folder)
    yield made
    made.end()
    shutil.rmtree(folder)


def run(site: Site, work: Callable[[], Awaitable[None]]) -> None:
    async def running() -> None:
        await site.start()
        try:
            async with asyncio.timeout(240):
                await work()
        finally:
            await site.engine.close()

    asyncio.run(running())


def kill(pid: int, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signum)


def lives(pid: int) -> bool:
    """Whether it runs: a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


async def wait_until(condition: Callable[[], bool], limit: float = LIMIT) -> None:
    async with asyncio.timeout(limit):
        while not condition():
            await asyncio.sleep(0.02)


async def wait_for_count(agent: Agent, count: int) -> None:
    """Wait until the agent has that many kernels: one that was killed is counted until its exit is seen."""
    async with asyncio.timeout(LIMIT):
        while await agent.count_kernels() != count:
            await asyncio.sleep(0.02)


def wait_until_sync(condition: Callable[[], bool]) -> None:
    asyncio.run(wait_until(condition))


# Starting


def test_a_forked_kernel_answers_over_ipc(site: Site) -> None:
    async def work() -> None:
        agent = await site.connect()
        process = await site.kernel(agent, env={"COLOUR": "green"})
        assert process.how == "fork"
        async with site.client(process) as client:
            wanted = client.kernel_info()
            reply = await client.get_shell_msg(timeout=LIMIT)
        assert reply["parent_header"]["msg_id"] == wanted
        assert reply["content"]["implementation"] == "ipython"
        seen = "import os; seen = [os.getpid(), os.environ['COLOUR'], os.environ['DS01_KERNEL']]"
        assert await site.run(process, seen, "seen") == f"[{process.pid}, 'green', '{process.id}']"
        assert await agent.count_kernels() == 1
        await agent.close()
        assert not lives(process.pid)

    run(site, work)


def test_twenty_at_once_all_get_ready(site: Site) -> None:
    async def work() -> None:
        agent = await site.connect()
        kernels = await asyncio.gather(*(site.kernel(agent) for _ in range(20)))
        assert {kernel.how for kernel in kernels} == {"fork"}
        assert len({kernel.pid for kernel in kernels}) == 20
        assert await agent.count_kernels() == 20
        await agent.close()
        assert not any(lives(kernel.pid) for kernel in kernels)

    run(site, work)


@pytest.mark.parametrize("variable", ["PYTHONHASHSEED", "LANG"])
def test_a_variable_that_binds_at_start_gets_its_own_interpreter(site: Site, variable: str) -> None:
    async def work() -> None:
        agent = await site.connect()
        value = {"PYTHONHASHSEED": "7", "LANG": "C"}[variable]
        process = await site.kernel(agent, env={variable: value})
        assert process.how == "start"
        if variable == "PYTHONHASHSEED":
            ask = [PYTHON, "-c", "print(hash('ds01'))"]
            expected = subprocess.check_output(ask, env={variable: value}, text=True).strip()
            assert await site.run(process, "", "hash('ds01')") == expected
        assert await site.run(process, "import os", f"os.environ['{variable}']") == repr(value)
        await agent.close()

    run(site, work)


def test_a_variable_that_the_zygote_was_prepared_with_does_not(site: Site) -> None:
    async def work() -> None:
        agent = await site.connect(env={"LANG": "C"})
        assert (await site.kernel(agent, env={"LANG": "C"})).how == "fork"
        assert (await site.kernel(agent)).how == "start"
        await agent.close()

    run(site, work)


def test_files_are_named_only_where_they_exist(site: Site) -> None:
    async def work() -> None:
        agent = await site.connect()
        bundle = site.folder / "bundle.pem"
        bundle.touch()
        files = {
            "SSL_CERT_FILE": str(bundle),
            "CURL_CA_BUNDLE": str(site.folder / "none"),
            "HOME": str(bundle),
        }
        process = await site.kernel(agent, files=files)
        seen = "[os.environ.get(n) for n in ('SSL_CERT_FILE', 'CURL_CA_BUNDLE', 'HOME')]"
        assert await site.run(process, "import os", seen) == str([str(bundle), None, str(site.folder)])
        await agent.close()

    run(site, work)


def test_a_folder_that_does_not_exist_falls_back_to_the_nearest_above(site: Site) -> None:
    async def work() -> None:
        agent = await site.connect()
        for cwd, expected in {
            str(site.folder / "a" / "b"): str(site.folder),
            "": "/",
            "nowhere/x": "/",
        }.items():
            process = await site.kernel(agent, cwd=cwd)
            assert await site.run(process, "import os", "os.getcwd()") == repr(expected)
        await agent.close()

    run(site, work)


def test_variables_of_all_kinds_arrive(site: Site) -> None:
    async def work() -> None:
        agent = await site.connect()
        env = {"LARGE": "x" * 100_000, "BYTES": "\udcff\udc80", "TEXT": "grün ☂", "EMPTY": ""}
        many = {f"V{number}": "y" * 1000 for number in range(1000)}  # over what one packet of a socket takes
        process = await site.kernel(agent, env={**env, **many})
        assert process.how == "fork"
        seen = "[len(e['LARGE']), os.environb[b'BYTES'], e['TEXT'], e['EMPTY'], e['V999'][-1]]"
        assert (
            await site.run(process, "import os; e = os.environ", seen)
            == "[100000, b'\\xff\\x80', 'grün ☂', '', 'y']"
        )
        await agent.close()

    run(site, work)


@pytest.mark.parametrize("env", [{"A=B": "x"}, {"": "x"}, {"X": "a\0b"}, {"X": "\ud800"}])
def test_a_variable_that_no_process_can_have_is_an_error(site: Site, env: dict[str, str]) -> None:
    async def work() -> None:
        agent = await site.connect()
        with pytest.raises(AgentError):
            await agent.spawn(site.request(env=env))
        assert await agent.count_kernels() == 0
        await agent.close()

    run(site, work)


def test_ids_that_could_name_other_files_are_refused(site: Site) -> None:
    async def work() -> None:
        agent = await site.connect()
        for name in ("../x", "a/b", "", ".", "x" * 101):
            with pytest.raises(AgentError, match="cannot be used"):
                await agent.spawn(site.request(process=name))
        await agent.close()

    run(site, work)


def test_a_start_before_the_agent_knows_ipykernel_says_so(site: Site) -> None:
    async def work() -> None:
        agent = await site.connect(prepared=False)
        with pytest.raises(AgentError, match="where ipykernel is"):
            await agent.spawn(site.request())
        await agent.close()

    run(site, work)


def test_the_connection_file_is_private_and_goes_with_the_kernel(site: Site) -> None:
    async def work() -> None:
        agent = await site.connect()
        process = await site.kernel(agent)
        file = site.agent_folder / f"{process.id}.json"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(site.agent_folder.stat().st_mode) == 0o700
        assert json.loads(file.read_text())["key"] == "secret"
        process.end()
        await process.ended()
        kept = {path.suffix for path in site.agent_folder.iterdir()}
        assert kept == {".sock", ".lock", ".log", ""}, '"prepared" has none'
        assert not list(site.folder.glob(f"{process.id}*")), "its sockets go too"
        await agent.close()

    run(site, work)


# The zygote


def sitecustomize(site: Site, text: str) -> dict[str, str]:
    """Have `text` run at the start of every interpreter that has these variables."""
    (site.packages / "sitecustomize.py").write_text(textwrap.dedent(text))
    return {"PYTHONPATH": str(site.packages), "PYTHONDONTWRITEBYTECODE": "1"}


def test_the_zygote_stays_while_nothing_changes(site: Site) -> None:
    async def work() -> None:
        env = sitecustomize(site, "state = 'old'")
        agent = await site.connect(env=env)
        first = await site.kernel(agent, env=env)
        zygotes = site.zygotes(first)
        assert len(zygotes) == 1
        second = await site.kernel(agent, env=env)
        agent.prepare([], first=True, env=env)
        third = await site.kernel(agent, env=env)
        assert {first.how, second.how, third.how} == {"fork"}
        assert site.zygotes(first, second, third) == zygotes
        await agent.close()

    run(site, work)


def test_a_zygote_whose_module_was_replaced_is_replaced(site: Site) -> None:
    async def work() -> None:
        env = sitecustomize(site, "state = 'old'")
        agent = await site.connect(env=env)
        first = await site.kernel(agent, env=env)
        zygotes = site.zygotes(first)
        sitecustomize(site, "state = 'new'")
        second = await site.kernel(agent, env=env)
        assert second.how == "fork"
        assert await site.run(first, "import sitecustomize", "sitecustomize.state") == "'old'"
        assert await site.run(second, "import sitecustomize", "sitecustomize.state") == "'new'"
        await wait_until(lambda: len(site.zygotes(first, second)) == 1)
        assert not site.zygotes(first, second) & zygotes
        await agent.close()

    run(site, work)


def user_site(site: Site) -> Path:
    (folder,) = site.folder.glob(".local/lib/python*/site-packages")
    return folder


def test_a_new_pth_file_replaces_the_zygote(site: Site) -> None:
    async def work() -> None:
        agent = await site.connect()
        first = await site.kernel(agent)
        zygotes = site.zygotes(first)
        folder = user_site(site)
        assert folder.is_dir(), "made, so that a first install is on the path"
        (folder / "package.py").touch()
        (folder / "gone.pth").symlink_to(folder / "nothing")
        second = await site.kernel(agent)
        await wait_until(lambda: len(site.zygotes(first, second)) == 1)
        assert not site.zygotes(first, second) & zygotes
        third = await site.kernel(agent)
        assert {second.how, third.how} == {"fork"}
        await agent.close()

    run(site, work)


def test_an_installed_package_alone_does_not_replace_it(site: Site) -> None:
    async def work() -> None:
        agent = await site.connect()
        first = await site.kernel(agent)
        zygotes = site.zygotes(first)
        (user_site(site) / "package.py").touch()
        second = await site.kernel(agent)
        assert site.zygotes(first, second) == zygotes
        await agent.close()

    run(site, work)


def test_without_a_zygote_kernels_start_and_the_reason_is_told(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        env = sitecustomize(
            site,
            "import threading, time; threading.Thread(target=time.sleep, args=[1e6], daemon=True).start()",
        )
        agent = await site.connect(env=env)
        for _ in range(2):
            process = await site.kernel(agent, env=env)
            assert process.how == "start"
            assert await site.run(process, "x = 6 * 7", "x") == "42"
        assert len([text for text in caplog.messages if "started a thread" in text]) == 2
        assert site.zygotes() == set(), "it is not tried again while nothing has changed"
        sitecustomize(site, "")
        (user_site(site) / "package.py").touch()
        assert (await site.kernel(agent, env=env)).how == "fork"
        await agent.close()

    caplog.set_level(logging.INFO, "ds01_kernels")
    run(site, work)


def test_a_broken_ipykernel_gives_its_traceback(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        (site.packages / "ipykernel.py").write_text("raise ImportError('half installed')\n")
        agent = await site.connect(path=(site.packages,))
        process = await agent.spawn(site.request())
        with pytest.raises(KernelFailedError, match="half installed"):
            await process.ready()
        assert process.exit is not None
        assert process.exit.code == 1
        assert any("cannot be preloaded" in text and "half installed" in text for text in caplog.messages)
        await agent.close()

    caplog.set_level(logging.INFO, "ds01_kernels")
    run(site, work)


def test_a_killed_zygote_is_replaced(site: Site) -> None:
    async def work() -> None:
        agent = await site.connect()
        first = await site.kernel(agent)
        (zygote,) = site.zygotes(first)
        kill(zygote, signal.SIGKILL)
        second = await site.kernel(agent)
        third = await site.kernel(agent)
        assert third.how == "fork"
        for process in (first, second, third):
            assert await site.run(process, "x = 1", "x") == "1"
        await agent.close()

    run(site, work)


def test_a_zygote_killed_amid_starts_gives_each_kernel_once(site: Site) -> None:
    async def work() -> None:
        agent = await site.connect()
        first = await site.kernel(agent)
        (zygote,) = site.zygotes(first)
        starting = [asyncio.ensure_future(site.kernel(agent)) for _ in range(8)]
        await asyncio.sleep(0.03)
        kill(zygote, signal.SIGKILL)
        kernels = [first, *await asyncio.gather(*starting)]
        assert await agent.count_kernels() == len(kernels)
        pids = {kernel.pid for kernel in kernels}
        for kernel in kernels:
            assert await site.run(kernel, "import os", "os.getpid()") == str(kernel.pid)
        # No second process of a kernel that the zygote made before it was killed: its line was closed.
        await wait_until(lambda: site.pids("# ds01 kernel") <= pids and len(site.zygotes(*kernels)) <= 1)
        await agent.close()

    run(site, work)


def test_a_hanging_zygote_does_not_outlive_its_agent(site: Site) -> None:
    async def work() -> None:
        env = sitecustomize(
            site, "import sys, time; 'ds01 zygote' in ' '.join(sys.orig_argv) and time.sleep(1e6)"
        )
        agent = await site.connect(env=env)
        await wait_until(lambda: len(site.zygotes()) == 1)
        starting = asyncio.ensure_future(agent.spawn(site.request(env=env)))
        agent.prepare([], first=True, env={})
        process = await starting
        assert process.how == "start", "it was replaced while somebody waited for it"
        await process.ready()
        await agent.close()

    run(site, work)


# Ending


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import asyncio, sys; asyncio.get_running_loop().call_soon(sys.exit, 7)", 7),
        ("import os; os._exit(9)", 9),
        ("import os; os.kill(os.getpid(), 9)", -9),
        ("import os; os.abort()", -6),
    ],
)
def test_exit_codes_are_real(site: Site, code: str, expected: int) -> None:
    async def work() -> None:
        agent = await site.connect()
        for env in ({}, {"PYTHONHASHSEED": "0"}):
            process = await site.kernel(agent, env=env)
            assert process.how == ("start" if env else "fork")
            await site.submit(process, code)
            assert process.exit is not None
            assert process.exit.code == expected
        await agent.close()

    run(site, work)


def test_what_a_kernel_logged_last_is_told(site: Site) -> None:
    async def work() -> None:
        agent = await site.connect()
        process = await site.kernel(agent)
        await site.submit(process, "import os; get_ipython().kernel.log.error('out of luck'); os._exit(3)")
        assert process.exit is not None
        assert process.exit.code == 3
        assert "out of luck" in process.exit.detail
        await agent.close()

    run(site, work)


def test_a_signal_reaches_children_too(site: Site) -> None:
    async def work() -> None:
        agent = await site.connect()
        for env in ({}, {"PYTHONHASHSEED": "0"}):
            process = await site.kernel(agent, env=env)
            heard = site.folder / f"heard-{process.id}"
            script = f"trap 'touch {heard}; exit' INT; touch {heard}.set; while :; do sleep 0.05; done"
            await site.run(process, f"import subprocess; p = subprocess.Popen(['sh', '-c', {script!r}])")
            await wait_until(Path(f"{heard}.set").exists)
            process.signal(signal.SIGINT)
            await wait_until(heard.exists)
            assert await site.run(process, "x = 5", "x") == "5", "the kernel itself lives on"
            process.signal(signal.SIGTERM)
            assert (await process.ended()).code == -15
        await agent.close()

    run(site, work)


@pytest.mark.parametrize("how", ["end", "exit", "close"])
def test_whatever_a_kernel_started_ends_with_it(site: Site, how: str) -> None:
    async def work() -> None:
        agent = await site.connect()
        process, other = await asyncio.gather(site.kernel(agent), site.kernel(agent))
        near = int(await site.run(process, CHILD.format(""), "child"))
        far = int(await site.run(process, CHILD.format(", start_new_session=True"), "child"))
        daemon = "import subprocess, time; subprocess.run(['sh', '-c', 'setsid sleep 1000 & echo $! >{0}'])"
        note = site.folder / "daemon"
        await site.run(process, daemon.format(note))
        orphan = int(note.read_text())
        spared = int(await site.run(other, CHILD.format(", start_new_session=True"), "child"))
        assert all(map(lives, (near, far, orphan, spared)))
        if how == "end":
            process.end()
            assert (await process.ended()).code == -9
        elif how == "exit":
            await site.submit(process, "import os; os._exit(0)")
        else:
            await agent.close()
        await wait_until(lambda: not any(map(lives, (near, far, orphan))))
        if how != "close":
            assert lives(spared), "another kernel's are left alone"
            assert lives(other.pid)
        await agent.close()
        await wait_until(lambda: not lives(spared))

    run(site, work)


def test_a_kernel_ended_while_it_starts_is_gone(site: Site) -> None:
    async def work() -> None:
        agent = await site.connect()
        requests = [site.request() for _ in range(5)]
        starting = [asyncio.ensure_future(agent.spawn(request)) for request in requests]
        await asyncio.sleep(0)
        for request in requests:
            agent.send(kind="end", kernel=request.process)
        for process in await asyncio.gather(*starting):
            assert (await process.ended()).code == -9
        assert await agent.count_kernels() == 0
        await agent.close()

    run(site, work)


def test_a_cancelled_start_leaves_nothing(site: Site) -> None:
    async def work() -> None:
        agent = await site.connect()
        starting = asyncio.ensure_future(agent.spawn(site.request()))
        await asyncio.sleep(0.01)
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting
        await wait_for_count(agent, 0)
        await agent.close()

    run(site, work)


def test_a_kernel_that_dies_before_it_is_ready_says_why(site: Site) -> None:
    async def work() -> None:
        env = sitecustomize(site, "raise SystemExit('the licence server is down')")
        agent = await site.connect()
        process = await agent.spawn(site.request(env=env))
        with pytest.raises(KernelFailedError, match="licence server is down"):
            await process.ready()
        await agent.close()

    run(site, work)


def test_much_output_before_ready_blocks_nothing_and_is_not_kept(site: Site) -> None:
    async def work() -> None:
        env = sitecustomize(
            site,
            """
            import os
            for fd in [1, 2] * 25:
                os.write(fd, b"x" * 2**20)
            """,
        )
        agent = await site.connect()
        process = await site.kernel(agent, env=env)
        assert process.how == "start"
        assert (site.agent_folder / f"{process.id}.log").stat().st_size < logs.LIMIT
        assert await site.run(process, "x = 1", "x") == "1"
        await agent.close()

    run(site, work)


def test_a_log_that_has_grown_keeps_its_tail(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("ab") as writer:
        writer.write(b"x" * logs.LIMIT)
        writer.flush()
        logs.shorten(str(path))
        assert path.stat().st_size == logs.LIMIT, "it is not too long yet"
        writer.write("the end: ☂".encode())
        writer.flush()
        logs.shorten(str(path))
        assert path.stat().st_size <= logs.TAIL + 2
        writer.write(b" and more")
        writer.flush()
    assert logs.tail(str(path)).endswith("xthe end: ☂ and more")


def test_nothing_grows_over_thirty_cycles(site: Site) -> None:
    async def work() -> None:
        agent = await site.connect()

        async def cycle(number: int) -> KernelProcess:
            process = await site.kernel(agent, env={"PYTHONHASHSEED": "1"} if number % 10 == 9 else {})
            process.end()
            await process.ended()
            return process

        def descriptors() -> tuple[int, int]:
            (zygote,) = site.zygotes()
            return tuple(len(os.listdir(f"/proc/{pid}/fd")) for pid in (site.agent_pid(), zygote))

        for number in (8, 9):
            await cycle(number)
        before = (0, 0)

        def is_alone() -> bool:
            # While it tries out a kernel it holds a pipe to that.
            nonlocal before
            was_alone = not any(map(children, site.zygotes()))
            before = descriptors()
            return was_alone and not any(map(children, site.zygotes()))

        await wait_until(is_alone)
        for number in range(30):
            await cycle(number)
        await wait_until(lambda: descriptors() == before)
        await wait_until(lambda: children(site.agent_pid()) == site.zygotes())
        await wait_until(lambda: all(not children(zygote) for zygote in site.zygotes()))
        await agent.close()

    run(site, work)


def children(pid: int) -> set[int]:
    """Its children, zombies too."""
    found = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "stat").read_text().rpartition(")")[2].split()[1] == str(
                pid
            ):
                found.add(int(entry.name))
    return found


def test_a_storm_of_ending_children_loses_no_exit(site: Site) -> None:
    async def work() -> None:
        agent = await site.connect()
        storm = await site.kernel(agent)
        await site.run(
            storm,
            "import subprocess\n"
            "p = subprocess.Popen(['sh', '-c', 'while :; do (true &) ; done'], start_new_session=True)",
        )
        for number in range(8):
            process = await site.kernel(agent)
            await site.submit(process, f"import os; os._exit({number})")
            assert process.exit is not None
            assert process.exit.code == number
        storm.end()
        await storm.ended()
        await wait_until(lambda: children(site.agent_pid()) == site.zygotes())
        await agent.close()

    run(site, work)


# The agent and its clients


def test_when_the_agent_is_killed_its_kernels_die_and_the_client_says_so(site: Site) -> None:
    async def work() -> None:
        agent = await site.connect()
        process = await site.kernel(agent)
        child = int(await site.run(process, CHILD.format(""), "child"))
        far = int(await site.run(process, CHILD.format(", start_new_session=True"), "child"))
        (zygote,) = site.zygotes(process)
        kill(site.agent_pid(), signal.SIGKILL)
        assert await process.ended() == Exit(-9, Cause.AGENT)
        await wait_until(lambda: not lives(process.pid) and not lives(zygote))
        # The next agent ends what the killed one could not.
        await wait_until(lambda: not lives(child) and not lives(far))
        again = await site.kernel(agent)
        assert await site.run(again, "x = 1", "x") == "1", "it was prepared again"
        await agent.close()

    run(site, work)


def test_when_the_relay_is_killed_the_same_kernel_runs_on(site: Site) -> None:
    async def work() -> None:
        agent = await site.connect()
        process = await site.kernel(agent)
        await site.run(process, "kept = 'here'")
        for _ in range(3):
            (relay,) = site.relays()
            kill(relay, signal.SIGKILL)
            assert await agent.count_kernels() == 1, "asked while the stream was down"
            await wait_until(lambda former=relay: site.relays() not in ({former}, set()))
        assert process.exit is None
        assert await site.run(process, "", "kept") == "'here'"
        (relay,) = site.relays()
        kill(relay, signal.SIGKILL)
        process.end()
        assert (await process.ended()).code == -9, "said while the stream was down"
        assert not lives(process.pid)
        await agent.close()

    run(site, work)


def test_starts_go_on_while_relays_are_killed(site: Site) -> None:
    async def work() -> None:
        agent = await site.connect()
        first = await site.kernel(agent)
        starting = [asyncio.ensure_future(site.kernel(agent)) for _ in range(6)]
        for _ in range(4):
            for relay in site.relays():
                kill(relay, signal.SIGKILL)
            await asyncio.sleep(0.1)
        kernels = [first, *await asyncio.gather(*starting)]
        assert await agent.count_kernels() == len(kernels) == len({kernel.pid for kernel in kernels})
        await agent.close()

    run(site, work)


def test_an_exit_while_the_stream_is_down_is_told_with_its_code(site: Site) -> None:
    async def work() -> None:
        agent = await site.connect()
        process = await site.kernel(agent)
        async with site.client(process) as client:
            (relay,) = site.relays()
            kill(relay, signal.SIGSTOP)
            client.execute("import os; os._exit(5)")
            await wait_until(lambda: not lives(process.pid))
            kill(relay, signal.SIGKILL)
        assert (await process.ended()).code == 5
        await agent.close()

    run(site, work)


class Peer:
    """A client of the agent's socket that says just what it is told to."""

    def __init__(self, site: Site) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(site.socket()))
        self.socket.settimeout(LIMIT)
        self.decoder = protocol.Decoder()
        self.waiting: list[Any] = []

    def send(self, **message: Any) -> None:
        self.socket.sendall(protocol.encode(message))

    def expect(self, kind: str) -> dict[str, Any]:
        """The next message of that kind; those before it are dropped."""
        while True:
            while self.waiting:
                message = self.waiting.pop(0)
                if message["kind"] == kind:
                    return dict(message)
                assert message["kind"] != "error", message
            data = self.socket.recv(1 << 16)
            assert data, f"the agent closed before {kind}"
            self.waiting += self.decoder.feed(data)

    def greet(self, client: str, *, owner: str = "", grace: float = 0.0) -> dict[str, Any]:
        self.send(
            kind="hello",
            protocol=protocol.VERSION,
            client=client,
            owner=owner,
            grace=grace,
            nonce="",
            streams={},
        )
        return self.expect("welcome")

    def kernel(self, request: KernelRequest) -> int:
        self.send(
            kind="spawn",
            call=1,
            kernel=request.process,
            cwd="/",
            env={},
            files={},
            connection=dict(request.connection),
            arguments=[],
        )
        pid = self.expect("spawned")["pid"]
        self.expect("ready")
        return int(pid)


def test_kernels_of_a_lost_client_end_after_its_grace_time_and_not_before(site: Site) -> None:
    async def work() -> None:
        keeper = await site.connect("keeper")
        brief, lasting = Peer(site), Peer(site)
        brief.greet("brief", grace=1.0)
        lasting.greet("lasting", grace=60.0)
        pid = brief.kernel(site.request())
        kept = lasting.kernel(site.request())
        loop = asyncio.get_running_loop()
        lost = loop.time()
        brief.socket.close()
        lasting.socket.close()
        await wait_until(lambda: not lives(pid))
        assert loop.time() - lost >= 1.0
        await wait_for_count(keeper, 1)
        assert lives(kept)
        back = Peer(site)
        welcome = back.greet("lasting", grace=60.0)
        assert list(welcome["kernels"].values()) == [kept]
        assert welcome["ready"] == list(welcome["kernels"])
        back.send(kind="goodbye")
        await wait_until(lambda: not lives(kept))
        back.socket.close()
        await keeper.close()

    run(site, work)


@pytest.mark.parametrize("env", [{}, {"PYTHONUNBUFFERED": "1"}], ids=["fork", "start"])
def test_one_that_comes_after_another_says_who_it_is_and_does_the_rest_then(
    site: Site, env: dict[str, str]
) -> None:
    async def work() -> None:
        agent = await site.connect()
        former = await site.kernel(agent)
        process = await site.kernel(agent, after=former.id, env=env)
        async with site.client(process) as client:
            client.kernel_info()
            assert (await client.get_shell_msg(timeout=LIMIT))["msg_type"] == "kernel_info_reply"
            client.execute("done = True")
            with pytest.raises(Empty):
                await client.get_shell_msg(timeout=0.5)
            # It would end the event loop, were it heard there.
            process.signal(signal.SIGINT)
            with pytest.raises(Empty):
                await client.get_shell_msg(timeout=0.5)
            former.end()
            reply = await client.get_shell_msg(timeout=LIMIT)
            assert (reply["msg_type"], reply["content"]["status"]) == ("execute_reply", "ok")
        assert await site.run(process, "", "done") == "True"
        handler = "str(__import__('signal').getsignal(__import__('signal').SIGINT))"
        assert "default_int_handler" in await site.run(process, "", handler)
        later = await site.kernel(agent, after=former.id)
        assert await site.run(later, "", "1 + 1") == "2"
        await agent.close()

    run(site, work)


def test_goodbye_ends_at_once(site: Site) -> None:
    async def work() -> None:
        agent = await site.connect(grace=1000.0)
        kernels = await asyncio.gather(site.kernel(agent), site.kernel(agent))
        await agent.close()
        assert not any(lives(kernel.pid) for kernel in kernels)
        assert all(kernel.exit is not None for kernel in kernels)
        with pytest.raises(AgentError):
            await agent.count_kernels()

    run(site, work)


def test_after_goodbye_nothing_is_started(site: Site) -> None:
    async def work() -> None:
        keeper = await site.connect("keeper")
        await site.kernel(keeper)
        peer = Peer(site)
        peer.greet("peer", grace=1000.0)
        request = site.request()
        fields = {"cwd": "/", "env": {}, "files": {}, "arguments": [], "connection": dict(request.connection)}
        peer.socket.sendall(
            protocol.encode({"kind": "goodbye"})
            + protocol.encode({"kind": "spawn", "call": 1, "kernel": request.process, **fields})
        )
        while peer.socket.recv(1 << 16):
            pass
        peer.socket.close()
        assert await keeper.count_kernels() == 1
        await keeper.close()

    run(site, work)


def test_a_new_server_ends_its_predecessors_kernels_and_no_others(site: Site) -> None:
    async def work() -> None:
        former = await site.connect("server-1", owner="host:8888")
        other = await site.connect("command-line")
        mine, theirs = await site.kernel(former), await site.kernel(other)
        successor = await site.connect("server-2", owner="host:8888")
        assert successor.ended == [mine.id]
        assert (await mine.ended()).code == -9
        await wait_until(lambda: not lives(mine.pid))
        assert lives(theirs.pid)
        await wait_for_count(successor, 1)
        for agent in (former, other, successor):
            await agent.close()

    run(site, work)


def test_a_kernel_can_be_adopted(site: Site) -> None:
    async def work() -> None:
        former = await site.connect("former")
        process = await site.kernel(former)
        await site.run(process, "kept = 1")
        heir = await site.connect("heir")
        adopted = await heir.adopt(process.id, "former")
        assert (adopted.pid, adopted.how) == (process.pid, "adopt")
        assert (await heir.adopt(process.id, "former")).pid == process.pid, "asked twice, answered twice"
        await former.close()
        assert await site.run(adopted, "", "kept") == "1"
        with pytest.raises(AgentError, match="has ended"):
            await heir.adopt("nothing", "former")
        await heir.close()
        assert not lives(process.pid)

    run(site, work)


def test_many_clients_at_once_start_one_agent(site: Site) -> None:
    async def work() -> None:
        agents = await asyncio.gather(*(site.connect(f"c{number}") for number in range(6)))
        assert len(site.agents()) == 1
        kernels = await asyncio.gather(*(site.kernel(agent) for agent in agents))
        assert await agents[0].count_kernels() == len(kernels)
        await asyncio.gather(*(agent.close() for agent in agents))

    run(site, work)


def test_a_socket_that_nobody_listens_on_is_replaced(site: Site) -> None:
    async def work() -> None:
        agent = await site.connect()
        kill(site.agent_pid(), signal.SIGKILL)
        await wait_until(lambda: agent.lost is not None)
        assert site.socket().exists()
        again = await site.connect()
        assert len(site.agents()) == 1
        await agent.close()
        await again.close()

    run(site, work)


@pytest.mark.parametrize("trap", ["link", "open", "file"])
def test_somebody_elses_folder_is_refused(site: Site, trap: str) -> None:
    if trap == "link":
        target = site.folder / "target"
        target.mkdir(mode=0o700)
        site.agent_folder.symlink_to(target)
    elif trap == "open":
        site.agent_folder.mkdir()
        site.agent_folder.chmod(0o777)
    else:
        site.agent_folder.touch()

    async def work() -> None:
        with pytest.raises(AgentError, match="not a private folder"):
            await site.connect()

    run(site, work)
    assert not site.agents()


def test_sigterm_ends_the_agent_and_all_its_kernels(site: Site) -> None:
    async def work() -> None:
        agent = await site.connect(grace=0.0)
        process = await site.kernel(agent)
        pid = site.agent_pid()
        kill(pid, signal.SIGTERM)
        await process.ended()
        await wait_until(lambda: not lives(process.pid) and not lives(pid))
        await agent.close()

    run(site, work)


def test_an_idle_agent_ends_and_one_in_use_does_not(site: Site) -> None:
    program = programs()[1].decode()
    assert "IDLE_LIMIT = 900.0" in program
    site.agent_folder.mkdir(mode=0o700)
    path = site.agent_folder / "idle.sock"
    file = site.folder / "program.py"
    file.write_text(program.replace("IDLE_LIMIT = 900.0", "IDLE_LIMIT = 0.5"))
    told, tell = os.pipe()
    agent = subprocess.Popen(
        [PYTHON, "-I", "-c", f"exec(open({str(file)!r}).read())", str(path), str(tell)],
        pass_fds=[tell],
        env={"HOME": str(site.folder), "PATH": os.environ["PATH"]},
    )
    os.close(tell)
    assert os.read(told, 1) == b"1"
    os.close(told)
    peer = Peer(site)
    peer.greet("peer")
    with pytest.raises(subprocess.TimeoutExpired):
        agent.wait(1.5)
    peer.socket.close()
    assert agent.wait(LIMIT) == 0
    assert not path.exists()
