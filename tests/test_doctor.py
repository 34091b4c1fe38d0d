"""The doctor and each kind of broken project: from facts, with an engine in memory, and on the real one."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest
import requests
from conftest import FROM_BASE, ProjectFolder, with_engine
from servers import House, check, container_id

from ds01_kernels import containers, images
from ds01_kernels.containers import LABEL_SETTINGS, LABEL_SOCKETS
from ds01_kernels.doctor import Facts, Finding, Level, examine, judge
from ds01_kernels.doctor.facts import THE_IMAGES, THE_PROJECT, THE_SOCKETS, Disk, Dockerfile, Host, Inside
from ds01_kernels.doctor.finding import size
from ds01_kernels.ds01_host import Commands
from ds01_kernels.engine import (
    ContainerInfo,
    ContainerSpec,
    Engine,
    EngineInfo,
    GpuRequest,
    ImageInfo,
    NodeInfo,
)
from ds01_kernels.engine.placing import fulfils
from ds01_kernels.errors import (
    AgentError,
    BadInputError,
    ConflictError,
    Ds01Error,
    EngineDeniedError,
    EngineTimeoutError,
    EngineUnreachableError,
    NoPythonError,
    NoSuchProjectError,
    SettingError,
)
from ds01_kernels.projects import Project
from ds01_kernels.settings import Settings
from ds01_kernels.testing import FakeEngine
from ds01_kernels.workbench import Workbench

GIB = 1 << 30
NOW = datetime(2026, 1, 2, tzinfo=UTC)
BEFORE = NOW - timedelta(days=1)

ENGINE = EngineInfo("docker", "26.1.5", local=True, runtimes=("nvidia", "runc"), cpus=4, memory=64 * GIB)
IMAGE = ImageInfo("sha256:one", ("p",), NOW, 1, {images.LABEL_DOCKERFILE: "the digest"}, {})
SURVEY = {
    "executable": "/usr/bin/python",
    "version": [3, 11, 2],
    "ipykernel": "7.3.0",
    "pip": "/usr/bin/python3",
    "user": os.getuid(),
}


def settings_label(settings: Settings) -> str:
    """As a container made with those settings carries it."""
    engine, project = FakeEngine(), Project("p", Path("/w/p"), Path("/w"))
    engine.add_image(project.image_name(os.getuid()))
    made = asyncio.run(deployed(engine, project, settings))
    return made.labels[LABEL_SETTINGS]


async def deployed(engine: FakeEngine, project: Project, settings: Settings) -> ContainerInfo:
    async def idle(_: ContainerInfo) -> bool:
        return True

    running = await containers.ensure(engine, project, settings, store=project.path, is_idle=idle)
    if running.sockets is not None:
        running.sockets.remove()
    return running.info


@pytest.fixture(scope="module")
def healthy() -> Facts:
    """A project with which everything is right."""
    labels = {LABEL_SETTINGS: settings_label(Settings(memory=8 * GIB))}
    return Facts(
        name="p",
        project=Project("p", Path("/w/p"), Path("/w")),
        host=Host(
            Path("/tmp/sockets"),
            Path("/home/store"),
            (Disk((THE_PROJECT,), Path("/w"), 90 * GIB),),
            32 * GIB,
        ),
        engine=ENGINE,
        dockerfile=Dockerfile("the digest", BEFORE),
        settings=Settings(memory=8 * GIB),
        image=IMAGE,
        container=ContainerInfo("c", "p._.0", "running", IMAGE.id, labels, NOW),
        inside=Inside(SURVEY, 1, is_pips=True),
    )


def surveyed(**changed: Any) -> dict[str, Any]:
    more = {key: changed.pop(key) for key in ("is_pips", "shares_sockets", "files") if key in changed}
    return {"inside": Inside({**SURVEY, **changed}, 0, **{"is_pips": True, **more})}


def stopped(healthy: Facts, **changed: Any) -> dict[str, Any]:
    assert isinstance(healthy.container, ContainerInfo)
    return {"container": replace(healthy.container, **{"state": "exited", **changed}), "inside": None}


# From facts


def test_a_healthy_project_has_nothing_but_ok(healthy: Facts) -> None:
    found = judge(healthy)
    assert {finding.level for finding in found} == {"ok"}
    assert [finding.remedy for finding in found] == [""] * len(found)
    checks = (
        "project settings engine gpus image container agent python pip ipykernel user disk memory sockets"
    )
    assert [finding.check for finding in found] == checks.split()


PROBLEM = Ds01Error("It is broken.", remedy="Mend it.")

#: What is not as in a healthy project; the first finding's check, level, words of its message and remedy.
BROKEN: list[tuple[dict[str, Any], str, str, str, str]] = [
    (
        {"project": BadInputError("A bad name.", remedy="Rename it.")},
        "project",
        "error",
        "A bad name.",
        "Rename it.",
    ),
    (
        {"dockerfile": BadInputError("It is empty.", remedy="Fill it.")},
        "project",
        "error",
        "It is empty.",
        "Fill it.",
    ),
    ({"is_writable": False}, "project", "warning", "cannot write to /w/p", "Ask its owner"),
    (
        {"settings": SettingError("memory in x is bad.", remedy="Write 1g.")},
        "settings",
        "error",
        "memory in x",
        "1g",
    ),
    (
        {"engine": EngineUnreachableError("No engine.", remedy="Start it.")},
        "engine",
        "error",
        "No engine.",
        "Start it.",
    ),
    (
        {"settings": Settings(cpus=5), "container": None, "inside": None},
        "limits",
        "error",
        "5 CPUs are set, but the engine has 4",
        "`cpus` to 4 or less",
    ),
    ({"missing_mounts": (Path("/data"),)}, "limits", "error", "/data is to be mounted", "Make it"),
    (
        {"engine": replace(ENGINE, cannot={"memory": "It cannot limit."})},
        "limits",
        "warning",
        "no effect",
        "Ask",
    ),
    ({"image": PROBLEM}, "image", "error", "It is broken.", "Mend it."),
    (
        {"image": None, "container": None, "inside": None},
        "image",
        "error",
        "not been built yet",
        "image-update p",
    ),
    ({"image": None}, "image", "error", "The image is gone", "image-update p"),
    ({"dockerfile": Dockerfile("another", BEFORE)}, "image", "error", "was changed after", "image-update p"),
    (
        {"dockerfile": Dockerfile("another", NOW + timedelta(1)), "image": replace(IMAGE, labels={})},
        *("image", "error", "it may be outdated", "image-update p"),
    ),
    (
        {"container": ConflictError("Not ours.", remedy="Rename."), "inside": None},
        "container",
        "error",
        "Not ours",
        "R",
    ),
    (
        {"container": None, "inside": None},
        "container",
        "notice",
        "There is no container yet",
        "container-deploy p",
    ),
    (
        {"image": replace(IMAGE, id="sha256:two")},
        "container",
        "error",
        "from another image",
        "Shut its kernels",
    ),
    (
        {"settings": Settings(memory=9 * GIB)},
        "container",
        "error",
        "with other settings",
        "Shut its kernels",
    ),
    (
        {"inside": NoPythonError("No Python.", remedy="Install it.")},
        "python",
        "error",
        "No Python.",
        "Install it.",
    ),
    ({"inside": AgentError("No answer.")}, "agent", "error", "No answer.", ""),
    (
        surveyed(executable="/opt/py/bin/python3"),
        "python",
        "notice",
        "/opt/py/bin/python3, Python 3.11.2",
        "-is-python3",
    ),
    (
        surveyed(is_pips=False, pip="/opt/conda/bin/python"),
        "pip",
        "error",
        "belongs to /opt/conda/bin/python",
        "%pip",
    ),
    (surveyed(pip=None, is_pips=None), "pip", "notice", "no `pip` command", "python3-pip"),
    (surveyed(ipykernel="5.1.0"), "ipykernel", "notice", "5.1.0 is older than 6.0.3", "Update it"),
    (surveyed(ipykernel="x" * 5000), "ipykernel", "notice", "xxx… is older than", "Update it"),
    (
        surveyed(user=os.getuid() + 1),
        "user",
        "error",
        f"runs as uid {os.getuid() + 1}",
        "container-retire p",
    ),
    (
        surveyed(shares_sockets=False),
        "sockets",
        "error",
        "does not see the directory",
        "container-retire p --force",
    ),
    (
        surveyed(shares_sockets=None, files=Ds01Error("It is another folder.", remedy="Mount it.")),
        "files",
        "error",
        "another folder",
        "Mount it",
    ),
]


@pytest.mark.parametrize(
    "changed", [surveyed(shares_sockets=None), {"engine": replace(ENGINE, local=False), "inside": None}]
)
def test_a_container_that_shares_no_directory_is_no_mistake(healthy: Facts, changed: dict[str, Any]) -> None:
    (found,) = [one for one in judge(replace(healthy, **changed)) if one.check == "sockets"]
    assert (found.level, "through the connection" in found.message) == ("ok", True)


@pytest.mark.parametrize(("changed", "name", "level", "message", "remedy"), BROKEN)
def test_a_broken_project_names_the_cause_first(
    healthy: Facts, changed: dict[str, Any], name: str, level: str, message: str, remedy: str
) -> None:
    first, *others = judge(replace(healthy, **changed))
    assert (first.check, first.level) == (name, level)
    assert message in first.message
    assert remedy in first.remedy
    # One cause, one finding.
    levels = get_args(Level)
    assert all(levels.index(finding.level) > levels.index(first.level) for finding in others)


@pytest.mark.parametrize(
    ("changed", "name", "level", "message"),
    [
        ({}, "container", "notice", "is stopped; the next kernel starts it"),
        ({"exit_code": 137, "oom_killed": True}, "container", "warning", "ran out of memory"),
        ({"state": "paused"}, "container", "error", "is paused"),
        ({"state": "dead"}, "container", "error", "is dead"),
        ({"exit_code": 1}, "container", "notice", "(exit code 1)"),
        ({"exit_code": 127}, "python", "error", "There is no Python in this project's image"),
    ],
)
def test_a_container_that_does_not_run(
    healthy: Facts, changed: dict[str, Any], name: str, level: str, message: str
) -> None:
    words = "there is no Python in this image\n" if changed.get("exit_code") == 127 else ""
    first, *others = judge(replace(healthy, **stopped(healthy, **changed), last_words=words))
    assert (first.check, first.level) == (name, level)
    assert message in first.message
    assert first.remedy
    assert {finding.level for finding in others} == {"ok"}


def test_a_stopped_container_that_is_out_of_date_is_replaced_by_itself(healthy: Facts) -> None:
    facts = replace(healthy, **stopped(healthy, image_id="sha256:zero"))
    assert {finding.level for finding in judge(facts)} == {"notice", "ok"}
    assert "The next kernel gets a new one" in judge(facts)[1].remedy


def test_a_running_container_that_is_out_of_date_counts_by_its_kernels(healthy: Facts) -> None:
    """Without one, the next kernel gets a new container; why the agent does not answer is told first."""
    newer = {"image": replace(IMAGE, id="sha256:two")}
    for inside, levels in (
        (Inside(SURVEY, 0, is_pips=True), [("container", "notice")]),
        (Inside(SURVEY, 2, is_pips=True), [("container", "error")]),
        (AgentError("No answer."), [("agent", "error"), ("container", "warning")]),
    ):
        found = judge(replace(healthy, **newer, inside=inside))
        assert [(one.check, one.level) for one in found if one.level != "ok"] == levels


def test_a_container_is_outdated_by_its_image_its_settings_or_both(healthy: Facts) -> None:
    info, settings = healthy.container, healthy.settings
    assert isinstance(info, ContainerInfo)
    assert isinstance(settings, Settings)
    newer, other = replace(IMAGE, id="sha256:two"), Settings(cpus=2)
    assert containers.outdated(info, IMAGE, settings) == ()
    assert containers.outdated(info, newer, settings) == ("image",)
    assert containers.outdated(info, IMAGE, other) == ("settings",)
    assert containers.outdated(info, newer, other) == ("image", "settings")
    assert containers.outdated(info, newer, None) == ("image",)
    assert containers.outdated(info, None, other) == ()


@pytest.mark.parametrize(
    ("gpus", "said"),
    [
        (GpuRequest(count=-1), "all GPUs"),
        (GpuRequest(count=1), "1 GPU"),
        (GpuRequest(count=2), "2 GPUs"),
        (GpuRequest(ids=("GPU-1", "MIG-2")), "the GPUs GPU-1, MIG-2"),
    ],
)
def test_gpus(healthy: Facts, gpus: GpuRequest, said: str) -> None:
    asking = replace(healthy, settings=Settings(gpus=gpus), container=None, inside=None)
    found = [finding for finding in judge(asking) if finding.check == "gpus"]
    assert [(finding.level, f"for {said}" in finding.message) for finding in found] == [("ok", True)]
    first = judge(replace(asking, engine=replace(ENGINE, cannot={"gpus": "No NVIDIA runtime."})))[0]
    assert (first.check, first.level) == ("gpus", "error")
    assert first.message == f"The settings ask for {said}. No NVIDIA runtime."


@pytest.mark.parametrize(
    ("changed", "name", "level"),
    [
        ({"disks": (Disk((THE_PROJECT,), Path("/w"), GIB // 2),)}, "disk", "warning"),
        ({"disks": (Disk((THE_PROJECT,), Path("/w"), 10 << 20),)}, "disk", "error"),
        ({"disks": (Disk((THE_PROJECT, THE_IMAGES), Path("/w"), GIB // 2),)}, "disk", "error"),
        ({"disks": (Disk((THE_SOCKETS,), Path("/run"), 1000),)}, "disk", "error"),
        ({"memory": 400 << 20}, "memory", "warning"),
        ({"memory": 100 << 20}, "memory", "error"),
        ({"memory": 4 * GIB}, "memory", "notice"),
        ({"sockets": PROBLEM}, "sockets", "error"),
        ({"store": PROBLEM}, "ipykernel", "error"),
        ({"wrappers": ("/opt/ds01/bin/container-deploy",)}, "ds01", "warning"),
        (
            {"wrappers": ("/opt/ds01/bin/container-deploy", "/opt/ds01/bin/container-retire")},
            "ds01",
            "notice",
        ),
        ({"ds01": Commands("/x/container-deploy", "/x/container-retire", "")}, "ds01", "error"),
    ],
)
def test_what_the_machine_lacks(healthy: Facts, changed: dict[str, Any], name: str, level: str) -> None:
    first, *others = judge(replace(healthy, host=replace(healthy.host, **changed)))
    assert (first.check, first.level) == (name, level)
    assert first.remedy
    assert {finding.level for finding in others} == {"ok"}


def test_who_makes_the_containers(healthy: Facts) -> None:
    commands = Commands("/x/container-deploy", "/x/container-retire", "/y/docker")
    machine = replace(healthy, host=replace(healthy.host, ds01=commands), settings=Settings())
    (found,) = [finding for finding in judge(machine) if finding.check == "ds01"]
    assert (found.level, found.remedy) == ("notice", "")
    for path in ("/x/container-deploy", "/x/container-retire", "/y/docker"):
        assert path in found.message
    assert "no effect" not in found.message
    limited = replace(machine, settings=Settings(memory=4 * GIB, network="lab"))
    (found,) = [finding for finding in judge(limited) if finding.check == "ds01"]
    assert "It decides on memory, network: what the settings say of that is of no effect." in found.message
    asked = replace(limited, engine=replace(ENGINE, deployer="/x/container-deploy"))
    (found,) = [finding for finding in judge(asked) if finding.check == "gpus"]
    assert found.level == "ok"
    assert found.message == "DS01 is asked for 1 GPU."
    plain = replace(machine, host=replace(machine.host, is_wrapped=False))
    found, _ = [finding for finding in judge(plain) if finding.check == "ds01"]
    assert (found.level, "/y/docker, is the plain client" in found.message) == ("warning", True)


def test_a_limit_above_the_machines_memory_is_told(healthy: Facts) -> None:
    facts = replace(healthy, settings=Settings(memory=900 * GIB), container=None, inside=None)
    assert [finding.level for finding in judge(facts) if finding.check == "memory"] == ["warning", "notice"]


def test_a_limit_below_what_a_kernel_takes_is_told(healthy: Facts) -> None:
    first, *others = judge(replace(healthy, settings=Settings(memory=20 << 20), container=None, inside=None))
    assert (first.check, first.level) == ("memory", "error")
    assert "less than a container with one kernel takes" in first.message
    assert {finding.level for finding in others} == {"notice", "ok"}


SWARM = replace(ENGINE, name="swarm", machine="n1", local=False)
ALONE = replace(SWARM, cannot={"nodes": "Containers run on one node only."})


def node(name: str, problem: str = "", gpus: int = 0, **labels: str) -> NodeInfo:
    properties = {"node.hostname": name, **{f"node.labels.{label}": labels[label] for label in labels}}
    return NodeInfo(name, 4, 64 * GIB, gpus, 0, problem, properties)


NODES = (node("n1"), node("n2", gpus=1, disk="fast"), node("n3", "The node n3 does not answer.", disk="big"))


@pytest.mark.parametrize(
    ("settings", "engine", "level", "message"),
    [
        (Settings(), SWARM, "ok", "may run on n1 and n2."),
        (Settings(node="N2"), SWARM, "ok", "may run on n2."),
        (Settings(node="n9"), SWARM, "error", "on the node n9, and the swarm has n1, n2 and n3 only"),
        (Settings(node="n3"), SWARM, "error", "may run. The node n3 does not answer."),
        (Settings(constraints=("node.labels.disk==fast",)), SWARM, "ok", "may run on n2."),
        (Settings(constraints=("node.labels.disk!=fast",)), SWARM, "ok", "may run on n1."),
        (
            Settings(constraints=("node.labels.disk==none",)),
            *(SWARM, "error", "as the settings want it: node.labels.disk==none."),
        ),
        (
            Settings(node="n1", swarm_constraints=("node.labels.disk==fast",)),
            *(SWARM, "error", "at once: node.hostname==n1, node.labels.disk==fast."),
        ),
        (Settings(), ALONE, "ok", "may run on n1."),
        (Settings(node="n2"), ALONE, "error", "one node only. That is n1, and the project is to run on n2."),
        (Settings(gpus=GpuRequest(1)), SWARM, "ok", "may run on n1 and n2."),
        (Settings(gpus=GpuRequest(2)), SWARM, "error", "2 GPUs, and each of n1, n2 and n3 has 1 at most"),
        (Settings(cpus=5, node="n2"), SWARM, "error", "5 CPUs are set, and the node n2 has 4 at most"),
    ],
)
def test_whether_a_node_can_take_it(
    healthy: Facts, settings: Settings, engine: EngineInfo, level: str, message: str
) -> None:
    facts = replace(healthy, settings=settings, engine=engine, nodes=NODES, container=None, inside=None)
    (found,) = [one for one in judge(facts) if one.check == "nodes"]
    assert (found.level, bool(found.remedy)) == (level, level == "error")
    assert message in found.message
    assert "limits" not in {one.check for one in judge(facts)}


def test_a_container_that_runs_needs_no_other_node(healthy: Facts) -> None:
    settings = Settings(memory=8 * GIB, node="n3")
    facts = replace(healthy, settings=settings, engine=SWARM, nodes=NODES)
    assert [one.level for one in judge(facts) if one.check == "nodes"] == ["warning"]
    (found,) = [one for one in judge(replace(facts, nodes=PROBLEM)) if one.check == "nodes"]
    assert (found.level, found.message) == ("error", "It is broken.")


@pytest.mark.parametrize(
    ("constraint", "is_true"),
    [
        ("node.role==Manager", True),
        ("node.role!=manager", False),
        ("node.labels.a==B", True),
        ("node.labels.A==b", False),
        ("node.labels.A!=b", True),
        ("node.ip==10.0.0.0/8", True),
        ("node.ip!=10.1.2.3", False),
        ("node.ip==here", False),
        ("node.ip!=here", False),
    ],
)
def test_what_swarm_takes_for_true_of_a_node(constraint: str, is_true: bool) -> None:
    properties = {"node.role": "manager", "node.labels.a": "b", "node.ip": "10.1.2.3"}
    assert fulfils(replace(node("n1"), properties=properties), constraint) is is_true


def test_sockets_need_little_room(healthy: Facts) -> None:
    small = Disk((THE_SOCKETS,), Path("/run"), 8 << 20)
    found = judge(replace(healthy, host=replace(healthy.host, disks=(small,))))
    assert {finding.level for finding in found} == {"ok"}


def test_the_interpreter_of_the_settings(healthy: Facts) -> None:
    wanted = {"settings": Settings(python="/opt/py/bin/python"), "container": None}

    def python(**survey: Any) -> Finding:
        found = judge(replace(healthy, **wanted, **surveyed(**survey)))
        return next(finding for finding in found if finding.check == "python")

    assert python(executable="/opt/py/bin/python").level == "notice"
    elsewhere = python()
    assert elsewhere.level == "error"
    assert "/usr/bin/python, Python 3.11.2, not /opt/py/bin/python" in elsewhere.message
    assert "container-retire p" in elsewhere.remedy


def test_notebooks_on_the_hosts_python_are_named(healthy: Facts) -> None:
    first, *others = judge(healthy, ["p/a.ipynb"])
    assert (first.check, first.level) == ("host-python", "error")
    assert "p/a.ipynb" in first.message
    assert "p (container)" in first.remedy
    assert {finding.level for finding in others} == {"ok"}


def test_several_causes_come_in_the_order_in_which_one_rests_on_the_other(healthy: Facts) -> None:
    facts = Facts(
        name="p",
        project=healthy.project,
        host=replace(healthy.host, disks=(Disk((THE_PROJECT,), Path("/w"), 0),), wrappers=("/x",), memory=0),
        engine=EngineUnreachableError("No engine."),
        dockerfile=BadInputError("It is empty."),
        settings=SettingError("memory is bad."),
    )
    assert [(finding.check, finding.level) for finding in judge(facts)] == [
        ("project", "error"),
        ("settings", "error"),
        ("engine", "error"),
        ("disk", "error"),
        ("memory", "error"),
        ("ds01", "warning"),
        ("sockets", "ok"),
    ]


def test_what_comes_from_a_container_is_safe_to_show(healthy: Facts) -> None:
    evil = "/x\x1b]0;owned\x07\n\x9b31m✘ engine: all is lost\r\u202eback" + "y" * 10000
    facts = replace(healthy, **surveyed(executable=evil, pip=evil, ipykernel=evil, is_pips=False))
    found = [*judge(facts), *judge(replace(healthy, **stopped(healthy, exit_code=1), last_words=evil))]
    for finding in found:
        assert (finding.message + finding.remedy).isprintable(), finding
        assert len(finding.message) < 1100


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (GIB, "1 GiB"),
        (900 * GIB, "900 GiB"),
    ],
)
def test_sizes(count: int, said: str) -> None:
    assert size(count) == said


# With an engine in memory


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(info=ENGINE)


@pytest.fixture
def workbench(workspace: Path, engine: FakeEngine) -> Iterator[Workbench]:
    workbench = Workbench(engine=engine)
    yield workbench
    workbench.close()


def findings(workbench: Workbench, name: str = "p") -> list[Finding]:
    """Without those about this machine, which may be short of anything."""
    found = asyncio.run(examine(workbench, name))
    return [finding for finding in found if finding.check not in ("disk", "memory", "ds01")]


def bad(workbench: Workbench, name: str = "p") -> list[tuple[str, str]]:
    return [(finding.check, finding.level) for finding in findings(workbench, name) if finding.level != "ok"]


def make(workspace: Path, dockerfile: str = FROM_BASE, name: str = "p") -> Project:
    folder = workspace / name
    folder.mkdir()
    (folder / "Dockerfile").write_text(dockerfile)
    return Project(name, folder, workspace)


async def built(engine: Engine, project: Project) -> None:
    async with aclosing(images.build(engine, project)) as progress:
        async for _ in progress:
            pass


def test_a_project_that_only_waits_for_its_first_kernel(workbench: Workbench, workspace: Path) -> None:
    project = make(workspace)
    assert bad(workbench) == [("image", "error")]
    asyncio.run(built(workbench.chosen_engine, project))
    assert bad(workbench) == [("container", "notice")]
    # Nothing was started to find that out.
    assert asyncio.run(workbench.chosen_engine.containers({})) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [(b" \n", "is empty"), (b"\x7fELF\0\xff", "not a text file"), (b"#" * 2_000_000, "larger than 1 MiB")],
)
def test_a_dockerfile_that_cannot_be_used(
    workbench: Workbench, workspace: Path, content: bytes, said: str
) -> None:
    (make(workspace).path / "Dockerfile").write_bytes(content)
    first = findings(workbench)[0]
    assert bad(workbench) == [("project", "error")]
    assert said in first.message
    assert first.remedy


def test_a_dockerfile_that_is_no_file_of_the_project(workbench: Workbench, workspace: Path) -> None:
    project = make(workspace)
    secret = workspace.parent / "secret"
    secret.write_text("FROM secret\n")
    for make_it in (
        lambda: project.dockerfile.symlink_to(secret),
        lambda: project.dockerfile.symlink_to("nowhere"),
        lambda: os.mkfifo(project.dockerfile),
        lambda: project.dockerfile.mkdir(),
    ):
        project.dockerfile.unlink()
        make_it()
        assert bad(workbench) == [("project", "error")]
        assert findings(workbench)[0].remedy


def test_a_folder_without_a_dockerfile(workbench: Workbench, workspace: Path) -> None:
    (workspace / "p").mkdir()
    assert bad(workbench) == [("project", "error")]
    assert "has no Dockerfile" in findings(workbench)[0].message
    assert "jupyter ds01 init p" in findings(workbench)[0].remedy


@pytest.mark.parametrize("name", ["a b", "-x", "Ünï", "x" * 200])
def test_a_name_that_cannot_be_a_projects(workbench: Workbench, workspace: Path, name: str) -> None:
    make(workspace, name=name)
    assert bad(workbench, name) == [("project", "error")]
    assert "Rename" in findings(workbench, name)[0].remedy


@pytest.mark.parametrize("name", ["no-such", "..", ".", "", "a/../p", "/etc", "\x1b[31m", "a\0b"])
def test_what_is_no_folder_of_a_workspace_is_no_project(
    workbench: Workbench, workspace: Path, name: str
) -> None:
    make(workspace)
    with pytest.raises(NoSuchProjectError):
        asyncio.run(examine(workbench, name))


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("memory = 'much'", "[tool.ds01] memory in"),
        ("mounts = ['/:/host']", "[tool.ds01] mounts in"),
        ("cpus = -1", "[tool.ds01] cpus in"),
        ("= 3", "is not TOML"),
    ],
)
def test_a_bad_setting_names_the_key_and_the_file(
    workbench: Workbench, workspace: Path, table: str, said: str
) -> None:
    file = make(workspace).path / "pyproject.toml"
    file.write_text(f"[tool.ds01]\n{table}\n")
    first = findings(workbench)[0]
    assert (first.check, first.level) == ("settings", "error")
    assert said in first.message
    assert str(file) in first.message


def test_a_setting_of_the_admins_is_named_too(workbench: Workbench, workspace: Path) -> None:
    make(workspace)
    workbench.memory = "much"
    first = findings(workbench)[0]
    assert (first.check, first.level) == ("settings", "error")
    assert "Workbench.memory" in first.message


@pytest.mark.parametrize(
    "error",
    [
        EngineUnreachableError("Docker is not running.", remedy="Start it."),
        EngineDeniedError("You may not use Docker.", remedy="Ask for the group."),
        EngineTimeoutError("Docker took too long.", remedy="Try again."),
    ],
)
def test_an_engine_that_cannot_be_used_is_the_only_error(
    workbench: Workbench, workspace: Path, engine: FakeEngine, error: Ds01Error
) -> None:
    make(workspace)
    engine.fail_next("info", error)
    first, *others = findings(workbench)
    assert first == Finding("engine", "error", str(error), error.remedy)
    assert {finding.level for finding in others} == {"ok"}
    assert not {finding.check for finding in others} & {"image", "container", "gpus", "agent"}


def test_why_it_is_this_engine_and_that_a_project_wants_another(workspace: Path) -> None:
    project = make(workspace)
    engine = FakeEngine(info=replace(ENGINE, why="Docker's socket answers."))
    workbench = Workbench(engine=engine)
    try:
        (found,) = (one for one in findings(workbench) if one.check == "engine")
        assert found == Finding(
            "engine", "ok", "docker 26.1.5 answers, on this machine. Docker's socket answers."
        )
        (workspace / "p" / "pyproject.toml").write_text("[tool.ds01]\nengine = 'podman'\n")
        (found,) = (one for one in findings(workbench) if one.check == "engine")
        assert (found.level, found.message) == (
            "error",
            "The project wants podman, but docker 26.1.5 answers, on this machine. Docker's socket answers.",
        )
        asyncio.run(built(engine, project))
        with pytest.raises(SettingError, match=r"wants podman, and its containers would be docker's"):
            workbench.call(workbench.launcher.deploy(project))
        assert asyncio.run(engine.containers({})) == []
        (workspace / "p" / "pyproject.toml").write_text("[tool.ds01]\nengine = 'docker'\n")
        assert asyncio.run(engine.containers({})) == []
        workbench.call(workbench.launcher.deploy(project))
    finally:
        workbench.close()


def test_podman_s_limits_are_told(workspace: Path) -> None:
    make(workspace)
    (workspace / "p" / "pyproject.toml").write_text("[tool.ds01]\ngpus = 1\nmemory = '1g'\n")
    cannot = {"gpus": "Podman ignores GPUs.", "memory": "It cannot limit memory."}
    podman = replace(ENGINE, name="podman", rootless=True, cannot=cannot)
    workbench = Workbench(engine=FakeEngine(info=podman))
    try:
        found = {one.check: one for one in findings(workbench)}
        assert (found["gpus"].level, found["gpus"].remedy) == ("error", "Ask for no GPUs, or use Docker.")
        assert (found["limits"].level, "no effect" in found["limits"].message) == ("warning", True)
    finally:
        workbench.close()


def test_the_nodes_of_a_swarm_are_looked_at(workspace: Path) -> None:
    """Docker has one machine, and is not asked for more."""
    project = make(workspace)
    (project.path / "pyproject.toml").write_text("[tool.ds01]\nnode = 'n9'\n")
    for name, said in (("swarm", ["n9, and the swarm has n1 and n2 only."]), ("docker", [])):
        engine = FakeEngine(info=replace(SWARM, name=name), nodes=("n1", "n2"))
        engine.fail_next("nodes", EngineUnreachableError("No nodes.")) if name == "docker" else None
        workbench = Workbench(engine=engine)
        found = [one.message for one in findings(workbench) if one.check == "nodes"]
        assert [message.rpartition("node ")[2] for message in found] == said
        workbench.close()


def test_the_image_is_measured_by_the_dockerfiles_text(workbench: Workbench, workspace: Path) -> None:
    project = make(workspace)
    asyncio.run(built(workbench.chosen_engine, project))
    later = datetime.now(UTC).timestamp() + 3600
    os.utime(project.dockerfile, (later, later))
    assert bad(workbench) == [("container", "notice")]
    project.dockerfile.write_text(f"{FROM_BASE}RUN true\n")
    assert bad(workbench) == [("image", "error"), ("container", "notice")]


def test_an_image_of_unknown_origin_is_measured_by_its_date(
    workbench: Workbench, workspace: Path, engine: FakeEngine
) -> None:
    project = make(workspace)
    engine.add_image(project.image_name(os.getuid()))
    os.utime(project.dockerfile, (0, 0))
    assert bad(workbench) == [("container", "notice")]
    later = datetime.now(UTC).timestamp() + 3600
    os.utime(project.dockerfile, (later, later))
    assert bad(workbench) == [("image", "error"), ("container", "notice")]


def test_a_container_of_somebody_else_has_the_name(
    workbench: Workbench, workspace: Path, engine: FakeEngine
) -> None:
    project = make(workspace)

    async def take() -> None:
        await built(engine, project)
        await engine.create(ContainerSpec(project.container_name(os.getuid()), "ds01/base:latest", ("sh",)))

    asyncio.run(take())
    assert bad(workbench) == [("container", "error")]
    assert "does not belong to" in findings(workbench)[0].message


def test_a_container_that_ran_out_of_memory(
    workbench: Workbench, workspace: Path, engine: FakeEngine
) -> None:
    project = make(workspace)

    async def fill() -> None:
        await built(engine, project)
        info = await deployed(engine, project, workbench.settings(project))
        engine.end_main_process(info.id, 137, oom_killed=True)

    asyncio.run(fill())
    assert bad(workbench) == [("container", "warning")]
    assert "ran out of memory" in findings(workbench)[0].message


def test_an_agent_that_cannot_be_reached(workbench: Workbench, workspace: Path, engine: FakeEngine) -> None:
    project = make(workspace)

    async def start() -> None:
        await built(engine, project)
        await deployed(engine, project, workbench.settings(project))

    asyncio.run(start())
    engine.fail_next("exec", EngineTimeoutError("Docker took too long to run /bin/sh.", remedy="Try again."))
    first = findings(workbench)[0]
    assert (first.check, first.level, first.remedy) == ("agent", "error", "Try again.")


# On the real engine, as users run it


def examined(house: House, project: ProjectFolder, **more: Any) -> tuple[int, list[str]]:
    """The exit code and the lines that ``doctor`` prints."""
    done = house.ds01("doctor", project.name, **more)
    assert done.stderr == "", done
    return done.returncode, done.stdout.splitlines()


def deploy(house: House, project: ProjectFolder) -> None:
    for verb in ("image-update", "container-deploy"):
        done = house.ds01(verb, project.name)
        assert done.returncode == 0, done


@pytest.mark.engine
def test_from_unbuilt_to_stopped(house: House) -> None:
    project = house.folder("life")
    code, lines = examined(house, project)
    assert (code, lines[0]) == (1, "✘ image: The image has not been built yet.")
    assert lines[1] == f"  Build it with `jupyter ds01 image-update {project.name}`."
    assert house.ds01("image-update", project.name).returncode == 0
    code, lines = examined(house, project)
    assert code == 0
    assert any(line.startswith("i container: There is no container yet") for line in lines)
    assert container_id(project.container) is None

    assert house.ds01("container-deploy", project.name).returncode == 0
    done = house.ds01("doctor", project.name, "--json")
    told = json.loads(done.stdout)
    for finding in told:
        check("Finding", finding)
    levels = {finding["check"]: finding["level"] for finding in told}
    assert done.returncode == 0
    # Its pip begins with #!/usr/bin/python3, which is /usr/bin/python by another name.
    inside = ("container", "agent", "python", "pip", "ipykernel", "user", "sockets")
    assert {name: levels[name] for name in inside} == dict.fromkeys(inside, "ok")

    (project.path / "Dockerfile").write_text(f"{FROM_BASE}RUN true\n")
    code, lines = examined(house, project)
    assert code == 1
    assert lines[0].startswith("✘ image: The Dockerfile was changed after the image was built")

    with_engine(lambda engine: engine.stop(project.container, 1))
    (project.path / "Dockerfile").write_text(FROM_BASE)
    code, lines = examined(house, project)
    assert code == 0
    assert any(
        line.startswith(f"i container: The container {project.container} is stopped") for line in lines
    )
    info = with_engine(lambda engine: engine.container(project.container))
    assert info is not None
    assert info.state == "exited"


@pytest.mark.engine
def test_an_image_without_python(house: House) -> None:
    project = house.folder("snakeless", f"{FROM_BASE}RUN rm -f /usr/bin/python*\n")
    assert house.ds01("image-update", project.name).returncode == 0
    assert house.ds01("container-deploy", project.name).returncode == 1
    code, lines = examined(house, project)
    assert (code, lines[0]) == (1, "✘ python: There is no Python in this project's image.")
    assert "python-is-python3" in lines[1]


@pytest.mark.engine
def test_a_pip_of_another_interpreter(house: House) -> None:
    # A link to the same program is another interpreter all the same when it is a venv's.
    other = (
        "RUN python3 -m venv --without-pip /opt/other"
        " && printf '#!/opt/other/bin/python\\nprint(1)\\n' > /usr/local/bin/pip"
        " && chmod +x /usr/local/bin/pip && rm /usr/bin/python\n"
    )
    project = house.folder("two-pythons", f"{FROM_BASE}{other}")
    deploy(house, project)
    code, lines = examined(house, project)
    assert code == 1
    assert lines[0] == (
        "✘ pip: `pip` in the container belongs to /opt/other/bin/python, but kernels use /usr/bin/python3: "
        "what it installs cannot be imported."
    )
    assert "`%pip install`" in lines[1]
    assert any(
        line.startswith("i python: Kernels use /usr/bin/python3, Python 3.")
        and line.endswith("since the image has no /usr/bin/python.")
        for line in lines
    )


@pytest.mark.engine
def test_a_running_container_that_kernels_cannot_use(house: House) -> None:
    project = house.folder("cut-off")
    deploy(house, project)
    info = with_engine(lambda engine: engine.container(project.container))
    assert info is not None
    shutil.rmtree(info.labels[LABEL_SOCKETS])
    code, lines = examined(house, project)
    assert code == 1
    assert lines[0].startswith("✘ sockets: The container does not see the directory")
    # One of that name is not the one that was mounted.
    os.mkdir(info.labels[LABEL_SOCKETS], 0o700)
    assert examined(house, project)[1][0].startswith("✘ sockets: The container does not see the directory")
    assert stat.S_IMODE(os.stat(info.labels[LABEL_SOCKETS]).st_mode) == 0o700
    assert os.listdir(info.labels[LABEL_SOCKETS]) == []


@pytest.mark.engine
def test_what_does_not_even_reach_the_engine(house: House) -> None:
    project = house.folder("away")
    code, lines = examined(house, project, env={"DOCKER_HOST": "unix:///nonexistent"})
    assert code == 1
    assert lines[0].startswith("✘ engine: Docker is not running, or cannot be reached at unix:///nonexistent")
    assert "✘" not in "".join(lines[1:])

    plain = house.ds01("doctor", project.name, env={"PYTHONIOENCODING": "ascii"})
    assert plain.stdout.splitlines()[0] == "x image: The image has not been built yet."
    assert plain.stdout.isascii()

    unknown = house.ds01("doctor", "no-such")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert unknown.stderr.startswith("There is no project 'no-such'.")

    (project.path / "Dockerfile").unlink()
    code, lines = examined(house, project)
    assert code == 1
    assert "is not a project: it has no Dockerfile" in lines[0]
    assert lines[1] == f"  To make it one, run: jupyter ds01 init {project.name}"


@pytest.mark.engine
def test_over_rest_with_the_servers_own_kernels(house: House) -> None:
    project = house.folder("hosted", dockerfile=None)
    r_like = house.folder("other")
    with house.server() as server:
        path = f"ds01/projects/{project.name}/doctor"
        kernel = server.start_session(f"{project.name}/early.ipynb", "python3")
        assert [one["check"] for one in server.get(path) if one["level"] == "error"] == ["project"]
        # The notebook came first: its kernel could run nowhere else.
        (project.path / "Dockerfile").write_text(FROM_BASE)
        found = server.get(path)
        for finding in found:
            check("Finding", finding)
        (told,) = [finding for finding in found if finding["check"] == "host-python"]
        assert f"{project.name}/early.ipynb" in told["message"]
        assert (found[0]["check"], found[0]["level"]) == ("image", "error")
        assert "host-python" not in {
            one["check"] for one in server.get(f"ds01/projects/{r_like.name}/doctor")
        }
        kernel.delete()
        assert "host-python" not in {one["check"] for one in server.get(path)}

        unknown = server.request("GET", "ds01/projects/no-such/doctor")
        assert (unknown.status_code, unknown.json()["reason"]) == (404, "no-such-project")
        check("Error", unknown.json())
        with requests.Session() as stranger:
            stranger.trust_env = False
            assert stranger.get(server.url + path, timeout=60).status_code == 403
