"""On which machines a container may be: pure."""

from __future__ import annotations

import ipaddress

from ds01_kernels.engine import ContainerSpec, NodeInfo
from ds01_kernels.errors import EngineError


def refuse_place(spec: ContainerSpec, engine: str) -> None:
    """What an engine with one machine says. Raises `EngineError` where it is to be on a certain one."""
    asked = [f"on the node {spec.node}"] if spec.node else []
    asked += [f"where {one}" for one in spec.constraints]
    if asked:
        raise EngineError(
            f"{engine} has one machine, and {spec.name} is to run {' and '.join(asked)}.",
            remedy="Take `node` and `constraints` out of the settings, or use Docker Swarm.",
        )


def on_node(name: str) -> str:
    """The constraint that the node has that name."""
    return f"node.hostname=={name}"


def fulfils(node: NodeInfo, constraint: str) -> bool:
    """Whether Docker Swarm finds it true of that node, which has `properties`.

    https://github.com/moby/swarmkit/blob/v2.1.1/manager/constraint/constraint.go
    """
    is_wanted = "==" in constraint
    name, _, value = constraint.partition("==" if is_wanted else "!=")
    has = node.properties.get(name, "")
    if name != "node.ip":
        return (has.lower() == value.lower()) is is_wanted
    try:
        return (ipaddress.ip_address(has) in ipaddress.ip_network(value, strict=False)) is is_wanted
    except ValueError:
        return False
