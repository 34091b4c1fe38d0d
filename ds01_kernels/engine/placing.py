"""What engines with one machine say to who wants a container on a certain one."""

from __future__ import annotations

from ds01_kernels.engine import ContainerSpec
from ds01_kernels.errors import EngineError


def refuse_place(spec: ContainerSpec, engine: str) -> None:
    """Raises `EngineError` where the container is to be on a certain machine."""
    asked = [f"on the node {spec.node}"] if spec.node else []
    asked += [f"where {one}" for one in spec.constraints]
    if asked:
        raise EngineError(
            f"{engine} has one machine, and {spec.name} is to run {' and '.join(asked)}.",
            remedy="Take `node` and `constraints` out of the settings, or use Docker Swarm.",
        )
