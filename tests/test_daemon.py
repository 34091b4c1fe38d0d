"""The engine's daemon is stopped, killed and started again while kernels run: one of the tests' own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from conftest import BASE_IMAGE, ProjectFolder
from live import (
    LiveKernel,
    Site,
    a_kernel,
    a_site,
    docker,
    forgetting_singletons,
    inspect,
    nothing_left,
    until,
)
from private_daemon import PrivateDaemon, a_daemon
from servers import Kernel, a_house

pytestmark = [pytest.mark.engine, pytest.mark.apart]

#: Seconds that kernels are waited for when their stream is lost.
GRACE = 2.0


@pytest.fixture(scope="module")
def daemon(engine_available: None) -> Iterator[PrivateDaemon]:
    with a_daemon() as daemon, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", daemon.address)
        yield daemon


@pytest.fixture(autouse=True)
def _runs(daemon: PrivateDaemon) -> Iterator[None]:
    with forgetting_singletons():
        yield
        if not daemon.is_running:
            daemon.start()


@pytest.fixture
def site(daemon: PrivateDaemon) -> Iterator[Site]:
    with a_site(f"c.Workbench.orphan_grace = {GRACE}") as site:
        yield site


def test_a_daemon_of_ones_own_is_another_than_the_machines(daemon: PrivateDaemon) -> None:
    with docker() as client:
        assert [tag for image in client.images() for tag in image["RepoTags"]] == [BASE_IMAGE]
        assert client.containers(all=True) == []


def test_the_daemon_is_stopped_and_started_again(site: Site, daemon: PrivateDaemon) -> None:
    project = site.project("interrupted")
    with a_kernel(f"ds01-{project.name}") as kernel:
        container = _write(kernel, project)
        daemon.stop()
        until(lambda: kernel.code is not None)
        assert kernel.code == -9
        kernel.restart()
        assert "Docker is not running, or cannot be reached" in kernel.explanation()
        assert "Start it" in kernel.explanation()
        daemon.start()
        _same_place(kernel, project, container)
        kernel.manager.shutdown_kernel()
        nothing_left(site, project)


def test_the_daemon_is_killed_and_started_again(site: Site, daemon: PrivateDaemon) -> None:
    """Without live-restore it ends what it finds running; until then kernels run on, and are reached."""
    project = site.project("bereft")
    with a_kernel(f"ds01-{project.name}") as kernel:
        container = _write(kernel, project)
        daemon.kill()
        assert kernel.run("print('still here')") == "still here\n"
        daemon.start()
        until(lambda: kernel.code is not None)
        _same_place(kernel, project, container)
        kernel.manager.shutdown_kernel()
        nothing_left(site, project)


def _write(kernel: LiveKernel, project: ProjectFolder) -> str:
    """Leave a file in the project and one in the container, whose id is returned."""
    kernel.run("for name in ('result.txt', '/var/tmp/result'): print('kept', file=open(name, 'w'))")
    return str(inspect(project)["Id"])


def _same_place(kernel: LiveKernel, project: ProjectFolder, container: str) -> None:
    kernel.restart()
    assert kernel.run("print(open('result.txt').read() + open('/var/tmp/result').read())") == "kept\nkept\n\n"
    assert (project.path / "result.txt").read_text() == "kept\n"
    assert inspect(project)["Id"] == container


def test_notebooks_of_a_server_say_it_and_go_on(daemon: PrivateDaemon) -> None:
    with a_house() as house:
        house.configure("jupyter_ds01", f"c.Workbench.orphan_grace = {GRACE}")
        project = house.project("notebook", BASE_IMAGE)
        with house.server() as server:
            kernel = server.start_session(f"{project.name}/a.ipynb", "python3")
            with kernel.connected():
                kernel.run("print('kept', file=open('result.txt', 'w'))")
                daemon.stop()
                _restarted_by_itself(kernel)
                assert "Docker is not running" in _said(kernel)
                assert [one["id"] for one in server.get("api/kernels")] == [kernel.id]
                (listed,) = server.get("ds01/projects")
                assert "Docker is not running" in listed["error"]
                daemon.start()
                kernel.restart()
                assert kernel.run("print(open('result.txt').read())") == "kept\n\n"
            kernel.delete()
            assert server.get("api/kernels") == []
            assert "Traceback" not in server.said()


def _restarted_by_itself(kernel: Kernel) -> None:
    kernel.receive_until(
        lambda message: (
            message["msg_type"] == "status" and message["content"]["execution_state"] == "restarting"
        )
    )


def _said(kernel: Kernel) -> str:
    """The error that a cell gives now."""
    request = kernel.send("execute_request", code="1 + 1", silent=False)
    message = kernel.receive_until(
        lambda message: message["msg_type"] == "error" and message["parent_header"].get("msg_id") == request
    )
    return "\n".join(message["content"]["traceback"])
