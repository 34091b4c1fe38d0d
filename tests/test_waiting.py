"""Kernels and jobs that find no room, on machines that are only played: what is said, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from live import LiveKernel, a_kernel, until
from pretended import Pretence, Pretended, WatchedManager

from ds01_kernels import container_jobs, waiting
from ds01_kernels.errors import NoRoomError
from ds01_kernels.jobs import JobState
from ds01_kernels.projects import Project

ONE_GPU = "gpus = 1"
NO_ROOM = "no suitable node (insufficient resources on 1 node)"


@pytest.fixture
def swarm(here: Pretence, monkeypatch: pytest.MonkeyPatch) -> Pretended:
    """One node with two GPUs."""
    monkeypatch.setattr(waiting, "PAUSE", 0.1)
    swarm = Pretended(here.root, "swarm", nodes=("n1",), gpus=2)
    here.open(swarm)
    return swarm


@pytest.fixture
def projects(here: Pretence, swarm: Pretended) -> list[Project]:
    """The containers of the first two run, and have the GPUs."""
    made = [here.project(name, ONE_GPU, on=swarm) for name in ("one", "two", "three")]
    for project in made[:2]:
        here.call(here.workbench.launcher.deploy(project))
    return made


@contextmanager
def watched(project: Project) -> Iterator[LiveKernel]:
    with a_kernel(project.kernel_name, manager=WatchedManager(kernel_name=project.kernel_name)) as kernel:
        yield kernel


def said_so_far(kernel: LiveKernel, request: str, wanted: str) -> str:
    """What that cell has printed when that text has come."""
    text = ""
    while wanted not in text:
        message = kernel.client.get_iopub_msg(timeout=60)
        if message["parent_header"].get("msg_id") == request and message["msg_type"] == "stream":
            text += message["content"]["text"]
    return text


def test_a_third_kernel_waits_for_a_gpu_of_two(
    here: Pretence, swarm: Pretended, projects: list[Project]
) -> None:
    with watched(projects[2]) as kernel:
        # It answers, but nothing is held, and nothing is made, before somebody runs a cell.
        assert swarm.names() == ["one._.0", "two._.0"]
        request = kernel.client.execute("import os; print(os.environ['DS01_PROJECT'])")
        said = said_so_far(kernel, request, "Interrupt")
        assert NO_ROOM in said
        assert "three._.0 waits for 1 GPU" in said
        # Others get at the project meanwhile.
        with pytest.raises(NoRoomError):
            here.call(here.workbench.launcher.deploy(projects[2]))
        assert here.call(here.workbench.launcher.retire(projects[0], force=True))
        text, error = kernel.outcome(request)
        assert (text, error) == ("three\n", "")
        assert swarm.names() == ["three._.0", "two._.0"]
        assert kernel.run("print(6 * 7)") == "42\n"


def test_an_interrupt_ends_the_wait_and_the_next_cell_begins_anew(
    here: Pretence, swarm: Pretended, projects: list[Project]
) -> None:
    with watched(projects[2]) as kernel:
        for _ in range(2):
            request = kernel.client.execute("print(1)")
            said_so_far(kernel, request, "Interrupt")
            kernel.manager.interrupt_kernel()
            _, error = kernel.outcome(request)
            assert "was interrupted" in error
        until(lambda: swarm.names() == ["one._.0", "two._.0"])
        asyncio.run(swarm.stop("two._.0", 0))
        assert kernel.run("print(1)") == "1\n"


def test_a_changed_reason_is_said_once(here: Pretence, swarm: Pretended, projects: list[Project]) -> None:
    with watched(projects[2]) as kernel:
        request = kernel.client.execute("print('it runs')")
        said_so_far(kernel, request, "Interrupt")
        for _ in range(3):
            swarm.fail_next("start", NoRoomError("The only node is drained."))
        said = said_so_far(kernel, request, "drained")
        asyncio.run(swarm.stop("two._.0", 0))
        said += kernel.outcome(request)[0]
        assert said.count("drained") == 1
        assert said.endswith("it runs\n")


def test_who_has_no_cell_waits_and_then_has_the_reason(
    here: Pretence, swarm: Pretended, projects: list[Project]
) -> None:
    here.workbench.room_timeout = 0.3
    with a_kernel(projects[2].kernel_name) as kernel:
        for _ in range(2):
            assert NO_ROOM in kernel.explanation()
    here.workbench.room_timeout = 60
    tries = 0
    start = swarm.start

    async def freeing(container: str) -> None:
        nonlocal tries
        tries += 1
        if tries == 3:
            await swarm.stop("two._.0", 0)
        await start(container)

    swarm.start = freeing  # type: ignore[method-assign]
    with a_kernel(projects[2].kernel_name) as kernel:
        assert kernel.run("print(1)") == "1\n"
    assert tries == 3


# Jobs


def job(here: Pretence, project: Project, state: JobState) -> JobState:
    return here.workbench.jobs.get(project, state.id)


def log(here: Pretence, project: Project, state: JobState) -> str:
    return here.workbench.jobs.log(project, state.id).text


@pytest.mark.parametrize("begin", [container_jobs.deploy, container_jobs.restart])
def test_a_job_waits_says_so_and_can_be_cancelled(
    here: Pretence, swarm: Pretended, projects: list[Project], begin: Any
) -> None:
    project = projects[2]
    waits = asyncio.run(begin(here.workbench, project))
    until(lambda: NO_ROOM in log(here, project, waits))
    assert job(here, project, waits).progress.name == "Waiting for room"
    here.call(here.workbench.jobs.cancel(project, waits.id))
    until(lambda: job(here, project, waits).over)
    assert job(here, project, waits).phase == "cancelled"
    until(lambda: swarm.names() == ["one._.0", "two._.0"])
    waits = asyncio.run(begin(here.workbench, project))
    until(lambda: NO_ROOM in log(here, project, waits))
    asyncio.run(swarm.stop("two._.0", 0))
    until(lambda: log(here, project, waits).endswith("three._.0 is running.\n"))


def test_one_that_was_stopped_waits_as_it_is(
    here: Pretence, swarm: Pretended, projects: list[Project]
) -> None:
    """Whatever an engine keeps of it is kept."""
    one, _, three = projects
    asyncio.run(swarm.stop("one._.0", 0))
    here.call(here.workbench.launcher.deploy(three))
    with pytest.raises(NoRoomError):
        here.call(here.workbench.launcher.deploy(one))
    assert swarm.names() == ["one._.0", "three._.0", "two._.0"]
