"""Podman where kernels run: Jupyter's own suite with root's podman, and all of it as an ordinary user."""

from __future__ import annotations

import json
import os
import pwd
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import test_kernel_suite
from conftest import BASE_IMAGE, FROM_BASE
from live import Site, a_site, until
from podman_here import GIVEN, Podman, load, services, why_not

from ds01_kernels.engine import podman_service

pytestmark = [pytest.mark.engine, pytest.mark.apart]

PLAIN = f"plain-{secrets.token_hex(4)}"


@pytest.fixture(scope="module")
def site(podman: Podman) -> Iterator[Site]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in podman.variables.items():
            patch.setenv(name, value)
        # So that what the tests themselves ask is asked there too.
        patch.setenv("DOCKER_HOST", podman.address)
        with a_site("c.Workbench.network = 'none'") as site:
            site.project(PLAIN, unique=False)
            yield site


@pytest.mark.usefixtures("site")
class TestKernels(test_kernel_suite.TestWithTheStoresIpykernel):
    kernel_name = f"ds01-{PLAIN}"


# An ordinary user


@dataclass(frozen=True)
class Home:
    """An ordinary user with a podman; `python` begins a command of the user's."""

    user: pwd.struct_passwd
    python: Sequence[str]
    env: Mapping[str, str]

    def run(
        self, *words: str, folder: Path | None = None, limit: float = 120, **more: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.python, *words],
            env={**self.env, **more},
            cwd=folder or self.user.pw_dir,
            capture_output=True,
            text=True,
            timeout=limit,
        )

    def ds01(self, *words: str) -> str:
        """What the command line prints, with Podman as its engine."""
        settings = ("--Workbench.engine=podman", "--Workbench.network=none", "--Workbench.memory=1g")
        done = self.run("-m", "ds01_kernels.app", *settings, *words)
        assert done.returncode == 0, done
        return done.stdout


@pytest.fixture(scope="module")
def home(engine_available: None) -> Iterator[Home]:
    from ordinary_user import a_python, a_user, as_user, why_no_user

    missing = why_no_user() or why_not() or _why_not_rootless()
    if missing:
        pytest.skip(missing)
    with a_user() as user, a_python(user) as python:
        if f"{user.pw_name}:" not in Path("/etc/subuid").read_text():
            pytest.skip("useradd gives no subordinate uids here: rootless podman needs them")
        names = ("PATH", "LANG", "LC_ALL")
        env = {name: os.environ[name] for name in names if name in os.environ}
        env |= {"HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name}
        # As with a login: what is in root's PATH may be nothing that the user can enter.
        env["PATH"] = "/usr/local/bin:/usr/bin:/bin"
        try:
            yield Home(user, [*as_user(user), *python], env)
        finally:
            _end_all_of(user.pw_uid)
            # https://docs.podman.io/en/v4.3/markdown/podman.1.html, XDG_RUNTIME_DIR
            shutil.rmtree(f"/tmp/podman-run-{user.pw_uid}", ignore_errors=True)


def _why_not_rootless() -> str:
    for tool in ("newuidmap", "newgidmap"):
        if shutil.which(tool) is None:
            return f"there is no {tool} here"
    return "" if Path("/etc/subuid").exists() else "there is no /etc/subuid here"


def _end_all_of(uid: int) -> None:
    """End what the user runs, who was made for this test: containers, and the service."""
    for process in psutil.process_iter(["uids"]):
        with suppress(psutil.Error):
            if process.info["uids"].real == uid:
                process.kill()


@pytest.fixture(scope="module")
def rootless(home: Home) -> str:
    """The address of the service that was started for the user, which has the base image."""
    started = home.run(
        "-c", "from ds01_kernels.engine.podman_service import reached; print(reached(), end='')"
    )
    assert started.returncode == 0, started
    load(started.stdout, [BASE_IMAGE])
    return started.stdout


#: Of the suite: it passes as a whole, which takes as long again as for root.
_SOME = "execute_result or interrupt"


def test_the_suite_passes_without_root(home: Home, rootless: str) -> None:
    tests = Path(home.user.pw_dir) / "tests"
    tests.mkdir()
    for name in (
        "conftest",
        "live",
        "podman_here",
        "private_daemon",
        "test_kernel_suite",
        "test_podman",
        "unshared",
    ):
        shutil.copy(Path(__file__).parent / f"{name}.py", tests)
    done = home.run(
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_podman.py::TestKernels", "-k", _SOME),
        folder=tests,
        limit=200,
        **{GIVEN: rootless, "DOCKER_HOST": rootless},
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def test_a_project_of_an_ordinary_user(home: Home, rootless: str) -> None:
    user, name = home.user, f"thesis-{secrets.token_hex(4)}"
    project = Path(user.pw_dir) / "workspace" / name
    project.mkdir(parents=True)
    (project / "Dockerfile").write_text(FROM_BASE)
    for path in (project.parent, project, project / "Dockerfile"):
        os.chown(path, user.pw_uid, user.pw_gid)
    home.ds01("image-update", name)
    # When its main process began, in ticks: field 22 of proc_pid_stat(5).
    began = "cut -d ' ' -f 22 /proc/1/stat"
    uid, before = home.ds01("shell", name, "--", "sh", "-c", f"touch /workspace/made; id -u; {began}").split()
    # It is the user here.
    assert uid == "0"
    assert ((project / "made").stat().st_uid, (project / "made").stat().st_gid) == (user.pw_uid, user.pw_gid)

    (node,) = json.loads(home.ds01("nodes", "--json"))
    assert (node["engine"], node["local"], node["containers"]) == ("podman", True, 1)
    assert (node["gpus"], node["free_gpus"], node["why"]) == (0, 0, "Workbench.engine says podman.")
    assert 0 < node["free_memory"] <= node["memory"]

    found = {one["check"]: one for one in json.loads(home.ds01("doctor", name, "--json"))}
    assert "rootless" in found["engine"]["message"]
    assert "Workbench.engine says podman." in found["engine"]["message"]
    if not Path("/sys/fs/cgroup/cgroup.controllers").exists():
        # Podman takes the limit and drops it.
        assert found["limits"]["level"] == "warning"
        assert "cannot limit the memory" in found["limits"]["message"]

    # Nor does a container end with the service, which the next command starts again.
    (service,) = services(Path(rootless.removeprefix("unix://")))
    for process in (*service.children(recursive=True), service):
        process.kill()
    until(lambda: podman_service.refusal(rootless))
    assert home.ds01("shell", name, "--", "sh", "-c", began).strip() == before
