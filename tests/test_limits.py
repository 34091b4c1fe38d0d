"""Kernels that take too much memory, print more than anybody reads, fork, or die again and again."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from conftest import ProjectFolder, with_engine
from servers import House, Kernel, Server, container_id, host_pid, host_processes, is_alive, wait_for

from ds01_kernels.containers import LABEL_SOCKETS
from ds01_kernels.engine.docker_connection import connect

pytestmark = pytest.mark.engine

MIB = 1 << 20
GIB = 1 << 30

#: A kernel prints a GiB, in cells of 64 MiB. Jupyter holds up to a thousand messages for each websocket,
#: however large: what one cell prints may all be there at a time, when the server gets no core for a while.
CELLS = 16
#: Bytes that each may grow by meanwhile.
BOUNDS = {"server": 384 * MIB, "agent": 32 * MIB}
LOG_BOUND = 32 * MIB


@pytest.fixture(scope="module")
def project(house: House, ipykernel_image: str) -> ProjectFolder:
    """Without a limit."""
    return house.project("limits", ipykernel_image)


@pytest.fixture(scope="module")
def server(house: House, project: ProjectFolder) -> Iterator[Server]:
    with house.server() as server:
        yield server


def test_a_kernel_that_takes_too_much_memory_is_killed_alone(
    house: House, server: Server, ipykernel_image: str
) -> None:
    project = house.project("narrow", ipykernel_image)
    (project.path / "pyproject.toml").write_text("[tool.ds01]\nmemory = '400m'\n")
    greedy = server.start_session(f"{project.name}/greedy.ipynb", "python3")
    modest = server.start_session(f"{project.name}/modest.ipynb", "python3")
    modest.run("kept = 1")
    with greedy.connected():
        child = "import subprocess; child = subprocess.Popen(['sleep', '997'], start_new_session=True)"
        greedy.run(child)
        before, pid = container_id(project.container), greedy.ask("__import__('os').getpid()")
        killed = host_pid(project.container, pid)
        greedy.send("execute_request", code=f"x = b'x' * {GIB}", silent=False)
        restarting(greedy)
        assert greedy.execute("x").error == "NameError"
    assert not psutil.pid_exists(killed)
    wait_for(
        lambda: not any("sleep 997" in line for line in host_processes(project.container).values()),
        "what the killed kernel started lives on",
    )
    assert modest.run("print(kept)") == "1\n"
    assert container_id(project.container) == before
    assert {one["id"] for one in server.get("api/kernels")} == {greedy.id, modest.id}
    for kernel in (greedy, modest):
        kernel.delete()
    wait_for(lambda: kernels_in(project) == 0, "a kernel lives on")


def restarting(kernel: Kernel) -> None:
    kernel.receive_until(
        lambda message: (
            message["msg_type"] == "status" and message["content"]["execution_state"] == "restarting"
        )
    )


def agent_of(project: ProjectFolder) -> psutil.Process:
    lines = host_processes(project.container)
    (agent,) = [psutil.Process(pid) for pid, line in lines.items() if "# ds01 agent" in line]
    return agent


def kernels_in(project: ProjectFolder) -> int:
    """How many processes of the container are none of ours that are always there."""
    ours = (
        "docker-init",
        "signal.pause()",
        "# ds01 agent",
        "# ds01 zygote",
        "# ds01 rehearsal",
        "exec(read(int.from_bytes(",
    )
    lines = host_processes(project.container).values()
    return sum(1 for line in lines if not any(mark in line for mark in ours))


@pytest.mark.parametrize(
    "flood",
    [
        # Into the notebook: ipykernel reads what its children write to its standard output.
        "subprocess.run('yes | head -c 64M', shell=True)",
        # Past it: to where standard output led before, the file that the agent keeps.
        "log = sys.stdout._original_stdstream_copy\n"
        "assert os.readlink(f'/proc/self/fd/{log}').endswith('.log')\n"
        "subprocess.run('yes | head -c 64M', shell=True, stdout=log)",
    ],
    ids=["notebook", "log"],
)
def test_a_flood_of_output_fills_neither_memory_nor_the_log(
    server: Server, project: ProjectFolder, flood: str
) -> None:
    kernel = server.start_session(f"{project.name}/flood.ipynb", "python3")
    try:
        with kernel.connected():
            kernel.run("import os, subprocess, sys")
            processes = {"server": psutil.Process(server.process.pid), "agent": agent_of(project)}
            before = {name: process.memory_info().rss for name, process in processes.items()}
            for _ in range(CELLS):
                assert kernel.execute(flood).status == "ok"
            grown = {name: process.memory_info().rss - before[name] for name, process in processes.items()}
            assert {name: size for name, size in grown.items() if size > BOUNDS[name]} == {}
        assert kernel.run("print('answers')") == "answers\n"
        logs = "import os, glob; print(sum(map(os.path.getsize, glob.glob('/tmp/.ds01-agent-*/*.log'))))"
        wait_for(lambda: int(kernel.run(logs)) < LOG_BOUND, "the log stays")
    finally:
        kernel.delete()


_FORKS = """\
import os, signal, time
print(os.getpid(), flush=True)
for number in range(12):
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if number % 3:
            os.setsid()
        if number % 3 == 2 and os.fork() != 0:
            os._exit(0)
        while True:
            time.sleep(1)
"""


@pytest.mark.parametrize("victim", ["kernel", "agent"])
def test_of_a_killed_kernel_that_forked_nothing_is_left(
    server: Server, project: ProjectFolder, victim: str
) -> None:
    kernel = server.start_session(f"{project.name}/forks.ipynb", "python3")
    with kernel.connected():
        pid = host_pid(project.container, int(kernel.run(_FORKS)))
        wait_for(lambda: forks_in(project, pid) == 12, "it has not forked")
        agent = agent_of(project).pid
        os.kill({"kernel": pid, "agent": agent}[victim], signal.SIGKILL)
        restarting(kernel)
        assert kernel.run("print(1)") == "1\n"
    kernel.delete()
    wait_for(lambda: forks_in(project, pid) == 0, lambda: f"{host_processes(project.container)}")


def forks_in(project: ProjectFolder, kernel: int) -> int:
    """How many processes of the container the zygote has forked, that kernel left out."""
    found = [pid for pid, line in host_processes(project.container).items() if "# ds01 zygote" in line]
    return sum(1 for pid in found if pid != kernel) - 1


def test_kernels_that_are_listed_are_there_after_their_container_was_killed(
    server: Server, project: ProjectFolder
) -> None:
    kernels = [server.start_session(f"{project.name}/{name}.ipynb", "python3") for name in ("one", "two")]
    with kernels[0].connected(), kernels[1].connected():
        client = connect(60.0)
        client.kill(project.container)
        client.close()
        for kernel in kernels:
            restarting(kernel)
        for kernel in kernels:
            inside = kernel.ask("__import__('os').getpid()")
            assert is_alive(host_pid(project.container, inside))
    assert {one["id"] for one in server.get("api/kernels")} == {kernel.id for kernel in kernels}
    for kernel in kernels:
        kernel.delete()
    assert server.get("api/kernels") == []


def test_a_kernel_that_died_too_often_is_listed_no_more(server: Server, project: ProjectFolder) -> None:
    kernel = server.start_session(f"{project.name}/mortal.ipynb", "python3")
    states = []
    with kernel.connected():
        # Jupyter starts it again five times.
        for _ in range(6):
            kernel.send("execute_request", code="import os; os._exit(9)", silent=False)
            message = kernel.receive_until(
                lambda message: (
                    message["msg_type"] == "status"
                    and message["content"]["execution_state"] in ("restarting", "dead")
                )
            )
            states.append(message["content"]["execution_state"])
    assert states == ["restarting"] * 5 + ["dead"]
    wait_for(lambda: server.get("api/kernels") == [], "a kernel is listed that does not exist")
    assert server.request("GET", kernel.path).status_code == 404
    assert server.get("api/sessions") == []
    wait_for(lambda: kernels_in(project) == 0, "something of it lives on")
    assert sockets_of(project) == []


def sockets_of(project: ProjectFolder) -> list[Path]:
    info = with_engine(lambda engine: engine.container(project.container))
    assert info is not None
    # Spares are nobody's kernels: their sockets come and go with them.
    found = Path(info.labels[LABEL_SOCKETS]).iterdir()
    return sorted(path for path in found if not path.name.startswith("spare-"))
