"""Docker Swarm where kernels run: three nodes in networks of their own, and what becomes of them."""

from __future__ import annotations

import asyncio
import re
import secrets
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import pytest
import test_kernel_suite
from causes import ON_SWARM
from conftest import BASE_IMAGE, FROM_BASE
from live import Site, a_kernel, a_site, leave, until
from private_daemon import LIMIT
from rebuilding import OFFLINE, Rebuilt, a_project, await_drift, begin, drift, ended
from rebuilding import a_kernel as a_notebook
from remote import PORT, Way, connected_in
from servers import House, Server, a_house, wait_for
from swarm_here import GPU, NAMES, REGISTRY, Swarm
from wheels import make_wheel

from ds01_kernels.engine import BuildRequest, ContainerFile, ContainerInfo, ContainerSpec, GpuRequest, Mount
from ds01_kernels.engine.docker_connection import connect, connect_to
from ds01_kernels.engine.placing import fulfils
from ds01_kernels.engine.swarm import SwarmEngine
from ds01_kernels.engine.swarm_nodes import LABEL_ADDRESS, NodeEngine
from ds01_kernels.engine.swarm_options import SwarmOptions
from ds01_kernels.errors import (
    ConflictError,
    ContainerExitedError,
    EngineError,
    EngineUnreachableError,
    NoRoomError,
)
from ds01_kernels.exits import Cause, Exit, gone
from ds01_kernels.nodes import nodes
from ds01_kernels.workbench import Workbench

pytestmark = [pytest.mark.engine, pytest.mark.apart]

PLAIN = f"plain-{secrets.token_hex(4)}"
LABEL = "ds01-kernels.test"
T = TypeVar("T")


@pytest.fixture(scope="module", autouse=True)
def reached(swarm: Swarm) -> Iterator[None]:
    """What the tests themselves ask is asked there too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", swarm.address)
        yield


@pytest.fixture(scope="module")
def from_ipykernel(ipykernel_image: str) -> str:
    """A Dockerfile: to bring each container an ipykernel takes seconds."""
    return f"FROM {ipykernel_image}\n"


@pytest.fixture(scope="module")
def site(swarm: Swarm, reached: None, from_ipykernel: str) -> Iterator[Site]:
    with a_site(settings(swarm)) as site:
        site.project(PLAIN, dockerfile=from_ipykernel, unique=False)
        try:
            yield site
        finally:
            leave()
            remove_services(swarm, site.workspace)


@pytest.fixture
def house(swarm: Swarm) -> Iterator[House]:
    with a_house() as house:
        house.configure("jupyter_ds01", settings(swarm))
        try:
            yield house
        finally:
            remove_services(swarm, house.workspace)


def settings(swarm: Swarm) -> str:
    options = {"engine": "swarm", "swarm_registry": REGISTRY, "swarm_nodes": swarm.addresses}
    return "\n".join(f"c.Workbench.{name} = {value!r}" for name, value in options.items())


def remove_services(swarm: Swarm, workspace: Path) -> None:
    client = swarm.manager.client()
    for service in client.services(filters={"label": "ds01-kernels.path"}):
        if Path(service["Spec"]["Labels"]["ds01-kernels.path"]).is_relative_to(workspace):
            client.remove_service(service["ID"])
    client.close()
    until(lambda: not [one for node in swarm.nodes.values() for one in ours(node.containers(), workspace)])


def ours(containers: list[dict[str, Any]], workspace: Path) -> list[str]:
    """The ids of those whose project lies there."""
    paths = {one["Id"]: one["Labels"].get("ds01-kernels.path") for one in containers}
    return [id_ for id_, path in paths.items() if path and Path(path).is_relative_to(workspace)]


@contextmanager
def only(swarm: Swarm, *names: str) -> Iterator[None]:
    """While this lasts, nothing new goes to the other nodes."""
    others = [node for name, node in swarm.nodes.items() if name not in names]
    for node in others:
        node.change(swarm.manager, Availability="pause")
    try:
        yield
    finally:
        for node in others:
            node.change(swarm.manager, Availability="active")


# The engine


class Lab:
    """An engine of the swarm, and what a test makes with it, which is gone afterwards."""

    def __init__(self, options: SwarmOptions) -> None:
        self.options = options
        self.mark = secrets.token_hex(6)

    def spec(self, name: str, **more: Any) -> ContainerSpec:
        labels = {LABEL: self.mark}
        full = f"ds01-test-{self.mark}-{name}"
        return ContainerSpec(full, BASE_IMAGE, ("sleep", "1000"), labels=labels, **more)

    def run(self, flow: Callable[[SwarmEngine], Awaitable[T]]) -> T:
        async def whole() -> T:
            engine = SwarmEngine(self.options)
            try:
                return await asyncio.wait_for(flow(engine), 3 * LIMIT)
            finally:
                for info in await engine.containers({LABEL: self.mark}):
                    await engine.remove(info.id)
                await engine.close()

        return asyncio.run(whole())


@pytest.fixture
def lab(swarm: Swarm) -> Lab:
    return Lab(SwarmOptions(REGISTRY, swarm.addresses))


async def output(engine: SwarmEngine, container: str, script: str) -> str:
    stream = await engine.exec(container, ["sh", "-c", script])
    data = b""
    while more := await stream.read():
        data += more
    await stream.close()
    return data.decode()


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that everybody may enter."""
    with tempfile.TemporaryDirectory(prefix="ds01-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_a_container_is_as_it_was_asked_for(lab: Lab, swarm: Swarm, folder: Path) -> None:
    (folder / "here").touch()
    spec = lab.spec(
        "a",
        user="1234:1234",
        working_dir="/srv/here",
        env={"WORD": "a b"},
        mounts=(Mount(folder, PurePosixPath("/srv/here")), Mount(folder, PurePosixPath("/ro"), True)),
        hostname="thesis",
        shm_size=1 << 26,
        memory=1 << 27,
        cpus=0.5,
        pids_limit=77,
        node="n3",
    )
    asked = (
        "pwd; ls; id -u; echo $WORD; hostname; df -k /dev/shm | tail -n 1; touch /ro/x 2>&1; cat /proc/1/comm"
    )

    async def flow(engine: SwarmEngine) -> None:
        made = await engine.create(spec)
        await engine.write_files(made.id, [ContainerFile(PurePosixPath("/etc/kept"), b"kept", 0, 0, 0o644)])
        assert await engine.read_file(made.id, PurePosixPath("/etc/kept")) == b"kept"
        assert await engine.read_file(made.id, PurePosixPath("/etc/debian_version"))
        await engine.start(made.name)
        info = await engine.container(made.name)
        assert info is not None
        assert (info.node, info.problem, info.memory, info.cpus) == ("n3", "", 1 << 27, 0.5)
        lines = (await output(engine, made.id, asked)).splitlines()
        assert lines[:5] == ["/srv/here", "here", "1234", "a b", "thesis"]
        assert lines[5].split()[1] == str((1 << 26) // 1024)
        assert "Read-only" in lines[6]
        assert lines[7] in ("docker-init", "tini")
        client = swarm.nodes["n3"].client()
        (on_node,) = client.containers(filters={"label": f"{LABEL}={lab.mark}"})
        host = client.inspect_container(on_node["Id"])["HostConfig"]
        assert (host["Memory"], host["NanoCpus"], host["PidsLimit"]) == (1 << 27, 5 * 10**8, 77)
        # What its node says is said of it by its name.
        client.pause(on_node["Id"])
        with pytest.raises(EngineError, match=f"node n3 could not run true in {made.name}: the .* is paused"):
            await engine.exec(made.id, ["true"])
        client.unpause(on_node["Id"])
        client.close()
        # What is kept for it is there again in what takes its place, which is another container.
        await engine.stop(made.id, 0)
        await engine.start(made.id)
        again = await engine.container(made.id)
        assert again is not None
        assert (again.id == made.id, again.name, again.running) == (False, made.name, True)
        assert await output(engine, made.id, "cat /etc/kept") == "kept"
        assert len(await engine.containers({LABEL: lab.mark})) == 1
        await engine.remove(made.id)
        assert await engine.container(again.id) is None

    lab.run(flow)
    client = swarm.manager.client()
    assert client.configs() == []
    client.close()


def test_a_gpu_is_in_one_container(lab: Lab) -> None:
    async def flow(engine: SwarmEngine) -> None:
        info = await engine.info()
        assert (info.name, info.local) == ("swarm", False)
        assert "gpus" not in info.cannot
        assert {"keep", "named gpus"} <= info.cannot.keys()
        made = [await engine.create(lab.spec(name, gpus=GpuRequest(1))) for name in "abc"]
        for one in made[:2]:
            await engine.start(one.id)
        with pytest.raises(NoRoomError) as refusal:
            await engine.start(made[2].id)
        assert "insufficient resources on 3 nodes" in str(refusal.value)
        assert "It wants 1 GPU." in str(refusal.value)
        # It is as it was, and holds no place.
        assert await engine.container(made[2].id) == made[2]
        assert {node.name: (node.gpus, node.given_gpus) for node in await engine.nodes()} == {
            "n1": (0, 0),
            "n2": (1, 1),
            "n3": (1, 1),
        }
        assert [node.free_gpus for node in await nodes(engine)] == [0, 0, 0]
        await engine.remove(made[0].id)
        await started(engine, made[2])
        # A stopped one holds none either, and waits for one like any other.
        await engine.stop(made[1].id, 10)
        fourth = await engine.create(lab.spec("d", gpus=GpuRequest(1)))
        await started(engine, fourth)
        with pytest.raises(NoRoomError):
            await engine.start(made[1].id)
        stopped = await engine.container(made[1].id)
        assert stopped is not None
        assert (stopped.id, stopped.state, stopped.exit_code) == (made[1].id, "exited", 143)

    lab.run(flow)


async def started(engine: SwarmEngine, info: ContainerInfo) -> None:
    """As who waits does it: ask again."""
    async with asyncio.timeout(LIMIT):
        while True:
            try:
                await engine.start(info.id)
            except NoRoomError:
                await asyncio.sleep(0.2)
            else:
                return


@pytest.mark.parametrize("node", ["n2", ""])
def test_a_docker_that_manages_no_swarm(swarm: Swarm, node: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker, and the engine that the other tests use."""
    if node:
        monkeypatch.setenv("DOCKER_HOST", swarm.nodes[node].daemon.address)
    else:
        monkeypatch.delenv("DOCKER_HOST")

    async def flow() -> None:
        engine = SwarmEngine()
        for call in (engine.info(), engine.nodes(), engine.containers({}), engine.container("a")):
            with pytest.raises(EngineError, match="manages no swarm") as refusal:
                await call
            assert "docs/swarm.md" in refusal.value.remedy
        await engine.close()

    asyncio.run(flow())


def test_why_it_cannot_start(lab: Lab, swarm: Swarm, tmp_path: Path) -> None:
    async def flow(engine: SwarmEngine) -> None:
        nowhere = await engine.create(lab.spec("a", node="n9"))
        with pytest.raises(EngineError, match=r"constraints not satisfied.* It wants node.hostname==n9\."):
            await engine.start(nowhere.id)
        mount = Mount(tmp_path / "absent", PurePosixPath("/x"))
        lacking = await engine.create(lab.spec("b", node="n2", mounts=(mount,)))
        with pytest.raises(EngineError, match=f"on the node n2: the directory {mount.source} does not exist"):
            await engine.start(lacking.id)
        for one in (nowhere, lacking):
            assert await engine.container(one.id) == one
        brief = await engine.create(replace(lab.spec("c"), entrypoint=("sh", "-c", "echo said; exit 7")))
        await engine.start(brief.id)
        async with asyncio.timeout(LIMIT):
            while (info := await engine.container(brief.id)) and info.running:
                await asyncio.sleep(0.05)
        assert info is not None
        assert (info.state, info.exit_code) == ("exited", 7)
        assert await engine.logs(brief.id) == "said\n"
        # A start that nobody waits for any more leaves nothing behind.
        waiting = await engine.create(lab.spec("d"))
        for seconds in (0, 0.01, 0.03, 0.1):
            starting = asyncio.create_task(engine.start(waiting.id))
            await asyncio.sleep(seconds)
            starting.cancel()
            await asyncio.wait([starting])
            if not starting.cancelled():
                # It was through already.
                break
            assert await engine.container(waiting.id) == waiting
        for seconds in (0.01, 0.03, 0.1):
            starting = asyncio.create_task(engine.start(brief.id))
            await asyncio.sleep(seconds)
            starting.cancel()
            await asyncio.wait([starting])
            if not starting.cancelled():
                break
            assert (now := await engine.container(brief.id)) is not None
            assert (now.state, now.id) == ("exited", brief.id)
            assert services_of(swarm, LABEL, lab.mark).keys() == {
                one.id for one in (nowhere, lacking, brief, waiting)
            }

    lab.run(flow)


def test_what_others_have_is_not_touched(lab: Lab, swarm: Swarm) -> None:
    """Another user's container of the same name is another one; a service that is none of ours is none."""
    client = swarm.manager.client()

    async def flow(engine: SwarmEngine) -> None:
        made = await engine.create(lab.spec("a"))
        now = client.inspect_service(made.id)
        labels = {**now["Spec"]["Labels"], "ds01-kernels.swarm.uid": "4242"}
        client.create_service(
            now["Spec"]["TaskTemplate"], name=f"theirs-{lab.mark}", labels=labels, mode=now["Spec"]["Mode"]
        )
        plain = client.create_service(
            now["Spec"]["TaskTemplate"],
            name=f"plain-{lab.mark}",
            labels={LABEL: lab.mark},
            mode=now["Spec"]["Mode"],
        )["ID"]
        assert len(await engine.containers({LABEL: lab.mark})) == 2
        (theirs,) = [one for one in await engine.containers({LABEL: lab.mark}) if one.id != made.id]
        for id_ in (theirs.id, plain):
            assert await engine.container(id_) is None
            await engine.remove(id_)
        assert await engine.container(made.name) == made
        await engine.remove(made.name)
        assert await engine.container(made.name) is None
        left = client.services(filters={"label": f"{LABEL}={lab.mark}"})
        assert {one["ID"] for one in left} == {theirs.id, plain}
        for id_ in (theirs.id, plain):
            client.remove_service(id_)

    lab.run(flow)
    client.close()


def test_images_go_through_the_registry(lab: Lab, tmp_path: Path) -> None:
    reference = f"ds01-test-{lab.mark}/image:latest"

    async def built(engine: SwarmEngine, number: int) -> str:
        text = f"FROM {BASE_IMAGE}\nLABEL {LABEL}={lab.mark}\nLABEL number={number}\n"
        progress = [one async for one in engine.build(BuildRequest(tmp_path, text, reference))]
        assert [bool(one.image_id) for one in progress] == [False] * (len(progress) - 1) + [True]
        pushing = [one for one in progress if one.name == f"Push to {REGISTRY}"]
        assert any(re.search("already exists|Pushed|Mounted from", one.log) for one in pushing)
        assert pushing[-1].seconds is not None
        return progress[-1].image_id

    async def flow(engine: SwarmEngine) -> None:
        first, second = await built(engine, 1), await built(engine, 2)
        found = {image.id: image.tags for image in await engine.images({LABEL: lab.mark})}
        # What they are called in the registry says nothing here, and keeps no image.
        assert found == {first: (), second: (reference,)}
        # As another process, which does not know that it is there already, and of which nothing else is left.
        other = SwarmEngine(lab.options)
        made = await other.create(replace(lab.spec("a", node="n3"), image=first))
        await other.start(made.id)
        assert made.image_id == first
        assert (image := await other.image(first)) is not None
        assert image.tags == ()
        with pytest.raises(ConflictError, match="in use by a service"):
            await other.remove_image(first)
        await other.remove(made.id)
        await other.remove_image(first)
        await other.remove_image(reference)
        assert await other.images({LABEL: lab.mark}) == []
        await other.close()
        nowhere = SwarmEngine(replace(lab.options, registry=REGISTRY.replace("5000", "5001")))
        with pytest.raises(EngineError, match=r"could not be brought into the registry .*connection refused"):
            await nowhere.create(lab.spec("b"))
        await nowhere.close()
        # Without a registry they stay where they are, and so do the containers.
        alone = SwarmEngine(replace(lab.options, registry=""))
        assert "nodes" in (await alone.info()).cannot
        made = await alone.create(lab.spec("c"))
        await alone.start(made.id)
        assert (info := await alone.container(made.id)) is not None
        assert info.node == "n1"
        await alone.close()

    lab.run(flow)


def test_a_node_by_tls(swarm: Swarm) -> None:
    way = Way(lambda: connected_in(swarm.nodes["n2"].daemon.pid, PORT))
    address = f"tcp://127.0.0.1:{way.port}"
    lab = Lab(SwarmOptions(REGISTRY, {"n2": address}, GPU, swarm.certificates))

    async def flow(engine: SwarmEngine) -> None:
        made = await engine.create(lab.spec("a", node="n2"))
        await engine.start(made.id)
        assert await output(engine, made.id, "echo hello") == "hello\n"
        way.cut()
        with pytest.raises(EngineError, match=f"node n2 cannot be reached at {address}"):
            await engine.exec(made.id, ["true"])
        way.open()
        plain = SwarmEngine(replace(lab.options, certificates=None))
        with pytest.raises(EngineError, match="there are no certificates for it"):
            await plain.exec(made.id, ["true"])
        unknown = SwarmEngine(replace(lab.options, nodes={}))
        with pytest.raises(EngineError, match="It is not known where the Docker of the node n2 is"):
            await unknown.exec(made.id, ["true"])
        # A label of the node says it as well, but leads to no socket of this machine.
        for label, said in ((address, None), ("unix:///run/docker.sock", "which is none")):
            swarm.nodes["n2"].change(swarm.manager, Labels={LABEL_ADDRESS: label})
            labelled = SwarmEngine(replace(lab.options, nodes={}))
            if said is None:
                assert await output(labelled, made.id, "echo hello") == "hello\n"
            else:
                with pytest.raises(EngineError, match=said):
                    await labelled.exec(made.id, ["true"])
            await labelled.close()
        await plain.close()
        await unknown.close()

    try:
        lab.run(flow)
    finally:
        swarm.nodes["n2"].change(swarm.manager, Labels={})
        way.cut()


def test_what_is_gone_from_its_node(lab: Lab, swarm: Swarm) -> None:
    """Somebody has removed it there, or the node has left the swarm, which does not know it yet."""
    wrong = Lab(replace(lab.options, nodes={"n2": swarm.addresses["n3"]}))

    async def flow(engine: SwarmEngine) -> None:
        made = await engine.create(lab.spec("a", node="n2"))
        await engine.start(made.id)
        other = SwarmEngine(wrong.options)
        asking = asyncio.create_task(other.exec(made.id, ["true"]))
        # It waits for the swarm to know as well; where it has not asked yet, it is told the same.
        await asyncio.sleep(0.5)
        await engine.stop(made.id, 0)
        with pytest.raises(ContainerExitedError, match=f"{made.name} (is not on its node|does not run)"):
            await asking
        await engine.start(made.id)
        # What cannot be ended there is the swarm's to end.
        await other.remove(made.id)
        assert await engine.container(made.name) is None
        await other.close()

    lab.run(flow)


def test_a_node_that_is_drained(lab: Lab, swarm: Swarm) -> None:
    problem = "The node n2 takes nothing new: its availability is drain."

    async def flow(engine: SwarmEngine) -> None:
        made = await engine.create(lab.spec("a", constraints=("node.hostname==n2",)))
        await engine.start(made.id)
        before = await engine.container(made.id)
        assert before is not None
        await asyncio.to_thread(swarm.nodes["n2"].change, swarm.manager, Availability="drain")
        async with asyncio.timeout(LIMIT):
            while not (over := gone(await engine.container(made.id), before.started, made.id)):
                await asyncio.sleep(0.05)
        assert over == Exit(-9, Cause.EVICTED, problem)
        with pytest.raises(NoRoomError, match=r"takes ds01-.* now: no suitable node"):
            await engine.start(made.id)
        assert [one.name for one in await engine.nodes() if one.problem == problem] == ["n2"]
        for constraint in ("node.role==manager", "node.hostname==n1", "node.ip==10.213.7.1"):
            assert [one.name for one in await engine.nodes() if fulfils(one, constraint)] == ["n1"]

    try:
        lab.run(flow)
    finally:
        swarm.nodes["n2"].change(swarm.manager, Availability="active")


def test_files_of_which_nobody_knows_any_more(lab: Lab, swarm: Swarm) -> None:
    """Whoever was to remove them has ended before."""
    theirs = {"ds01-kernels.swarm.key": "theirs", "ds01-kernels.swarm.uid": "4242"}
    files = [ContainerFile(PurePosixPath("/etc/kept"), b"kept", 0, 0, 0o644)]
    client = swarm.manager.client()

    def kept() -> set[str]:
        return {config["Spec"]["Labels"]["ds01-kernels.swarm.key"] for config in client.configs()}

    def key(info: ContainerInfo) -> str:
        return str(client.inspect_service(info.id)["Spec"]["Labels"]["ds01-kernels.swarm.key"])

    def in_an_hour(timeout: float) -> Any:
        """A way to the manager, whose clock is ahead."""
        found = connect(timeout)
        about = found.info()
        now = datetime.fromisoformat(about["SystemTime"]) + timedelta(hours=1)
        found.info = lambda: {**about, "SystemTime": now.isoformat()}  # type: ignore[method-assign]
        return found

    async def flow(engine: SwarmEngine) -> None:
        left, used = [await engine.create(lab.spec(name)) for name in "ab"]
        for one in (left, used):
            await engine.write_files(one.id, files)
        keys = key(left), key(used)
        # As another user's, of which there is no service either.
        client.create_config(f"theirs-{lab.mark}", b"x", labels=theirs)
        client.remove_service(left.id)
        await engine.create(lab.spec("c"))
        assert kept() == {*keys, "theirs"}
        late = SwarmEngine(lab.options, reach=in_an_hour)
        await late.create(lab.spec("d"))
        assert kept() == {keys[1], "theirs"}
        await late.close()

    try:
        lab.run(flow)
    finally:
        for config in client.configs():
            client.remove_config(config["ID"])
        client.close()


# Kernels


#: Of Jupyter's own suite: byte streams pass it as a whole, and nothing of them is Swarm's.
SOME = (
    "execute_stdout",
    "execute_stderr",
    "display_data",
    "completion",
    "interrupt",
    "stdin",
    "shutdown_request",
)


@pytest.mark.usefixtures("site")
class TestKernels(test_kernel_suite.TestWithTheImagesIpykernelByStreams):
    kernel_name = f"ds01-{PLAIN}"


for inherited in dir(TestKernels):
    if inherited.startswith("test_") and inherited.removeprefix("test_") not in SOME:
        setattr(TestKernels, inherited, None)


def of_project(name: str) -> ContainerInfo:
    """What the engine says of the container of that project of the site."""
    workbench = Workbench.open()
    project = workbench.projects().get(name)
    info = workbench.call(workbench.chosen_engine.container(project.container_name(0)))
    assert info is not None
    return info


def test_the_same_notebook_on_each_node(site: Site, swarm: Swarm, from_ipykernel: str) -> None:
    project = site.project("each", dockerfile=from_ipykernel)
    for name in NAMES:
        with only(swarm, name), a_kernel(f"ds01-{project.name}", cwd=str(project.path)) as kernel:
            assert kernel.run("import os, sys; print(sys.executable, os.getcwd())") == (
                "/usr/bin/python /workspace\n"
            )
            kernel.run(f"open('{name}', 'w').close()")
            assert of_project(project.name).node == name
            kernel.restart()
            assert kernel.run("print(6 * 7)") == "42\n"
        workbench = Workbench.open()
        workbench.call(workbench.launcher.retire(workbench.projects().get(project.name), force=True))
    assert {*NAMES} <= {path.name for path in project.path.iterdir()}


def test_a_node_that_is_lost(site: Site, swarm: Swarm, from_ipykernel: str) -> None:
    project = site.project("lost", dockerfile=from_ipykernel)
    make_wheel(project.path, "tiny")
    node = swarm.nodes["n2"]
    with only(swarm, "n2"):
        kernel_of = a_kernel(f"ds01-{project.name}", cwd=str(project.path))
        kernel = kernel_of.__enter__()
    try:
        kernel.run("%pip install -q --no-index --find-links . tiny\nimport tiny")
        workbench = Workbench.open()
        known = workbench.projects().get(project.name)
        until(lambda: workbench.call(workbench.drifts.look(known)).drift)
        lost_id = of_project(project.name).id
        kernel.started("import time\nprint('begun', flush=True)\nwhile True: time.sleep(0.1)")
        with asked_in_vain(swarm, lost_id):
            node.cut()
            began = time.monotonic()
            until(lambda: kernel.code is not None)
            print(f"the loss was known after {time.monotonic() - began:.1f} s")
        info = of_project(project.name)
        assert (info.state, info.node) == ("dead", "n2")
        assert info.problem == "The node n2 does not answer: heartbeat failure."
        with pytest.raises(ContainerExitedError, match="The node n2 does not answer"):
            workbench.call(workbench.chosen_engine.exec(info.id, ["true"]))
        (away,) = [one for one in workbench.call(nodes(workbench.chosen_engine)) if one.name == "n2"]
        assert (away.problem, away.free_cpus) == (info.problem, 0)
        kernel.restart()
        said = kernel.shown("print('again')")
        assert said == f"{' '.join(ON_SWARM['the node was lost'])}again\n"
        now = of_project(project.name)
        assert (now.node in ("n1", "n3"), now.id == lost_id) == (True, False)
        # What was installed there is on record.
        look = workbench.call(workbench.drifts.look(known))
        assert [item["name"] for item in look.lost.as_json()["added"]] == ["tiny"]
        node.mend()
        until(lambda: not ours(node.containers(), project.path))
        assert kernel.run("print('still')") == "still\n"
    finally:
        node.mend()
        kernel_of.__exit__(None, None, None)
        until(lambda: all(not one.problem for one in _node_infos()))


@contextmanager
def asked_in_vain(swarm: Swarm, container: str) -> Iterator[None]:
    """While this lasts that container's node, n2, is lost; those who ask it have no connection to it yet."""
    with never_answering() as address, ThreadPoolExecutor(2) as threads:
        lab = Lab(SwarmOptions(REGISTRY, {"n2": address}, GPU, swarm.certificates))
        asking = threads.submit(lab.run, lambda engine: engine.exec(container, ["true"]))
        # One of which no swarm says anything.
        reach = partial(connect_to, address)
        node = NodeEngine("n9", address, timeout=3 * LIMIT, reach=reach)
        alone = threads.submit(asyncio.run, asyncio.wait_for(node.container("a"), LIMIT))
        yield
        with pytest.raises(ContainerExitedError, match="The node n2 does not answer: heartbeat failure"):
            asking.result()
        with pytest.raises(EngineUnreachableError, match=f"node n9 cannot be reached at {address}"):
            alone.result()


@contextmanager
def never_answering() -> Iterator[str]:
    """An address that a machine does not answer at: it takes no connection, and refuses none."""
    with socket.socket() as listener, ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"


def _node_infos() -> list[Any]:
    workbench = Workbench.open()
    return workbench.call(workbench.chosen_engine.nodes())


def test_a_rebuild_with_gpus(house: House, swarm: Swarm, lab: Lab, from_ipykernel: str) -> None:
    """Two GPUs: one is the project's, and one has to be free for the container that takes its place."""
    project = a_project(house, "gpu", OFFLINE.replace(FROM_BASE, from_ipykernel))
    (project.folder.path / "pyproject.toml").write_text("[tool.ds01]\ngpus = 1\n")
    with house.server() as server, a_notebook(server, project) as kernel:
        kernel.run("kept = 1\n%pip install -q tiny==1.0")
        await_drift(server, project, {"added": ["tiny"]})
        before = project.dockerfile.read_bytes(), project.image(), services(swarm, project)

        async def with_the_other(engine: SwarmEngine) -> dict[str, Any]:
            other = await engine.create(lab.spec("other", gpus=GpuRequest(1)))
            await engine.start(other.id)
            return await asyncio.to_thread(lambda: rebuilt(server, project))

        failed = lab.run(with_the_other)
        assert failed["phase"] == "failed"
        assert "insufficient resources on 3 nodes" in failed["error"]["message"]
        assert (project.dockerfile.read_bytes(), project.image(), services(swarm, project)) == before
        assert kernel.run("print(kept)") == "1\n"

        done = rebuilt(server, project)
        assert (done["phase"], done["error"]) == ("done", None)
        wait_for(lambda: kernel.state() == "idle", "the kernel is not back")
        assert kernel.run("import tiny; print('kept' in globals())") == "False\n"
        assert drift(server, project) == {}
        wait_for(lambda: len(services(swarm, project)) == 1, lambda: str(services(swarm, project)))
        (old,), (new,) = before[2].items(), services(swarm, project).items()
        assert (old[0] == new[0], old[1]) == (False, new[1])


def rebuilt(server: Server, project: Rebuilt) -> dict[str, Any]:
    return ended(server, project, begin(server, project))


def services(swarm: Swarm, project: Rebuilt) -> dict[str, str]:
    """The names of the project's containers, by their ids."""
    return services_of(swarm, "ds01-kernels.path", str(project.folder.path))


def services_of(swarm: Swarm, label: str, value: str) -> dict[str, str]:
    client = swarm.manager.client()
    found = client.services(filters={"label": f"{label}={value}"})
    client.close()
    return {one["ID"]: one["Spec"]["Labels"].get("ds01-kernels.swarm.name", "") for one in found}
