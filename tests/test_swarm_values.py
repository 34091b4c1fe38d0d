"""What Swarm says, as the engine's values, and a container as a service: without a swarm."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import docker.errors
import pytest

from ds01_kernels.engine import ContainerFile, ContainerSpec, GpuRequest, NodeInfo
from ds01_kernels.engine.docker_files import packed
from ds01_kernels.engine.swarm_files import kept_file
from ds01_kernels.engine.swarm_nodes import NodeEngines
from ds01_kernels.engine.swarm_options import SwarmOptions, is_address, is_kind, is_registry
from ds01_kernels.engine.swarm_services import Services, own_node
from ds01_kernels.engine.swarm_spec import service_spec, successor
from ds01_kernels.engine.swarm_starting import until_running
from ds01_kernels.engine.swarm_values import Found, container_info, node_info
from ds01_kernels.errors import ContainerExitedError, EngineError, NoRoomError

IMAGE = "sha256:" + "1" * 64


def service(spec: ContainerSpec, api: tuple[int, ...] = (1, 41), **more: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"image_id": IMAGE, "reference": IMAGE, "own_node": "", "gpu": "GPU", **more}
    made = service_spec(spec, uid=7, api=api, log_driver="", **given)
    return {"ID": "a" * 25, "CreatedAt": "2026-11-23T02:00:10.317770426Z", "Spec": made}


def spec(**more: Any) -> ContainerSpec:
    return ContainerSpec("p._.7", IMAGE, ("sleep",), **more)


def task(state: str, error: str = "", code: int = 0, **status: Any) -> dict[str, Any]:
    at = {"Timestamp": "2026-11-23T02:00:14.797240177Z", "State": state, "Err": error}
    made = {"NodeID": "n", "CreatedAt": "2026-11-23T02:00:12.79724Z"}
    return {**made, "Status": {**at, "ContainerStatus": {"ExitCode": code, **status}}}


def node(state: str = "ready", availability: str = "active", **resources: Any) -> dict[str, Any]:
    return {
        "ID": "n",
        "Spec": {"Availability": availability, "Labels": {}},
        "Description": {"Hostname": "n2", "Resources": {"NanoCPUs": 4 * 10**9, **resources}},
        "Status": {"State": state, "Message": "heartbeat failure" if state == "down" else ""},
    }


LOST = "The node n2 does not answer: heartbeat failure."
DRAINED = "The node n2 takes nothing new: its availability is drain."


@pytest.mark.parametrize(
    ("made", "on", "expected"),
    [
        (None, None, ("created", None, "")),
        ({**task("pending", "no suitable node"), "NodeID": ""}, None, ("created", None, "")),
        (task("preparing"), node(), ("created", None, "")),
        (task("running"), node(), ("running", None, "")),
        (task("running"), node("down"), ("dead", None, LOST)),
        # What nodes are when their manager has just been started, until they have reported to it.
        (task("running"), node("unknown"), ("running", None, "")),
        (task("running"), node("disconnected"), ("running", None, "")),
        (task("shutdown", code=143), node(), ("exited", 143, "")),
        (task("shutdown", code=143), node(availability="drain"), ("exited", 143, DRAINED)),
        (task("complete"), node(availability="drain"), ("exited", 0, "")),
        # What Swarm makes of it when its node is down.
        (task("rejected", "assigned node no longer meets constraints"), node("down"), ("dead", None, LOST)),
        (task("orphaned"), None, ("dead", None, "Its node has left the swarm.")),
        (task("failed", code=143), node(), ("exited", 143, "")),
        (task("complete"), node("down"), ("exited", 0, "")),
        (
            task("rejected", "no such image: \x1b[31mX"),
            node(),
            ("exited", None, "No such image: \ufffd[31mX."),
        ),
        (task("failed", code="7"), node(), ("exited", None, "")),
    ],
)
def test_states(made: Any, on: Any, expected: tuple[str, int | None, str]) -> None:
    answer = service(spec())
    answer["Spec"]["Mode"] = {"Replicated": {"Replicas": 1}}
    info = container_info(Found(answer, made, on))
    state, code, problem = expected
    assert (info.state, info.exit_code, info.problem) == (state, code, problem)
    assert (info.started is not None) == (state == "running")


@pytest.mark.parametrize(
    ("made", "on"),
    [
        (task("preparing"), node("down")),
        (task("rejected", "assigned node no longer meets constraints"), node("down")),
        (task("running"), node("down")),
        (task("assigned"), None),
    ],
)
def test_a_node_that_is_lost_during_a_start_is_told_apart(made: Any, on: Any) -> None:
    """Whoever starts a kernel starts it once more then, elsewhere."""
    answer = service(spec())
    answer["Spec"]["Mode"] = {"Replicated": {"Replicas": 1}}
    found = Found(answer, made, on)

    async def look() -> Found:
        return found

    said = "n2 does not answer" if on else "its node has left the swarm"
    with pytest.raises(ContainerExitedError, match=rf"could not start p\._\.7: .*{said}"):
        asyncio.run(until_running(look, container_info(found), 60))


def test_who_waits_for_a_node_that_takes_nothing_is_told_where_it_is_said() -> None:
    answer = service(spec(node="n2"))
    answer["Spec"]["Mode"] = {"Replicated": {"Replicas": 1}}

    def pending(said: str) -> str:
        async def look() -> Found:
            return Found(answer, {**task("pending", f"no suitable node ({said})"), "NodeID": ""})

        with pytest.raises(NoRoomError, match=r"It wants node\.hostname==n2\.") as refusal:
            asyncio.run(until_running(look, container_info(Found(answer)), 60))
        return str(refusal.value)

    lost = pending("scheduling constraints not satisfied on 2 nodes; 1 node not available for new tasks")
    assert lost.endswith("`jupyter ds01 nodes` says why a node is not available.")
    assert "jupyter" not in pending("insufficient resources on 3 nodes")


def test_the_id_of_its_container_is_one() -> None:
    for said, id_ in (("f" * 64, "f" * 64), ("../x", ""), ("f" * 63, ""), (3, "")):
        assert Found(service(spec()), task("running", ContainerID=said)).container_id == id_


def test_a_successor_has_no_name_until_it_runs() -> None:
    first = Found(service(spec(labels={"a": "b"})))
    after = successor(first)
    assert after["Name"] != first.service["Spec"]["Name"]
    labels = {**first.labels, **after["Labels"]}
    assert after["Labels"] == {
        name: value for name, value in labels.items() if name != "ds01-kernels.swarm.name"
    }
    assert after["Labels"]["ds01-kernels.swarm.former"] == first.id
    assert after["TaskTemplate"] == first.service["Spec"]["TaskTemplate"]
    assert container_info(first).labels == {"a": "b"}


def test_what_a_container_may_is_asked_for_where_it_can_be() -> None:
    def container(made: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = made["Spec"]["TaskTemplate"]["ContainerSpec"]
        return found

    assert "Privileges" not in container(service(spec(), (1, 43)))
    assert container(service(spec(), (1, 44)))["Privileges"] == {"NoNewPrivileges": True}
    # An image that asks for all GPUs by itself gets none.
    assert container(service(spec()))["Env"] == ["NVIDIA_VISIBLE_DEVICES=void"]
    assert container(service(spec(gpus=GpuRequest(1))))["Env"] == []
    placement = service(spec(node="n2", constraints=("node.labels.room==2",)), own_node="n")
    assert placement["Spec"]["TaskTemplate"]["Placement"]["Constraints"] == [
        "node.id==n",
        "node.hostname==n2",
        "node.labels.room==2",
    ]
    with pytest.raises(EngineError, match="is to have no network"):
        service(spec(network="none"))


def test_gpus_of_a_node_by_number_or_by_name() -> None:
    def named(name: str) -> dict[str, Any]:
        return {"NamedResourceSpec": {"Kind": "GPU", "Value": name}}

    def counted(count: int) -> dict[str, Any]:
        return {"DiscreteResourceSpec": {"Kind": "GPU", "Value": count}}

    other = {"DiscreteResourceSpec": {"Kind": "SSD", "Value": 5}}
    tasks = [{**task("running"), "GenericResources": [named("a")]}]
    # One that has ended holds none; nor does one elsewhere.
    tasks += [{**task("failed"), "GenericResources": [counted(1)]}]
    tasks += [{**task("running"), "NodeID": "m", "GenericResources": [counted(1)]}]
    for resources in ([named("a"), named("b"), other], [counted(2), other]):
        found = node_info(node(GenericResources=resources, MemoryBytes=5), tasks, "GPU")
        assert replace(found, properties={}) == NodeInfo("n2", 4, 5, 2, 1)


def test_what_constraints_may_ask_of_a_node() -> None:
    answer = node()
    answer["Spec"] |= {"Role": "worker", "Labels": {"disk": "fast"}}
    answer["Status"] |= {"Addr": "10.0.0.2"}
    platform = {"OS": "linux", "Architecture": "x86_64"}
    answer["Description"] |= {"Platform": platform, "Engine": {"Labels": {"room": "2"}}}
    assert node_info(answer, [], "GPU").properties == {
        "node.id": "n",
        "node.hostname": "n2",
        "node.role": "worker",
        "node.ip": "10.0.0.2",
        "node.platform.os": "linux",
        "node.platform.arch": "x86_64",
        "node.labels.disk": "fast",
        "engine.labels.room": "2",
    }
    assert node_info(node(), [], "GPU").gpus == 0
    assert node_info(node("down"), [], "GPU").problem == LOST
    assert "its availability is drain" in node_info(node(availability="drain"), [], "GPU").problem


@pytest.mark.parametrize(
    ("text", "remote", "local"),
    [
        ("ssh://n2", True, True),
        ("ssh://me@n2.lab:22022/run/docker.sock", True, True),
        ("tcp://10.0.0.2:2376", True, True),
        ("tcp://[::1]:2376", True, True),
        ("unix:///run/docker.sock", False, True),
        *((bad, False, False) for bad in ("", "n2", "tcp://n2", "tcp://n2:2376/x", "http://n2:2375")),
        *(
            (bad, False, False)
            for bad in ("ssh://-oProxyCommand=x", "ssh://me:word@n2", "ssh://n2\n", "unix://x")
        ),
    ],
)
def test_addresses_of_nodes(text: str, remote: bool, local: bool) -> None:
    assert (is_address(text, local=False), is_address(text, local=True)) == (remote, local)


def test_registries_and_kinds() -> None:
    assert all(map(is_registry, ("registry.lab:5000", "registry.lab/a/b-c", "10.0.0.1:5000")))
    assert not any(map(is_registry, ("", "http://r", "r:5000/", "r/A", "r/a:tag", "r@sha256:1", "-r")))
    assert all(map(is_kind, ("NVIDIA-GPU", "gpu")))
    assert not any(map(is_kind, ("", "a b", "a=1", "-a")))


def test_nodes_are_reached_as_the_settings_or_their_labels_say() -> None:
    def reached(label: str, **options: Any) -> str:
        engines = NodeEngines(
            SwarmOptions(**options), 1, lambda limit: pytest.fail("it is not to be reached")
        )
        labelled = node()
        labelled["Spec"]["Labels"] = {"ds01-kernels.docker": label}
        return engines.of(labelled, "own").address

    assert reached("ssh://n2") == "ssh://n2"
    assert reached("ssh://n2", nodes={"n2": "unix:///run/a.sock"}) == "unix:///run/a.sock"
    assert reached("tcp://n2:2376", certificates=Path("/certs")) == "tcp://n2:2376"
    for label, said in (
        ("unix:///run/docker.sock", "which is none"),
        ("tcp://n2:2376", "no certificates"),
        ("", "It is not known"),
    ):
        with pytest.raises(EngineError, match=said):
            reached(label)


def test_a_docker_that_manages_no_swarm_is_told_apart() -> None:
    assert own_node({"Swarm": {"ControlAvailable": True, "NodeID": "n"}}) == "n"
    for about in ({}, {"Swarm": {"LocalNodeState": "active", "ControlAvailable": False}}):
        with pytest.raises(EngineError, match="manages no swarm"):
            own_node(about)


def test_the_last_kept_file_counts() -> None:
    def archive(content: bytes | None) -> bytes:
        return packed([ContainerFile(PurePosixPath("/a/b"), content, 0, 0, 0o644)])

    archives = [archive(b"one"), archive(b"two")]
    assert kept_file(archives, PurePosixPath("/a/b")) == b"two"
    assert kept_file(archives, PurePosixPath("/a/c")) is None
    with pytest.raises(EngineError, match="not a regular file"):
        kept_file([*archives, archive(None)], PurePosixPath("/a/b"))


class Going:
    """A manager whose only service is removed by somebody when its task is asked for."""

    def __init__(self) -> None:
        self._listed = [service(spec())]

    def services(self, filters: Any) -> list[dict[str, Any]]:
        return list(self._listed)

    def tasks(self, filters: Any) -> list[dict[str, Any]]:
        self._listed.clear()
        raise docker.errors.NotFound("service not found")


def test_a_service_that_goes_while_it_is_looked_at_is_none() -> None:
    assert Services(7).find(Going(), "p._.7") is None
    assert Services(7).all(Going(), {}) == []
