"""A `ContainerSpec` as a service of Swarm's: pure."""

from __future__ import annotations

import re
import secrets
from typing import Any

from ds01_kernels.engine import ContainerSpec
from ds01_kernels.engine.placing import on_node
from ds01_kernels.engine.swarm_values import (
    LABEL_EXIT,
    LABEL_FORMER,
    LABEL_IMAGE,
    LABEL_KEY,
    LABEL_NAME,
    LABEL_UID,
    NANO,
    NO_NAMED_GPUS,
    Found,
    former,
)
from ds01_kernels.errors import BadInputError, ConflictError, EngineError

_FORMER_KEPT = 20
#: Seconds for a main process to end that Swarm itself ends.
_GRACE = 10
#: Of the API: https://docs.docker.com/reference/api/engine/version-history/#v144-api-changes
_NO_NEW_PRIVILEGES_SINCE = (1, 44)


def service_spec(
    spec: ContainerSpec,
    *,
    uid: int,
    image_id: str,
    reference: str,
    own_node: str,
    gpu: str,
    api: tuple[int, ...],
    log_driver: str,
) -> dict[str, Any]:
    """The service for `spec`, with no task yet.

    `reference` is what the nodes know the image by; `own_node` the id of the one that has it, where it is the
    only one. Raises `EngineError` for what Swarm cannot do.
    """
    if spec.network == "none":
        raise EngineError(
            f"Docker Swarm could not create {spec.name}, which is to have no network: it has none like that.",
            remedy="Leave `network` empty, or name an attachable network of the swarm.",
        )
    own = {
        LABEL_NAME: spec.name,
        LABEL_UID: str(uid),
        LABEL_IMAGE: image_id,
        LABEL_KEY: secrets.token_hex(16),
    }
    return {
        # Names of services are everybody's, and cannot be changed.
        "Name": service_name(),
        "Labels": {**spec.labels, **own},
        "Mode": {"Replicated": {"Replicas": 0}},
        # The other way needs IPVS, and nothing is published.
        "EndpointSpec": {"Mode": "dnsrr"},
        "TaskTemplate": {
            "ContainerSpec": _container(spec, reference, api),
            "Resources": _resources(spec, gpu),
            "RestartPolicy": {"Condition": "none"},
            "Placement": {"Constraints": _constraints(spec, own_node)},
            **({"Networks": [{"Target": spec.network}]} if spec.network else {}),
            # Docker's default keeps everything for ever.
            **({"LogDriver": _LOGS} if log_driver == "json-file" else {}),
        },
    }


def check_name(name: str) -> None:
    """Raises `BadInputError` for what Docker would not have as the name of a container."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise BadInputError(f"{name!r} cannot be the name of a container.")


def taken(name: str) -> ConflictError:
    return ConflictError(f"The container name {name} is already in use.")


_LOGS = {"Name": "json-file", "Options": {"max-size": "10m", "max-file": "2"}}


def service_name() -> str:
    return f"ds01-{secrets.token_hex(12)}"


def _container(spec: ContainerSpec, reference: str, api: tuple[int, ...]) -> dict[str, Any]:
    mounts: list[dict[str, Any]] = [
        {
            "Type": "bind",
            "Source": str(mount.source),
            "Target": str(mount.target),
            "ReadOnly": mount.read_only,
        }
        for mount in spec.mounts
    ]
    if spec.shm_size:
        options = {"SizeBytes": spec.shm_size, "Mode": 0o1777}
        mounts.append({"Type": "tmpfs", "Target": "/dev/shm", "TmpfsOptions": options})  # noqa: S108
    return {
        "Image": reference,
        "Command": list(spec.entrypoint),
        "Labels": dict(spec.labels),
        "Hostname": spec.hostname,
        "Env": [f"{name}={value}" for name, value in {**_hidden(spec), **spec.env}.items()],
        "Dir": spec.working_dir,
        "User": spec.user,
        "Mounts": mounts,
        "Init": True,
        # An image's STOPSIGNAL is meant for its own main process, which is not the one that runs.
        "StopSignal": "SIGTERM",
        "StopGracePeriod": _GRACE * NANO,
        # Nor is its health check, whose failure would end the task.
        "Healthcheck": {"Test": ["NONE"]},
        **({"Privileges": {"NoNewPrivileges": True}} if can_forbid_privileges(api) else {}),
    }


def _hidden(spec: ContainerSpec) -> dict[str, str]:
    """Where NVIDIA's runtime is the default, images may ask for all GPUs by a variable of theirs.

    https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/docker-specialized.html
    """
    return {} if spec.gpus else {"NVIDIA_VISIBLE_DEVICES": "void"}


def can_forbid_privileges(api: tuple[int, ...]) -> bool:
    return api >= _NO_NEW_PRIVILEGES_SINCE


def _resources(spec: ContainerSpec, gpu: str) -> dict[str, Any]:
    """Limits reserve nothing, as elsewhere: only a GPU cannot be in two containers."""
    limits = {
        "MemoryBytes": spec.memory,
        "NanoCPUs": None if spec.cpus is None else round(spec.cpus * NANO),
        "Pids": spec.pids_limit,
    }
    wanted: list[dict[str, Any]] = []
    if spec.gpus:
        if spec.gpus.ids or spec.gpus.count < 0:
            raise EngineError(
                f"Docker Swarm could not create {spec.name}, which is to have "
                f"{'GPUs by their names' if spec.gpus.ids else 'all GPUs'}. {NO_NAMED_GPUS}",
                remedy="Set `gpus` to a number.",
            )
        wanted = [{"DiscreteResourceSpec": {"Kind": gpu, "Value": spec.gpus.count}}]
    return {
        "Limits": {name: value for name, value in limits.items() if value},
        "Reservations": {"GenericResources": wanted} if wanted else {},
    }


def _constraints(spec: ContainerSpec, own_node: str) -> list[str]:
    return [
        *([f"node.id=={own_node}"] if own_node else []),
        *([on_node(spec.node)] if spec.node else []),
        *spec.constraints,
    ]


def successor(found: Found) -> dict[str, Any]:
    """The service that is to take that one's place. Until it does it has no name: nobody finds it."""
    spec = dict(found.service["Spec"])
    labels = {name: value for name, value in found.labels.items() if name not in (LABEL_NAME, LABEL_EXIT)}
    labels[LABEL_FORMER] = " ".join([*former(found.labels), found.id][-_FORMER_KEPT:])
    return {
        **spec,
        "Name": service_name(),
        "Labels": labels,
        "Mode": {"Replicated": {"Replicas": 1}},
    }
