"""What the admin says of a swarm, and which addresses of its nodes are taken."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

#: The kind of generic resource that NVIDIA's GPUs are usually announced as:
#: https://docs.docker.com/reference/cli/dockerd/#node-generic-resources
GPU_KIND = "NVIDIA-GPU"

_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])"
_PORT = r":\d{1,5}"
_REMOTE = re.compile(
    rf"tcp://{_HOST}{_PORT}|ssh://(?:[A-Za-z0-9_][\w.-]{{0,63}}@)?{_HOST}(?:{_PORT})?(?:/[\w./-]{{1,200}})?",
    re.ASCII,
)
_LOCAL = re.compile(r"unix:///[\w./-]{1,100}", re.ASCII)
_REGISTRY = re.compile(
    rf"{_HOST}(?:{_PORT})?(?:/[a-z0-9]+(?:[._-][a-z0-9]+)*){{0,6}}",
    re.ASCII,
)
_KIND = re.compile(r"[A-Za-z0-9](?:[\w.-]{0,98}[A-Za-z0-9])?", re.ASCII)


@dataclass(frozen=True)
class SwarmOptions:
    """`registry` is where the nodes get images from: HOST:PORT, with a path perhaps; empty: there is none.

    `nodes` are addresses of the nodes' Docker by the nodes' names; they go before what labels of the nodes
    say. `gpu` is the kind of generic resource that a GPU is; `certificates` the folder of ``ca.pem``,
    ``cert.pem`` and ``key.pem`` for addresses with ``tcp://``.
    """

    registry: str = ""
    nodes: Mapping[str, str] = field(default_factory=dict)
    gpu: str = GPU_KIND
    certificates: Path | None = None


def is_address(text: str, *, local: bool) -> bool:
    """Whether it is an address of a node's Docker; `local`: a socket of this machine is one too."""
    return bool(_REMOTE.fullmatch(text)) or (local and bool(_LOCAL.fullmatch(text)))


def is_registry(text: str) -> bool:
    return bool(_REGISTRY.fullmatch(text))


def is_kind(text: str) -> bool:
    """Whether it can be the name of a generic resource."""
    return bool(_KIND.fullmatch(text))
