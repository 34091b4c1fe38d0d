"""Disks that are full, and directories that somebody cleans away, under kernels that run.

The file systems are small ones that only a daemon of the tests' own sees, and the servers that enter its
namespace.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from conftest import BASE_IMAGE, ProjectFolder
from private_daemon import PrivateDaemon, a_daemon
from servers import House, Kernel, Server, a_house, container_id

from ds01_kernels.connection import run_root

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def daemon(engine_available: None) -> Iterator[PrivateDaemon]:
    with a_daemon() as daemon, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", daemon.address)
        yield daemon


@pytest.fixture(scope="module")
def sockets(daemon: PrivateDaemon) -> Path:
    """The directory of all sockets, on a small file system; the path by which the test reaches it."""
    mount(daemon, run_root(), "size=1m,nr_inodes=200,mode=700")
    return daemon.seen(run_root())


@pytest.fixture(scope="module")
def house(daemon: PrivateDaemon, sockets: Path) -> Iterator[House]:
    with a_house(command=(*daemon.enter, sys.executable)) as house:
        yield house


@pytest.fixture(scope="module")
def project(house: House) -> ProjectFolder:
    return house.project("spacious", BASE_IMAGE)


@pytest.fixture(scope="module")
def server(house: House, project: ProjectFolder) -> Iterator[Server]:
    with house.server() as server:
        yield server


def mount(daemon: PrivateDaemon, path: Path, options: str) -> None:
    command = [*daemon.enter, "mount", "-t", "tmpfs", "-o", options, "ds01-test", str(path)]
    subprocess.run(command, check=True)


@contextmanager
def filled(folder: Path) -> Iterator[None]:
    """No file can be made there, and none can grow."""
    ballast = folder / "ballast"
    ballast.mkdir()
    try:
        with suppress(OSError), (ballast / "0").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            make_files(ballast)
        yield
    finally:
        shutil.rmtree(ballast)


def make_files(folder: Path) -> None:
    for number in range(1, 10_000):
        (folder / str(number)).touch()


def said(kernel: Kernel) -> str:
    """The error that a cell gives."""
    with kernel.connected():
        request = kernel.send("execute_request", code="1 + 1", silent=False)
        message = kernel.receive_until(
            lambda message: (
                message["msg_type"] == "error" and message["parent_header"].get("msg_id") == request
            )
        )
    return "\n".join(message["content"]["traceback"])


def test_the_sockets_are_deleted_under_running_kernels(
    server: Server, project: ProjectFolder, sockets: Path
) -> None:
    one = server.start_session(f"{project.name}/one.ipynb", "python3")
    other = server.start_session(f"{project.name}/other.ipynb", "python3")
    container = container_id(project.container)
    with one.connected(), other.connected():
        for kernel in (one, other):
            kernel.run("kept = 1; open('/var/tmp/installed', 'w').close()")
        for entry in sockets.iterdir():
            shutil.rmtree(entry)
        # Connections that are open stay so.
        assert one.run("print(kept)") == other.run("print(kept)") == "1\n"
    one.restart()
    assert f"The directory that {project.container} shares with this machine was deleted" in said(one)
    assert "Shut down the other kernels" in said(one)
    other.delete()
    one.restart()
    assert one.run("import os; print(os.path.exists('/var/tmp/installed'))") == "True\n"
    assert container_id(project.container) == container
    another = server.start_session(f"{project.name}/another.ipynb", "python3")
    assert another.run("print(1)") == "1\n"
    for kernel in (one, another):
        kernel.delete()


def test_no_room_for_sockets_is_said_and_nothing_stays_behind(
    server: Server, project: ProjectFolder, sockets: Path
) -> None:
    kernel = server.start_session(f"{project.name}/early.ipynb", "python3")
    with kernel.connected():
        kernel.run("kept = 1")
        before = tree(sockets)
        with filled(sockets):
            body = {"path": f"{project.name}/late.ipynb", "name": "late", "type": "notebook"}
            answer = server.request("POST", "api/sessions", {**body, "kernel": {"name": "python3"}})
            assert "The disk is full: there is no room in" in answer.text
            assert kernel.run("print(kept)") == "1\n"
            assert [one["id"] for one in server.get("api/kernels")] == [kernel.id]
        assert tree(sockets) == before
    kernel.restart()
    assert kernel.run("print(2)") == "2\n"
    kernel.delete()


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_full_project_folder_fails_the_cell_and_not_the_kernel(
    daemon: PrivateDaemon, house: House, server: Server
) -> None:
    project = house.folder("full", f"FROM {BASE_IMAGE}\n")
    dockerfile = (project.path / "Dockerfile").read_text()
    mount(daemon, project.path, "size=64k,nr_inodes=50")
    (daemon.seen(project.path) / "Dockerfile").write_text(dockerfile)
    assert house.ds01("image-update", project.name).returncode == 0
    kernel = server.start_session(f"{project.name}/a.ipynb", "python3")
    outcome = kernel.execute("with open('big', 'wb') as file: file.write(bytes(1 << 20))")
    assert outcome.error == "OSError"
    kernel.restart()
    assert kernel.run("import os; print(os.path.getsize('big') <= 1 << 16)") == "True\n"
    done = house.ds01("doctor", project.name)
    assert done.returncode == 1
    assert done.stdout.startswith("✘ disk: ")
    kernel.delete()


def test_a_new_project_on_a_full_disk_is_none(daemon: PrivateDaemon, house: House) -> None:
    workspace = house.root / "small"
    workspace.mkdir()
    mount(daemon, workspace, "size=16k,nr_inodes=20")
    seen = daemon.seen(workspace)
    (seen / "ballast").write_bytes(bytes(16 << 10))
    done = house.ds01("init", "p", env={"DS01_WORKSPACE": str(workspace)})
    assert done.returncode == 1
    assert "cannot be written: No space left on device" in done.stderr
    assert list(seen.rglob("Dockerfile")) == []
