"""A server and a command line of an ordinary user in the ``docker`` group: only root can make one."""

from __future__ import annotations

import json
import os
import pwd
import secrets
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ProjectFolder, with_engine
from ordinary_user import a_python, a_user, as_user, why_no_user
from servers import House, Kernel, Server, a_house, container_id, host_pid, host_processes, wait_for

from ds01_kernels.engine.docker_connection import address

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def user(engine_available: None) -> Iterator[pwd.struct_passwd]:
    """A new user in the group that the engine's socket belongs to; gone afterwards, with the home."""
    if missing := _why_not():
        if os.environ.get("CI") and os.getuid() == 0:
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
    with a_user([Path(address().removeprefix("unix://")).stat().st_gid]) as user:
        yield user


def _why_not() -> str:
    if missing := why_no_user():
        return missing
    socket = Path(address().removeprefix("unix://"))
    if not address().startswith("unix://") or not socket.is_socket():
        return "the engine has no local socket"
    status = socket.stat()
    if status.st_gid == 0 or not status.st_mode & stat.S_IWGRP:
        return f"{socket} belongs to no group that a user could be in"
    return ""


@pytest.fixture(scope="module")
def python(user: pwd.struct_passwd) -> Iterator[list[str]]:
    with a_python(user) as command:
        yield command


@pytest.fixture(scope="module")
def house(user: pwd.struct_passwd, python: list[str]) -> Iterator[House]:
    """The user's workspace, in the home."""
    env = {"HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name, "SHELL": user.pw_shell}
    root = Path(user.pw_dir) / "t"
    root.mkdir()
    with a_house(root, env=env, command=(*as_user(user), *python), uid=user.pw_uid) as house:
        enabled = house.root / "config" / "jupyter_server_config.d" / "ds01_kernels.json"
        enabled.parent.mkdir()
        enabled.write_text(json.dumps({"ServerApp": {"jpserver_extensions": {"ds01_kernels": True}}}))
        for path in (root, *root.rglob("*")):
            os.lchown(path, user.pw_uid, user.pw_gid)
        yield house


@pytest.fixture(scope="module")
def thesis(house: House) -> ProjectFolder:
    """A project that the user has made and built; its image has no ipykernel."""
    name = f"thesis-{secrets.token_hex(4)}"
    for words in (["init", name], ["image-update", name]):
        done = house.ds01(*words)
        assert (done.returncode, done.stderr) == (0, ""), done
    path = house.workspace / name
    return ProjectFolder(name, path, f"ds01-{house.uid}/{name}:latest", f"{name}._.{house.uid}")


@pytest.fixture(scope="module")
def server(house: House) -> Iterator[Server]:
    with house.server() as server:
        yield server


@pytest.fixture(scope="module")
def kernel(server: Server, thesis: ProjectFolder) -> Iterator[Kernel]:
    kernel = server.start_session(f"{thesis.name}/a.ipynb", "python3")
    with kernel.connected():
        kernel.run("import os, pathlib, pwd, sys")
        yield kernel


def test_the_server_is_the_users(server: Server, user: pwd.struct_passwd) -> None:
    status = Path(f"/proc/{server.process.pid}").stat()
    assert (status.st_uid, status.st_gid) == (user.pw_uid, user.pw_gid)


def test_a_kernel_is_the_user_in_the_container(
    kernel: Kernel, thesis: ProjectFolder, user: pwd.struct_passwd
) -> None:
    assert kernel.ask("[sys.executable, os.getcwd()]") == ["/usr/bin/python", "/workspace"]
    assert kernel.ask("[os.getuid(), os.getgid(), os.geteuid()]") == [user.pw_uid, user.pw_gid, user.pw_uid]
    assert kernel.ask("pwd.getpwuid(os.getuid()).pw_name") == user.pw_name
    assert kernel.ask("pwd.getpwuid(os.getuid()).pw_dir") == kernel.ask("os.path.expanduser('~')")
    kernel.run("pathlib.Path.home().joinpath('mine').write_text('x')")
    process = host_pid(thesis.container, kernel.ask("os.getpid()"))
    assert Path(f"/proc/{process}").stat().st_uid == user.pw_uid
    assert kernel.ask("os.path.exists('/var/run/docker.sock')") is False


def test_its_privileges_are_none(kernel: Kernel) -> None:
    status = dict(
        line.split(":\t", 1) for line in kernel.ask("open('/proc/self/status').read()").splitlines()
    )
    assert int(status["CapEff"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert kernel.execute("open('/etc/passwd', 'a')").error == "PermissionError"


def test_files_in_the_project_are_the_users(
    kernel: Kernel, thesis: ProjectFolder, user: pwd.struct_passwd
) -> None:
    kernel.run("pathlib.Path('data').mkdir(); pathlib.Path('data/new').write_text('x')")
    for path in (thesis.path / "data", thesis.path / "data" / "new"):
        status = path.stat()
        assert (status.st_uid, status.st_gid) == (user.pw_uid, user.pw_gid)
    image = with_engine(lambda engine: engine.image(thesis.image))
    assert image is not None
    assert image.labels["ds01-kernels.uid"] == str(user.pw_uid)


def test_pip_install_in_a_cell_works_at_once(kernel: Kernel) -> None:
    assert kernel.execute("import iniconfig").error == "ModuleNotFoundError"
    said = kernel.run("%pip install --no-input iniconfig")
    assert "Successfully installed iniconfig" in said
    assert kernel.ask("__import__('iniconfig').__file__").startswith(kernel.ask("os.path.expanduser('~')"))
    kernel.restart()
    kernel.run("import iniconfig, os, pathlib, pwd, sys")


def test_the_sockets_are_nobody_elses(kernel: Kernel, thesis: ProjectFolder, user: pwd.struct_passwd) -> None:
    kernel.run("pass")
    info = with_engine(lambda engine: engine.container(thesis.container))
    assert info is not None
    mounted = Path(info.labels["ds01-kernels.sockets"])
    assert mounted.is_relative_to(f"/tmp/ds01-kernels-{user.pw_uid}")
    assert list(mounted.iterdir())
    for folder in (mounted, mounted.parent, mounted.parent.parent):
        status = folder.lstat()
        assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (user.pw_uid, 0o700)
    # Nor does the user get at those of others, root's for one.
    others = subprocess.run([*as_user(user), "ls", "/tmp/ds01-kernels-0"], capture_output=True)
    assert others.returncode != 0


def test_two_users_projects_of_one_name_live_side_by_side(
    kernel: Kernel, thesis: ProjectFolder, user: pwd.struct_passwd
) -> None:
    with a_house() as roots, roots.server() as its_server:
        twin = roots.folder(thesis.name, unique=False)
        for words in (["image-update", twin.name], ["kernelspec", "install", twin.name]):
            done = roots.ds01(*words)
            assert done.returncode == 0, done
        other = its_server.start_session(f"{twin.name}/a.ipynb", "python3")
        assert other.ask("__import__('os').getuid()") == 0
        assert kernel.ask("os.getuid()") == user.pw_uid
        assert {container_id(thesis.container), container_id(twin.container)}.isdisjoint({None})
        assert container_id(thesis.container) != container_id(twin.container)

        (listed,) = its_server.get("ds01/projects")
        assert (listed["path"], listed["container"]) == (str(twin.path), twin.container)
        before = kernel.ask("os.getpid()")
        done = roots.ds01("container-retire", twin.name, "--force")
        assert done.returncode == 0, done
        assert kernel.ask("os.getpid()") == before
    assert container_id(thesis.container) is not None


def test_what_the_user_may_not_read_is_said_so(house: House, server: Server, user: pwd.struct_passwd) -> None:
    closed = house.folder("closed")
    (closed.path / "Dockerfile").chmod(0o600)
    unsettled = house.folder("unsettled")
    (unsettled.path / "pyproject.toml").write_text("[tool.ds01]\n")
    (unsettled.path / "pyproject.toml").chmod(0o600)
    shut = house.folder("shut")
    shut.path.chmod(0o700)
    try:
        os.lchown(closed.path, user.pw_uid, user.pw_gid)
        os.lchown(unsettled.path, user.pw_uid, user.pw_gid)
        errors = {one["name"]: one["error"] for one in server.get("ds01/projects")}
        assert "cannot be read: permission denied" in errors[closed.name]
        assert shut.name not in errors
        for project, said in ((closed, "permission denied"), (unsettled, "Permission denied")):
            first = server.get(f"ds01/projects/{project.name}/doctor")[0]
            assert (first["level"], said in first["message"], bool(first["remedy"])) == ("error", True, True)
            kernel = server.start_session(f"{project.name}/a.ipynb", "python3")
            with kernel.connected():
                request = kernel.send("execute_request", code="1", silent=False)
                error = kernel.receive_until(
                    lambda message, request=request: (
                        message["msg_type"] == "error" and message["parent_header"].get("msg_id") == request
                    )
                )
            assert said in "".join(error["content"]["traceback"])
            kernel.delete()
        answer = server.request("GET", f"ds01/projects/{shut.name}")
        assert (answer.status_code, "permission denied" in answer.json()["message"]) == (404, True)
    finally:
        for project in (closed, unsettled, shut):
            shutil.rmtree(project.path)


def test_the_command_line_works_for_the_user(
    house: House, kernel: Kernel, thesis: ProjectFolder, user: pwd.struct_passwd
) -> None:
    done = house.ds01("shell", thesis.name, "--", "id", "-u")
    assert (done.returncode, done.stdout) == (0, f"{user.pw_uid}\n"), done
    told = json.loads(house.ds01("status", thesis.name, "--json").stdout)
    assert (told["kernels"], told["built"], told["python"]["ipykernel"]) == (1, True, None)
    refused = house.ds01("container-retire", thesis.name)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert kernel.run("print(1)") == "1\n"


def test_a_stopped_server_leaves_nothing_of_its_kernels(
    house: House, server: Server, kernel: Kernel, thesis: ProjectFolder
) -> None:
    process = host_pid(thesis.container, kernel.ask("os.getpid()"))
    server.stop()
    wait_for(lambda: process not in host_processes(thesis.container), "the kernel lives on")
    left = list(Path(f"/tmp/ds01-kernels-{house.uid}/k").glob("*/*"))
    assert left == []
