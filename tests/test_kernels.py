"""Kernels in containers, through jupyter_client as every client of Jupyter has it, on the real engine."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from conftest import BASE_IMAGE, ProjectFolder, build_project, with_engine
from jupyter_client.ioloop import AsyncIOLoopKernelManager
from jupyter_client.manager import AsyncKernelManager, KernelManager
from live import (
    LIMIT,
    LiveKernel,
    Site,
    a_kernel,
    a_site,
    containers_of,
    docker,
    in_container,
    inspect,
    nothing_left,
    until,
)

from ds01_kernels.workbench import Workbench

pytestmark = pytest.mark.engine

SPIN = "import time\nprint('begun', flush=True)\nwhile True: time.sleep(0.01)"


@pytest.fixture(scope="module")
def site(engine_available: None) -> Iterator[Site]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("A_SECRET_OF_THE_SERVER", "hunter2")
        patch.setenv("CUDA_VISIBLE_DEVICES", "7")
        patch.setenv("NAMED_BY_A_SETTING", "given")
        with a_site("c.Workbench.pass_variables = ['NAMED_BY_*']") as site:
            yield site


@pytest.fixture(scope="module")
def project(site: Site) -> ProjectFolder:
    """The project that most tests share; none of them may end its container."""
    return site.project("shared")


@pytest.fixture(scope="module")
def shared(project: ProjectFolder) -> Iterator[LiveKernel]:
    """A kernel for tests that only ask."""
    with a_kernel(f"ds01-{project.name}") as kernel:
        yield kernel


# Where it runs, as whom, and with what


def test_it_runs_in_the_container_at_usr_bin_python(shared: LiveKernel, project: ProjectFolder) -> None:
    said = shared.run(
        "import os, sys\n"
        "print(sys.executable, os.getcwd(), os.environ['DS01_PROJECT'], os.environ['DS01_CONTAINER'])"
    )
    assert said.split() == ["/usr/bin/python", "/workspace", project.name, project.container]


def test_what_the_shell_calls_python_and_pip_is_the_kernels(shared: LiveKernel) -> None:
    assert shared.run("import os; print(os.environ['PATH'].split(':')[0])") == "/usr/bin\n"
    assert shared.run("!which python").split() == ["/usr/bin/python"]
    assert "python 3.11" in shared.run("!pip --version")


def test_the_servers_variables_stay_there_unless_named(shared: LiveKernel) -> None:
    variables = json.loads(shared.run("import json, os; print(json.dumps(dict(os.environ)))"))
    assert "hunter2" not in variables.values()
    assert "CUDA_VISIBLE_DEVICES" not in variables
    assert variables["NAMED_BY_A_SETTING"] == "given"
    assert variables["HOME"] != str(Path.home()) or os.getuid() == 0
    assert not [name for name in variables if name.startswith("JUPYTER_")]


def test_the_container_is_labelled_and_confined(shared: LiveKernel, project: ProjectFolder) -> None:
    found = inspect(project)
    expected = {"project": project.name, "uid": str(os.getuid()), "path": str(project.path)}
    labels = found["Config"]["Labels"]
    assert {name: labels[f"ds01-kernels.{name}"] for name in expected} == expected
    host = found["HostConfig"]
    assert "no-new-privileges" in [option.removesuffix(":true") for option in host["SecurityOpt"]]
    assert (host["Privileged"], host["CapAdd"]) == (False, None)
    assert not host["PortBindings"]
    mounts = {mount["Destination"]: mount for mount in found["Mounts"]}
    assert set(mounts) == {"/workspace", "/run/ds01", "/opt/ds01/ipykernel"}
    assert mounts["/workspace"]["Source"] == str(project.path)
    assert mounts["/opt/ds01/ipykernel"]["RW"] is False
    assert shared.run("import os; print(os.path.exists('/var/run/docker.sock'))") == "False\n"
    assert shared.run("print(open('/proc/self/status').read().split('NoNewPrivs:')[1].split()[0])") == "1\n"


def test_it_is_the_user_with_an_entry_and_a_home(shared: LiveKernel, project: ProjectFolder) -> None:
    said = shared.run(
        "import os, pwd\n"
        "entry = pwd.getpwuid(os.getuid())\n"
        "home = os.path.expanduser('~')\n"
        "open(home + '/written', 'w').close()\n"
        "open('/workspace/by-the-kernel', 'w').close()\n"
        "print(os.getuid(), os.getgid(), entry.pw_dir == home)"
    )
    assert said.split() == [str(os.getuid()), str(os.getgid()), "True"]
    assert (project.path / "by-the-kernel").stat().st_uid == os.getuid()


def test_an_install_is_importable_at_once(project: ProjectFolder) -> None:
    with a_kernel(f"ds01-{project.name}") as kernel:
        assert "ModuleNotFoundError" in kernel.outcome(kernel.client.execute("import iniconfig"))[1]
        kernel.run("%pip install --quiet iniconfig", limit=200)
        assert "/opt/ds01" not in kernel.run("import iniconfig; print(iniconfig.__file__)")
        kernel.restart()
        assert "iniconfig" in kernel.run("import iniconfig; print(iniconfig.__file__)")


def test_the_users_site_is_on_the_path_from_the_start(shared: LiveKernel) -> None:
    said = shared.run(
        "import os, site, sys; u = site.getusersitepackages(); print(os.path.isdir(u), u in sys.path)"
    )
    assert said.split() == ["True", "True"]


@pytest.mark.parametrize("folder", ["sub", "with spaces/and ümläut 数据"])
def test_the_working_directory_is_the_notebooks(project: ProjectFolder, folder: str) -> None:
    (project.path / folder).mkdir(parents=True, exist_ok=True)
    with a_kernel("python3", cwd=str(project.path / folder)) as kernel:
        assert kernel.run("import os; print(os.getcwd())") == f"/workspace/{folder}\n"
        kernel.run("open('here', 'w').close()")
        assert (project.path / folder / "here").exists()


def test_a_folder_that_was_deleted_meanwhile_gives_way_to_the_one_above(project: ProjectFolder) -> None:
    folder = project.path / "short-lived"
    folder.mkdir()
    with a_kernel("python3", cwd=str(folder)) as kernel:
        folder.rmdir()
        kernel.restart()
        assert kernel.run("import os; print(os.getcwd())") == "/workspace\n"


def test_no_tcp_port_is_opened(site: Site, project: ProjectFolder) -> None:
    listening = (
        "lines = [line.split() for name in ('tcp', 'tcp6') for line in open('/proc/net/' + name)]\n"
        "print([fields[1] for fields in lines if fields[3] == '0A'])"
    )
    before = _listening()
    with a_kernel(f"ds01-{project.name}") as kernel:
        # ipykernel has a pipe of its own, for the output of forked processes, on the container's loopback.
        # https://github.com/ipython/ipykernel/blob/main/ipykernel/iostream.py, `_setup_pipe_in`
        listening_there = in_container(project, listening).split("'")[1::2]
        assert all(address.startswith("0100007F:") for address in listening_there)
        assert not inspect(project)["NetworkSettings"]["Ports"]
        new = _listening() - before
        # Others use this machine: what counts is what we or the engine opened.
        assert not {inode: who for inode, who in _holders(new).items() if who}
        assert kernel.manager.transport == "ipc"
        for name in ("shell", "iopub", "stdin", "control", "hb"):
            port = kernel.manager.get_connection_info()[f"{name}_port"]
            assert stat.S_ISSOCK(Path(f"{kernel.manager.ip}-{port}").stat().st_mode)


def _listening() -> set[str]:
    """The inodes of all TCP sockets that listen on the host."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                found.add(fields[9])
    return found


def _holders(inodes: set[str]) -> dict[str, str]:
    """Which of the sockets belong to this process or its children, or to the engine."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            name = (process / "comm").read_text().strip()
            parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
            if not (name.startswith("docker") or str(os.getpid()) in (process.name, parent)):
                continue
            targets = {os.readlink(link) for link in (process / "fd").iterdir()}
        except OSError:
            continue
        found |= {inode: name for inode in inodes if f"socket:[{inode}]" in targets}
    return found


# The life of a kernel


def test_lives_of_every_kind_leave_nothing_behind(site: Site) -> None:
    lived_in = site.project("lives")
    known = set(containers_of(site))
    # After six every kind of restart, of program and of end has met.
    for number in range(7):
        manager = KernelManager(kernel_name=f"ds01-{lived_in.name}")
        with a_kernel("", manager=manager) as kernel:
            assert kernel.run("print(1 + 1)") == "2\n"
            request = kernel.started(SPIN)
            manager.interrupt_kernel()
            assert "KeyboardInterrupt" in kernel.outcome(request)[1]
            kernel.restart(now=bool(number % 2))
            assert kernel.run("print(2 + 2)") == "4\n"
            if number % 3 == 2:
                apart = bool(number % 2)
                kernel.run(
                    f"import subprocess; subprocess.Popen(['sleep', '999'], start_new_session={apart})"
                )
            manager.shutdown_kernel(now=number % 3 == 2)
    nothing_left(site, lived_in)
    assert len(set(containers_of(site)) - known) == 1


def test_a_restart_keeps_the_container_the_paths_and_the_key(project: ProjectFolder) -> None:
    with a_kernel(f"ds01-{project.name}") as kernel:
        container, before = inspect(project)["Id"], kernel.manager.get_connection_info()
        file = Path(kernel.manager.connection_file).read_text()
        kernel.run("kept = 1")
        first = kernel.run("import os; print(os.getpid())")
        for now in (False, True):
            # The client was connected before, and stays so.
            kernel.restart(now=now)
            assert "NameError" in kernel.outcome(kernel.client.execute("kept"))[1]
            assert kernel.run("import os; print(os.getpid())") != first
        assert kernel.manager.get_connection_info() == before
        assert Path(kernel.manager.connection_file).read_text() == file
        assert inspect(project)["Id"] == container


def test_interrupt_by_message(site: Site, project: ProjectFolder) -> None:
    manager = KernelManager(kernel_name=f"ds01-{project.name}")
    assert manager.kernel_spec is not None
    manager.kernel_spec.interrupt_mode = "message"
    with a_kernel("", manager=manager) as kernel:
        request = kernel.started(SPIN)
        manager.interrupt_kernel()
        assert "KeyboardInterrupt" in kernel.outcome(request)[1]


@pytest.mark.parametrize(
    ("code", "expected", "said"),
    [
        ("import os; os._exit(7)", 7, "exit code 7"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -9, "killed by SIGKILL"),
        ("import ctypes; ctypes.string_at(0)", -11, "killed by SIGSEGV"),
    ],
)
def test_the_real_exit_code_is_known_and_logged(
    project: ProjectFolder, code: str, expected: int, said: str
) -> None:
    log, lines = _recording()
    manager = KernelManager(kernel_name=f"ds01-{project.name}", log=log)
    with a_kernel("", manager=manager) as kernel:
        kernel.client.execute(code)
        until(lambda: kernel.code is not None)
        assert kernel.code == expected
        assert not manager.is_alive()
        until(lambda: said in lines.getvalue())
        kernel.restart()
        assert kernel.run("print('again')") == "again\n"


#: The thread of output has stopped to listen when that of the request for the end wants to have it all sent.
STOPS_LISTENING = """
def prepare(out, loop):
    import threading, time
    stopped, flush, close = threading.Event(), out.flush, loop.close
    def late():
        if threading.current_thread().name == "Control":
            stopped.wait(2)
        flush()
    def slow(*arguments, **more):
        stopped.set()
        time.sleep(1)
        close(*arguments, **more)
    out.flush_timeout, out.flush, loop.close = 1000, late, slow
import sys
prepare(sys.stdout, get_ipython().kernel.parent.iopub_thread.io_loop)
"""


def test_the_end_waits_for_no_thread_that_has_ended(project: ProjectFolder) -> None:
    with a_kernel(f"ds01-{project.name}") as kernel:
        kernel.run(STOPS_LISTENING)
        # By nobody who kills it when that takes too long.
        kernel.client.shutdown()
        until(lambda: kernel.code is not None)
        assert kernel.code == 0


def test_jupyter_restarts_a_kernel_that_died(project: ProjectFolder) -> None:
    async def watch() -> None:
        manager = AsyncIOLoopKernelManager(kernel_name=f"ds01-{project.name}")
        restarted: list[float] = []
        await manager.start_kernel()
        assert manager._restarter is not None
        manager.stop_restarter()
        manager._restarter.time_to_dead = 0.2
        manager.start_restarter()
        manager.add_restart_callback(lambda: restarted.append(time.monotonic()), "restart")
        client = manager.client()
        client.start_channels()
        try:
            await client.wait_for_ready(timeout=LIMIT)
            client.execute("import os; os._exit(3)")
            async with asyncio.timeout(LIMIT):
                while not restarted:
                    await asyncio.sleep(0.02)
            await client.wait_for_ready(timeout=LIMIT)
            reply = await client.execute("1 + 1", reply=True, timeout=LIMIT)
            assert reply["content"]["status"] == "ok"
            assert await manager.is_alive()
        finally:
            client.stop_channels()
            await manager.shutdown_kernel(now=True)

    asyncio.run(watch())


def test_pre_launch_may_be_called_again(project: ProjectFolder) -> None:
    async def twice() -> None:
        manager = AsyncKernelManager(kernel_name=f"ds01-{project.name}")
        await manager.pre_start_kernel()
        assert manager.provisioner is not None
        first = dict(manager.provisioner.connection_info)
        await manager.pre_start_kernel()
        assert manager.provisioner.connection_info == first
        assert not manager.provisioner.has_process
        await manager.start_kernel()
        try:
            assert manager.get_connection_info()["ip"] == first["ip"]
            await manager.provisioner.pre_launch()
            assert await manager.is_alive()
            assert manager.provisioner.connection_info == first
        finally:
            await manager.shutdown_kernel(now=True)

    asyncio.run(twice())


def test_what_an_argument_in_the_spec_says_reaches_ipykernel(site: Site, project: ProjectFolder) -> None:
    name = site.spec(
        "with-arguments",
        argv=[
            *("python", "-m", "ipykernel_launcher", "-f", "{connection_file}"),
            "--InteractiveShell.ast_node_interactivity=all",
        ],
        env={"FROM_THE_SPEC": "${NAMED_BY_A_SETTING}!"},
    )
    with a_kernel(name, cwd=str(project.path)) as kernel:
        assert kernel.run("print(get_ipython().ast_node_interactivity)") == "all\n"
        assert kernel.run("import os; print(os.environ['FROM_THE_SPEC'])") == "given!\n"


# Paths and what is handed on


def test_resolve_path(shared: LiveKernel, project: ProjectFolder) -> None:
    (project.path / "module.py").write_text("")
    (project.path / "outside").symlink_to("/etc")
    (project.path / "inside").symlink_to("module.py")
    resolve = shared.manager.resolve_path
    assert resolve("module.py") == resolve("/workspace/module.py") == str(project.path / "module.py")
    assert resolve("/workspace/./sub/../module.py") == str(project.path / "module.py")
    assert resolve("inside") == str(project.path / "inside")
    for outside in ("/etc/passwd", "../etc/passwd", "/workspace/../etc/passwd", "~/x", "/workspacex"):
        assert resolve(outside) is None, outside
    assert resolve("nowhere.py") is None
    # There /etc is the container's, here it would be the host's.
    assert resolve("outside/passwd") is None
    assert resolve("a\0b") is None


def test_another_process_takes_over_a_kernel(site: Site, project: ProjectFolder) -> None:
    """The information is JSON once the key is text; the new holder's end is the kernel's."""
    taker = """
import asyncio, json, sys
from jupyter_client.manager import AsyncKernelManager
async def take():
    info = json.loads(sys.stdin.readline())
    key = info["connection_info"]["key"].encode()
    info["connection_info"]["key"] = key
    manager = AsyncKernelManager(kernel_name=info["kernel_name"])
    manager.session.key = key
    from jupyter_client.provisioning import KernelProvisionerFactory
    create = KernelProvisionerFactory.instance().create_provisioner_instance
    manager.provisioner = create(info["kernel_id"], manager.kernel_spec, parent=manager)
    await manager.provisioner.load_provisioner_info(info)
    manager.load_connection_info(manager.provisioner.connection_info)
    client = manager.client()
    client.start_channels()
    await client.wait_for_ready(timeout=60)
    reply = await client.execute("assert kept == 41", reply=True, timeout=60)
    print(reply["content"]["status"], await manager.provisioner.poll(), flush=True)
    sys.stdin.readline()
    client.stop_channels()
    await manager.provisioner.kill()
    print(await manager.provisioner.wait(), flush=True)
asyncio.run(take())
"""
    with a_kernel(f"ds01-{project.name}") as kernel:
        kernel.run("kept = 41")
        assert kernel.manager.provisioner is not None
        info = asyncio.run(kernel.manager.provisioner.get_provisioner_info())
        connection = dict(info["connection_info"], key=info["connection_info"]["key"].decode())
        text = json.dumps({**info, "connection_info": connection, "kernel_name": f"ds01-{project.name}"})
        with subprocess.Popen(
            [sys.executable, "-c", taker],
            cwd=site.root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(text + "\n")
            process.stdin.flush()
            assert process.stdout.readline() == "ok None\n"
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "-9\n"
            assert process.wait(LIMIT) == 0
    nothing_left_but_shared(project)


def nothing_left_but_shared(project: ProjectFolder) -> None:
    names = "{n.rpartition('-')[0] for n in os.listdir('/run/ds01') if n[:6] != 'spare-'}"
    until(lambda: in_container(project, f"import os; print(len({names}))") in ("0\n", "1\n"))


# Encryption


def test_required_encryption(project: ProjectFolder) -> None:
    manager = KernelManager(kernel_name=f"ds01-{project.name}", transport_encryption="required")
    with a_kernel("", manager=manager) as kernel:
        before = json.loads(Path(manager.connection_file).read_text())
        assert len(before["curve_publickey"]) == len(before["curve_secretkey"]) == 40
        assert kernel.run("print('whispered')") == "whispered\n"
        assert _answers(manager, before["curve_publickey"].encode())
        assert not _answers(manager, zmq.curve_keypair()[0])
        assert not _answers(manager, None)
        kernel.restart()
        assert json.loads(Path(manager.connection_file).read_text()) == before
        assert kernel.run("print('again')") == "again\n"


def _answers(manager: KernelManager, server_key: bytes | None) -> bool:
    """Whether the kernel echoes a heartbeat to somebody with that key."""
    with zmq.Context() as context, context.socket(zmq.REQ) as request:
        request.linger = 0
        if server_key is not None:
            request.curve_serverkey = server_key
            request.curve_publickey, request.curve_secretkey = zmq.curve_keypair()
        request.connect(f"ipc://{manager.ip}-{manager.hb_port}")
        request.send(b"ping")
        # The right key has seconds to be answered, a wrong one needs only not to be.
        return bool(request.poll(1000))


def test_automatic_encryption_is_used(project: ProjectFolder) -> None:
    manager = KernelManager(kernel_name=f"ds01-{project.name}", transport_encryption="auto")
    with a_kernel("", manager=manager) as kernel:
        assert "curve_secretkey" in json.loads(Path(manager.connection_file).read_text())
        assert kernel.run("print('whispered')") == "whispered\n"


def test_without_encryption_there_are_no_keys(project: ProjectFolder) -> None:
    manager = KernelManager(kernel_name=f"ds01-{project.name}", transport_encryption="disabled")
    with a_kernel("", manager=manager) as kernel:
        assert "curve_secretkey" not in json.loads(Path(manager.connection_file).read_text())
        assert kernel.run("print('said aloud')") == "said aloud\n"


# Whose kernel it is


def test_python3_outside_all_projects_runs_on_the_host(site: Site) -> None:
    with a_kernel("python3", cwd=str(site.workspace)) as kernel:
        executable, folder, secret = kernel.run(
            "import os, sys; print(sys.executable, os.getcwd(), os.environ['A_SECRET_OF_THE_SERVER'])"
        ).split()
        assert os.path.realpath(executable) == os.path.realpath(sys.executable)
        assert folder == str(site.workspace)
        # Nothing of it is filtered: it is what Jupyter always did.
        assert secret == "hunter2"
        kernel.restart()
        assert kernel.run("print(1)") == "1\n"
        (site.workspace / "x.py").write_text("")
        assert kernel.manager.resolve_path("x.py") == str(site.workspace / "x.py")


def test_kernels_of_other_languages_are_left_to_jupyter(site: Site, project: ProjectFolder) -> None:
    name = site.spec(
        "other", language="R", argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    )
    with a_kernel(name, cwd=str(project.path)) as kernel:
        said = kernel.run("import os; print(os.getcwd(), os.environ['A_SECRET_OF_THE_SERVER'])")
        assert said.split() == [str(project.path), "hunter2"]
        assert kernel.manager.transport == "tcp"


def test_host_kernels_can_be_switched_off(site: Site) -> None:
    Workbench.open().allow_host_kernels = False
    try:
        with a_kernel("python3", cwd=str(site.workspace)) as kernel:
            said = kernel.explanation()
    finally:
        Workbench.open().allow_host_kernels = True
    assert "This notebook lies in no project, and kernels on the host are switched off here." in said
    assert "Move it into a project's folder, or pick a project's kernel." in said


def test_a_folder_that_cannot_be_a_project_says_why_instead_of_running_on_the_host(site: Site) -> None:
    folder = site.workspace / "bad name"
    (folder / "sub").mkdir(parents=True)
    (folder / "Dockerfile").write_text(f"FROM {BASE_IMAGE}\n")
    with a_kernel("python3", cwd=str(folder / "sub")) as kernel:
        assert "'bad name' cannot be a project's name" in kernel.explanation()
        # Mended meanwhile: what was not a project is one now, in the folder that the kernel was started for.
        folder.rename(site.workspace / "good-name")
        folder.symlink_to(site.workspace / "good-name")
        kernel.restart()
        assert "cannot be a project's name" not in kernel.outcome(kernel.client.execute("1"))[1]


def test_an_image_that_is_not_built_is_built_first_where_nobody_could_be_told(site: Site) -> None:
    unbuilt = site.project("unbuilt", built=False)
    with a_kernel(f"ds01-{unbuilt.name}") as kernel:
        assert kernel.run("import sys; print(sys.executable)") == "/usr/bin/python\n"


def test_an_image_that_cannot_be_built_is_explained(site: Site) -> None:
    broken = site.project("broken", dockerfile=f"FROM {BASE_IMAGE}\nRUN exit 3\n", built=False)
    with a_kernel(f"ds01-{broken.name}") as kernel:
        assert "line 2" in kernel.explanation().lower()
        assert kernel.code is None
        (broken.path / "Dockerfile").write_text(f"FROM {BASE_IMAGE}\n")
        kernel.restart()
        assert kernel.run("print('mended')") == "mended\n"


# The container


def test_two_kernels_at_once_on_a_cold_project_make_one_container(site: Site) -> None:
    cold = site.project("cold")

    async def both() -> None:
        managers = [AsyncKernelManager(kernel_name=f"ds01-{cold.name}") for _ in range(2)]
        await asyncio.gather(*(manager.start_kernel() for manager in managers))
        assert [await manager.is_alive() for manager in managers] == [True, True]
        await asyncio.gather(*(manager.shutdown_kernel(now=True) for manager in managers))

    known = set(containers_of(site))
    asyncio.run(both())
    assert len(set(containers_of(site)) - known) == 1
    nothing_left_but_shared(cold)


def test_a_container_is_replaced_when_its_image_is_newer_and_no_kernel_runs(site: Site) -> None:
    aging = site.project("aging")
    with a_kernel(f"ds01-{aging.name}") as first:
        old = inspect(aging)["Id"]
        (aging.path / "Dockerfile").write_text(f"FROM {BASE_IMAGE}\nENV GENERATION=2\n")
        with_engine(lambda engine: build_project(engine, aging))
        with a_kernel(f"ds01-{aging.name}"):
            assert inspect(aging)["Id"] == old
        assert first.run("import os; print(os.environ.get('GENERATION'))") == "None\n"
    with a_kernel(f"ds01-{aging.name}") as kernel:
        assert kernel.run("import os; print(os.environ.get('GENERATION'))") == "2\n"
        assert inspect(aging)["Id"] != old
    with docker() as client:
        client.stop(aging.container, timeout=0)
    stopped = inspect(aging)["Id"]
    with a_kernel(f"ds01-{aging.name}") as kernel:
        assert kernel.run("print('up again')") == "up again\n"
    assert inspect(aging)["Id"] == stopped
    nothing_left(site, aging)


def _recording() -> tuple[logging.Logger, io.StringIO]:
    lines = io.StringIO()
    log = logging.Logger("of this test", logging.DEBUG)
    log.addHandler(logging.StreamHandler(lines))
    return log, lines
