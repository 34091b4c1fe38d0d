"""Swarm's services, tasks and nodes as the engine's values: pure.

A container of ours is a service that never has more than one task. What Swarm has no word for is in labels of
the service: they are written by managers alone, unlike what a task says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from ds01_kernels.engine import (
    ContainerInfo,
    ContainerState,
    EngineInfo,
    GpuRequest,
    NodeInfo,
)
from ds01_kernels.text import shown

Answer = Mapping[str, Any]

#: What the labels of ours begin with that say something to this engine alone.
_OWN = "ds01-kernels.swarm."
LABEL_NAME = f"{_OWN}name"
#: Whose it is. Others' are listed, and never found by name or id.
LABEL_UID = f"{_OWN}uid"
#: The image's id where it was built.
LABEL_IMAGE = f"{_OWN}image"
#: What stays the same when another service takes the place of one; kept files carry it too.
LABEL_KEY = f"{_OWN}key"
#: The ids of the services in whose place it is, oldest first.
LABEL_FORMER = f"{_OWN}former"
#: It was stopped: the exit code of its main process, or nothing.
LABEL_EXIT = f"{_OWN}exit"

NANO = 1_000_000_000

#: States of a task: https://docs.docker.com/engine/swarm/how-swarm-mode-works/swarm-task-states/
_ENDED = ("complete", "failed", "shutdown", "remove")
_NEVER_RAN = ("rejected", "orphaned")
ENDED = (*_ENDED, *_NEVER_RAN)
_MOST_SAID = 300

NO_NAMED_GPUS = "Docker Swarm gives a number of GPUs: not all of a node, and none by its name."


@dataclass(frozen=True)
class Found:
    """A service of ours with its task, and the node of that; None: there is none."""

    service: Answer
    task: Answer | None = None
    node: Answer | None = None

    @property
    def id(self) -> str:
        return str(self.service["ID"])

    @property
    def labels(self) -> Mapping[str, str]:
        """All of the service."""
        return self.service["Spec"].get("Labels") or {}

    @property
    def key(self) -> str:
        return self.labels.get(LABEL_KEY, "")

    @property
    def replicas(self) -> int:
        mode = self.service["Spec"].get("Mode") or {}
        return int((mode.get("Replicated") or {}).get("Replicas") or 0)

    @property
    def task_state(self) -> str:
        return state_of(self.task)

    @property
    def container_id(self) -> str:
        """Of the task on its node, checked for what it may be; empty where there is none."""
        status = (self.task or {}).get("Status") or {}
        identity = str((status.get("ContainerStatus") or {}).get("ContainerID") or "")
        return identity if re.fullmatch(r"[0-9a-f]{64}", identity) else ""

    @property
    def node_id(self) -> str:
        return str((self.task or {}).get("NodeID") or "")

    @property
    def is_lost(self) -> bool:
        """Whether the task ran, or was about to, on a node that is gone or does not answer."""
        if not self.node_id or self.task_state in _ENDED:
            return False
        return self.node is None or is_down(self.node)


def container_info(found: Found) -> ContainerInfo:
    spec = found.service["Spec"]
    template = spec["TaskTemplate"]
    resources = template.get("Resources") or {}
    limits = resources.get("Limits") or {}
    state, exit_code = _state(found)
    return ContainerInfo(
        id=found.id,
        name=found.labels.get(LABEL_NAME, ""),
        state=state,
        image_id=found.labels.get(LABEL_IMAGE, ""),
        labels={name: value for name, value in found.labels.items() if not name.startswith(_OWN)},
        created=_moment(found.service.get("CreatedAt")) or datetime.fromtimestamp(0, UTC),
        exit_code=exit_code,
        # When its task was made: the moment of its state changes while it is being ended.
        started=_moment(found.task.get("CreatedAt")) if found.task and state == "running" else None,
        memory=int(limits.get("MemoryBytes") or 0) or None,
        gpus=_gpus(resources),
        mounts={
            str(mount.get("Target")): str(mount.get("Source"))
            for mount in template["ContainerSpec"].get("Mounts") or ()
            if mount.get("Type") == "bind"
        },
        cpus=int(limits.get("NanoCPUs") or 0) / NANO or None,
        node=name_of(found.node) if found.node and state != "created" else "",
        problem=_problem(found, state),
    )


def _state(found: Found) -> tuple[ContainerState, int | None]:
    if found.replicas == 0:
        code = found.labels.get(LABEL_EXIT)
        return ("created", None) if code is None else ("exited", int(code) if code.isdigit() else None)
    if found.is_lost:
        return "dead", None
    if found.task_state == "running":
        return "running", None
    if found.task_state not in ENDED:
        return "created", None
    if found.task_state in _NEVER_RAN or found.task is None:
        return "exited", None
    status = found.task["Status"].get("ContainerStatus") or {}
    code = status.get("ExitCode")
    return "exited", code if isinstance(code, int) else None


def _problem(found: Found, state: ContainerState) -> str:
    if state == "dead":
        return loss_of(found.node)
    if state == "exited" and found.replicas and found.task_state in _NEVER_RAN:
        said = error_of(found.task).rstrip(".") or "it was not started"
        return f"{said[0].upper()}{said[1:]}."
    if state == "exited" and found.replicas and found.task_state == "shutdown":
        # The swarm has ended it, as it does when its node is drained.
        return node_problem(found.node) if found.node else ""
    return ""


def state_of(task: Answer | None) -> str:
    return str(((task or {}).get("Status") or {}).get("State") or "new")


def error_of(task: Answer | None) -> str:
    """What Swarm, or the node, says is wrong with it, on one line."""
    return shown(str(((task or {}).get("Status") or {}).get("Err") or ""), _MOST_SAID)


def newest(tasks: Iterable[Answer]) -> Answer | None:
    return max(tasks, key=lambda task: str(task.get("CreatedAt")), default=None)


def former(labels: Mapping[str, str]) -> list[str]:
    return labels.get(LABEL_FORMER, "").split()


def _gpus(resources: Answer) -> GpuRequest | None:
    counts = _counts((resources.get("Reservations") or {}).get("GenericResources"))
    return GpuRequest(sum(counts.values())) if counts else None


def _counts(generic: Sequence[Answer] | None) -> dict[str, int]:
    """How many there are of each kind: by number, or one for each name."""
    counts: dict[str, int] = {}
    for one in generic or ():
        discrete, named = one.get("DiscreteResourceSpec") or {}, one.get("NamedResourceSpec") or {}
        kind = str(discrete.get("Kind") or named.get("Kind") or "")
        counts[kind] = counts.get(kind, 0) + (int(discrete.get("Value") or 0) if discrete else 1)
    return counts


# Nodes


def is_down(node: Answer) -> bool:
    """Whether it counts as lost. One that has not been heard of since its manager was started does not:

    https://github.com/moby/swarmkit/blob/v2.1.1/manager/dispatcher/dispatcher.go, `markNodesUnknown`.
    """
    return _state_of_node(node) == "down"


def _state_of_node(node: Answer) -> str:
    return str((node.get("Status") or {}).get("State") or "unknown")


def name_of(node: Answer) -> str:
    return shown(str((node.get("Description") or {}).get("Hostname") or ""), 100)


def node_problem(node: Answer) -> str:
    """Why nothing runs there, or may be started there; empty: it can."""
    name, state = name_of(node), _state_of_node(node)
    if state == "down":
        said = shown(str((node.get("Status") or {}).get("Message") or state), _MOST_SAID)
        return f"The node {name} does not answer: {said.rstrip('.')}."
    if state != "ready":
        return (
            f"It is not known whether the node {name} answers: its manager has just been started or replaced."
        )
    availability = (node.get("Spec") or {}).get("Availability")
    if availability in ("drain", "pause"):
        return f"The node {name} takes nothing new: its availability is {availability}."
    return ""


def loss_of(node: Answer | None) -> str:
    """What became of the node of something that is lost; None for one that the swarm knows no more."""
    return node_problem(node) if node else "Its node has left the swarm."


def node_info(node: Answer, tasks: Iterable[Answer], gpu: str) -> NodeInfo:
    """`tasks` are all of the swarm's, whoever's they are."""
    resources = (node.get("Description") or {}).get("Resources") or {}
    here = [task for task in tasks if task.get("NodeID") == node.get("ID") and state_of(task) not in ENDED]
    return NodeInfo(
        name=name_of(node),
        cpus=int(resources.get("NanoCPUs") or 0) // NANO,
        memory=int(resources.get("MemoryBytes") or 0),
        gpus=_counts(resources.get("GenericResources")).get(gpu, 0),
        given_gpus=sum(_counts(task.get("GenericResources")).get(gpu, 0) for task in here),
        problem=node_problem(node),
        properties=_properties(node),
    )


def _properties(node: Answer) -> dict[str, str]:
    """https://docs.docker.com/reference/cli/docker/service/create/#constraint"""
    spec, description = node.get("Spec") or {}, node.get("Description") or {}
    platform = description.get("Platform") or {}
    labels = (spec.get("Labels") or {}), ((description.get("Engine") or {}).get("Labels") or {})
    return {
        "node.id": str(node.get("ID") or ""),
        "node.hostname": name_of(node),
        "node.role": str(spec.get("Role") or ""),
        "node.ip": str((node.get("Status") or {}).get("Addr") or ""),
        "node.platform.os": str(platform.get("OS") or ""),
        "node.platform.arch": str(platform.get("Architecture") or ""),
        **{f"node.labels.{name}": str(value) for name, value in labels[0].items()},
        **{f"engine.labels.{name}": str(value) for name, value in labels[1].items()},
    }


def engine_info(
    docker: EngineInfo, nodes: Sequence[NodeInfo], has_registry: bool, forbids_privileges: bool
) -> EngineInfo:
    """The swarm of these nodes; `docker` is what the one says of itself that manages it."""
    ready = [node for node in nodes if not node.problem]
    return replace(
        docker,
        name="swarm",
        local=False,
        cpus=sum(node.cpus for node in ready),
        memory=sum(node.memory for node in ready),
        cannot=_cannot(docker.cannot, nodes, has_registry, forbids_privileges),
    )


def _cannot(
    docker: Mapping[str, str], nodes: Sequence[NodeInfo], has_registry: bool, forbids_privileges: bool
) -> dict[str, str]:
    cannot = {name: sentence for name, sentence in docker.items() if name != "gpus"}
    cannot["keep"] = (
        "Docker Swarm cannot start again what has ended: another container takes its place, without what was "
        "installed in it at run time."
    )
    if not any(node.gpus for node in nodes):
        cannot["gpus"] = "This swarm cannot give GPUs to containers: no node has announced one."
    else:
        cannot["named gpus"] = NO_NAMED_GPUS
    if not has_registry:
        cannot["nodes"] = (
            "Containers run on one node only, where the images are built: Workbench.swarm_registry is not "
            "set."
        )
    if not forbids_privileges:
        cannot["no new privileges"] = (
            "This Docker Swarm cannot keep programs in a container from gaining privileges "
            "(no-new-privileges): the setting of that name in each daemon's configuration can."
        )
    return cannot


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text and not text.startswith("0001-") else None
