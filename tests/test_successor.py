"""A kernel's next process is begun while the last one ends, and becomes one only if it is what is wanted."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty

import live
import pytest
from conftest import ProjectFolder, build_project, with_engine

from ds01_kernels.workbench import Workbench

pytestmark = pytest.mark.engine

#: Its end takes until the file is there, or as long as it may.
ENDING_SLOWLY = """
import atexit, os, time
def wait():
    for _ in range(1500):
        if os.path.exists("/workspace/go"): break
        time.sleep(0.02)
    open("/workspace/over", "w").close()
atexit.register(wait)
"""


#: The same, when its sockets are closed and its modules are being taken apart.
ENDING_LATE = """
import os, sys, time
class Late:
    def __del__(self, exists=os.path.exists, open=open, sleep=time.sleep):
        for _ in range(1500):
            if exists("/workspace/go"): break
            sleep(0.02)
        open("/workspace/over", "w").close()
sys.modules["late"] = type(sys)("late")
sys.modules["late"].one = Late()
"""


@pytest.fixture
def live_site() -> Iterator[live.Site]:
    with live.a_site() as made:
        yield made


@contextmanager
def slow_kernel(project: ProjectFolder, code: str = ENDING_SLOWLY) -> Iterator[live.LiveKernel]:
    """One that ends slowly, for which Jupyter has the patience."""
    with live.a_kernel(f"ds01-{project.name}") as kernel:
        kernel.manager.shutdown_wait_time = 2 * live.LIMIT
        kernel.run(code)
        yield kernel
        (project.path / "go").touch()


@contextmanager
def restarting(kernel: live.LiveKernel, **arguments: object) -> Iterator[None]:
    """What is done inside is done while the kernel restarts."""
    thread = threading.Thread(target=lambda: kernel.manager.restart_kernel(**arguments))
    thread.start()
    try:
        yield
    finally:
        thread.join()
        kernel.client.wait_for_ready(timeout=live.LIMIT)


def kernels(project: ProjectFolder) -> int:
    """How many processes are kernels in the project's container."""
    workbench = Workbench.open()
    found = next(each for each in workbench.projects().projects if each.name == project.name)
    info = workbench.call(workbench.launcher.deploy(found))
    return workbench.call(workbench.launcher.count_kernels(info))


def container(project: ProjectFolder) -> str:
    return str(live.inspect(project)["Id"])


def test_it_is_begun_early_and_asked_late(live_site: live.Site, ipykernel_image: str) -> None:
    project = live_site.project("next", dockerfile=f"FROM {ipykernel_image}\n")
    with slow_kernel(project) as kernel:
        shell = Path(f"{kernel.manager.get_connection_info()['ip']}-1")
        former = shell.readlink()
        with restarting(kernel):
            live.until(lambda: kernels(project) == 2)
            assert shell.readlink() == former
            (project.path / "go").touch()
        assert shell.readlink() != former
        assert kernel.run("import os; print(os.path.exists('/workspace/over'))") == "True\n"
        assert kernels(project) == 1


def test_it_takes_requests_while_the_former_is_taken_apart_and_serves_them_then(
    live_site: live.Site, ipykernel_image: str
) -> None:
    project = live_site.project("late", dockerfile=f"FROM {ipykernel_image}\n")
    with slow_kernel(project, ENDING_LATE) as kernel:
        kernel.manager.restart_kernel()
        assert kernels(project) == 2
        kernel.client.wait_for_ready(timeout=live.LIMIT)
        request = kernel.client.execute("print(1)")
        with pytest.raises(Empty):
            kernel.client.get_shell_msg(timeout=1)
        assert not (project.path / "over").exists()
        (project.path / "go").touch()
        assert kernel.client.get_shell_msg(timeout=live.LIMIT)["parent_header"]["msg_id"] == request
        assert kernel.run("import os; print(os.path.exists('/workspace/over'))") == "True\n"
        assert kernels(project) == 1


def test_one_that_waits_is_restarted_and_shut_down_too(live_site: live.Site, ipykernel_image: str) -> None:
    project = live_site.project("again", dockerfile=f"FROM {ipykernel_image}\n")
    with slow_kernel(project, ENDING_LATE) as kernel:
        kernel.manager.restart_kernel()
        kernel.manager.interrupt_kernel()
        with restarting(kernel):
            live.until(lambda: kernels(project) == 3)
            (project.path / "go").touch()
        assert kernel.run("print(1)") == "1\n"
        (project.path / "go").unlink()
        kernel.run(ENDING_LATE)
        kernel.manager.restart_kernel()
        kernel.manager.shutdown_kernel(now=True)
        (project.path / "go").touch()
        live.until(lambda: kernels(project) == 0)


def test_a_former_one_that_does_not_end_is_killed(live_site: live.Site, ipykernel_image: str) -> None:
    project = live_site.project("endless", dockerfile=f"FROM {ipykernel_image}\n")
    with slow_kernel(project, ENDING_LATE) as kernel:
        kernel.manager.shutdown_wait_time = 2.0
        with restarting(kernel):
            pass
        assert kernel.run("import os; print(os.path.exists('/workspace/over'))") == "False\n"
        assert kernels(project) == 1


def test_one_that_is_not_what_is_wanted_ends(live_site: live.Site, ipykernel_image: str) -> None:
    project = live_site.project("other", dockerfile=f"FROM {ipykernel_image}\n")
    with slow_kernel(project) as kernel:
        with restarting(kernel, env={**os.environ, "JPY_SESSION_NAME": "moved.ipynb"}):
            live.until(lambda: kernels(project) == 2)
            (project.path / "go").touch()
        assert kernel.run("import os; print(os.environ['JPY_SESSION_NAME'])") == "moved.ipynb\n"
        live.until(lambda: kernels(project) == 1)


@pytest.mark.parametrize("code", [ENDING_SLOWLY, ENDING_LATE], ids=["slowly", "late"])
def test_it_keeps_no_container_that_is_out_of_date(
    live_site: live.Site, ipykernel_image: str, code: str
) -> None:
    project = live_site.project("outdated", dockerfile=f"FROM {ipykernel_image}\n")
    with slow_kernel(project, code) as kernel:
        former = container(project)
        (project.path / "Dockerfile").write_text(f"FROM {ipykernel_image}\nENV NEWER=yes\n")
        with_engine(lambda engine: build_project(engine, project))
        launcher = Workbench.open().launcher
        with restarting(kernel):
            # What is looked at then waits for the former one.
            live.until(lambda: launcher.ending if code is ENDING_LATE else kernels(project) == 2)
            (project.path / "go").touch()
        assert kernel.run("import os; print(os.environ.get('NEWER'))") == "yes\n"
        assert (project.path / "over").exists()
        assert container(project) != former
        assert kernels(project) == 1


def test_a_shutdown_amid_a_restart_leaves_nothing(live_site: live.Site, ipykernel_image: str) -> None:
    project = live_site.project("given-up", dockerfile=f"FROM {ipykernel_image}\n")
    with slow_kernel(project) as kernel:
        # As much of a restart as there was when it was given up.
        kernel.manager.request_shutdown(restart=True)
        live.until(lambda: kernels(project) == 2)
        kernel.manager.shutdown_kernel(now=True)
        live.until(lambda: kernels(project) == 0)
