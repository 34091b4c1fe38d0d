"""Many of everything: nothing leaks, and the server's event loop goes on meanwhile.

With fewer kernels, projects and notebooks than it is made for, so that it takes half a minute; with the
variable DS01_TEST_MANY set, all of them. Times are printed (`pytest -s`), and none is asserted.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from statistics import median
from typing import Any

import nbformat
import psutil
import pytest
from conftest import ProjectFolder
from heartbeat import LIMIT, PACKAGE, Heart, fill_pools
from live import a_site, docker
from nbclient import NotebookClient
from rebuilding import Rebuilt, rebuild
from servers import House, Kernel, Server, a_house, host_processes, wait_for

from benchmarks.packages import FILL
from ds01_kernels.connection import PORTS, run_root
from ds01_kernels.workbench import Workbench

FULL = bool(os.environ.get("DS01_TEST_MANY"))
KERNELS = 50 if FULL else 12
PROJECTS = 20 if FULL else 2
NOTEBOOKS = 200 if FULL else 30
#: Folders with a Dockerfile, and distributions in a container.
LISTED = 300
PACKAGES = 500

#: Notebooks that fill caches, and those before and after the others between which nothing may grow.
WARM = 5
SEEN = 5
#: Connections to the engine that its client may keep open: more when more was asked for at once.
POOLED = 10
#: How much more memory the last may leave than the first.
GROWTH = 1.2

#: A loaded machine can make one blocking place out of none, but not the same one again and again.
TRIES = 3

#: Seconds that Jupyter keeps what belonged to a websocket after it was closed.
SETTINGS = """\
c.ServerApp.jpserver_extensions["heartbeat"] = True
c.MappingKernelManager.kernel_info_timeout = 1
"""


@dataclass(frozen=True)
class Counts:
    """What there is between two uses, of a process of ours and of the container of its kernels."""

    descriptors: float
    threads: float
    processes_in_container: float
    agent_descriptors: float
    sockets: float
    files_of_ours: float
    files_of_jupyter: float


@dataclass(frozen=True)
class Place:
    """A server that ticks, a project whose container runs, and 300 more that are only folders."""

    house: House
    server: Server
    project: ProjectFolder

    def counts(self) -> Counts:
        return count(self.server.process.pid, self.project, self.house.root / "runtime")

    def never_blocks(self, what: str, act: Callable[[], object]) -> None:
        """Raises `AssertionError` when the loop is blocked in our code whenever this is done."""
        again: set[str] | None = None
        for _ in range(TRIES):
            assert self.server.request("POST", "heart").status_code == 204
            act()
            seen = self.server.get("heart")
            print(f"{what}: {json.dumps(seen)}")
            again = set(seen["ours"]) if again is None else again & set(seen["ours"])
            if not again:
                return
        raise AssertionError(f"{what} blocks the server for more than {LIMIT} s in {again}")


@pytest.fixture(scope="module")
def place(ipykernel_image: str) -> Iterator[Place]:
    with a_house() as plain:
        house = plain.with_variables(PYTHONPATH=str(Path(__file__).parent))
        for number in range(LISTED - 1):
            house.folder(f"listed-{number}", unique=False)
        project = house.project("many", ipykernel_image)
        with house.server(settings=SETTINGS) as server:
            yield Place(house, server, project)


@pytest.mark.engine
def test_many_kernels_in_one_container(place: Place) -> None:
    with_one_kernel(place, "warm.ipynb")
    before = place.counts()
    kernels: list[Kernel] = []
    times: list[float] = []

    def start_all() -> None:
        end(kernels)
        times.clear()
        for number in range(KERNELS):
            began = time.perf_counter()
            kernels.append(place.server.start_session(f"{place.project.name}/{number}.ipynb", "python3"))
            assert kernels[-1].execute("1 + 1").value == "2"
            times.append(time.perf_counter() - began)

    place.never_blocks(f"{KERNELS} kernels start", start_all)
    assert place.counts().processes_in_container >= before.processes_in_container + KERNELS
    assert len(place.server.get("api/kernels")) == KERNELS
    place.never_blocks("a kernel restarts", kernels[0].restart)
    end(kernels)
    print_times(f"{KERNELS} kernels", times)
    back_to(before, place.counts)


@pytest.mark.engine
def test_lists_and_a_rebuild_leave_the_server_free(place: Place) -> None:
    project = Rebuilt(place.house, place.project)
    listed = place.server.get("ds01/projects")
    assert len(listed) == LISTED
    place.never_blocks(f"{LISTED} projects are listed", lambda: place.server.get("ds01/projects"))
    place.never_blocks(f"{LISTED} kernelspecs are listed", lambda: place.server.get("api/kernelspecs"))
    with_one_kernel(place, "warm.ipynb")
    fill(place.project)
    found = place.server.get(f"{project.url}/packages")
    assert len(found["packages"]) == PACKAGES
    assert len(found["drift"]["added"]) > PACKAGES / 10
    place.never_blocks(f"{PACKAGES} packages are listed", lambda: place.server.get(f"{project.url}/packages"))
    kernel = place.server.start_session(f"{place.project.name}/rebuilt.ipynb", project.kernel)
    flood = "line = 'x' * (2**20 - 1)\nfor _ in range(100): print(line)"
    place.never_blocks("100 MiB are printed", lambda: len(kernel.run(flood)) == 100 << 20)

    def rebuild_it() -> None:
        project.dockerfile.write_text(project.dockerfile.read_text() + "ENV AGAIN=1\n")
        assert rebuild(place.server, project, packages=[])["phase"] == "done"

    place.never_blocks("a project is rebuilt", rebuild_it)
    assert kernel.execute("1 + 1").value == "2"
    kernel.delete()


@pytest.mark.engine
def test_many_projects_with_a_kernel_each(place: Place, ipykernel_image: str) -> None:
    with_one_kernel(place, "warm.ipynb")
    before = place.counts()
    times: list[float] = []
    projects = [place.house.project(f"own-{number}", ipykernel_image) for number in range(PROJECTS)]
    kernels: list[Kernel] = []

    def start_all() -> None:
        end(kernels)
        times.clear()
        for project in projects:
            began = time.perf_counter()
            kernels.append(place.server.start_session(f"{project.name}/a.ipynb", "python3"))
            assert kernels[-1].ask("__import__('os').environ['DS01_PROJECT']") == project.name
            times.append(time.perf_counter() - began)

    place.never_blocks(f"kernels of {PROJECTS} projects start", start_all)
    end(kernels)
    for project in projects:
        answer = place.server.request("POST", f"ds01/projects/{project.name}/retire", {"force": True})
        assert answer.status_code == 202, answer.text
    with docker() as client:
        wait_for(
            lambda: (
                not client.containers(all=True, filters={"name": [project.container for project in projects]})
            ),
            "the containers are not removed",
        )
    print_times(f"{PROJECTS} projects", times)
    back_to(before, place.counts)


@pytest.mark.engine
def test_short_notebooks_one_after_another(ipykernel_image: str) -> None:
    """As a script runs them; each in a kernel of its own."""
    with a_site() as site:
        project = site.project("notebooks", dockerfile=f"FROM {ipykernel_image}\n")
        asyncio.run(fill_pools(Workbench.open()))
        times, seen, memory = [], [], []
        for number in range(NOTEBOOKS):
            began = time.perf_counter()
            cells = [nbformat.v4.new_code_cell(f"x = {number}"), nbformat.v4.new_code_cell("print(x)")]
            notebook = nbformat.v4.new_notebook(cells=cells)
            client = NotebookClient(
                notebook,
                kernel_name=f"ds01-{project.name}",
                resources={"metadata": {"path": str(project.path)}},
            )
            client.execute()
            times.append(time.perf_counter() - began)
            assert notebook.cells[1].outputs[0].text == f"{number}\n"
            if WARM <= number < WARM + SEEN or number >= NOTEBOOKS - SEEN:
                seen.append(count(os.getpid(), project, site.runtime))
                memory.append(memory_of(agent(project)))
    print_times(f"{NOTEBOOKS} notebooks", times)
    assert more(medians(seen[:SEEN]), medians(seen[SEEN:])) == {}
    assert median(memory[SEEN:]) < GROWTH * median(memory[:SEEN])


# Whether the heart sees what it is to see


def seeing(work: Callable[[Heart], Coroutine[Any, Any, None]], is_seen: Callable[[Heart], bool]) -> Heart:
    """A heart that has seen it: who gets the GIL, and so what is seen, is up to the operating system."""
    for _ in range(8):
        heart = asyncio.run(beating(work))
        if is_seen(heart):
            break
    return heart


@pytest.mark.parametrize(
    "code", ["time.sleep(0.3)", "for _ in range(10_000_000): pass"], ids=["waiting", "computing"]
)
@pytest.mark.parametrize("is_ours", [True, False])
def test_the_heart_sees_whose_code_blocks_the_loop(code: str, is_ours: bool) -> None:
    where = f"{PACKAGE}made_up.py" if is_ours else "/elsewhere/made_up.py"
    namespace: dict[str, Any] = {"time": time}
    exec(compile(f"def block():\n    {code}\n", where, "exec"), namespace)

    async def work(heart: Heart) -> None:
        # Once is enough on an idle machine.
        for _ in range(5):
            await asyncio.sleep(0.02)
            namespace["block"]()
            if is_seen(heart):
                return

    def is_seen(heart: Heart) -> bool:
        # Others of this process may be seen as well, such as its garbage collection.
        seen = heart.ours if is_ours else heart.others
        return any(name.endswith("made_up.py:block") for name in seen)

    heart = seeing(work, is_seen)
    assert is_seen(heart)
    assert is_ours or not heart.ours
    assert heart.longest >= heart.blocked > LIMIT


def test_the_heart_sees_who_keeps_the_loop_from_running() -> None:
    namespace: dict[str, Any] = {}
    exec(
        compile("def keep_the_gil():\n    sum(range(20_000_000))\n", f"{PACKAGE}made_up.py", "exec"),
        namespace,
    )

    async def work(heart: Heart) -> None:
        # The watchdog has to be awake before, which takes its time on a loaded machine.
        for _ in range(100):
            await asyncio.sleep(0.1)
            await asyncio.to_thread(namespace["keep_the_gil"])
            if heart.ours:
                return

    assert list(asyncio.run(beating(work)).ours) == ["made_up.py:keep_the_gil"]


def test_the_heart_does_not_blame_a_loop_that_waits_for_a_thread() -> None:
    async def work(heart: Heart) -> None:
        await asyncio.to_thread(time.sleep, 0.3)

    assert asyncio.run(beating(work)).ours == {}


async def beating(work: Callable[[Heart], Coroutine[Any, Any, None]]) -> Heart:
    heart = Heart()
    task = asyncio.create_task(heart.beat())
    await asyncio.sleep(0)
    await work(heart)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return heart


# What there is


def count(pid: int, project: ProjectFolder, runtime: Path) -> Counts:
    """Of the process that owns kernels in the project's container."""
    process = psutil.Process(pid)
    with docker() as client:
        labels = client.inspect_container(project.container)["Config"]["Labels"]
    return Counts(
        descriptors=process.num_fds(),
        threads=process.num_threads(),
        processes_in_container=len(host_processes(project.container)),
        agent_descriptors=agent(project).num_fds(),
        sockets=len(os.listdir(labels["ds01-kernels.sockets"])),
        files_of_ours=sum(1 for place in (run_root() / "k").glob(f"{pid}-*") for _ in place.rglob("*")),
        files_of_jupyter=sum(len(files) for _, _, files in os.walk(runtime)),
    )


def agent(project: ProjectFolder) -> psutil.Process:
    inside = host_processes(project.container)
    (pid,) = [pid for pid, line in inside.items() if "# ds01 agent" in line]
    return psutil.Process(pid)


def memory_of(process: psutil.Process) -> int:
    """Bytes that are its own."""
    return int(process.memory_full_info().uss)


def medians(seen: Sequence[Counts]) -> Counts:
    return Counts(*map(median, zip(*map(astuple, seen), strict=True)))


def more(before: Counts, now: Counts) -> dict[str, tuple[float, float]]:
    """What there is more of, as before and now."""
    # A spare kernel comes and goes with the room that there is, with its line to the agent and its sockets.
    allowed = replace(
        before,
        descriptors=before.descriptors + POOLED,
        agent_descriptors=before.agent_descriptors + 1,
        sockets=before.sockets + len(PORTS),
    )
    return {
        field.name: (getattr(before, field.name), getattr(now, field.name))
        for field in fields(Counts)
        if getattr(now, field.name) > getattr(allowed, field.name)
    }


def back_to(before: Counts, now: Callable[[], Counts]) -> None:
    """Wait until there is no more of anything than before."""
    wait_for(lambda: not more(before, now()), lambda: f"more than before: {more(before, now())}")


def with_one_kernel(place: Place, notebook: str) -> None:
    """Have a kernel there once, so that container, agent and pools are what they stay."""
    kernel = place.server.start_session(f"{place.project.name}/{notebook}", "python3")
    with kernel.connected():
        kernel.run("print(1)")
    kernel.delete()


def end(kernels: list[Kernel]) -> None:
    while kernels:
        kernels.pop().delete()


def fill(project: ProjectFolder) -> None:
    """Have `PACKAGES` distributions in its container."""
    with docker() as client:
        command = ["/usr/bin/python", "-c", FILL, str(PACKAGES)]
        made = client.exec_create(project.container, command, user="0")
        output = client.exec_start(made["Id"]).decode()
        assert client.exec_inspect(made["Id"])["ExitCode"] == 0, output


def print_times(what: str, times: Sequence[float]) -> None:
    if len(times) >= 10:
        first, last = median(times[:10]), median(times[-10:])
        print(f"{what}: first ten {first * 1000:.0f} ms, last ten {last * 1000:.0f} ms, {last / first:.2f}")
