"""What happens to kernels when their container, the engine, or the process that started them goes away."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from conftest import BASE_IMAGE, ProjectFolder
from engine_proxy import EngineProxy
from live import (
    LIMIT,
    STARTING,
    LiveKernel,
    Site,
    a_kernel,
    a_site,
    another,
    docker,
    forgetting_singletons,
    in_container,
    inspect,
    leave,
    nothing_left,
    until,
)

import ds01_kernels
from ds01_kernels.connection import run_root
from ds01_kernels.workbench import Workbench

pytestmark = pytest.mark.engine

#: Seconds that kernels of a lost process live on, here.
GRACE = 2.0


@pytest.fixture(scope="module")
def site(engine_available: None) -> Iterator[Site]:
    with a_site(f"c.Workbench.orphan_grace = {GRACE}") as site:
        yield site


@pytest.fixture(scope="module")
def project(site: Site) -> ProjectFolder:
    return site.project("faulty")


@pytest.fixture(autouse=True)
def _on_its_own() -> Iterator[None]:
    with forgetting_singletons():
        yield


def alive_again(kernel: LiveKernel) -> None:
    kernel.restart()
    assert kernel.run("print('again')") == "again\n"
    assert kernel.code is None


# The container


def test_the_container_is_removed_under_a_running_kernel(site: Site, project: ProjectFolder) -> None:
    with a_kernel(f"ds01-{project.name}") as kernel:
        connection = kernel.manager.get_connection_info()
        removed = inspect(project)["Id"]
        with docker() as client:
            client.remove_container(removed, force=True)
        until(lambda: kernel.code is not None)
        assert kernel.code == -9
        assert not kernel.manager.is_alive()
        alive_again(kernel)
        assert inspect(project)["Id"] != removed
        assert kernel.manager.get_connection_info() == connection
        kernel.manager.shutdown_kernel()
        nothing_left(site, project)


def test_the_container_is_stopped_under_a_running_kernel(site: Site, project: ProjectFolder) -> None:
    with a_kernel(f"ds01-{project.name}") as kernel:
        stopped = inspect(project)["Id"]
        with docker() as client:
            client.stop(stopped, timeout=0)
        until(lambda: kernel.code is not None)
        alive_again(kernel)
        assert inspect(project)["Id"] == stopped
        kernel.manager.shutdown_kernel()
        nothing_left(site, project)


def test_a_paused_container_keeps_its_kernels(project: ProjectFolder) -> None:
    with a_kernel(f"ds01-{project.name}") as kernel:
        kernel.run("kept = 1")
        with docker() as client:
            client.pause(project.container)
            try:
                request = kernel.client.execute("print(kept)")
                # Nothing may happen, which cannot be waited for: this is longer than a look at the kernel.
                time.sleep(1.5)
                assert kernel.code is None
            finally:
                client.unpause(project.container)
        assert kernel.outcome(request) == ("1\n", "")


def test_the_agent_is_killed_under_a_running_kernel(site: Site, project: ProjectFolder) -> None:
    with a_kernel(f"ds01-{project.name}") as kernel:
        container = inspect(project)["Id"]
        kernel.client.execute(
            "import os, signal\n"
            "for entry in os.listdir('/proc'):\n"
            "    if entry.isdigit() and b'# ds01 agent' in open(f'/proc/{entry}/cmdline', 'rb').read():\n"
            "        os.kill(int(entry), signal.SIGKILL)"
        )
        until(lambda: kernel.code is not None)
        alive_again(kernel)
        assert inspect(project)["Id"] == container
        kernel.manager.shutdown_kernel()
        nothing_left(site, project)


def test_the_image_and_the_container_are_gone(site: Site) -> None:
    doomed = site.project("doomed")
    with a_kernel(f"ds01-{doomed.name}") as kernel, docker() as client:
        client.remove_container(doomed.container, force=True)
        client.remove_image(doomed.image, force=True)
        until(lambda: kernel.code is not None)
        (doomed.path / "Dockerfile").write_text(f"FROM {BASE_IMAGE}\nRUN exit 3\n")
        kernel.restart()
        assert "line 2" in kernel.explanation().lower()
        every_method_answers(kernel)
        (doomed.path / "Dockerfile").write_text(f"FROM {BASE_IMAGE}\n")
        alive_again(kernel)


def test_the_project_is_deleted_under_a_running_kernel(site: Site) -> None:
    deleted = site.project("deleted")
    with a_kernel(f"ds01-{deleted.name}") as kernel:
        shutil.rmtree(deleted.path)
        assert kernel.run("print('still here')") == "still here\n"
        kernel.restart()
        assert f"There is no project '{deleted.name}'" in kernel.explanation()
        every_method_answers(kernel)


def test_a_restart_of_a_dead_kernel_does_not_end_what_comes_next(site: Site) -> None:
    """Jupyter asks the dead one to shut down; the request waits for whoever is next at that path."""
    moved = site.project("moved")
    with a_kernel(f"ds01-{moved.name}") as kernel:
        kernel.client.execute("import os; os._exit(3)")
        until(lambda: kernel.code == 3)
        away = moved.path.rename(site.root / "away")
        kernel.restart()
        assert "There is no project" in kernel.explanation()
        # It ends a moment after its reply, if it does.
        time.sleep(0.5)
        assert kernel.code is None
        away.rename(moved.path)
        alive_again(kernel)


def test_the_links_are_deleted_under_a_running_kernel(site: Site, project: ProjectFolder) -> None:
    """As a cleaner of /tmp might: a restart brings them back."""
    with a_kernel(f"ds01-{project.name}") as kernel:
        shutil.rmtree(Path(kernel.manager.ip).parent)
        alive_again(kernel)
        every_method_answers(kernel)


def every_method_answers(kernel: LiveKernel) -> None:
    """Call all that Jupyter may call, in whatever state the kernel is."""

    async def call() -> None:
        provisioner = kernel.manager.provisioner
        assert provisioner is not None
        assert isinstance(provisioner.has_process, bool)
        await provisioner.poll()
        await provisioner.send_signal(signal.SIGINT)
        await provisioner.get_provisioner_info()
        provisioner.resolve_path("x")
        await provisioner.shutdown_requested(restart=True)
        await provisioner.terminate(restart=True)
        await provisioner.kill(restart=True)
        await provisioner.cleanup(restart=True)
        prepared = await provisioner.pre_launch()
        await provisioner.launch_kernel(prepared.pop("cmd"), **prepared)
        await provisioner.post_launch()
        assert provisioner.has_process
        provisioner.get_stable_start_time()
        provisioner.get_shutdown_wait_time()
        await provisioner.kill()
        async with asyncio.timeout(LIMIT):
            while await provisioner.poll() is None:
                await asyncio.sleep(0.02)
        await provisioner.wait()
        await provisioner.poll()
        prepared = await provisioner.pre_launch()
        await provisioner.launch_kernel(prepared.pop("cmd"), **prepared)

    asyncio.run(call())


# The engine


def test_the_engine_is_out_of_reach_for_a_moment(project: ProjectFolder) -> None:
    with a_proxy(project) as proxy, a_kernel(f"ds01-{project.name}") as kernel:
        kernel.run("kept = 1")
        proxy.close()
        assert kernel.run("print(kept)") == "1\n"
        assert kernel.code is None
        proxy.open()
        # Kernels whose process is not heard of again end after the grace time: this one stays.
        time.sleep(GRACE + 1)
        assert kernel.run("print(kept)") == "1\n"
        assert kernel.code is None
        request = kernel.started("import time\nprint('begun', flush=True)\nwhile True: time.sleep(0.01)")
        kernel.manager.interrupt_kernel()
        assert "KeyboardInterrupt" in kernel.outcome(request)[1]


def test_what_is_asked_while_the_engine_is_out_of_reach_is_done_later(project: ProjectFolder) -> None:
    with a_proxy(project) as proxy, a_kernel(f"ds01-{project.name}") as kernel:
        request = kernel.started("import time\nprint('begun', flush=True)\nwhile True: time.sleep(0.01)")
        proxy.close()
        kernel.manager.interrupt_kernel()
        proxy.open()
        assert "KeyboardInterrupt" in kernel.outcome(request)[1]


def test_the_engine_stays_out_of_reach(site: Site, project: ProjectFolder) -> None:
    with a_proxy(project) as proxy, a_kernel(f"ds01-{project.name}") as kernel:
        proxy.close()
        until(lambda: kernel.code is not None)
        kernel.restart()
        assert "Docker" in kernel.explanation()
        every_method_answers(kernel)
        proxy.open()
        alive_again(kernel)
        proxy.close()
    # It could be told nothing at its end: the grace time is what ends the kernel.
    nothing_left(site, project, limit=LIMIT)


def test_an_engine_that_was_never_there_is_said_so(project: ProjectFolder) -> None:
    with a_proxy(project) as proxy:
        proxy.close()
        with a_kernel(f"ds01-{project.name}") as kernel:
            assert "cannot be reached" in kernel.explanation()
            proxy.open()
            alive_again(kernel)


@contextmanager
def a_proxy(project: ProjectFolder) -> Iterator[EngineProxy]:
    """This process reaches the engine, and the project's container, through the proxy alone."""
    # To whoever starts a container itself the agent comes past the engine.
    workbench = Workbench.open()
    workbench.call(workbench.launcher.deploy(workbench.projects().get(project.name)))
    leave()
    path = run_root() / f"proxy-{os.getpid()}.sock"
    proxy = EngineProxy(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", f"unix://{path}")
        try:
            yield proxy
        finally:
            proxy.close()
            leave()


# The process that started them

_PROGRAM = f"""{STARTING}
code = "import subprocess; subprocess.Popen(['sleep', '998'], start_new_session=True)"
client.execute(code, reply=True, timeout=60)
print("ready", flush=True)
sys.stdin.readline()
client.stop_channels()
"""


def another_process(
    project: ProjectFolder, variables: dict[str, str] | None = None
) -> AbstractContextManager[subprocess.Popen[str]]:
    """A process of its own that has started a kernel; a line lets it end without shutting that down."""
    env = os.environ | (variables or {})
    return another("-c", _PROGRAM, f"ds01-{project.name}", cwd=project.path, env=env)


def test_after_kill_9_its_kernels_end_with_the_grace_time(site: Site, project: ProjectFolder) -> None:
    with another_process(project) as process:
        process.kill()
        process.wait()
        # Its connection file was its own, in Jupyter's runtime directory: nobody is left to remove it.
        for file in site.runtime.glob("kernel-*.json"):
            file.unlink()
        killed = time.monotonic()
        nothing_left(site, project, limit=LIMIT)
        assert time.monotonic() - killed > GRACE / 2, "they ended with their process, and had no grace time"


def test_after_a_clean_exit_its_kernels_end_at_once(
    site: Site, project: ProjectFolder, tmp_path: Path
) -> None:
    # A grace time that would be noticed.
    (tmp_path / "jupyter_ds01_config.py").write_text(
        f"c = get_config()\nc.Workbench.orphan_grace = {3 * LIMIT}\n"
    )
    with another_process(project, {"JUPYTER_CONFIG_DIR": str(tmp_path)}) as process:
        process.communicate("\n", timeout=LIMIT)
        assert process.returncode == 0
        nothing_left(site, project, limit=LIMIT)


def test_what_a_killed_process_left_on_this_side_is_swept(site: Site, project: ProjectFolder) -> None:
    with another_process(project) as process:
        mine = list((run_root() / "k").glob(f"{process.pid}-*"))
        assert mine
        process.kill()
        process.wait()
    with another_process(project):
        assert not mine[0].exists()


def test_each_process_ends_only_what_is_its_own(site: Site, project: ProjectFolder) -> None:
    with a_kernel(f"ds01-{project.name}") as kernel:
        kernel.run("kept = 1")
        for how in ("clean", "killed"):
            with another_process(project) as process:
                if how == "clean":
                    process.communicate("\n", timeout=LIMIT)
                else:
                    process.kill()
                    process.wait()
            until(lambda: "998" not in in_container(project, _COMMANDS))
            assert kernel.code is None
            assert kernel.run("print(kept)") == "1\n"
        with another_process(project) as process:
            kernel.manager.shutdown_kernel(now=True)
            leave()
            assert "998" in in_container(project, _COMMANDS)
            assert process.poll() is None


def test_a_kernel_of_another_version_keeps_its_container(
    site: Site, project: ProjectFolder, tmp_path: Path
) -> None:
    """Somebody has upgraded, and changed a setting, while an old server still has kernels."""
    other = tmp_path / "ds01_kernels"
    shutil.copytree(Path(ds01_kernels.__file__).parent, other, ignore=shutil.ignore_patterns("__pycache__"))
    with (other / "agent" / "survey.py").open("a") as source:
        source.write("# another version\n")
    setting = "c = get_config()\nc.Workbench.variables = {'NEW': '1'}\n"
    (tmp_path / "jupyter_ds01_config.py").write_text(setting)
    newer = {"PYTHONPATH": str(tmp_path), "JUPYTER_CONFIG_DIR": str(tmp_path)}
    with a_kernel(f"ds01-{project.name}") as kernel:
        container = inspect(project)["Id"]
        with another_process(project, newer):
            assert in_container(project, _COMMANDS).count("# ds01 agent") == 2
            assert kernel.run("print('still here')") == "still here\n"
            assert inspect(project)["Id"] == container


_COMMANDS = """
import os
for entry in os.listdir("/proc"):
    if entry.isdigit() and entry != str(os.getpid()):
        try:
            print(open(f"/proc/{entry}/cmdline").read().replace("\\0", " "))
        except OSError:
            pass
"""


def test_after_all_this_the_container_is_the_only_one(site: Site, project: ProjectFolder) -> None:
    with docker() as client:
        found = client.containers(all=True, filters={"label": f"ds01-kernels.project={project.name}"})
    assert [re.sub("^/", "", name) for one in found for name in one["Names"]] == [project.container]
