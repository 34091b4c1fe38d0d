"""Rebuilds that fail, hang, are cancelled or get in each other's way: everything is as it was."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from conftest import FROM_BASE
from engine_proxy import EngineProxy
from rebuilding import (
    OFFLINE,
    Rebuilt,
    a_kernel,
    a_project,
    begin,
    ended,
    log,
    order,
    rebuild,
    running,
)
from servers import LIMIT, House, Server, wait_for

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def server(house: House) -> Iterator[Server]:
    with house.server() as server:
        yield server


@contextmanager
def unchanged(server: Server, project: Rebuilt) -> Iterator[None]:
    """Whatever happens inside, all is as it was, and a kernel keeps its variables."""
    with a_kernel(server, project) as kernel:
        kernel.run("kept = 1")
        before = project.state()
        yield
        assert project.state() == before
        assert kernel.run("print(kept)") == "1\n"
        project.nothing_is_left()
        # And the way is free.
        assert kernel.state() == "idle"


@pytest.fixture(scope="module")
def fussy(house: House) -> Rebuilt:
    return a_project(house, "fussy", OFFLINE + "RUN pip install --break-system-packages -q needy\n")


@pytest.mark.parametrize(
    ("packages", "phase", "reason", "words"),
    [
        (
            ["no-such-package==1.0"],
            "build",
            "build-failed",
            ["line 7 of the Dockerfile", "No matching distribution found for no-such-package==1.0"],
        ),
        (
            ["tiny==2.0"],
            "check",
            "check-failed",
            ["needy 1.0 has requirement tiny<2, but you have tiny 2.0."],
        ),
        (["ipykernel==99.0"], "check", "check-failed", ["No kernel can run in the new image", "of no use"]),
    ],
    ids=["does not exist", "breaks another one", "breaks the kernel"],
)
def test_a_package_that_is_of_no_use(
    server: Server, fussy: Rebuilt, packages: list[str], phase: str, reason: str, words: list[str]
) -> None:
    with unchanged(server, fussy):
        id_ = begin(server, fussy, packages=packages)
        done = ended(server, fussy, id_)
        assert done["phase"] == "failed"
        assert done["error"]["reason"] == reason
        for word in words:
            assert word in done["error"]["message"], done
        text = log(server, fussy, id_)
        assert ("Checking that kernels" in text) == (phase == "check")
        assert text.endswith(done["error"]["message"] + "\n")


# Builds that hang


@pytest.fixture
def mark() -> str:
    """Seconds that nobody else sleeps."""
    return f"9{os.getpid():07d}{time.monotonic_ns() % 1000:03d}"


@pytest.fixture
def hanging(house: House, mark: str) -> Rebuilt:
    """Its image is built; its Dockerfile has a step since that does not end."""
    project = a_project(house, "hanging", FROM_BASE)
    project.dockerfile.write_text(f"{FROM_BASE}RUN sleep {mark}\n")
    return project


def is_sleeping(mark: str) -> Callable[[], bool]:
    return lambda: any(running(f"sleep {mark}"))


def test_a_build_that_hangs_is_cancelled(server: Server, hanging: Rebuilt, mark: str) -> None:
    with unchanged(server, hanging):
        id_ = begin(server, hanging, packages=[])
        wait_for(is_sleeping(mark), "the build did not begin")
        # Whoever asks meanwhile joins it, or is told what is in the way.
        assert order(server, hanging, packages=[]).json()["id"] == id_
        assert "is being rebuilt" in hanging.refused("image-update")
        for _ in range(2):
            answer = server.request("DELETE", f"{hanging.url}/jobs/{id_}")
            assert answer.status_code == 200
        done = ended(server, hanging, id_)
        assert (done["phase"], done["error"]) == ("cancelled", None)
        wait_for(lambda: not is_sleeping(mark)(), "the build goes on")


def test_a_build_that_hangs_is_ended_in_time(server: Server, hanging: Rebuilt, mark: str) -> None:
    with unchanged(server, hanging):
        sentence = hanging.refused("rebuild", "--nothing", "--yes", "--Workbench.build_timeout=2")
        assert sentence.startswith("The build was ended after 2 s. ")
        assert "Workbench.build_timeout" in sentence
        wait_for(lambda: not is_sleeping(mark)(), "the build goes on")


@contextmanager
def command_line(project: Rebuilt, *words: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*project.house.command, "-m", "ds01_kernels.app", *words],
        env=dict(project.house.env),
        cwd=project.house.root,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_an_interrupt_at_the_terminal_cancels(server: Server, hanging: Rebuilt, mark: str) -> None:
    with (
        unchanged(server, hanging),
        command_line(hanging, "rebuild", hanging.name, "--nothing", "--yes") as process,
    ):
        wait_for(is_sleeping(mark), "the build did not begin")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=LIMIT)
        assert said == "Cancelled; everything is as it was.\n"
        assert process.returncode == 130
        wait_for(lambda: not is_sleeping(mark)(), "the build goes on")
        assert [state["phase"] for state in hanging.jobs() if state["kind"] == "rebuild"] == ["cancelled"]


# What changes meanwhile


def test_a_dockerfile_edited_during_the_build(server: Server, hanging: Rebuilt, mark: str) -> None:
    """The build ends only when it is told to: so the edit is made while it runs."""
    hanging.dockerfile.write_text(f"{FROM_BASE}RUN sleep {mark} || true\n")
    with a_kernel(server, hanging) as kernel:
        kernel.run("kept = 1")
        before = hanging.state()
        id_ = begin(server, hanging, packages=[])
        wait_for(is_sleeping(mark), "the build did not begin")
        hanging.dockerfile.write_text("FROM ds01/base:latest\n# mine\n")
        end_sleep(mark)
        done = ended(server, hanging, id_)
        assert done["phase"] == "failed"
        assert done["error"]["reason"] == "conflict"
        assert "was changed meanwhile" in done["error"]["message"]
        assert hanging.dockerfile.read_text() == "FROM ds01/base:latest\n# mine\n"
        assert hanging.state()[1:] == before[1:]
        assert kernel.run("print(kept)") == "1\n"
        hanging.nothing_is_left()


def test_a_project_renamed_during_the_build(
    house: House, server: Server, hanging: Rebuilt, mark: str
) -> None:
    text = f"{FROM_BASE}RUN sleep {mark} || true\n"
    hanging.dockerfile.write_text(text)
    with a_kernel(server, hanging) as kernel:
        kernel.run("kept = 1")
        before = hanging.state()
        begin(server, hanging, packages=[])
        wait_for(is_sleeping(mark), "the build did not begin")
        moved = hanging.folder.path.rename(hanging.folder.path.with_name(f"{hanging.name}-moved"))
        end_sleep(mark)
        done = wait_for(lambda: [one for one in hanging.jobs() if one["error"]], "the job does not end")
        assert [one["phase"] for one in done] == ["failed"]
        assert done[0]["error"]["reason"] != "internal", done
        assert (moved / "Dockerfile").read_text() == text
        assert kernel.run("print(kept)") == "1\n"
        moved.rename(hanging.folder.path)
        assert hanging.state() == before
        hanging.nothing_is_left()


def end_sleep(mark: str) -> None:
    for pid in running(f"sleep {mark}"):
        if Path(f"/proc/{pid}/comm").read_text() == "sleep\n":
            os.kill(pid, signal.SIGTERM)


# The disk


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("unshare"), reason="mounts a file system")
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_the_disk_of_the_journal_is_full(house: House, when: str, mark: str) -> None:
    project = a_project(house, "full", FROM_BASE)
    project.cli("container-deploy")
    project.dockerfile.write_text(f"{FROM_BASE}RUN sleep {mark} || true\n")
    before = project.state()
    data = house.root / "data" / "ds01"
    script = 'mount -t tmpfs -o size=1m ds01-test "$1"; shift; echo ready; read go; exec "$@"'
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", str(data)]
    verb = [*house.command, "-m", "ds01_kernels.app", "rebuild", project.name, "--nothing", "--yes"]
    process = subprocess.Popen(
        [*command, *verb],
        env=dict(house.env),
        cwd=house.root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "ready\n"
        seen = Path(f"/proc/{process.pid}/root{data}")
        if when == "before":
            fill(seen)
        process.stdin.write("go\n")
        process.stdin.flush()
        if when == "meanwhile":
            wait_for(is_sleeping(mark), "the build did not begin")
            fill(seen)
            end_sleep(mark)
        _, said = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 1
    assert "No space left on device" in said
    assert project.state() == before
    project.nothing_is_left()


def fill(folder: Path) -> None:
    with suppress(OSError), (folder / "ballast").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(512))


# The engine


@pytest.fixture(scope="module")
def proxy(house: House) -> Iterator[EngineProxy]:
    found = EngineProxy(house.root / "docker.sock")
    yield found
    found.close()


@pytest.fixture(scope="module")
def afar(house: House, proxy: EngineProxy) -> Iterator[Server]:
    """A server that reaches the engine through the proxy."""
    with house.with_variables(DOCKER_HOST=f"unix://{house.root}/docker.sock").server() as server:
        yield server


def test_the_engine_goes_away_during_the_build(
    afar: Server, proxy: EngineProxy, hanging: Rebuilt, mark: str
) -> None:
    with unchanged(afar, hanging):
        id_ = begin(afar, hanging, packages=[])
        wait_for(is_sleeping(mark), "the build did not begin")
        proxy.close()
        done = ended(afar, hanging, id_)
        proxy.open()
        assert done["phase"] == "failed"
        assert done["error"]["reason"].startswith("engine"), done
        wait_for(lambda: not is_sleeping(mark)(), "the build goes on")
        # It could not clean up; whoever comes next does.
        hanging.cli("container-deploy")


@pytest.mark.parametrize("refused", ["/rename", "/tag"])
def test_the_engine_refuses_a_step_of_the_swap(
    house: House, afar: Server, proxy: EngineProxy, refused: str
) -> None:
    project = a_project(house, "away")
    with unchanged(afar, project):
        proxy.refuse(refused, 500, "not now")
        try:
            done = rebuild(afar, project, packages=["tiny==1.0"])
        finally:
            proxy.refuse_nothing()
        assert done["phase"] == "failed"
        assert "not now" in done["error"]["message"]
        assert project.dockerfile.read_text() == OFFLINE
        if refused == "/tag":
            # To go back takes that too: the journal says that it is to be done, and the next one does it.
            assert len(project.journal) == 1
            project.cli("container-deploy")
        project.agree()
    assert rebuild(afar, project, packages=["tiny==1.0"])["phase"] == "done"
    project.agree()


def test_a_rebuild_settles_what_another_one_left(house: House, afar: Server, proxy: EngineProxy) -> None:
    project = a_project(house, "again")
    project.cli("container-deploy")
    proxy.refuse("/tag", 500, "not now")
    try:
        assert rebuild(afar, project, packages=["tiny==1.0"])["phase"] == "failed"
    finally:
        proxy.refuse_nothing()
    assert project.journal
    project.cli("rebuild", "tiny==2.0", "--yes")
    assert '"tiny==2.0"' in project.dockerfile.read_text()
    assert "1.0" not in project.dockerfile.read_text()
    project.agree()


def test_json_lines_of_progress(house: House) -> None:
    project = a_project(house)
    lines = [json.loads(line) for line in project.cli("rebuild", "tiny==1.0", "--yes", "--json").splitlines()]
    phases = [line["phase"] for line in lines]
    assert phases[-1] == "done"
    assert set(phases) > {"done"}
    assert "Building the image.\n" in "".join(line["log"] for line in lines)
    assert all(re.fullmatch("[0-9a-f]{16}", line["id"]) for line in lines)
    sentence = project.refused("rebuild", "no-such-package", "--yes", "--json")
    assert "line 6 of the Dockerfile" in sentence
