"""Which engine there is: the one that was asked for, or the first that answers, and why it is that one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ds01_kernels.engine import Engine, EngineInfo, EngineName
from ds01_kernels.engine.docker import DockerEngine
from ds01_kernels.engine.docker_connection import DEFAULT_ADDRESS, address, is_podman
from ds01_kernels.engine.docker_connection import connect as connect_docker
from ds01_kernels.engine.forwarding import ForwardingEngine
from ds01_kernels.engine.podman import PodmanEngine
from ds01_kernels.engine.podman_service import has_program, offered, refusal
from ds01_kernels.errors import EngineUnreachableError


@dataclass(frozen=True)
class Choice:
    """`why` is a sentence. `is_final`: for the life of this process; if not, it is to be looked for again."""

    engine: Engine
    name: EngineName
    why: str
    is_final: bool = True


def choose(
    name: EngineName,
    timeout: float,
    *,
    usual: str = DEFAULT_ADDRESS,
    said_by: str = "Workbench.engine",
    swarm: Callable[[], Engine] | None = None,
) -> Choice:
    """The engine of that name. `usual` is where Docker is when nobody says otherwise; `swarm` makes that of
    Docker Swarm, where there may be one.

    Blocks. Raises `EngineUnreachableError` when there is none, with what to install.
    """
    if name == "podman":
        return Choice(PodmanEngine(timeout=timeout), "podman", f"{said_by} says podman.")
    if name == "docker":
        return _docker(timeout, f"{said_by} says docker.")
    if name == "swarm" and swarm is None:
        raise EngineUnreachableError("Docker Swarm cannot be used here.", remedy="Use Docker or Podman.")
    if name == "swarm" and swarm is not None:
        return Choice(swarm(), "swarm", f"{said_by} says swarm.")
    for variable in ("DOCKER_HOST", "DOCKER_CONTEXT"):
        if value := os.environ.get(variable):
            return _docker(timeout, f"{variable} is {value}.")
    named = address()
    if named != DEFAULT_ADDRESS:
        return _docker(timeout, f"The current docker context has the address {named}.")
    path = usual.removeprefix("unix://")
    said = refusal(usual)
    if not said:
        return _docker(timeout, f"Docker's socket {path} answers.")
    without = f"Docker does not answer at {path} ({said})"
    at, is_there = offered(), has_program()
    if (at or is_there) and os.access(path, os.R_OK | os.W_OK):
        # It is down for the moment, with this user's containers: another engine would make others.
        why = f"{without}, but its socket is there; Workbench.engine can say podman."
        return Choice(DockerEngine(timeout=timeout), "docker", why, is_final=False)
    if at:
        return Choice(PodmanEngine(timeout=timeout), "podman", f"{without}, and Podman does at {at}.")
    if is_there:
        return Choice(
            PodmanEngine(timeout=timeout),
            "podman",
            f"{without}, and there is a podman, whose service is started when it is needed.",
        )
    raise EngineUnreachableError(
        f"{without}, and there is no podman.",
        remedy=_remedy(Path(path)),
    )


def _remedy(socket: Path) -> str:
    if not socket.exists():
        return (
            "Install one of them: on Debian and Ubuntu `sudo apt-get install docker.io` or `podman`. If "
            "Docker is installed, start it (`sudo systemctl start docker`); if it runs elsewhere, set "
            "DOCKER_HOST."
        )
    if not os.access(socket, os.R_OK | os.W_OK):
        return (
            "Ask the administrator to add you to the `docker` group, then log in again; or to install "
            "podman, which needs no group."
        )
    return "Start Docker (`sudo systemctl start docker`), or install podman."


def _docker(timeout: float, why: str) -> Choice:
    """What is at Docker's address may be Podman, which podman-docker puts there."""
    try:
        client = connect_docker(min(timeout, 10.0))
        try:
            found = is_podman(client.version())
        finally:
            client.close()
    except Exception:  # noqa: BLE001 - whoever asks the engine something hears what is wrong with it
        return Choice(DockerEngine(timeout=timeout), "docker", why, is_final=False)
    if found:
        return Choice(
            PodmanEngine(timeout=timeout, reach=connect_docker), "podman", f"{why} It is Podman that answers."
        )
    return Choice(DockerEngine(timeout=timeout), "docker", why)


class ChosenEngine(ForwardingEngine):
    """The engine that `find` finds, at the first call that needs one."""

    def __init__(self, find: Callable[[], Choice]) -> None:
        self._find = find
        self._choice: Choice | None = None
        self._choosing = asyncio.Lock()

    async def found_name(self) -> str:
        """What the engine is called that was found, even if it is away now; empty when there is none."""
        if self._choice is None:
            with suppress(EngineUnreachableError):
                await self._reached()
        return self._choice.name if self._choice else ""

    async def _reached(self) -> Engine:
        async with self._choosing:
            if self._choice is None or not self._choice.is_final:
                former = self._choice
                self._choice = await asyncio.to_thread(self._find)
                if former is not None and type(former.engine) is type(self._choice.engine):
                    # Streams may be open on it.
                    self._choice = replace(self._choice, engine=former.engine)
            return self._choice.engine

    async def info(self) -> EngineInfo:
        found = await super().info()
        return replace(found, why=self._choice.why) if self._choice else found

    async def close(self) -> None:
        choice, self._choice = self._choice, None
        if choice is not None:
            await choice.engine.close()
