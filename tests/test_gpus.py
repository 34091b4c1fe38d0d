"""GPUs are asked for rightly, seen in what the engine was told; and where it can give some, kernels start.

No machine of the tests has a GPU. Docker hands the work to ``nvidia-container-runtime-hook``, which it runs
before a container's main process: one of the tests' own writes down what it was given.
"""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ProjectFolder, with_engine
from live import Site, a_kernel, a_site, forgetting_singletons, inspect
from private_daemon import PrivateDaemon, a_daemon

from ds01_kernels.doctor import examine
from ds01_kernels.engine import Engine
from ds01_kernels.workbench import Workbench

pytestmark = pytest.mark.engine

#: What the settings say; the request that Docker gets (its count, its names); what the hook is told.
ASKED = [
    ("'all'", (-1, []), "all"),
    ("'2'", (2, []), "0,1"),
    ("'GPU-5a6b, GPU-7c8d'", (0, ["GPU-5a6b", "GPU-7c8d"]), "GPU-5a6b,GPU-7c8d"),
    ("'MIG-1f2e3d4c-0000-1111'", (0, ["MIG-1f2e3d4c-0000-1111"]), "MIG-1f2e3d4c-0000-1111"),
    ("'MIG-GPU-5a6b/1/0,0:1'", (0, ["MIG-GPU-5a6b/1/0", "0:1"]), "MIG-GPU-5a6b/1/0,0:1"),
]


@pytest.fixture(scope="module")
def without_gpus(engine_available: None) -> None:
    if "gpus" not in with_engine(_cannot):
        pytest.skip("this engine can give GPUs")


async def _cannot(engine: Engine) -> Any:
    return (await engine.info()).cannot


def request(project: ProjectFolder) -> tuple[int, list[str]]:
    (asked,) = inspect(project)["HostConfig"]["DeviceRequests"]
    assert (asked["Capabilities"], asked["Options"] or {}) == ([["gpu"]], {})
    return asked["Count"], asked["DeviceIDs"] or []


@pytest.mark.usefixtures("without_gpus")
def test_the_container_asks_for_what_is_set_and_the_notebook_says_that_there_is_none() -> None:
    with a_site() as site:
        project = site.project("hungry")
        for gpus, expected, _ in ASKED:
            site.configure(f"c.Workbench.gpus = {gpus}")
            with forgetting_singletons(), a_kernel(f"ds01-{project.name}") as kernel:
                said = kernel.explanation()
            assert request(project) == expected
            assert "cannot give GPUs to containers here" in said
            assert "NVIDIA Container Toolkit" in said
        (project.path / "pyproject.toml").write_text("[tool.ds01]\ngpus = 1\n")
        with forgetting_singletons(), a_kernel(f"ds01-{project.name}") as kernel:
            assert "cannot give GPUs" in kernel.explanation()
        assert request(project) == (1, [])
        # Asking for none helps, as the remedy says.
        (project.path / "pyproject.toml").write_text("[tool.ds01]\ngpus = 0\n")
        with forgetting_singletons(), a_kernel(f"ds01-{project.name}") as kernel:
            assert kernel.run("print(1)") == "1\n"
        assert not inspect(project)["HostConfig"]["DeviceRequests"]


# Where there is a runtime

HOOK = """\
#!{python}
import json, os, sys
state = json.load(sys.stdin)
with open(os.path.join(state["bundle"], "config.json")) as file:
    variables = json.load(file)["process"]["env"]
gpus = [one.partition("=")[2] for one in variables if one.startswith("NVIDIA_VISIBLE_DEVICES=")]
with open({log!r}, "a") as file:
    call = {{"id": state["id"], "pid": state["pid"], "arguments": sys.argv[1:], "gpus": gpus}}
    print(json.dumps(call), file=file)
if os.path.exists({broken!r}):
    sys.exit("nvidia-container-cli: device error: GPU-5a6b: unknown device")
"""


class Hook:
    """The program that stands for NVIDIA's, in a folder for the daemon's PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._log, self.broken = folder / "log", folder / "broken"
        program = folder / "nvidia-container-runtime-hook"
        program.write_text(HOOK.format(python=sys.executable, log=str(self._log), broken=str(self.broken)))
        program.chmod(stat.S_IRWXU | stat.S_IRGRP | stat.S_IXGRP)

    def calls(self) -> list[dict[str, Any]]:
        """What it was given since the last question."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        self._log.unlink(missing_ok=True)
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def hook(tmp_path_factory: pytest.TempPathFactory) -> Hook:
    return Hook(tmp_path_factory.mktemp("hook"))


@pytest.fixture(scope="module")
def daemon(engine_available: None, hook: Hook) -> Iterator[PrivateDaemon]:
    with a_daemon(hook.folder) as daemon, pytest.MonkeyPatch.context() as patch, forgetting_singletons():
        patch.setenv("DOCKER_HOST", daemon.address)
        patch.setenv("PATH", os.pathsep.join([str(hook.folder), os.environ["PATH"]]))
        yield daemon


@pytest.fixture
def site(daemon: PrivateDaemon) -> Iterator[Site]:
    with a_site() as site:
        yield site


def test_a_kernel_starts_with_the_gpus_that_are_set(site: Site, hook: Hook) -> None:
    project = site.project("fed")
    for gpus, expected, told in ASKED:
        site.configure(f"c.Workbench.gpus = {gpus}")
        with forgetting_singletons(), a_kernel(f"ds01-{project.name}") as kernel:
            assert kernel.run("print(6 * 7)") == "42\n"
            found = inspect(project)
            (call,) = hook.calls()
            assert call == {
                "id": found["Id"],
                "pid": found["State"]["Pid"],
                "arguments": ["prestart"],
                "gpus": [told],
            }
            assert request(project) == expected
    site.configure("")
    with forgetting_singletons(), a_kernel(f"ds01-{project.name}") as kernel:
        assert kernel.run("print(6 * 7)") == "42\n"
    assert hook.calls() == []


def test_a_gpu_that_is_not_there_is_said_so(site: Site, hook: Hook) -> None:
    project = site.project("picky")
    (project.path / "pyproject.toml").write_text("[tool.ds01]\ngpus = 'GPU-5a6b'\n")
    hook.broken.touch()
    try:
        with a_kernel(f"ds01-{project.name}") as kernel:
            said = kernel.explanation()
            assert "has no such GPU" in said
            assert "GPU-5a6b: unknown device" in said
            assert "nvidia-smi -L" in said
            hook.broken.unlink()
            kernel.restart()
            assert kernel.run("print(6 * 7)") == "42\n"
    finally:
        hook.broken.unlink(missing_ok=True)
        hook.calls()


def test_the_doctor_knows_that_it_can_give_some(site: Site) -> None:
    project = site.project("examined")
    (project.path / "pyproject.toml").write_text("[tool.ds01]\ngpus = 1\n")
    found = asyncio.run(examine(Workbench.open(), project.name))
    said = [(one.level, one.message) for one in found if one.check == "gpus"]
    assert [level for level, _ in said] == ["ok"]
    assert "ask for 1 GPU, and the engine can give GPUs" in said[0][1]
