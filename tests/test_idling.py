"""Containers in which no kernel has run for a time are stopped: on the real engine, with short times."""

from __future__ import annotations

import asyncio
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ProjectFolder
from live import STARTING, Site, a_kernel, a_site, another, inspect, until
from wheels import make_wheel

from ds01_kernels.errors import ConflictError, Ds01Error
from ds01_kernels.events import ContainerChanged
from ds01_kernels.locks import ProjectLocks
from ds01_kernels.projects import Project
from ds01_kernels.workbench import Workbench

pytestmark = pytest.mark.engine

#: Seconds, and code that runs for several times as long.
IDLE = 0.4
SLEEP = "import time; time.sleep(1.5); print('slept')"


@pytest.fixture
def site(engine_available: None) -> Iterator[Site]:
    with a_site(f"c.Workbench.idle_stop = {IDLE}\nc.Workbench.orphan_grace = 1.0") as site:
        yield site


@pytest.fixture
def project(site: Site) -> ProjectFolder:
    return site.project("idle")


def state(project: ProjectFolder) -> tuple[str, str, str]:
    """The container's id, its state, and when it was started."""
    found = inspect(project)
    return found["Id"], found["State"]["Status"], found["State"]["StartedAt"]


def stopped(project: ProjectFolder) -> bool:
    return state(project)[1] == "exited"


def named(project: ProjectFolder) -> str:
    return f"ds01-{project.name}"


def test_it_is_stopped_after_its_last_kernel_and_started_for_the_next(
    site: Site, project: ProjectFolder
) -> None:
    recorded = []

    async def record(asked: Project) -> None:
        recorded.append((asked.name, stopped(project)))

    with a_kernel(named(project)) as last:
        Workbench.instance().launcher.idling.record_drift = record
        with a_kernel(named(project)) as first:
            first.run("open('/var/tmp/kept', 'w').write('x')")
        before = state(project)
        assert last.run(SLEEP) == "slept\n"
        assert state(project) == before
        assert recorded == []
    until(lambda: stopped(project))
    assert recorded == [(project.name, False)]
    with a_kernel(named(project)) as kernel:
        assert kernel.run("print(open('/var/tmp/kept').read())") == "x\n"
        assert state(project)[0] == before[0]
    until(lambda: stopped(project))


def test_what_was_installed_is_on_record_before_it_is_stopped(site: Site, project: ProjectFolder) -> None:
    make_wheel(project.path, "handmade")
    records = site.root / "data" / "ds01" / "projects"

    def recorded() -> list[str]:
        texts = [file.read_text() for file in records.glob(f"{project.name}-*/drift-*.json")]
        return [item["name"] for text in texts for item in json.loads(text)["drift"]["unpinnable"]]

    with a_kernel(named(project)) as kernel:
        kernel.run("%pip install -q --no-index handmade-1.0-py3-none-any.whl")
        until(lambda: recorded() == ["handmade"])
        # What was recorded when it happened is lost; the stop looks once more.
        for file in records.glob(f"{project.name}-*/drift-*.json"):
            file.unlink()
    until(lambda: stopped(project))
    assert recorded() == ["handmade"]


def test_a_kernel_that_starts_in_time_begins_it_anew(site: Site, project: ProjectFolder) -> None:
    site.configure("c.Workbench.idle_stop = 600.0")
    with a_kernel(named(project)) as kernel:
        counting = Workbench.instance().launcher.idling
        assert counting.counting_down == set()
        kernel.manager.shutdown_kernel(now=True)
        until(lambda: counting.counting_down == {project.path})
    with a_kernel(named(project)) as kernel:
        assert counting.counting_down == set()
        kernel.restart()
        assert counting.counting_down == set()
        kernel.run("pass")
    until(lambda: counting.counting_down == {project.path})


def test_a_start_that_fails_begins_it_too(site: Site, project: ProjectFolder) -> None:
    site.configure("c.Workbench.idle_stop = 600.0")
    (project.path / "pyproject.toml").write_text("[tool.ds01]\nmemory = 'much'\n")
    with a_kernel(named(project)) as kernel:
        assert "memory" in kernel.explanation()
        assert Workbench.instance().launcher.idling.counting_down == {project.path}


def test_a_kernel_that_starts_while_it_is_stopped_waits_and_runs(project: ProjectFolder) -> None:
    stopping, go = threading.Event(), threading.Event()

    async def record(asked: Project) -> None:
        stopping.set()
        await asyncio.to_thread(go.wait, 60)

    with a_kernel(named(project)):
        Workbench.instance().launcher.idling.record_drift = record
        before = state(project)
    assert stopping.wait(60)
    said = []

    def start() -> None:
        with a_kernel(named(project)) as kernel:
            said.append(kernel.run(SLEEP))

    starting = threading.Thread(target=start)
    starting.start()
    # However far it has come by now: it must neither run into the stop nor be stopped afterwards.
    time.sleep(0.3)
    assert state(project) == before
    go.set()
    starting.join(60)
    assert said == ["slept\n"]
    assert state(project)[0] == before[0]
    assert state(project)[2] != before[2]
    until(lambda: stopped(project))


def test_where_the_drift_cannot_be_recorded_it_is_tried_again(project: ProjectFolder) -> None:
    tries = []

    async def record(asked: Project) -> None:
        tries.append(state(project)[1])
        if len(tries) == 1:
            raise Ds01Error("The disk is full.")

    with a_kernel(named(project)):
        Workbench.instance().launcher.idling.record_drift = record
    until(lambda: stopped(project))
    assert tries == ["running", "running"]


_OTHER = f"""{STARTING}
print("ready", flush=True)
sys.stdin.readline()
client.stop_channels()
manager.shutdown_kernel()
print("ended", flush=True)
sys.stdin.readline()
"""


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_kernels_of_other_processes_count(project: ProjectFolder) -> None:
    with another("-c", _OTHER, named(project)) as other:
        with a_kernel(named(project)) as kernel:
            before = state(project)
            kernel.run("pass")
        idling = Workbench.instance().launcher.idling
        # Our time is over when nothing more is going on here, and then it is the other's to stop it.
        until(lambda: idling.is_at_rest)
        assert state(project) == before
        tell(other)
        assert other.stdout is not None
        assert other.stdout.readline() == "ended\n"
        until(lambda: stopped(project))


def test_an_open_shell_keeps_it(project: ProjectFolder) -> None:
    shell = ("-m", "ds01_kernels.app", "shell", project.name, "--", "sh", "-c", "echo ready; read x; echo $x")
    with another(*shell) as other:
        with a_kernel(named(project)) as kernel:
            before = state(project)
            kernel.run("pass")
        time.sleep(4 * IDLE)
        assert state(project) == before
        tell(other)
        assert other.wait(60) == 0
    until(lambda: stopped(project))


def test_a_container_that_was_left_running_is_stopped_too(project: ProjectFolder) -> None:
    with another("-c", _OTHER, named(project)) as other:
        before = state(project)
        other.kill()
        other.wait(60)
    workbench = Workbench.open()
    workbench.call(workbench.launcher.idling.watch(workbench.projects().projects, workbench.orphan_grace))
    assert state(project) == before
    until(lambda: stopped(project))
    assert state(project)[0] == before[0]


def test_without_the_setting_it_runs_on(site: Site, project: ProjectFolder) -> None:
    site.configure("")
    with a_kernel(named(project)):
        before = state(project)
    idling = Workbench.instance().launcher.idling
    assert not idling.counting_down
    assert state(project) == before


def test_who_claims_finds_out_who_uses(tmp_path: Path) -> None:
    async def work() -> None:
        mine, others = ProjectLocks(), ProjectLocks()
        async with mine.share(tmp_path), others.share(tmp_path):
            with others.claim(tmp_path) as is_free:
                assert not is_free
        with others.claim(tmp_path) as is_free:
            assert is_free
            with pytest.raises(ConflictError, match="has been busy"):
                async with mine.share(tmp_path, limit=0.1):
                    pass
            using = asyncio.create_task(use(mine))
        await asyncio.wait_for(using, 60)

    async def use(locks: ProjectLocks) -> None:
        async with locks.share(tmp_path):
            return

    asyncio.run(work())


def test_a_container_that_others_stop_and_remove_is_told_without_a_kernel(
    site: Site, project: ProjectFolder
) -> None:
    site.configure("")
    workbench = Workbench.open()
    found = next(each for each in workbench.projects().projects if each.name == project.name)
    info = workbench.call(workbench.launcher.deploy(found))
    heard: list[str] = []
    workbench.listen(lambda event: heard.append(event.state) if isinstance(event, ContainerChanged) else None)
    subprocess.run(["docker", "stop", "--time", "0", info.id], check=True, capture_output=True)
    until(lambda: heard == ["stopped"])
    subprocess.run(["docker", "rm", info.id], check=True, capture_output=True)
    until(lambda: heard == ["stopped", "removed"])
