"""Spare kernels: handed out at once, with no trace of anybody else, and gone when there is no room."""

from __future__ import annotations

import ast
import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import live
import pytest
from conftest import ProjectFolder
from test_agent import LIMIT, Site, kill, lives, run, site, wait_until
from traitlets.config import Config

from ds01_kernels.agent.kernel import Request
from ds01_kernels.agent.room import Room
from ds01_kernels.agent.spare import begin_history
from ds01_kernels.agent.spares import SIZE
from ds01_kernels.agent_client import Agent, KernelProcess
from ds01_kernels.errors import KernelFailedError
from ds01_kernels.variables import WORKSPACE
from ds01_kernels.workbench import Workbench

__all__ = ["site"]

#: What a kernel knows of itself: everything that could tell of another notebook, or of how it came to be.
FINGERPRINT = """
import gc, os, random, signal, socket, sys, threading, time
from ipykernel.kernelapp import IPKernelApp
from ipykernel.connect import get_connection_file
shell = get_ipython()
app = IPKernelApp.instance()
ids = os.environ["DS01_KERNEL"]
seen = dict(
    env=dict(os.environ), cwd=os.getcwd(), argv=sys.argv, path=sys.path, umask=os.umask(0o22),
    handlers={str(s): str(signal.getsignal(s)) for s in signal.valid_signals() if s < 32},
    mask=str(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    zone=time.tzname, dirs=[str(each) for each in _dh], starting=shell.starting_dir,
    names=sorted(name for name in shell.user_ns if not name.startswith("_i")),
    hidden=sorted(shell.user_ns_hidden), session_name=shell.user_ns.get("__session__"),
    key=app.session.key.decode(), username=app.session.username, ip=app.ip, app=type(app).__name__,
    app_argv=app.argv, config=repr(app.config), shell_config=repr(shell.config),
    file=get_connection_file(), own=sorted(vars(app)),
    history=[shell.history_manager.enabled, shell.history_manager.session_number > 0, len(In), len(Out)],
    before=[type(each).__name__ for each in shell.configurables],
    saving=[t.name for t in threading.enumerate() if "History" in type(t).__name__].__len__(),
    threads=len(threading.enumerate()), count=shell.execution_count,
    files=[sorted({os.path.basename(os.readlink("/proc/self/fd/%d" % fd)) for fd in (1, 2)})[0][:4]],
    score=open("/proc/self/oom_score_adj").read().strip(), parent=os.getppid(),
    comm=open("/proc/self/comm").read(), group=os.getpgid(0) == os.getpid(), modules="numpy" in sys.modules,
)
seen = eval(repr(seen).replace(ids, "KERNEL"))
"""


def spares(site: Site) -> set[int]:
    """The processes that wait; one that is on its way counts."""
    return {pid for pid in site.pids("# ds01 zygote") if _score(pid) == "1000"}


def _score(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/oom_score_adj").read_text().strip()
    except OSError:
        return ""


async def waiting(site: Site, count: int = 1) -> None:
    """Wait until that many have bound their sockets; and a little more comes before they wait."""
    await wait_until(lambda: len(list(site.agent_folder.glob("spare-*-5"))) >= count)
    await wait_until(lambda: len(spares(site)) == count)
    await asyncio.sleep(0.3)


async def with_spare(site: Site, agent: Agent, **fields: Any) -> KernelProcess:
    """A kernel that was a spare: how soon there is one depends on what else this machine does."""
    await waiting(site)
    process = await site.kernel(agent, **fields)
    assert process.how == "spare"
    return process


@pytest.fixture
def roomy(site: Site) -> Path:
    """A folder that says of the machine what a test wants: that there is room."""
    folder = site.folder / "proc"
    (folder / "pressure").mkdir(parents=True)
    say(folder)
    site.env["DS01_PROC_FOLDER"] = str(folder)
    return folder


def say(folder: Path, *, load: float = 0.0, running: int = 1, pressure: float = 0.0, free: int = 50) -> None:
    (folder / "loadavg").write_text(f"{load:.2f} 0.00 0.00 {running}/99 1\n")
    (folder / "pressure" / "memory").write_text(f"some avg10={pressure:.2f} avg60=0.00 avg300=0.00 total=0\n")
    total = 10_000_000
    lines = f"MemTotal: {total} kB\nMemFree: 1 kB\nMemAvailable: {total * free // 100} kB\n"
    (folder / "meminfo").write_text(lines)


def test_a_spare_is_as_a_forked_kernel_in_all_that_it_knows(site: Site, roomy: Path) -> None:
    async def work() -> None:
        agent = await site.connect()
        fields: dict[str, Any] = {
            "cwd": str(site.folder),
            "env": {"JPY_SESSION_NAME": "/a/b.ipynb", "TZ": "Asia/Tokyo", "MINE": "1", "USER": "ann"},
        }
        forked = await site.kernel(agent, **fields)
        assert forked.how == "fork"
        expected = ast.literal_eval(await site.run(forked, FINGERPRINT, "seen"))
        agent.prepare([], first=True, env={}, spares=1)
        spare = await with_spare(site, agent, **fields)
        found = ast.literal_eval(await site.run(spare, FINGERPRINT, "seen"))
        assert found == expected
        assert found["session_name"] == "/a/b.ipynb"
        assert found["zone"][0] == "JST"
        assert found["cwd"] == str(site.folder)
        assert found["key"] == "secret"
        await agent.close()

    run(site, work)


def test_the_next_one_knows_nothing_of_the_one_before(site: Site, roomy: Path) -> None:
    async def work() -> None:
        agent = await site.connect(spares=1)
        ask = "import os, random; session = get_ipython().history_manager.session_number"
        first = await with_spare(site, agent, env={"SECRET": "x", "JPY_SESSION_NAME": "one"}, cwd="/tmp")
        one = await site.run(first, ask, "(random.random(), os.getcwd(), session, os.environ.get('SECRET'))")
        second = await with_spare(site, agent, cwd="/")
        two = await site.run(second, ask, "(random.random(), os.getcwd(), session, os.environ.get('SECRET'))")
        seen, other = ast.literal_eval(one), ast.literal_eval(two)
        assert seen[1:] == ("/tmp", 1, "x")
        assert other[1:] == ("/", 2, None)
        assert seen[0] != other[0]
        assert await site.run(second, "", "'__session__' in globals()") == "False"
        await agent.close()

    run(site, work)


def test_sessions_in_the_history_are_those_of_notebooks(site: Site, roomy: Path) -> None:
    async def work() -> None:
        agent = await site.connect(spares=2)
        await waiting(site, 2)
        assert not list(site.folder.glob(".ipython/profile_default/history.sqlite"))
        process = await site.kernel(agent)
        assert await site.run(process, "", "get_ipython().history_manager.session_number") == "1"
        await agent.close()

    run(site, work)


def add_startup_file(site: Site, code: str) -> None:
    folder = site.folder / ".ipython" / "profile_default" / "startup"
    folder.mkdir(parents=True)
    (folder / "00.py").write_text(code)


def test_startup_files_run_for_the_notebook(site: Site, roomy: Path) -> None:
    async def work() -> None:
        add_startup_file(site, "import os; began = (os.getcwd(), os.environ.get('MINE'))")
        agent = await site.connect(spares=1)
        process = await with_spare(site, agent, cwd="/tmp", env={"MINE": "yes"})
        assert await site.run(process, "", "began") == "('/tmp', 'yes')"
        await agent.close()

    run(site, work)


def test_a_startup_file_that_ends_the_process_fails_its_start(site: Site, roomy: Path) -> None:
    async def work() -> None:
        add_startup_file(site, "import os; os._exit(3)")
        agent = await site.connect(spares=1)
        await waiting(site)
        process = await agent.spawn(site.request())
        assert process.how == "spare"
        with pytest.raises(KernelFailedError, match="exit code 3"):
            await process.ready()
        await agent.close()

    run(site, work)


def test_with_configuration_files_there_are_none(site: Site, roomy: Path) -> None:
    async def work() -> None:
        agent = await site.connect(spares=1)
        await waiting(site)
        (site.folder / ".ipython" / "profile_default" / "ipython_config.py").write_text(
            "import os; c.InteractiveShell.banner2 = os.getcwd()"
        )
        process = await site.kernel(agent, cwd="/tmp")
        assert process.how == "fork", "the one that waited does not know the file"
        assert await site.run(process, "", "get_ipython().banner2") == "'/tmp'"
        assert (await site.kernel(agent)).how == "fork"
        await agent.close()

    run(site, work)


@pytest.mark.parametrize(
    "fields",
    [{"env": {"IPYTHONDIR": "/tmp/elsewhere"}}, {"arguments": ["--IPKernelApp.exec_lines=a = 1"]}],
    ids=["variable", "argument"],
)
def test_what_a_spare_cannot_follow_is_forked(site: Site, roomy: Path, fields: dict[str, Any]) -> None:
    async def work() -> None:
        agent = await site.connect(spares=1)
        await waiting(site)
        process = await site.kernel(agent, **fields)
        assert process.how == "fork"
        await agent.close()

    run(site, work)


def test_a_history_file_is_followed(site: Site, roomy: Path) -> None:
    async def work() -> None:
        agent = await site.connect(spares=1)
        process = await with_spare(site, agent, arguments=["--HistoryManager.hist_file=:memory:"])
        assert await site.run(process, "", "get_ipython().history_manager.hist_file") == "':memory:'"
        await agent.close()

    run(site, work)


def test_a_history_that_cannot_begin_costs_no_kernel() -> None:
    class Shell:
        config = Config()
        history_manager: object = "none"

        def init_history(self) -> None:
            self.history_manager = "half"
            raise RuntimeError("an IPython that nobody knows")

    shell = Shell()
    app = SimpleNamespace(config=Config(), kernel=SimpleNamespace(config=Config()))
    begin_history(app, shell, Request("k", "/", {}, [], "/k.json", "/k.log", "/k"))
    assert shell.history_manager == "none"


def test_another_one_comes_and_none_counts(site: Site, roomy: Path) -> None:
    async def work() -> None:
        agent = await site.connect(spares=2)
        await waiting(site, 2)
        assert await agent.count_kernels() == 0
        first = await with_spare_of_two(site, agent)
        assert await agent.count_kernels() == 1
        await waiting(site, 2)
        assert await agent.kernels() == {first.id}
        first.end()
        await first.ended()
        assert not list(site.folder.glob(f"{first.id}-*")), "its sockets go with it"
        waiting_now = spares(site)
        await agent.close()
        kill(site.agent_pid(), signal.SIGTERM)
        await wait_until(lambda: not any(lives(pid) for pid in waiting_now))
        assert not list(site.agent_folder.glob("spare-*")), "nor do they leave anything"

    run(site, work)


async def with_spare_of_two(site: Site, agent: Agent) -> KernelProcess:
    process = await site.kernel(agent)
    assert process.how == "spare"
    return process


def test_more_at_once_than_there_are_are_forked(site: Site, roomy: Path) -> None:
    async def work() -> None:
        agent = await site.connect(spares=1)
        await waiting(site)
        kernels = await asyncio.gather(*(site.kernel(agent) for _ in range(4)))
        assert sorted(kernel.how for kernel in kernels) == ["fork", "fork", "fork", "spare"]
        for number, kernel in enumerate(kernels):
            assert await site.run(kernel, f"mine = {number}", "mine") == str(number)
        await agent.close()

    run(site, work)


@pytest.mark.parametrize("state", [{"pressure": 11.0}, {"free": 9}], ids=["pressure", "available"])
def test_they_go_when_memory_is_short_and_come_back(
    site: Site,
    roomy: Path,
    state: dict[str, Any],
) -> None:
    async def work() -> None:
        agent = await site.connect(spares=1)
        await waiting(site)
        say(roomy, **state)
        await wait_until(lambda: not spares(site))
        assert (await site.kernel(agent)).how == "fork"
        say(roomy)
        await waiting(site)
        await agent.close()

    run(site, work)


def test_a_changed_module_ends_them(site: Site, roomy: Path) -> None:
    async def work() -> None:
        module = site.packages / "changing.py"
        module.write_text("value = 1")
        (site.packages / "sitecustomize.py").write_text("import changing")
        os.utime(module, (1, 1))
        agent = await site.connect(spares=1, env={"PYTHONPATH": str(site.packages)})
        first = await with_spare(site, agent, env={"PYTHONPATH": str(site.packages)})
        assert await site.run(first, "import changing", "changing.value") == "1"
        await waiting(site)
        former = spares(site)
        module.write_text("value = 22")
        second = await site.kernel(agent, env={"PYTHONPATH": str(site.packages)})
        assert second.how == "fork"
        assert await site.run(second, "import changing", "changing.value") == "22"
        await wait_until(lambda: not any(lives(pid) for pid in former))
        third = await with_spare(site, agent, env={"PYTHONPATH": str(site.packages)})
        assert await site.run(third, "import changing", "changing.value") == "22"
        await agent.close()

    run(site, work)


def test_a_killed_spare_is_replaced(site: Site, roomy: Path) -> None:
    async def work() -> None:
        agent = await site.connect(spares=1)
        await waiting(site)
        (pid,) = spares(site)
        kill(pid, signal.SIGKILL)
        await wait_until(lambda: spares(site) not in ({pid}, set()))
        process = await with_spare(site, agent)
        process.signal(signal.SIGKILL)
        exit_ = await asyncio.wait_for(process.ended(), LIMIT)
        assert exit_.code == -9, "its exit is told as any kernel's"
        await agent.close()

    run(site, work)


def test_a_spare_that_hangs_is_left_aside(site: Site, roomy: Path) -> None:
    async def work() -> None:
        agent = await site.connect(spares=1)
        await waiting(site)
        (pid,) = spares(site)
        kill(pid, signal.SIGSTOP)
        process = await site.kernel(agent)
        assert process.how == "fork"
        await wait_until(lambda: not lives(pid))
        assert await site.run(process, "", "6 * 7") == "42"
        await agent.close()

    run(site, work)


@pytest.mark.parametrize(
    ("state", "calm", "short"),
    [
        ({}, True, False),
        ({"load": 64.0, "running": 65}, False, False),
        ({"load": 64.0, "running": 1}, True, False),
        ({"load": 0.1, "running": 65}, True, False),
        ({"pressure": 10.5}, True, True),
        ({"free": 9}, True, True),
    ],
)
def test_room(tmp_path: Path, state: dict[str, Any], calm: bool, short: bool) -> None:
    (tmp_path / "pressure").mkdir()
    say(tmp_path, **state)
    room = Room(lambda: (0, 0), str(tmp_path))
    assert (room.is_calm(), room.is_short()) == (calm, short)


@pytest.mark.parametrize(
    ("limit", "used", "short", "short_of_it"),
    [
        (8 << 30, 7 << 30, False, False),
        (8 << 30, 15 << 29, True, True),
        (400 << 20, 272 << 20, False, False),
        (400 << 20, 273 << 20, False, True),
        (400 << 20, 305 << 20, True, True),
        (64 << 20, 0, True, True),
        (0, 1 << 40, False, False),
    ],
    ids=["large", "large-full", "small", "small-and-one-more", "small-full", "tiny", "none"],
)
def test_room_in_a_container_with_a_limit(
    tmp_path: Path, limit: int, used: int, short: bool, short_of_it: bool
) -> None:
    room = Room(lambda: (limit, used), str(tmp_path))
    assert (room.is_short(), room.is_short(SIZE)) == (short, short_of_it)


# On the engine


@pytest.fixture(scope="module")
def live_site(engine_available: None) -> Iterator[live.Site]:
    # What says nothing of the machine says that there is room.
    with live.a_site("c.Workbench.variables = {'DS01_PROC_FOLDER': '/none'}") as made:
        yield made


def how(kernel: live.LiveKernel) -> str:
    return str(kernel.manager.provisioner._place._process.how)


def spare_in(project: ProjectFolder) -> bool:
    """Whether one waits, or is about to, in the project's container."""
    look = "import os; print([name for name in os.listdir('/run/ds01') if name.startswith('spare-')])"
    return "-5'" in live.in_container(project, look)


@pytest.mark.engine
def test_in_a_container_starts_and_restarts_get_one(live_site: live.Site) -> None:
    project = live_site.project("spared")
    folder = project.path / "sub"
    folder.mkdir()
    name = f"ds01-{project.name}"
    with live.a_kernel(name, cwd=str(folder), env={**os.environ, "JPY_SESSION_NAME": "a.ipynb"}) as kernel:
        live.until(lambda: spare_in(project))
        time.sleep(0.5)
        info = kernel.manager.get_connection_info()
        kernel.run("mark = 1")
        kernel.restart()
        assert how(kernel) == "spare"
        assert kernel.manager.get_connection_info() == info
        assert kernel.run("import os; print('mark' in globals(), os.getcwd(), __session__)").split() == [
            "False",
            "/workspace/sub",
            "a.ipynb",
        ]
        live.until(lambda: spare_in(project))
        time.sleep(0.5)
        with live.a_kernel(name) as other:
            assert how(other) == "spare"
            seen = "os.getcwd(), '__session__' in globals(), 'JPY_SESSION_NAME' in os.environ"
            assert other.run(f"import os; print({seen})").split() == [str(WORKSPACE), "False", "False"]
            own = kernel.manager.get_connection_info()["key"], other.manager.get_connection_info()["key"]
            assert own[0] != own[1]
            assert other.run("print('to the right one')") == "to the right one\n"
    live.nothing_left(live_site, project)


@pytest.mark.engine
def test_a_container_with_spares_alone_has_no_kernels(live_site: live.Site) -> None:
    project = live_site.project("idle")
    workbench = Workbench.open()
    found = next(each for each in workbench.projects().projects if each.name == project.name)
    info = workbench.call(workbench.launcher.deploy(found))
    live.until(lambda: spare_in(project))
    assert workbench.call(workbench.launcher.count_kernels(info)) == 0
    assert workbench.call(workbench.launcher.retire(found, force=False))
