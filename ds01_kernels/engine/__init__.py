"""What runs containers: the protocol that every engine fulfils, and the values that cross it.

An engine knows nothing of Jupyter, kernels or projects. Every call is a coroutine that never blocks its event
loop, ends within a limit, and raises only errors of the `EngineError` family (`errors.py`): whatever the
engine's own library raises is turned into one of them. ``tests/test_engine_contract.py`` holds each engine to
this, the fake included.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol, get_args

EngineName = Literal["auto", "docker", "podman", "swarm"]

#: What may be asked for; the first is: whatever there is.
ENGINES: tuple[EngineName, ...] = get_args(EngineName)


class Engine(Protocol):
    """One engine, reached. Made without I/O: the first call connects."""

    async def info(self) -> EngineInfo: ...

    async def nodes(self) -> list[NodeInfo]:
        """The machines that containers may run on: one, where the engine has no others."""
        ...

    async def image(self, reference: str) -> ImageInfo | None:
        """The image of that name, tag or id; None when there is none here. Never pulls."""
        ...

    def build(self, request: BuildRequest) -> AsyncIterator[BuildProgress]:
        """Build an image; the last value carries the new image's id.

        Leaving the iterator early (``aclose``) cancels the build. Raises `BuildFailedError` with the line of
        the Dockerfile.
        """
        ...

    async def import_image(self, archive: Path, reference: str, changes: Sequence[str] = ()) -> ImageInfo:
        """Make an image of one layer from a tar archive of a root file system.

        `changes` are Dockerfile instructions.
        """
        ...

    async def tag(self, image_id: str, reference: str) -> None: ...

    async def remove_image(self, reference: str) -> None:
        """Remove a tag, or an image by id. No error when it is not there."""
        ...

    async def images(self, labels: Mapping[str, str]) -> list[ImageInfo]:
        """All images, with a tag or without, that carry every one of `labels`."""
        ...

    async def containers(self, labels: Mapping[str, str]) -> list[ContainerInfo]:
        """All containers, running or not, that carry every one of `labels`."""
        ...

    async def container(self, name: str) -> ContainerInfo | None:
        """The container of that exact name or id, or None."""
        ...

    async def create(self, spec: ContainerSpec) -> ContainerInfo:
        """Create a container and leave it stopped. Raises `ConflictError` when the name is taken."""
        ...

    async def rename(self, container: str, name: str) -> None:
        """Give it another name, if it has not got it. Raises `ConflictError` when another has it."""
        ...

    async def start(self, container: str) -> None:
        """Start it; no error when it runs already.

        Raises `NoRoomError` when no node has room for it now: then it is as it was, and holds no place.
        """
        ...

    async def stop(self, container: str, grace: float) -> None:
        """Ask its main process to end, kill it after `grace` seconds; no error when it is stopped already."""
        ...

    async def remove(self, container: str) -> None:
        """Kill and remove it with its anonymous volumes; no error when it is gone already."""
        ...

    async def read_file(self, container: str, path: PurePosixPath) -> bytes | None:
        """A regular file of the container, running or not (1 MiB at most); None when it is not there."""
        ...

    async def write_files(self, container: str, files: Sequence[ContainerFile]) -> None:
        """Write files and directories into the container, running or not."""
        ...

    async def exec(
        self,
        container: str,
        argv: Sequence[str],
        *,
        user: str = "",
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        terminal: bool = False,
    ) -> Stream:
        """Run a command in a running container and return its open stream.

        `terminal` gives it a pseudo-terminal. Raises `ContainerExitedError` when the container does not run.
        """
        ...

    async def logs(self, container: str, tail: int = 200) -> str:
        """The last lines that its main process wrote."""
        ...

    async def close(self) -> None: ...


class Stream(Protocol):
    """The two ends of a command that runs in a container. Ending the stream does not end the command."""

    async def read(self) -> bytes:
        """Some bytes of standard output, as soon as there are any; ``b""`` at its end."""
        ...

    async def write(self, data: bytes) -> None:
        """Send bytes to standard input; returns when they are on their way.

        Raises `EngineError` when it is closed.
        """
        ...

    async def end_input(self) -> None:
        """Close standard input, as a pipe or with a terminal's end-of-file key; output can still be read.

        Nothing can be written after it. No error when the command has ended.
        """
        ...

    async def resize(self, columns: int, rows: int) -> None:
        """Tell the command's pseudo-terminal its new size."""
        ...

    async def exit_code(self) -> int | None:
        """The command's exit code; None while it runs or when the engine does not know."""
        ...

    @property
    def errors(self) -> str:
        """The last 16 KiB that the command wrote to standard error so far."""
        ...

    async def close(self) -> None: ...


ContainerState = Literal["created", "running", "paused", "restarting", "removing", "exited", "dead"]


@dataclass(frozen=True)
class EngineInfo:
    """What an engine is and what it cannot do. `cannot` holds one sentence for each missing capability.

    `rootless`: uid 0 in a container is not uid 0 on the host (rootless, or user namespaces): files of the
    project belong to the user only when the container runs as 0:0. `local`: the engine sees this machine's
    file system. `data_root`: the directory, on the engine's machine, of its images and containers; empty when
    it is not known. `why`: a sentence for why it is this engine, where one was chosen. `machine`: the name of
    the engine's machine. `deployer`: the command that makes a project's one container here, in a way of its
    own: of its `ContainerSpec` the name, the image, GPUs and the folder at ``/workspace`` count, it runs when
    `create` returns, and no other container can get its name afterwards; empty: there is none.
    """

    name: str
    version: str
    local: bool
    rootless: bool = False
    runtimes: tuple[str, ...] = ()
    cpus: int = 0
    memory: int = 0
    cannot: Mapping[str, str] = field(default_factory=dict)
    data_root: str = ""
    deployer: str = ""
    why: str = ""
    machine: str = ""


@dataclass(frozen=True)
class NodeInfo:
    """A machine that containers run on: `memory` in bytes, None for what is not known.

    `given_gpus` are those that somebody's containers have, where the engine counts them. `problem` is a
    sentence for why nothing starts there now; empty: it can. `properties` are what the `constraints` of a
    `ContainerSpec` may ask of it, by the names that they have there.
    """

    name: str
    cpus: int
    memory: int
    gpus: int | None = None
    given_gpus: int | None = None
    problem: str = ""
    properties: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ImageInfo:
    """`size` in bytes; `id` is the content id, ``sha256:...``."""

    id: str
    tags: tuple[str, ...]
    created: datetime
    size: int
    labels: Mapping[str, str]
    env: Mapping[str, str]
    user: str = ""
    architecture: str = ""


@dataclass(frozen=True)
class ContainerInfo:
    """`memory` (bytes), `cpus` and `gpus` are what it was made with; None: no limit of its own, no GPU.

    `mounts` are directories of the engine's machine, by where they are in the container. `node` is the name
    of the machine that it runs or last ran on, where the engine has several; empty: the engine's own.
    `problem` is a sentence for why it does not run, where the engine tells.
    """

    id: str
    name: str
    state: ContainerState
    image_id: str
    labels: Mapping[str, str]
    created: datetime
    exit_code: int | None = None
    oom_killed: bool = False
    started: datetime | None = None
    memory: int | None = None
    gpus: GpuRequest | None = None
    mounts: Mapping[str, str] = field(default_factory=dict)
    cpus: float | None = None
    node: str = ""
    problem: str = ""

    @property
    def running(self) -> bool:
        return self.state == "running"


@dataclass(frozen=True)
class Mount:
    """A directory of the host at `target` in the container."""

    source: Path
    target: PurePosixPath
    read_only: bool = False


@dataclass(frozen=True)
class GpuRequest:
    """`count` GPUs (-1: all), or the ones named in `ids` (index, UUID or MIG UUID). False: expressly none."""

    count: int = 0
    ids: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.count != 0 or bool(self.ids)


@dataclass(frozen=True)
class ContainerSpec:
    """A container to be created. Bytes for memory and shm, CPUs as a number (1.5 is one and a half).

    `node` names the machine it has to run on, `constraints` say more of it in the engine's own words
    (``node.labels.room==2``); both are for engines that have several.
    """

    name: str
    image: str
    entrypoint: tuple[str, ...]
    user: str = ""
    working_dir: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    hostname: str = ""
    network: str = ""
    shm_size: int | None = None
    memory: int | None = None
    cpus: float | None = None
    pids_limit: int | None = None
    gpus: GpuRequest | None = None
    node: str = ""
    constraints: tuple[str, ...] = ()


@dataclass(frozen=True)
class ContainerFile:
    """A file (`content` is bytes) or a directory (`content` is None) to be written into a container."""

    path: PurePosixPath
    content: bytes | None
    uid: int
    gid: int
    mode: int


@dataclass(frozen=True)
class BuildRequest:
    """`directory` is the build context, `dockerfile` the text to build from, whatever is on disk.

    `files` are texts that take the place of files in the context, by their paths in it. `args` stay readable
    in the image's history; `secrets` (id: file) do not, and a command gets at them by
    ``RUN --mount=type=secret,id=...``.
    """

    directory: Path
    dockerfile: str
    tag: str
    args: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    pull: bool = False
    no_cache: bool = False
    files: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class BuildProgress:
    """One thing that happened during a build.

    `step` of `steps`, and `name`, say where it is (0 of 0: not known); `line` is the 1-based line of the
    Dockerfile. Steps that do not depend on each other may run at once, so that their values mingle. `log` is
    output, with its line ends. `seconds` stands in the value that ends a step, 0 where it was `cached`, and
    `image_id` in the last value only. What counts as a step is the builder's own matter.
    """

    step: int = 0
    steps: int = 0
    name: str = ""
    line: int | None = None
    cached: bool = False
    log: str = ""
    seconds: float | None = None
    image_id: str = ""
