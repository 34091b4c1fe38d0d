"""What is on its way before a client asks: the agent with its container, and the zygote with the agent."""

from __future__ import annotations

import json
import signal

import live
import pytest
from test_agent import Site, kill, run, site, wait_until

from ds01_kernels import containers
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


@pytest.mark.engine
def test_the_agent_starts_with_its_container(engine_available: None) -> None:
    with live.a_site() as place:
        project = place.project("stopped")
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
