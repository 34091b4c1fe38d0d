"""The Docker of each node, where the streams, files and logs of a running task are."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from docker import APIClient

from ds01_kernels.engine.docker import DockerEngine
from ds01_kernels.engine.docker_connection import connect_to
from ds01_kernels.engine.swarm_options import SwarmOptions, is_address
from ds01_kernels.engine.swarm_values import Answer, name_of
from ds01_kernels.errors import Ds01Error, EngineDeniedError, EngineError, EngineUnreachableError
from ds01_kernels.text import shown

#: The label of a node that says where its Docker is.
LABEL_ADDRESS = "ds01-kernels.docker"

_SEE = "docs/swarm.md says how the nodes are reached."


class NodeEngine(DockerEngine):
    """The Docker of the node `name`, at `address`; empty: the one that the swarm is managed through."""

    def __init__(
        self, name: str, address: str, *, timeout: float, reach: Callable[[float], APIClient]
    ) -> None:
        super().__init__(timeout=timeout, reach=reach)
        self.name, self.address = name, address

    async def put(self, container: str, archives: Sequence[bytes]) -> None:
        """Unpack tar archives in it, one after the other."""

        def ask(client: APIClient) -> None:
            for archive in archives:
                client.put_archive(container, "/", archive)

        await self._ask("write files into a container", ask)

    def _told(self, error: Ds01Error) -> Ds01Error:
        if not self.address:
            return error
        if isinstance(error, EngineUnreachableError):
            reason = re.search(r" \([^()]*\)\.$", str(error))
            return EngineUnreachableError(
                f"The Docker of the node {self.name} cannot be reached at {self.address}"
                f"{reason[0] if reason else '.'}",
                remedy=f"If it is lost, the swarm knows it after some seconds: then try again. {_SEE}",
            )
        if isinstance(error, EngineDeniedError):
            return EngineDeniedError(
                f"You may not use the Docker of the node {self.name} at {self.address}.", remedy=_SEE
            )
        message = re.sub(r"\bDocker (could not|took)", rf"Docker on the node {self.name} \1", str(error))
        error.args = (message,)
        return error


class NodeEngines:
    """They are kept until `close`. `reach` is the way to the manager, whose own node has it too."""

    def __init__(self, options: SwarmOptions, timeout: float, reach: Callable[[float], APIClient]) -> None:
        self._options = options
        self._timeout = timeout
        self._reach = reach
        self._known: dict[tuple[str, str], NodeEngine] = {}

    def of(self, node: Answer | None, own_node: str) -> NodeEngine:
        """The one of that node; `own_node` is the id of the manager's. Raises `EngineError`."""
        if node is None:
            raise EngineError("The node that the container ran on has left the swarm.")
        name, identity = name_of(node), str(node["ID"])
        if identity == own_node:
            address, reach = "", self._reach
        else:
            address = self._address(node, name)
            reach = partial(_connected, address, certificates=self._options.certificates)
        known = self._known.get((identity, address))
        if known is None:
            known = self._known[identity, address] = NodeEngine(
                name, address, timeout=self._timeout, reach=reach
            )
        return known

    def _address(self, node: Answer, name: str) -> str:
        given = self._options.nodes.get(name)
        said = str(((node.get("Spec") or {}).get("Labels") or {}).get(LABEL_ADDRESS) or "")
        address = given or said
        if not address:
            raise EngineError(
                f"It is not known where the Docker of the node {name} is.",
                remedy=f"Give the node a label (`docker node update --label-add {LABEL_ADDRESS}=ssh://{name} "
                f"{name}`), or name it in Workbench.swarm_nodes.",
            )
        # A label must not lead to a socket of this machine.
        if not is_address(address, local=bool(given)):
            raise EngineError(
                f"The node {name} has the address {shown(address, 100)!r}, which is none.",
                remedy="Write it as tcp://HOST:2376 or ssh://USER@HOST.",
            )
        if address.startswith("tcp://") and self._options.certificates is None:
            raise EngineError(
                f"The node {name} has the address {address}, and there are no certificates for it.",
                remedy="Name the folder of ca.pem, cert.pem and key.pem as Workbench.swarm_certificates, or "
                "use ssh. Without TLS, whoever reaches that port is root on the node.",
            )
        return address

    async def close(self) -> None:
        known, self._known = list(self._known.values()), {}
        for engine in known:
            await engine.close()


def _connected(address: str, timeout: float, certificates: Path | None) -> APIClient:
    return connect_to(address, timeout, certificates)
