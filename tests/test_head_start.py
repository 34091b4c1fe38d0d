"""What is on its way before a client asks: the agent with its container, and the zygote with the agent."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from pathlib import Path, PurePosixPath

import live
import pytest
from test_agent import LIMIT, PYTHON, Site, kill, run, site, wait_until

from ds01_kernels import containers
from ds01_kernels.agent.kernel import Preparation
from ds01_kernels.agent_stream import early_start
from ds01_kernels.workbench import Workbench

__all__ = ["site"]


@pytest.mark.parametrize("guessed", [True, False], ids=["what-it-is-told", "something-else"])
def test_a_second_agent_has_a_zygote_before_it_is_told(site: Site, guessed: bool) -> None:
    async def work() -> None:
        former = await site.connect(env={} if guessed else {"LANG": "C"})
        if guessed:
            await site.kernel(former)
        await former.close()
        kill(site.agent_pid(), signal.SIGTERM)
        await wait_until(lambda: not site.pids("# ds01"))
        agent = await site.connect(prepared=False)
        await wait_until(lambda: len(site.zygotes()) == 1)
        zygotes = site.zygotes()
        agent.prepare([], first=True, env={})
        process = await site.kernel(agent)
        assert process.how == "fork"
        await wait_until(lambda: len(site.zygotes(process)) == 1)
        assert (site.zygotes(process) == zygotes) is guessed, "only what was started with the same is used"
        await agent.close()

    run(site, work)


@pytest.mark.parametrize(
    "text",
    ["", "nonsense", "[]", '{"path": 1}', '{"path": [1], "first": true, "env": {}}', "[" * 100_000],
    ids=["empty", "nonsense", "list", "number", "no-texts", "deep"],
)
def test_what_was_kept_and_cannot_be_read_is_left_aside(site: Site, text: str) -> None:
    async def work() -> None:
        site.agent_folder.mkdir(mode=0o700)
        (site.agent_folder / "prepared").write_text(text)
        agent = await site.connect()
        assert (await site.kernel(agent)).how == "fork"
        assert json.loads((site.agent_folder / "prepared").read_text())["env"] == {}
        await agent.close()

    run(site, work)


def started_early(site: Site, guess: Preparation, home: Path | None = None) -> subprocess.Popen[bytes]:
    """What is run with a container; a shell lets what it starts beside itself ignore two signals."""
    file = site.folder / "early"
    file.write_bytes(early_start(guess, PurePosixPath(file), home))
    text = f"exec(open({str(file)!r}).read()) # ds01 zygote"
    command = f"trap '' INT QUIT; exec {PYTHON} -Xfrozen_modules=off -c \"$0\""
    env = {"HOME": str(site.folder), "LANG": "C.UTF-8", "PATH": os.environ["PATH"]}
    env |= {"DS01_AGENT_FOLDER": str(site.agent_folder), **site.env}
    return subprocess.Popen(["/bin/sh", "-c", command, text], cwd="/", env=env)


#: A package's code that runs when an interpreter starts.
THREAD = "import threading, time; threading.Thread(target=time.sleep, args=[1e6], daemon=True).start()\n"


@pytest.mark.parametrize(
    ("told", "at_start", "is_fork"),
    [({}, "", True), ({"COLOUR": "red"}, "", True), ({"LANG": "C"}, "", False), ({}, THREAD, False)],
    ids=["nothing", "what-is-so", "another-locale", "a-thread"],
)
def test_an_agent_that_starts_with_its_container_has_forked_the_zygote(
    site: Site, told: dict[str, str], at_start: str, is_fork: bool
) -> None:
    async def work() -> None:
        (site.packages / "sitecustomize.py").write_text(at_start)
        site.env = {"COLOUR": "red", "PYTHONPATH": str(site.packages)}
        early = started_early(site, Preparation([], True, told))
        await wait_until(lambda: site.agents() == {early.pid} and len(site.zygotes()) == 1)
        (zygote,) = site.zygotes()
        shown = Path(f"/proc/{zygote}/cmdline").read_text()
        assert (str(site.folder / "early") in shown) is is_fork
        agent = await site.connect(env=told)
        process = await site.kernel(agent, env=told)
        assert process.how == ("start" if at_start else "fork")
        assert site.zygotes(process) == ({zygote} if not at_start else set())
        handlers = "[str(signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGQUIT)]"
        found = await site.run(process, "import signal", handlers)
        assert "default_int_handler" in found
        assert "SIG_IGN" not in found
        await agent.close()
        kill(early.pid, signal.SIGTERM)
        assert await asyncio.to_thread(early.wait, LIMIT) == 0

    run(site, work)


def test_where_an_agent_runs_no_other_is_started_early(site: Site) -> None:
    async def work() -> None:
        agent = await site.connect()
        process = await site.kernel(agent)
        before = site.agents(), site.zygotes(process)
        early = started_early(site, Preparation([], True, {}))
        assert await asyncio.to_thread(early.wait, LIMIT) == 0
        assert (site.agents(), site.zygotes(process)) == before
        await agent.close()

    run(site, work)


@pytest.mark.engine
def test_the_agent_starts_with_its_container(engine_available: None) -> None:
    with live.a_site() as place:
        project = place.project("stopped")
        # The project's files are not what it imports.
        (project.path / "typing.py").write_text("raise ImportError('not this one')\n")
        workbench = Workbench.open()
        found = next(each for each in workbench.projects().projects if each.name == project.name)
        info = workbench.call(workbench.launcher.deploy(found))
        workbench.call(workbench.chosen_engine.stop(info.id, 0))
        stopped = workbench.call(workbench.chosen_engine.container(info.id))
        assert stopped is not None
        assert not stopped.running
        # Nobody connects.
        workbench.call(containers.run(workbench.chosen_engine, stopped))
        look = (
            "import os\n"
            "lines = [open(f'/proc/{pid}/cmdline').read() for pid in os.listdir('/proc') if pid.isdigit()]\n"
            "print(*sorted(m for m in ('agent', 'zygote') for line in lines if f'# ds01 {m}' in line))"
        )
        live.until(lambda: live.in_container(project, look) == "agent zygote\n")
        with live.a_kernel(f"ds01-{project.name}") as kernel:
            assert kernel.run("print(6 * 7)") == "42\n"
        assert live.in_container(project, look).startswith("agent zygote"), "still the only ones"
