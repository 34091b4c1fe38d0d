"""Beside an installation of DS01: its commands make and remove the containers, and nothing bypasses them."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import pytest
from conftest import BASE_IMAGE, ProjectFolder
from ds01_machine import Machine, a_machine
from live import Site, a_site, docker, until
from live import a_kernel as a_live_kernel
from rebuilding import OFFLINE, Rebuilt, a_kernel, a_project, await_drift, drift, preview, rebuild, wheel
from servers import Server, a_house, started_again, wait_for

from ds01_kernels import containers
from ds01_kernels.agent.alerts import Alerts
from ds01_kernels.ds01_host import LABEL_DEPLOYED, Ds01Engine, docker_words, find_commands, why_ended
from ds01_kernels.ds01_host.commands import Commands, Outcome, quoted, refused, run
from ds01_kernels.ds01_host.deployed import dressed, user
from ds01_kernels.ds01_host.engine import gpu_words
from ds01_kernels.engine import ContainerInfo, ContainerSpec, GpuRequest, Mount
from ds01_kernels.errors import (
    ConflictError,
    ContainerExitedError,
    DeployRefusedError,
    Ds01Error,
    EngineTimeoutError,
    SettingError,
)
from ds01_kernels.exits import Cause, Exit, told
from ds01_kernels.projects import Project
from ds01_kernels.rebuild import Order, Step
from ds01_kernels.status import all_statuses, details
from ds01_kernels.testing import FakeEngine
from ds01_kernels.workbench import Workbench

T = TypeVar("T")


# Without an engine


def script(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_the_commands_are_found_by_name_or_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_commands("container-deploy", "container-retire") is None
    deploy = script(tmp_path, "container-deploy", "")
    assert find_commands("container-deploy", "container-retire") is None, "one of them is not enough"
    retire = script(tmp_path, "container-retire", "")
    found = find_commands("container-deploy", "container-retire")
    assert found is not None
    assert (found.deploy, found.retire, found.docker) == (deploy, retire, "")
    assert find_commands(deploy, retire) == found
    assert not found.is_wrapper, "there is none"
    wrapped = replace(found, docker=script(tmp_path, "docker", ""))
    assert find_commands(deploy, retire) == wrapped
    assert wrapped.is_wrapper
    assert not replace(found, docker=sys.executable).is_wrapper
    assert find_commands("", "container-retire") is None
    assert find_commands("container-deploy", "") is None
    with pytest.raises(SettingError, match=r"Workbench\.deploy_command is '/opt/no'"):
        find_commands("/opt/no", retire)
    with pytest.raises(SettingError, match=r"Workbench\.retire_command is '/opt/no'"):
        find_commands("container-deploy", "/opt/no")


def test_a_command_has_no_terminal_no_input_and_not_the_hosts_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "LD_PRELOAD", "DS01_CONTEXT", "DS01_INTERFACE"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("DOCKER_HOST", "unix:///kept")
    text = 'env; cat; (: </dev/tty) 2>/dev/null && echo "has a terminal"; exit 3'
    outcome = asyncio.run(run([script(tmp_path, "c", text)], 30))
    assert outcome.code == 3
    assert "DOCKER_HOST=unix:///kept" in outcome.text
    assert not [line for line in outcome.text.splitlines() if line.startswith(("CUDA_", "LD_", "DS01_"))]
    assert "has a terminal" not in outcome.text


def test_a_command_that_takes_too_long_is_ended_with_all_that_it_has_started(tmp_path: Path) -> None:
    mark = f"7{secrets.randbelow(10**8):08}"
    command = script(tmp_path, "container-deploy", f"echo Waiting for a GPU\nsleep {mark} & sleep {mark}")
    with pytest.raises(EngineTimeoutError, match=r"was ended after 1 s\."):
        asyncio.run(run([command, "p"], 1))
    until(lambda: not _runs(f"sleep\0{mark}\0"))


def _runs(words: str) -> bool:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if path.read_bytes() == words.encode():
                return True
    return False


def test_what_a_command_leaves_running_is_not_waited_for(tmp_path: Path) -> None:
    command = script(tmp_path, "c", "sleep 600 & echo $!")
    outcome = asyncio.run(run([command], 300))
    os.kill(int(outcome.text), signal.SIGKILL)
    assert outcome.code == 0


LIMIT = """\

\033[0;36m━━━━━━━━━━━━━━\033[0m
\033[1mDS01 Container Deploy\033[0m
\033[0;36m━━━━━━━━━━━━━━\033[0m
\033[0;34m[INFO]\033[0m Loading resource limits from configuration...
\033[0;34m[INFO]\033[0m Resource limits applied:
  --pids-limit=4096
\033[1;33m[WARNING]\033[0m Could not create user slice (will use group slice instead)

╔══════════════════════════╗
║  Container Limit Reached ║
╚══════════════════════════╝

  You have 3 containers, which is your maximum of 3.

  To create a new container:
    1. View your containers:  container-list
\033]0;evil\a
"""


def test_a_refusal_is_told_in_the_commands_own_words() -> None:
    said = quoted(Outcome(1, LIMIT).text)
    assert said.startswith("It said: Container Limit Reached. You have 3 containers, which is your maximum")
    error = refused(["/usr/local/bin/container-deploy", "p", "--background"], Outcome(1, LIMIT))
    assert str(error).startswith(
        "`container-deploy p --background` did not succeed. It said: Container Limit"
    )
    assert error.remedy
    marked = "[INFO] Resource limits applied:\nthe limit\n[ERROR] Image 'x' not found\n\nTry again\n"
    assert quoted(marked) == "It said: [ERROR] Image 'x' not found. Try again"
    assert (
        quoted("[INFO] limits\n  --memory=1g\nRequested 3 exceeds 2.\n") == "It said: Requested 3 exceeds 2."
    )
    assert quoted("the error\nb\nc\nd\n", last=True) == "It said: b. c. d"
    assert quoted("a\nb\nc\nd\n") == "It said: b. c. d"
    silent = refused(["/x/container-retire", "p"], Outcome(7, "\n\n"))
    assert (
        str(silent) == "`container-retire p` did not succeed. It ended with exit code 7 and without a word."
    )
    asked = "Choice [1-4]: /bin/container-deploy: line 3: /dev/tty: No such device or address\n"
    error = refused(["/x/container-deploy", "p"], Outcome(1, f"Container already exists\n{asked}"))
    assert "wants an answer on the terminal, and has none here. It said: Container already" in str(error)
    assert len(quoted("error " * 1000)) < 500


def test_gpus_in_the_words_of_ds01() -> None:
    assert gpu_words(None) == ["--num-gpus=1"]
    assert gpu_words(GpuRequest()) == ["--cpu-only"]
    assert gpu_words(GpuRequest(count=2)) == ["--num-gpus=2"]
    assert gpu_words(GpuRequest(ids=("GPU-1", "GPU-2", "GPU-3"))) == ["--num-gpus=3"]
    with pytest.raises(SettingError, match="all GPUs"):
        gpu_words(GpuRequest(count=-1))


def test_a_container_beside_in_the_words_of_docker(tmp_path: Path) -> None:
    spec = ContainerSpec(
        "p._.7.trial-1",
        "sha256:1",
        ("/bin/sh", "-c", "x"),
        user="7:7",
        env={"A": "1 =2", "LINES": "1\n2"},
        labels={"ds01-kernels.uid": "7"},
        mounts=(Mount(tmp_path / 'a,"b', PurePosixPath("/a")), Mount(Path("/s"), PurePosixPath("/s"), True)),
        memory=64 << 30,
        gpus=GpuRequest(count=1),
    )
    with docker_words.variables_file(spec) as path:
        assert Path(path).read_text() == "A=1 =2\n"
        assert Path(path).stat().st_mode & 0o077 == 0
        words = docker_words.of(spec, path)
    assert not Path(path).exists()
    assert words[-5:] == ["--entrypoint", "/bin/sh", "sha256:1", "-c", "x"]
    assert f'type=bind,"source={tmp_path}/a,""b",target=/a' in words
    assert "type=bind,source=/s,target=/s,readonly" in words
    assert words[words.index("--memory") + 1] == str(4 << 30)
    assert not [word for word in words if "gpu" in word or word.startswith("ds01.")]


def test_what_ds01_has_made_is_known_for_the_projects(tmp_path: Path) -> None:
    uid, now = os.getuid(), datetime.now(UTC)
    folder, link = tmp_path / "p", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder)
    project = Project("p", folder, tmp_path)
    info = ContainerInfo("1", f"p._.{uid}", "running", "sha256:1", {}, now, mounts={"/workspace": str(link)})
    # An image of ours has these, and what is made of it.
    inherited = containers.labels(project)

    def owner(labels: Mapping[str, str], **changed: Any) -> str | None:
        found = dressed(replace(info, labels=labels, **changed))
        return found.labels.get(containers.LABEL_PATH) if LABEL_DEPLOYED in found.labels else None

    ours = {containers.LABEL_DS01_USER: user()}
    assert owner(ours) == owner({**inherited, **ours}) == str(folder)
    assert dressed(replace(info, labels=ours)).labels.items() >= containers.labels(project).items()
    assert owner(inherited) is None
    assert owner({containers.LABEL_DS01_USER: "another"}) is None
    assert owner(ours, name=f"p._.{uid}1") is None
    assert owner(ours, name="p") is None
    assert owner(ours, mounts={}) is None
    assert owner({**inherited, **ours, containers.LABEL_NAME: info.name}) is None, "we have made it"


class Vanishing(FakeEngine):
    """A container is there at the first look only: DS01 removes what it has stopped."""

    looks = 0

    async def container(self, name: str) -> ContainerInfo | None:
        self.looks += 1
        return await super().container(name) if self.looks == 1 else None


def test_a_container_that_goes_while_it_is_started_is_looked_for_again(tmp_path: Path) -> None:
    commands = Commands("", "", script(tmp_path, "docker", "echo No such container; exit 1"))

    async def started(engine: FakeEngine) -> None:
        await engine.create(ContainerSpec("p", "ds01/base:latest", ("sh",)))
        await Ds01Engine(engine, commands).start("p")

    # What starts kernels tries it once more then.
    with pytest.raises(ContainerExitedError, match="removed when it was to be started"):
        asyncio.run(started(Vanishing()))
    with pytest.raises(DeployRefusedError, match="`docker start p` did not succeed"):
        asyncio.run(started(FakeEngine()))


def test_without_ds01s_commands_its_containers_are_left_alone(tmp_path: Path) -> None:
    project = Project("p", tmp_path / "p", tmp_path)

    async def found(labels: Mapping[str, str]) -> None:
        engine = FakeEngine()
        mounts = (Mount(project.path, PurePosixPath("/workspace")),)
        name = project.container_name(os.getuid())
        spec = ContainerSpec(name, "ds01/base:latest", ("sh",), labels=labels, mounts=mounts)
        await engine.create(spec)
        assert await containers.find_all(engine) == {}
        await containers.find(engine, project)

    inherited = containers.labels(project)
    with pytest.raises(ConflictError, match="was made by DS01, whose commands this process does not find"):
        asyncio.run(found({**inherited, containers.LABEL_DS01_USER: user()}))
    with pytest.raises(ConflictError, match="does not belong to"):
        asyncio.run(found(inherited))


def test_what_ds01_logged_of_a_containers_end(tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    stopped, killed = Exit(-9, Cause.STOPPED), Exit(-9)

    def why(exit_: Exit = stopped, container: str = "p._.7") -> Exit:
        return asyncio.run(why_ended(str(log), container, exit_))

    def event(kind: str, when: datetime, **details: Any) -> str:
        return json.dumps({"timestamp": when.isoformat(), "event_type": kind, "details": details})

    assert why() == stopped, "no log"
    now = datetime.now(UTC)
    lines = [
        event("maintenance.runtime_kill", now - timedelta(hours=1), container="p._.7", runtime="9h"),
        event("maintenance.idle_kill", now, container="q._.7", idle_duration="1h"),
        event("maintenance.idle_kill", now, container="p._.7", idle_duration="2h\033[31m"),
        "[1]",
        "{" * 5000,
        '{"event_type": "maintenance.idle_kill", "details": 1}',
        '{"event_type": "maintenance.idle_kill", "details": {"container": "p._.7"}, "timestamp": "soon"}',
    ]
    log.write_text("x" * 300_000 + "\n" + "\n".join(lines) + "\n")
    found = why()
    assert found.cause is Cause.IDLE
    assert found.code == -9
    sentence = told(found).sentence
    assert "DS01 stopped the container, in which it saw no work (after 2h" in sentence
    assert "\033" not in sentence
    assert why(killed) == killed
    log.unlink()
    os.mkfifo(log)
    assert why() == stopped, "a pipe blocks nobody"


ALERT = """\
--- Alert: 2026-11-22 10:00:0{} ---
━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━
[{}] {}

Container: p._.7
{}
Reason: Maximum runtime limit approaching

Your /workspace data persists after stop.
━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━

"""


def test_what_ds01_warns_of_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "alerts"
    idle = ALERT.format(1, "WARNING", "IDLE CONTAINER WARNING", "Action: Will auto-stop in ~6 minutes")
    aged = ALERT.format(2, "WARNING", "MAX RUNTIME WARNING\033[2J", "Status: Will auto-stop in ~2 hours")
    file.write_text(idle)
    alerts = Alerts(str(file))
    assert alerts.newest() == "", "it was there before"

    def added(text: str) -> str:
        with file.open("a") as end:
            end.write(text)
        return alerts.newest()

    said = added(idle + aged)
    assert said == (
        f"DS01 says of this container: MAX RUNTIME WARNING[2J: Will auto-stop in ~2 hours. More is in {file}."
    )
    assert alerts.newest() == ""
    assert "Will auto-stop in ~6 minutes. More" in added(idle)
    assert added(ALERT.format(3, "NOTICE", "IDLE CONTAINER NOTICE (FYI only)", "Exemption: yes")) == ""
    assert added("anything [WARNING] else\n\xff") == ""
    file.write_text(idle)
    assert "IDLE CONTAINER WARNING" in alerts.newest(), "it was written anew"
    assert len(added(ALERT.format(4, "WARNING", "x" * 10_000, ""))) < 300
    file.unlink()
    assert alerts.newest() == ""
    os.mkfifo(file)
    assert alerts.newest() == ""


# On the real engine


class Bench:
    """A workbench on a machine of DS01, with one project."""

    def __init__(self, site: Site, machine: Machine, project: ProjectFolder) -> None:
        self.site = site
        self.machine = machine
        self.folder = project
        self.workbench = Workbench.open()
        self.project: Project = self.workbench.projects().get(project.name)

    def call(self, work: Awaitable[T]) -> T:
        async def run() -> T:
            return await work

        return self.workbench.call(run(), timeout=120)

    def inspect(self) -> dict[str, Any]:
        with docker() as client:
            found: dict[str, Any] = client.inspect_container(self.folder.container)
            return found

    def image(self, tag: str = "latest") -> str:
        with docker() as client:
            return str(client.inspect_image(self.folder.image.replace(":latest", f":{tag}"))["Id"])

    def rebuild(self, packages: tuple[str, ...] | None = None, **order: Any) -> list[Step]:
        steps: list[Step] = []
        work = self.workbench.rebuilds.rebuild(self.project, Order(packages=packages, **order), steps.append)
        self.call(work)
        return steps

    def pip(self, *words: str) -> None:
        with docker() as client:
            made = client.exec_create(
                self.folder.container, ["pip", *words], environment={"PIP_BREAK_SYSTEM_PACKAGES": "1"}
            )
            said = client.exec_start(made["Id"])
            assert client.exec_inspect(made["Id"])["ExitCode"] == 0, said


@pytest.fixture(scope="module")
def machine(engine_available: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with a_machine(tmp_path_factory.mktemp("ds01") / "bin", secrets.token_hex(6)) as machine:
        yield machine


@pytest.fixture(scope="module")
def bench(machine: Machine, ipykernel_image: str) -> Iterator[Bench]:
    with a_site(machine.settings) as site:
        dockerfile = OFFLINE.replace(BASE_IMAGE, ipykernel_image)
        folder = site.project("beside", dockerfile=dockerfile, built=False)
        for version in ("1.0", "2.0"):
            wheel(folder.path / "wheels", "beside_tool", version)
        bench = Bench(site, machine, folder)
        bench.call(bench.workbench.rebuilds.update(bench.project, Order(packages=()), lambda step: None))
        yield bench


@pytest.fixture(autouse=True)
def _all_is_allowed(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("engine"):
        request.getfixturevalue("machine").forget()


@pytest.mark.engine
def test_deployed_found_looked_at_and_retired(bench: Bench, machine: Machine) -> None:
    info = bench.call(bench.workbench.launcher.deploy(bench.project))
    name, path = bench.folder.name, bench.folder.path
    assert machine.commands[0] == f"container-deploy {name} --background --num-gpus=1 --workspace={path}"
    assert isinstance(bench.workbench.launcher.engine, Ds01Engine)
    assert info.name == bench.folder.container

    # Nothing of the host but the project, and none of the labels that are ours.
    made = bench.inspect()
    assert [mount["Destination"] for mount in made["Mounts"]] == ["/workspace"]
    assert made["Config"]["Labels"]["ds01.interface"] == "orchestration"
    assert containers.LABEL_NAME not in made["Config"]["Labels"]
    environment = (machine.folder / "environment").read_text()
    assert "CUDA_VISIBLE_DEVICES" not in environment
    assert "DS01_CONTEXT" not in environment

    # Drift is seen through the agent's stream.
    bench.pip("install", "beside_tool==1.0")
    look = bench.call(bench.workbench.drifts.look(bench.project))
    assert [item.name for item in look.drift.added] == ["beside-tool"]
    status, *others = bench.call(all_statuses(bench.workbench))
    assert not others
    assert (status.state, status.error, dict(status.drift or {})["added"]) == ("running", None, 1)
    known = bench.call(details(bench.workbench, name))
    assert (known.outdated, known.kernels, known.error) == (False, 0, None)

    # Started again, stopped and removed by DS01's commands too.
    bench.call(bench.workbench.launcher.stop(bench.project))
    bench.call(bench.workbench.launcher.deploy(bench.project))
    assert bench.inspect()["Id"] == made["Id"]
    assert f"docker start {bench.folder.container}" in machine.commands
    assert bench.call(bench.workbench.launcher.retire(bench.project, force=True))
    assert f"container-retire {name} --force" in machine.commands
    assert [one for one in machine.containers() if one["Name"] == f"/{bench.folder.container}"] == []
    lost = bench.call(bench.workbench.drifts.look(bench.project)).lost
    assert [item.name for item in lost.added] == ["beside-tool"]
    machine.has_made_all(bench.folder)


@pytest.mark.engine
def test_refusals_are_told_in_ds01s_words(bench: Bench, machine: Machine) -> None:
    def refusal() -> Ds01Error:
        with pytest.raises(Ds01Error) as caught:
            bench.call(bench.workbench.launcher.deploy(bench.project))
        with docker() as client:
            names = [name for one in client.containers(all=True) for name in one["Names"]]
        assert not [name for name in names if bench.folder.name in name], "nothing is left of it"
        return caught.value

    machine.tell("free-gpus", "0")
    with a_live_kernel(f"ds01-{bench.folder.name}") as kernel:
        assert "All GPUs are currently in use by other users." in kernel.explanation()
    error = refusal()
    assert isinstance(error, DeployRefusedError)
    assert "It said: No GPUs Currently Available. All GPUs are currently in use by other users." in str(error)
    assert "\033" not in str(error)

    machine.forget()
    machine.tell("most-containers", "0")
    assert "Container Limit Reached. You have 0 containers, which is your maximum of 0." in str(refusal())

    machine.forget()
    machine.tell("ask")
    error = refusal()
    assert "wants an answer on the terminal, and has none here. It said:" in str(error)
    assert "How many GPUs do you need?" in str(error)
    assert "Run it in a terminal and answer there" in error.remedy

    # Its folder is not to be another one.
    machine.forget()
    deploy = machine.folder / "container-deploy"
    text = deploy.read_text()
    try:
        deploy.write_text(text.replace('-v "$workspace:/workspace"', '-v "$here:/workspace"'))
        assert f"with {machine.folder} at /workspace, not {bench.folder.path}" in str(refusal())
        deploy.write_text("#!/bin/sh\necho Cancelled.\n")
        assert "says that all is well, and there is no container" in str(refusal())
    finally:
        deploy.write_text(text)


def stands(bench: Bench) -> tuple[str, str, str]:
    """What a rebuild that failed leaves as it was."""
    return (bench.folder.path / "Dockerfile").read_text(), bench.image(), bench.inspect()["Image"]


@pytest.mark.engine
def test_a_rebuild_whose_container_is_refused_is_taken_back(bench: Bench, machine: Machine) -> None:
    bench.call(bench.workbench.launcher.deploy(bench.project))
    before = stands(bench)

    # The old container stays while it cannot be removed.
    identity = bench.inspect()["Id"]
    machine.tell("no-retire")
    with pytest.raises(DeployRefusedError, match="Failed to stop container"):
        bench.rebuild(("beside_tool==2.0",))
    assert (stands(bench), bench.inspect()["Id"]) == (before, identity)

    # Nor is anything touched when there is no room to try the image.
    machine.forget()
    machine.tell("no-memory")
    with pytest.raises(DeployRefusedError, match="Aggregate Memory Quota Exceeded"):
        bench.rebuild(("beside_tool==2.0",))
    assert (stands(bench), bench.inspect()["Id"]) == (before, identity)

    # The old one is gone, and the new one is refused: it is made of the old image again.
    machine.forget()
    machine.tell("fail-once")
    with pytest.raises(DeployRefusedError, match="Container creation failed"):
        bench.rebuild(("beside_tool==2.0",))
    assert stands(bench) == before
    assert bench.inspect()["Id"] != identity

    # That one is refused too: the next use of the project makes it.
    machine.forget()
    machine.tell("free-gpus", "0")
    with pytest.raises(DeployRefusedError) as caught:
        bench.rebuild(("beside_tool==2.0",))
    assert "no container could be made of it either" in caught.value.remedy
    assert (bench.folder.path / "Dockerfile").read_text() == before[0]
    assert bench.image() == before[1]
    machine.forget()
    bench.call(bench.workbench.launcher.deploy(bench.project))
    assert stands(bench) == before
    machine.has_made_all(bench.folder)


@pytest.mark.engine
def test_a_notebook_on_a_machine_of_ds01(machine: Machine, ipykernel_image: str) -> None:
    with a_house() as house:
        house.configure("jupyter_ds01", machine.settings)
        project = a_project(house, "story", OFFLINE.replace(BASE_IMAGE, ipykernel_image))
        with house.server() as server, a_kernel(server, project) as kernel, kernel.connected():
            variables = kernel.ask("dict(__import__('os').environ)")
            assert variables["DS01_PROJECT"] == project.name
            assert variables["DS01_CONTAINER"] == project.folder.container
            assert not {"CUDA_VISIBLE_DEVICES", "LD_PRELOAD", "DS01_CONTEXT"} & variables.keys()
            assert kernel.ask("__import__('sys').executable") == "/usr/bin/python"
            kernel.run("%pip install tiny==1.0")
            await_drift(server, project, {"added": ["tiny"]})

            is_rebuilt(server, machine, project)
            # It was restarted in the new container, and nothing has gone wrong that it should tell.
            outcome = kernel.execute("import tiny; print(tiny.__version__)")
            assert (outcome.text, outcome.shown) == ("1.0\n", "")
            assert drift(server, project) == {}

            alert = ALERT.format(
                1, "WARNING", "IDLE CONTAINER WARNING", "Action: Will auto-stop in ~6 minutes"
            )
            (project.folder.path / ".ds01-alerts").write_text(alert)
            said = kernel.execute("print(1)")
            assert "DS01 says of this container: IDLE CONTAINER WARNING: Will auto-stop in ~6" in said.shown
            assert (said.text, kernel.execute("print(2)").shown) == ("1\n", "")

            kernel.run("%pip install tiny==2.0")
            await_drift(server, project, {"changed": ["tiny"]})
            machine.end_for("maintenance.idle_kill", project.folder.container, idle_duration="2h")
            started_again(kernel)
            said = kernel.execute("tiny")
            assert said.error == "NameError", f"it is the same kernel: {said}"
            assert "The previous kernel was ended because DS01 stopped the container" in said.shown
            assert "in which it saw no work (after 2h)" in said.shown
            assert "jupyter ds01 restore" in said.shown
            lost = server.get(f"{project.url}/packages")["lost"]
            assert [item["name"] for item in lost["changed"]] == ["tiny"]

            findings = server.get(f"{project.url}/doctor")
            (found,) = [one for one in findings if one["check"] == "ds01"]
            assert found["level"] == "notice"
            assert str(machine.folder / "container-deploy") in found["message"]
            assert not [one for one in findings if one["level"] == "error"]
        goes_back_though_killed(machine, project)
        project.cli("container-retire", "--force")
        assert not machine.has(project.folder.container)
    machine.has_made_all(project.folder)


def is_rebuilt(server: Server, machine: Machine, project: Rebuilt) -> None:
    """With all that there is to restart, and in DS01's order: there is one container at a time."""
    old, former = project.container(), project.image()
    machine.forget()
    assert "DS01 makes the containers here" in preview(server, project)["stops_first"]
    done = rebuild(server, project)
    assert done["phase"] == "done", done
    assert project.image("previous") == former != project.image()
    assert project.container() != old
    # Tried beside the old one, without a GPU, and gone before that is.
    assert [line.split()[:2] for line in machine.commands] == [
        ["docker", "create"],
        ["docker", "start"],
        ["docker", "rm"],
        ["container-retire", project.name],
        ["docker", "stop"],
        ["docker", "rm"],
        ["container-deploy", project.name],
        ["docker", "create"],
        ["docker", "start"],
    ]
    assert "--gpus" not in machine.commands[0]
    project.agree()


def goes_back_though_killed(machine: Machine, project: Rebuilt) -> None:
    """By a command that is killed when the old container is gone and there is no new one yet."""
    house, former = project.house, project.image("previous")
    machine.tell("hang")
    words = [*house.command, "-m", "ds01_kernels.app", "rollback", project.name, "--yes"]
    process = subprocess.Popen(words, env=house.env, cwd=house.root, stdin=subprocess.DEVNULL)
    try:
        wait_for(lambda: machine.hanging, "the container is not deployed")
    finally:
        process.kill()
        process.wait()
        if machine.hanging:
            os.kill(machine.hanging, signal.SIGKILL)
    assert not machine.has(project.folder.container)
    machine.forget()
    project.cli("container-deploy")
    assert project.image() == former
    project.agree()
