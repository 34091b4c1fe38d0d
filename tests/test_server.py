"""A real Jupyter server, used as JupyterLab and VS Code use it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import pytest
import requests
from conftest import ProjectFolder, with_engine
from jsonschema.exceptions import ValidationError
from openapi_spec_validator import validate as validate_openapi
from rest import CHOOSY
from servers import (
    LIMIT,
    OPENAPI,
    House,
    Kernel,
    Server,
    check,
    container_id,
    free_port,
    host_pid,
    host_processes,
    is_alive,
    listening,
    tcp_ports_of,
    wait_for,
)

pytestmark = pytest.mark.engine

SECRET = {"AWS_SECRET_ACCESS_KEY": "a-secret-of-the-server"}

# With what the authorizer refuses in a file, so that one server serves all tests.
SETTINGS = f"""{CHOOSY}
from jupyter_client.kernelspec import KernelSpecManager

class Renaming(KernelSpecManager):
    def get_kernel_spec(self, kernel_name):
        spec = super().get_kernel_spec(kernel_name)
        if kernel_name == "python3":
            spec.display_name = "Renamed by the admin's class"
        return spec

c.ServerApp.kernel_spec_manager_class = Renaming
"""


@dataclass(frozen=True)
class Site:
    """One server with one project that the tests of this module share."""

    house: House
    server: Server
    thesis: ProjectFolder

    @property
    def denied(self) -> Path:
        return self.house.root / "denied"


@pytest.fixture(scope="module")
def site(house: House, ipykernel_image: str) -> Iterator[Site]:
    thesis = house.project("thesis", ipykernel_image)
    (thesis.path / "notes" / "deep").mkdir(parents=True)
    settings = SETTINGS.format(denied=str(house.root / "denied"))
    with house.with_variables(**SECRET).server(settings=settings, lab=True) as server:
        yield Site(house, server, thesis)


@pytest.fixture
def kernel(site: Site) -> Iterator[Kernel]:
    """A kernel in the container, with its websocket open."""
    kernel = site.server.start_session(f"{site.thesis.name}/{secrets.token_hex(4)}.ipynb", "python3")
    with kernel.connected():
        yield kernel
    site.server.request("DELETE", kernel.path)


# Where kernels run


@pytest.mark.parametrize(
    ("path", "name", "cwd"),
    [
        ("{p}/a.ipynb", "python3", "/workspace"),
        ("{p}/notes/deep/b.ipynb", "python3", "/workspace/notes/deep"),
        ("{p}/notes/c.ipynb", "ds01-{p}", "/workspace/notes"),
        # VS Code tells no folder.
        ("d-jvsc-0f6e5cd3-5a4a-4b6c-8c63-4a4b34f0a9be.ipynb", "ds01-{p}", "/workspace"),
    ],
)
def test_a_session_runs_in_the_container(site: Site, path: str, name: str, cwd: str) -> None:
    p = site.thesis.name
    kernel = site.server.start_session(path.format(p=p), name.format(p=p))
    assert_in_container(site, kernel, PurePosixPath(cwd))


@pytest.mark.parametrize("name", ["python3", "ds01-{p}"])
def test_a_kernel_with_a_path_runs_in_the_container(site: Site, name: str) -> None:
    kernel = site.server.start_kernel(name.format(p=site.thesis.name), path=f"{site.thesis.name}/notes")
    assert_in_container(site, kernel, PurePosixPath("/workspace/notes"))


def assert_in_container(site: Site, kernel: Kernel, cwd: PurePosixPath) -> None:
    """By what the kernel says of itself, and by a file that the engine finds in that very container."""
    mark = secrets.token_hex(8)
    with kernel.connected():
        kernel.run(f"import os, sys; open('/tmp/{mark}', 'w').write('{mark}'); open('{mark}', 'w').close()")
        assert kernel.ask("[sys.executable, os.getcwd()]") == ["/usr/bin/python", str(cwd)]
        assert kernel.ask("[os.environ['DS01_PROJECT'], os.environ['DS01_CONTAINER']]") == [
            site.thesis.name,
            site.thesis.container,
        ]
    read = with_engine(lambda engine: engine.read_file(site.thesis.container, PurePosixPath(f"/tmp/{mark}")))
    assert read == mark.encode()
    written = site.thesis.path / cwd.relative_to("/workspace") / mark
    assert written.stat().st_uid == os.getuid()
    kernel.delete()


def test_python3_outside_all_projects_runs_on_the_host(site: Site) -> None:
    kernel = site.server.start_session("outside.ipynb", "python3")
    with kernel.connected():
        kernel.run("import os, sys")
        executable, cwd, pid = kernel.ask("[sys.executable, os.getcwd(), os.getpid()]")
        assert kernel.ask("'DS01_PROJECT' in os.environ") is False
    assert executable == sys.executable
    assert cwd == str(site.house.workspace)
    assert f"-f\0{site.house.root}/runtime/" in Path(f"/proc/{pid}/cmdline").read_text()
    kernel.delete()


def test_a_file_of_the_container_is_nobody_elses_business(kernel: Kernel) -> None:
    kernel.run("import os")
    assert kernel.ask("[name for name in os.environ if name.startswith('JUPYTER')]") == []
    assert kernel.ask("os.path.exists('/var/run/docker.sock')") is False


def test_a_secret_of_the_server_is_not_in_a_kernel(site: Site, kernel: Kernel) -> None:
    (name, value), *_ = SECRET.items()
    assert value in Path(f"/proc/{site.server.process.pid}/environ").read_text()
    kernel.run("import os")
    assert kernel.ask(f"os.environ.get({name!r})") is None
    found = kernel.ask(
        f"[pid for pid in os.listdir('/proc') if pid.isdigit()"
        f" and {value.encode()!r} in open(f'/proc/{{pid}}/environ', 'rb').read()]"
    )
    assert found == []


def test_no_tcp_port_is_opened_for_kernels(site: Site, kernel: Kernel) -> None:
    host_kernel = site.server.start_kernel("python3")
    assert host_kernel.run("print(1)") == "1\n"
    assert len(tcp_ports_of(pid_of(host_kernel))) >= 5, "the comparison cannot see ports"
    host_kernel.delete()
    assert tcp_ports_of(site.server.process.pid) == {site.server.port}
    # ipykernel listens for the output of forked children, on the loopback of the container's own network.
    # https://github.com/ipython/ipykernel/blob/v7.0.1/ipykernel/iostream.py (`_setup_pipe_in`)
    inside = [listening(pid) for pid in host_processes(site.thesis.container)]
    assert {address for found in inside for address, _ in found} <= {"127.0.0.1"}
    assert os.readlink("/proc/self/ns/net") not in {
        os.readlink(f"/proc/{pid}/ns/net") for pid in host_processes(site.thesis.container)
    }
    assert kernel.run("print(2)") == "2\n"


def pid_of(kernel: Kernel) -> int:
    return int(kernel.run("import os; print(os.getpid())"))


# Their lives


def test_restart_keeps_the_container(site: Site, kernel: Kernel) -> None:
    before = container_id(site.thesis.container)
    kernel.run("import os; x = 1; open('/tmp/kept', 'w').write('y')")
    pid = pid_of(kernel)
    kernel.restart()
    assert kernel.execute("x").error == "NameError"
    assert kernel.ask("open('/tmp/kept').read()") == "y"
    assert pid_of(kernel) != pid
    assert container_id(site.thesis.container) == before


def test_nothing_is_lost_after_a_restart(kernel: Kernel) -> None:
    # The same websocket all along, and a cell that is sent at once.
    for number in range(8):
        kernel.restart()
        assert kernel.run(f"print({number})") == f"{number}\n"


def test_interrupt_ends_the_cell_and_not_the_kernel(kernel: Kernel) -> None:
    kernel.run("import time; x = 1")
    request = kernel.send("execute_request", code="print('now', flush=True); time.sleep(1000)", silent=False)
    kernel.receive_until(lambda message: message["msg_type"] == "stream")
    kernel.interrupt()
    assert kernel.outcome(request).error == "KeyboardInterrupt"
    assert kernel.run("print(x)") == "1\n"


def test_delete_ends_the_process_and_what_it_started(site: Site) -> None:
    kernel = site.server.start_session(f"{site.thesis.name}/gone.ipynb", "python3")
    children = start_children(kernel)
    pids = [pid for pid, line in host_processes(site.thesis.container).items() if line in children]
    assert len(pids) == 2
    kernel.delete()
    assert site.server.request("GET", kernel.path).status_code == 404
    wait_for(lambda: not any(map(is_alive, pids)), "what the kernel started lives on")


def start_children(kernel: Kernel) -> set[str]:
    """Start two programs that a careless end leaves behind, one in its own session; their command lines."""
    lines = [["sleep", f"{1000 + secrets.randbelow(10**8)}"] for _ in range(2)]
    kernel.run(
        "import subprocess, sys\n"
        + "\n".join(
            f"subprocess.Popen({line}, start_new_session={own})"
            for line, own in zip(lines, (False, True), strict=True)
        )
    )
    return {" ".join(line) for line in lines}


@pytest.mark.parametrize(
    ("end", "said"),
    [("os._exit(7)", "exit code 7"), ("os.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL")],
)
def test_a_kernel_that_dies_is_started_again(site: Site, kernel: Kernel, end: str, said: str) -> None:
    kernel.run("import os, signal; x = 1")
    before, pid = len(site.server.said()), kernel.ask("os.getpid()")
    kernel.send("execute_request", code=end, silent=False)
    kernel.receive_until(
        lambda message: (
            message["msg_type"] == "status" and message["content"]["execution_state"] == "restarting"
        )
    )
    assert kernel.execute("x").error == "NameError"
    log = site.server.said()[before:]
    assert (
        f"Kernel process {pid} of project {site.thesis.name} in {site.thesis.container} ended: {said}" in log
    )
    assert "Traceback" not in log


def test_a_removed_container_comes_back_with_its_kernel(
    site: Site, house: House, ipykernel_image: str
) -> None:
    project = house.project("vanishing", ipykernel_image)
    kernel = site.server.start_session(f"{project.name}/a.ipynb", "python3")
    with kernel.connected():
        kernel.run("x = 1")
        before = container_id(project.container)
        with_engine(lambda engine: engine.remove(project.container))
        kernel.receive_until(
            lambda message: (
                message["msg_type"] == "status" and message["content"]["execution_state"] == "restarting"
            )
        )
        assert kernel.execute("x").error == "NameError"
    assert container_id(project.container) not in (None, before)
    assert f"of project {project.name} in {project.container} ended" in site.server.said()
    kernel.delete()


# Kernelspecs


def test_projects_have_kernelspecs_with_icons(site: Site) -> None:
    listed = site.server.get("api/kernelspecs")["kernelspecs"]
    found = listed[f"ds01-{site.thesis.name}"]
    assert found["spec"]["display_name"] == f"{site.thesis.name} (container)"
    assert found["spec"]["language"] == "python"
    assert found["resources"].keys() >= {"logo-svg", "logo-64x64", "logo-32x32"}
    for url in found["resources"].values():
        answer = site.server.request("GET", url.lstrip("/"))
        assert (answer.status_code, answer.headers["Content-Type"][:6]) == (200, "image/")
        assert answer.content


def test_kernelspecs_follow_the_folders(site: Site) -> None:
    def is_listed(name: str) -> bool:
        return name in site.server.get("api/kernelspecs")["kernelspecs"]

    made = site.house.folder("late")
    name = f"ds01-{made.name}"
    assert is_listed(name)
    assert site.server.get(f"api/kernelspecs/{name}")["spec"]["display_name"] == f"{made.name} (container)"
    shutil.rmtree(made.path)
    assert not is_listed(name)
    assert site.server.request("GET", f"api/kernelspecs/{name}").status_code == 404


def test_a_configured_kernelspec_class_stays_in_use(site: Site) -> None:
    listed = site.server.get("api/kernelspecs")["kernelspecs"]
    assert listed["python3"]["spec"]["display_name"] == "Renamed by the admin's class"


# REST


@pytest.mark.parametrize("path", ["ds01/projects", "ds01/projects/{p}"])
def test_who_is_not_authenticated_learns_nothing(site: Site, path: str) -> None:
    with requests.Session() as stranger:
        stranger.trust_env = False
        for headers in ({}, {"Authorization": "token wrong"}):
            url = site.server.url + path.format(p=site.thesis.name)
            answer = stranger.get(url, headers=headers, timeout=LIMIT, allow_redirects=False)
            assert answer.status_code == 403
            assert answer.json() == {"message": "Forbidden", "reason": None}


@pytest.mark.parametrize("path", ["ds01/projects", "ds01/projects/{p}"])
def test_the_authorizer_is_asked(site: Site, path: str) -> None:
    path = path.format(p=site.thesis.name)
    assert site.server.request("GET", path).status_code == 200
    site.denied.write_text("ds01/read")
    try:
        answer = site.server.request("GET", path)
        assert answer.status_code == 403
        check("Error", answer.json())
        assert site.server.request("GET", "api/kernelspecs").status_code == 200
    finally:
        site.denied.unlink()


def test_the_openapi_file_is_valid_and_strict() -> None:
    validate_openapi(OPENAPI)
    good = dict.fromkeys(("kernel_name", "image", "container", "state", "node", "drift", "lost", "error"))
    good |= {"name": "x", "path": "/x"}
    check("Project", good)
    for bad in ({**good, "more": 1}, {**good, "state": "idle"}, {**good, "name": None}, {"name": "x"}):
        with pytest.raises(ValidationError):
            check("Project", bad)


def test_every_project_is_listed_as_documented(site: Site, kernel: Kernel) -> None:
    unbuilt = site.house.folder("unbuilt")
    bad = site.house.folder("bad name", unique=False)
    try:
        # What is installed there is looked at once the container is reached, and nobody waits for it.
        wait_for(
            lambda: any(project["drift"] for project in site.server.get("ds01/projects")),
            "the drift is not known",
        )
        listed = site.server.get("ds01/projects")
        answer = site.server.request("GET", "ds01/projects/bad%20name")
    finally:
        shutil.rmtree(bad.path)
    for project in listed:
        check("Project", project)
    by_name = {project["name"]: project for project in listed}
    assert [project["name"] for project in listed] == sorted(by_name)
    assert by_name[site.thesis.name] == {
        "name": site.thesis.name,
        "path": str(site.thesis.path),
        "kernel_name": f"ds01-{site.thesis.name}",
        "image": site.thesis.image,
        "container": site.thesis.container,
        "state": "running",
        "node": None,
        "drift": {"added": 0, "changed": 0, "removed": 0},
        "lost": None,
        "error": None,
        "contents_path": site.thesis.name,
    }
    assert by_name[unbuilt.name]["state"] == "missing"
    assert by_name["bad name"]["kernel_name"] is None
    assert "cannot be a project's name" in by_name["bad name"]["error"]
    assert answer.status_code == 400
    check("Error", answer.json())
    assert answer.json()["reason"] == "bad-project-name"


def test_a_project_is_told_in_full(site: Site, kernel: Kernel) -> None:
    kernel.run("pass")
    running = site.server.get(f"ds01/projects/{site.thesis.name}")
    check("ProjectDetails", running)
    assert running["kernels"] >= 1
    assert running["python"]["executable"] == "/usr/bin/python"
    assert running["python"]["ipykernel"]
    assert (running["built"], running["outdated"], running["error"]) == (True, False, None)
    created, started = (datetime.fromisoformat(running[key]) for key in ("created", "started"))
    assert created <= started <= datetime.now(UTC)
    assert 1 << 20 < running["memory"]["used"] < 1 << 40
    assert (running["memory"]["limit"], running["gpus"]) == (None, None)
    unbuilt = site.server.get(f"ds01/projects/{site.house.folder('empty').name}")
    check("ProjectDetails", unbuilt)
    assert (unbuilt["built"], unbuilt["kernels"], unbuilt["python"]) == (False, None, None)
    assert {unbuilt[key] for key in ("created", "started", "memory", "gpus")} == {None}
    assert unbuilt["engine"]["name"] == "docker"


def test_where_kernels_run_is_told(site: Site, kernel: Kernel) -> None:
    on_host = site.server.start_session("loose.ipynb", "python3")
    kernel.run("pass")
    places = {place.pop("id"): place for place in site.server.get("ds01/kernels")}
    assert places[kernel.id] == {"project": site.thesis.name, "is_on_host": False}
    assert places[on_host.id] == {"project": None, "is_on_host": True}
    on_host.delete()


@pytest.mark.parametrize("name", ["no-such", "..", "%2e%2e%2f", "a%2Fb", "%00", "%1b%5b31m", "é" * 300])
def test_an_unknown_project_is_a_404_with_a_sentence(site: Site, name: str) -> None:
    with requests.Session() as plain:
        plain.trust_env = False
        request = requests.Request("GET", "http://x", headers=dict(site.server.http.headers)).prepare()
        request.url = f"{site.server.url}ds01/projects/{name}"  # not normalised by the client
        answer = plain.send(request, timeout=LIMIT)
    assert answer.status_code in (400, 404)
    if answer.headers["Content-Type"].startswith("application/json"):
        check("Error", answer.json())
        assert answer.json()["message"].isprintable()
    assert "Traceback" not in answer.text


def test_an_engine_that_is_away_or_silent_does_not_hold_up_the_server(house: House) -> None:
    project = house.folder("waiting")
    place = house.root / "engine.sock"
    house.configure("jupyter_ds01", "c.Workbench.engine_timeout = 5")
    with (
        house.with_variables(DOCKER_HOST=f"unix://{place}").server() as server,
        ThreadPoolExecutor(2) as threads,
        socket.socket(socket.AF_UNIX) as silent,
    ):
        (house.root / "config" / "jupyter_ds01_config.py").unlink()
        away = [found for found in server.get("ds01/projects") if found["name"] == project.name]
        check("Project", away[0])
        assert away[0]["state"] == "unknown"
        assert str(place) in away[0]["error"]
        check("ProjectDetails", server.get(f"ds01/projects/{project.name}"))

        # It takes connections, and says nothing.
        silent.bind(str(place))
        silent.listen(50)
        asked = [
            threads.submit(server.get, path) for path in ("ds01/projects", f"ds01/projects/{project.name}")
        ]
        other = Server(server.url, server.port, server.process, server.log)
        assert other.get("api/status")["kernels"] == 0
        assert not any(answer.done() for answer in asked), "it had not waited for the engine yet"
        listed, details = (answer.result(LIMIT) for answer in asked)
        assert {found["state"] for found in listed if found["container"]} == {"unknown"}
        assert "took too long" in details["error"]
        check("ProjectDetails", details)
    assert "Traceback" not in server.said()


# Servers that come and go


def test_after_a_killed_server_nothing_lives_past_the_grace(house: House, ipykernel_image: str) -> None:
    project = house.project("orphans", ipykernel_image)
    house.configure("jupyter_ds01", "c.Workbench.orphan_grace = 2")
    port = free_port()
    with house.server(port=port) as server:
        pids = start_two_kernels(server, project)
        container = container_id(project.container)
        server.kill()
        wait_for(lambda: not any(map(is_alive, pids)), "kernels of the killed server live on")
    with house.server(port=port) as successor:
        kernel = successor.start_session(f"{project.name}/a.ipynb", "python3")
        assert kernel.run("print(1)") == "1\n"
        assert "that a previous server left" not in successor.said()
    assert container_id(project.container) == container
    assert sockets_left(project) == []


def test_a_successor_ends_its_predecessors_kernels_at_once(house: House, ipykernel_image: str) -> None:
    project = house.project("heirs", ipykernel_image)
    house.configure("jupyter_ds01", "c.Workbench.orphan_grace = 3600")
    port = free_port()
    with house.server(port=port) as server:
        pids = start_two_kernels(server, project)
        container = container_id(project.container)
        server.kill()
    with house.server(port=port) as successor:
        assert all(map(is_alive, pids)), "they ended for another reason"
        kernel = successor.start_session(f"{project.name}/a.ipynb", "python3")
        assert kernel.run("print(1)") == "1\n"
        wait_for(lambda: not any(map(is_alive, pids)), "kernels of the predecessor live on")
        assert f"2 kernels that a previous server left in {project.container} were ended" in successor.said()
        assert kernel.run("print(2)") == "2\n"
    assert container_id(project.container) == container


def start_two_kernels(server: Server, project: ProjectFolder) -> list[int]:
    """The host's pids of an idle kernel, of a busy one, and of two programs that the first has started."""
    idle = server.start_session(f"{project.name}/idle.ipynb", "python3")
    busy = server.start_session(f"{project.name}/busy.ipynb", f"ds01-{project.name}")
    pids = [host_pid(project.container, pid_of(kernel)) for kernel in (idle, busy)]
    children = start_children(idle)
    pids += [pid for pid, line in host_processes(project.container).items() if line in children]
    with busy.connected():
        busy.send("execute_request", code="import time; print(1, flush=True); time.sleep(1000)", silent=False)
        busy.receive_until(lambda message: message["msg_type"] == "stream")
    assert len(pids) == 4
    assert all(map(is_alive, pids))
    return pids


def sockets_left(project: ProjectFolder) -> list[Path]:
    """What the kernels of a project that runs none have left in its mounted directory; a spare is none."""
    info = with_engine(lambda engine: engine.container(project.container))
    assert info is not None
    found = Path(info.labels["ds01-kernels.sockets"]).iterdir()
    return sorted(path for path in found if not path.name.startswith("spare-"))


def test_two_servers_and_command_lines_share_a_project(house: House, ipykernel_image: str) -> None:
    project = house.project("shared", ipykernel_image)
    house.configure("jupyter_ds01", "c.Workbench.orphan_grace = 2")
    with house.server() as one, house.server() as two, ThreadPoolExecutor(4) as threads:
        # All at once on a project without a container.
        starts = [
            threads.submit(server.start_session, f"{project.name}/n.ipynb", "python3")
            for server in (one, two)
        ]
        shell = threads.submit(house.ds01, "shell", project.name, "--", "python", "-c", "print(6 * 7)")
        deploy = threads.submit(house.ds01, "container-deploy", project.name, "--json")
        first, second = (start.result() for start in starts)
        assert (shell.result().returncode, shell.result().stdout) == (0, "42\n"), shell.result().stderr
        deployed = json.loads(deploy.result().stdout)
        assert deployed["id"] == container_id(project.container)
        for kernel, value in ((first, "1"), (second, "2")):
            kernel.run(f"import socket; x = {value}")
        assert first.ask("socket.gethostname()") == second.ask("socket.gethostname()")
        assert one.get(f"ds01/projects/{project.name}")["kernels"] == 2

        one.stop()
        assert second.run("print(x)") == "2\n"
        wait_for(
            lambda: two.get(f"ds01/projects/{project.name}")["kernels"] == 1, "the first one's kernel is left"
        )
        assert house.ds01("shell", project.name, "--", "true").returncode == 0
        assert second.run("print(x)") == "2\n"
        assert "Kernel process" not in two.said()
    assert deployed["id"] == container_id(project.container)


def test_servers_below_a_base_url_answer_there(house: House) -> None:
    with house.server(base="/some/where/") as server:
        check("Project", server.get("ds01/projects")[0])
        outside = server.http.get(f"http://127.0.0.1:{server.port}/ds01/projects", timeout=LIMIT)
        assert outside.status_code == 404
