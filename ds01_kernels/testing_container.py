"""The containers of `testing.FakeEngine`, and the machines that they are on."""

from __future__ import annotations

import os
import secrets
import signal
import socket
from asyncio.subprocess import Process
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from ds01_kernels.connection import SOCKETS
from ds01_kernels.engine import ContainerInfo, ContainerSpec, EngineInfo, NodeInfo
from ds01_kernels.errors import NoRoomError


@dataclass
class FakeContainer:
    """`image_files` are those of its image; `former_ids` what it was called on machines that it left."""

    spec: ContainerSpec
    info: ContainerInfo
    image_files: dict[str, bytes | None]
    files: dict[str, bytes | None]
    processes: list[Process] = field(default_factory=list)
    former_ids: set[str] = field(default_factory=set)

    def start(self, node: str, *, keeps_files: bool) -> None:
        if self.info.running:
            return
        if not keeps_files and self.info.state != "created":
            self.former_ids.add(self.info.id)
            self.info, self.files = replace(self.info, id=secrets.token_hex(32)), dict(self.image_files)
        self.info = replace(
            self.info,
            state="running",
            exit_code=None,
            oom_killed=False,
            started=datetime.now(UTC),
            node=node,
            problem="",
        )
        self._decline()

    def _decline(self) -> None:
        """Nothing comes out of it by itself: whoever waits for that (`agent_listener`) is told so."""
        for mount in self.spec.mounts:
            if mount.target == SOCKETS:
                for path in filter(Path.is_socket, mount.source.iterdir()):
                    with socket.socket(socket.AF_UNIX) as caller, suppress(OSError):
                        caller.connect(str(path))

    def end(self, exit_code: int, oom_killed: bool = False) -> None:
        if self.info.running:
            self.info = replace(self.info, state="exited", exit_code=exit_code, oom_killed=oom_killed)
            self._kill()

    def lose(self, problem: str) -> None:
        """Its machine does not answer any more."""
        if self.info.running:
            self.info = replace(self.info, state="dead", problem=problem)
            self._kill()

    def _kill(self) -> None:
        for process in self.processes:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        self.processes.clear()

    def host_directory(self, cwd: str) -> str | None:
        """The directory of this machine for a working directory in the container; None for this process's."""
        wanted = PurePosixPath(cwd or self.spec.working_dir or "/")
        for mount in self.spec.mounts:
            if wanted.is_relative_to(mount.target):
                return str(mount.source / wanted.relative_to(mount.target))
        return None


@dataclass
class FakeMachines:
    """`names` of machines, none where the engine has one; `gpus` of each, None where nobody counts them."""

    names: Sequence[str] = ()
    gpus: int | None = None
    lost: set[str] = field(default_factory=set)

    def place(self, spec: ContainerSpec, others: Iterable[FakeContainer]) -> str:
        """Where that container is to run. Raises `NoRoomError`."""
        running = [other for other in others if other.info.running]
        names = self.names or ("",)
        for name in names:
            taken = sum(self._gpus_of(other.spec) for other in running if other.info.node == name)
            is_right = name not in self.lost and spec.node in ("", name)
            if is_right and (self.gpus is None or taken + self._gpus_of(spec) <= self.gpus):
                return name
        where = f"{len(names)} node{'s' if len(names) > 1 else ''}"
        raise NoRoomError(
            f"{spec.name} waits for {self._gpus_of(spec)} GPUs: no suitable node (insufficient resources on "
            f"{where}).",
            remedy="Wait until somebody frees one.",
        )

    def infos(self, host: EngineInfo, running: Sequence[FakeContainer]) -> list[NodeInfo]:
        found = []
        for name in self.names or (host.machine,):
            here = [one for one in running if one.info.node in ("", name)]
            given = None if self.gpus is None else sum(self._gpus_of(one.spec) for one in here)
            problem = f"The node {name} is down." if name in self.lost else ""
            properties = {"node.hostname": name}
            found.append(NodeInfo(name, host.cpus, host.memory, self.gpus, given, problem, properties))
        return found

    def _gpus_of(self, spec: ContainerSpec) -> int:
        if not spec.gpus:
            return 0
        return (self.gpus or 0) if spec.gpus.count < 0 else len(spec.gpus.ids) or spec.gpus.count
