"""A node that is lost with kernels on it, of a swarm that is only played."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from causes import ON_SWARM
from live import a_kernel, until
from pretended import Pretence, Pretended

from ds01_kernels.agent_return import reached_or_over
from ds01_kernels.agent_stream import AgentStream
from ds01_kernels.doctor import examine
from ds01_kernels.engine import ContainerInfo, ContainerSpec
from ds01_kernels.engine.swarm_stream import Watch
from ds01_kernels.errors import AgentError, ContainerExitedError, EngineUnreachableError, NotFoundError
from ds01_kernels.events import ContainerChanged, DriftChanged, Event
from ds01_kernels.exits import Cause, Exit, gone, told
from ds01_kernels.packages import Drift, Item, Origin
from ds01_kernels.projects import Project
from ds01_kernels.status import ProjectStatus, all_statuses, details

HEARTBEAT = "The node n1 does not answer: heartbeat failure."


@pytest.fixture
def swarm(here: Pretence) -> Pretended:
    swarm = Pretended(here.root, "swarm", nodes=("n1", "n2"))
    here.open(swarm)
    return swarm


def status(here: Pretence) -> ProjectStatus:
    (found,) = asyncio.run(all_statuses(here.workbench))
    return found


def container(here: Pretence, swarm: Pretended) -> ContainerInfo:
    found = asyncio.run(swarm.container("p._.0"))
    assert found is not None
    return found


def record(here: Pretence, project: Project, container: str, *names: str) -> None:
    """As if these had been installed in that container."""
    drift = Drift(added=tuple(Item(name, "1.0", True, (), Origin("index"), name) for name in names))
    here.workbench.records.keep_drift(project, container, "", drift)


def test_its_kernels_say_so_and_the_next_one_runs_elsewhere(here: Pretence, swarm: Pretended) -> None:
    project = here.project("p", on=swarm)
    told: list[Event] = []
    here.workbench.listen(told.append)
    with a_kernel(project.kernel_name) as kernel:
        assert kernel.run("x = 1; print(x)") == "1\n"
        first = container(here, swarm)
        assert (first.node, status(here).node) == ("n1", "n1")
        until(lambda: here.workbench.records.drift(project) is not None)
        until(lambda: not here.workbench.drifts._looking)
        record(here, project, first.id, "handmade")
        began = time.monotonic()
        swarm.lose_node("n1")
        until(lambda: kernel.code is not None, limit=15)
        assert time.monotonic() - began < 15
        found = status(here)
        assert (found.state, found.drift, found.lost) == (
            "dead",
            {"added": 0, "changed": 0, "removed": 0},
            {"added": 1, "changed": 0, "removed": 0},
        )
        # Pages that are open look again.
        until(lambda: ContainerChanged("p", "p._.0", "removed") in told)
        (finding,) = (one for one in asyncio.run(examine(here.workbench, "p")) if one.check == "container")
        assert (finding.level, HEARTBEAT in finding.message) == ("notice", True)
        kernel.restart()
        text, error = kernel.outcome(kernel.client.execute("print('x' in globals())"))
        assert (text.endswith("False\n"), error) == (True, "")
        second = container(here, swarm)
        assert (second.id != first.id, second.node) == (True, "n2")
        found = status(here)
        assert (found.state, found.node, found.lost) == (
            "running",
            "n2",
            {"added": 1, "changed": 0, "removed": 0},
        )
        details_ = asyncio.run(details(here.workbench, "p"))
        assert (details_.node, details_.kernels) == ("n2", 1)


def test_the_first_cell_of_the_next_one_says_it(here: Pretence, swarm: Pretended) -> None:
    project = here.project("p", on=swarm)
    with a_kernel(project.kernel_name) as kernel:
        swarm.lose_node("n1")
        until(lambda: kernel.code is not None, limit=15)
        kernel.restart()
        said = kernel.shown("print('it runs')")
    assert "its container's node was lost (the node n1 does not answer: heartbeat failure)" in said
    assert "jupyter ds01 restore PROJECT" in said
    assert "it runs" in said


def test_a_start_on_a_lost_node_goes_elsewhere(here: Pretence, swarm: Pretended) -> None:
    """Also while no kernel ran there, so that nobody has noticed."""
    project = here.project("p", on=swarm)
    launcher = here.workbench.launcher
    first = here.call(launcher.deploy(project))
    swarm.lose_node("n1")
    second = here.call(launcher.deploy(project))
    assert (first.node, second.node, second.id != first.id) == ("n1", "n2", True)


def test_what_is_not_kept_over_a_stop_is_on_record(here: Pretence, swarm: Pretended) -> None:
    project = here.project("p", on=swarm)
    launcher, drifts = here.workbench.launcher, here.workbench.drifts
    told: list[Event] = []
    here.workbench.listen(told.append)
    first = here.call(launcher.deploy(project))
    until(lambda: here.workbench.records.drift(project) is not None)
    until(lambda: not here.workbench.drifts._looking)
    record(here, project, first.id, "handmade")
    asyncio.run(swarm.stop("p._.0", 0))
    look = here.call(drifts.look(project))
    assert ([item.name for item in look.lost.items], bool(look.drift)) == (["handmade"], False)
    second = here.call(launcher.deploy(project))
    assert second.id != first.id
    look = here.call(drifts.look(project))
    assert ([item.name for item in look.lost.items], bool(look.drift)) == (["handmade"], False)
    assert any(isinstance(event, DriftChanged) for event in told)


# Calls that a node does not answer


def seen(**states: str) -> list[dict[str, Any]]:
    """Nodes as a swarm's manager lists them."""
    return [
        {
            "ID": name,
            "Description": {"Hostname": name},
            "Status": {"State": state, "Message": "heartbeat failure"},
        }
        for name, state in states.items()
    ]


def test_a_call_ends_with_its_node() -> None:
    # A manager that was started again has not heard of its nodes yet.
    looks = [seen(n1="ready"), seen(n1="unknown", n2="down"), seen(n2="ready"), seen(n1="down")]

    async def nodes() -> list[dict[str, Any]]:
        return looks.pop(0) if len(looks) > 1 else looks[0]

    async def flow() -> None:
        watch = Watch(nodes)
        hanging, ended = asyncio.Event(), []

        async def hang() -> None:
            try:
                hanging.set()
                await asyncio.sleep(3600)
            finally:
                ended.append(True)

        async def answer() -> int:
            return 7

        assert await watch.during(answer(), "n1") == 7
        with pytest.raises(ContainerExitedError, match="Its node has left the swarm"):
            await watch.during(hang(), "n1")
        assert len(looks) == 1
        with pytest.raises(ContainerExitedError, match="The node n1 does not answer: heartbeat failure"):
            await watch.during(hang(), "n1")
        hanging.clear()
        asking = asyncio.create_task(watch.during(hang(), "n2"))
        await hanging.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert ended == [True] * 3
        await watch.close()

    asyncio.run(asyncio.wait_for(flow(), 60))


def test_a_container_that_is_not_found_for_a_moment_ends_no_kernel(here: Pretence, swarm: Pretended) -> None:
    """As one that was just removed, or whose node has left the swarm, which does not know it yet."""
    project = here.project("p", on=swarm)
    with a_kernel(project.kernel_name) as kernel:
        assert kernel.run("x = 1; print(x)") == "1\n"
        swarm.fail_next("exec", NotFoundError("No such container."))
        swarm.break_streams("p._.0")
        assert kernel.run("print(x + 1)") == "2\n"


# The way back


LOST = Exit(-9, Cause.NODE)


def test_an_attempt_that_hangs_ends_with_the_news() -> None:
    async def hang() -> AgentStream:
        await asyncio.sleep(3600)
        raise AssertionError

    async def flow() -> None:
        looks: list[Exit | Exception | None] = [None, None, EngineUnreachableError("busy"), LOST]

        async def look() -> Exit | None:
            found = looks.pop(0)
            if isinstance(found, Exception):
                raise found
            return found

        assert await reached_or_over(hang, look, 0.01) is LOST
        assert looks == []

    asyncio.run(asyncio.wait_for(flow(), 30))


def test_an_attempt_that_fails_says_why() -> None:
    async def fail() -> AgentStream:
        raise AgentError("no answer")

    async def runs() -> None:
        return None

    with pytest.raises(AgentError, match="no answer"):
        asyncio.run(reached_or_over(fail, runs, 10))


def test_what_a_container_says_of_its_kernels(here: Pretence, swarm: Pretended) -> None:
    async def flow() -> None:
        made = await swarm.create(ContainerSpec("c", "ds01/base:latest", ("sleep",)))
        await swarm.start("c")
        info = await swarm.container("c")
        assert info is not None
        assert gone(info, info.started, made.id) is None
        swarm.lose_node("n1")
        assert gone(await swarm.container("c"), info.started, made.id) == Exit(-9, Cause.NODE, HEARTBEAT)
        await swarm.start("c")
        again = await swarm.container(made.id)
        found = gone(again, info.started, made.id)
        assert found is not None
        assert found.cause is Cause.REMOVED

    asyncio.run(flow())


def test_what_ran_on_a_node_that_was_drained() -> None:
    problem = "The node n2 takes nothing new: its availability is drain."
    info = ContainerInfo("c", "c", "exited", "i", {}, datetime.now(UTC), exit_code=143, problem=problem)
    over = gone(info, info.created, "c")
    assert over == Exit(-9, Cause.EVICTED, problem)
    assert (str(told(over)), told(over).remedy) == ON_SWARM["the node was drained"]
    # Its label has changed, say.
    over = gone(replace(info, problem="Assigned node no longer meets constraints."), info.created, "c")
    assert "any more (assigned node no longer meets constraints)" in str(told(over))
