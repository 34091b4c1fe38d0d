"""`FakeEngine`: an engine in memory, for tests of whatever stands on the `Engine` protocol.

Its containers have state and files but no main process; `exec` runs the command for real, as a process
of this machine, so that streams, exit codes and large data are what they are with Docker.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from ds01_kernels.engine import (
    BuildProgress,
    BuildRequest,
    ContainerFile,
    ContainerInfo,
    ContainerSpec,
    EngineInfo,
    ImageInfo,
    NodeInfo,
    Stream,
)
from ds01_kernels.engine.docker_steps import instructions
from ds01_kernels.engine.placing import refuse_place
from ds01_kernels.errors import (
    BadInputError,
    BuildFailedError,
    ConflictError,
    ContainerExitedError,
    Ds01Error,
    EngineError,
    NotFoundError,
)
from ds01_kernels.testing_container import FakeContainer, FakeMachines
from ds01_kernels.testing_stream import started

_FILE_LIMIT = 1024 * 1024


class FakeEngine:
    """An `Engine` without an engine. `images` are there from the start.

    With the names of several `nodes` a container that has ended keeps no files, and starts as another one.
    `gpus` are those of each machine: who wants more than are free finds no room.
    """

    def __init__(
        self,
        *,
        images: Sequence[str] = ("ds01/base:latest",),
        info: EngineInfo | None = None,
        nodes: Sequence[str] = (),
        gpus: int | None = None,
    ) -> None:
        self._info = info or EngineInfo("fake", "1", local=True, cpus=2, memory=2**32)
        self._machines = FakeMachines(nodes, gpus)
        if nodes:
            cannot = {**self._info.cannot, "keep": "Here a container that has ended keeps no files."}
            self._info = replace(self._info, cannot=cannot)
        self._images: dict[str, ImageInfo] = {}
        self._image_files: dict[str, Mapping[str, bytes]] = {}
        self._tags: dict[str, str] = {}
        self._containers: dict[str, FakeContainer] = {}
        self._failures: dict[str, list[Ds01Error]] = {}
        self._processes: list[Process] = []
        for reference in images:
            self.add_image(reference)

    def add_image(
        self,
        reference: str,
        *,
        env: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        user: str = "",
        files: Mapping[str, bytes] | None = None,
    ) -> ImageInfo:
        """Put an image there, with `files` by absolute path that `read_file` finds in its containers."""
        identity = "sha256:" + secrets.token_hex(32)
        self._images[identity] = ImageInfo(
            identity, (), datetime.now(UTC), 0, dict(labels or {}), dict(env or {}), user, "amd64"
        )
        self._image_files[identity] = dict(files or {})
        self._tags[_full(reference)] = identity
        return self._image_info(identity)

    def fail_next(self, method: str, error: Ds01Error) -> None:
        """Let the next call of the engine's `method` raise `error`, once."""
        if not hasattr(self, method):
            raise ValueError(f"an engine has no method {method}")
        self._failures.setdefault(method, []).append(error)

    def end_main_process(self, container: str, exit_code: int, *, oom_killed: bool = False) -> None:
        """Let a running container end by itself, and everything in it."""
        self._at(container).end(exit_code, oom_killed)

    def lose_node(self, node: str) -> None:
        """Let that machine answer no more: what runs there is dead, and nothing starts there."""
        self._machines.lost.add(node)
        for container in self._containers.values():
            if container.info.node == node:
                container.lose(f"The node {node} does not answer: heartbeat failure.")

    def spec(self, container: str) -> ContainerSpec:
        """What it was made with."""
        return self._at(container).spec

    async def info(self) -> EngineInfo:
        self._fail("info")
        return self._info

    async def nodes(self) -> list[NodeInfo]:
        self._fail("nodes")
        running = [one for one in self._containers.values() if one.info.running]
        return self._machines.infos(self._info, running)

    async def image(self, reference: str) -> ImageInfo | None:
        self._fail("image")
        identity = self._identity(reference)
        return self._image_info(identity) if identity else None

    async def build(self, request: BuildRequest) -> AsyncIterator[BuildProgress]:
        """Walks through the instructions; fails at `RUN false`, and at FROM of an image that is not there.

        Of what they do, only `COPY FILE PATH` is done.
        """
        self._fail("build")
        lines = request.dockerfile.splitlines()
        steps = list(instructions(request.dockerfile))
        if not steps:
            raise BuildFailedError("The Dockerfile cannot be built: it is empty.")
        files: dict[str, bytes] = {}
        for number, (line, keyword) in enumerate(steps, 1):
            words = lines[line - 1].split()
            name = " ".join(words)
            yield BuildProgress(number, len(steps), name, line)
            await asyncio.sleep(0)
            base = self._identity("".join(words[1:2])) if keyword == "FROM" else None
            missing = keyword == "FROM" and base is None
            if missing or (keyword == "RUN" and words[1:] == ["false"]):
                message = f"The build failed at line {line} of the Dockerfile: `{name}`."
                raise BuildFailedError(message, line=line, log=name)
            if base is not None:
                files = dict(self._image_files[base])
            if keyword == "COPY" and len(words) == 3:
                files[words[2]] = await asyncio.to_thread(_copied, request, words[1])
            yield BuildProgress(number, len(steps), name, line, seconds=0.0)
        image = self.add_image(request.tag, labels=request.labels, files=files)
        yield BuildProgress(len(steps), len(steps), name, line, image_id=image.id)

    async def import_image(self, archive: Path, reference: str, changes: Sequence[str] = ()) -> ImageInfo:
        self._fail("import_image")
        if not await asyncio.to_thread(archive.is_file):
            raise BadInputError(f"{archive} cannot be read: it is no file.")
        return self.add_image(reference)

    async def tag(self, image_id: str, reference: str) -> None:
        self._fail("tag")
        self._tags[_full(reference)] = self._image_at(image_id)

    async def remove_image(self, reference: str) -> None:
        self._fail("remove_image")
        identity = self._identity(reference)
        if identity is None:
            return
        tags = self._image_info(identity).tags
        used = any(container.info.image_id == identity for container in self._containers.values())
        by_tag = _full(reference) in tags
        if (by_tag and len(tags) > 1) or not (used or len(tags) > 1):
            for tag in (_full(reference),) if by_tag else tags:
                del self._tags[tag]
        else:
            raise ConflictError(f"The image {reference} is in use.")
        if identity not in self._tags.values():
            del self._images[identity]

    async def images(self, labels: Mapping[str, str]) -> list[ImageInfo]:
        self._fail("images")
        found = [self._image_info(identity) for identity in self._images]
        return [image for image in found if labels.items() <= image.labels.items()]

    async def containers(self, labels: Mapping[str, str]) -> list[ContainerInfo]:
        self._fail("containers")
        # A test may ask in another thread than the one in which containers are made.
        everyone = list(self._containers.values())
        return [one.info for one in everyone if labels.items() <= one.spec.labels.items()]

    async def container(self, name: str) -> ContainerInfo | None:
        self._fail("container")
        with suppress(NotFoundError):
            return self._at(name).info
        return None

    async def create(self, spec: ContainerSpec) -> ContainerInfo:
        self._fail("create")
        if not self._machines.names:
            refuse_place(spec, "The fake")
        if spec.name in self._containers:
            raise ConflictError(f"The container name {spec.name} is already in use.")
        image_id = self._image_at(spec.image)
        made = datetime.now(UTC)
        info = ContainerInfo(
            secrets.token_hex(32),
            spec.name,
            "created",
            image_id,
            spec.labels,
            made,
            memory=spec.memory,
            gpus=spec.gpus,
            mounts={str(mount.target): str(mount.source) for mount in spec.mounts},
            cpus=spec.cpus,
        )
        of_image: dict[str, bytes | None] = dict(self._image_files[image_id])
        self._containers[spec.name] = FakeContainer(spec, info, of_image, dict(of_image))
        return info

    async def rename(self, container: str, name: str) -> None:
        self._fail("rename")
        found = self._at(container)
        if found.spec.name == name:
            return
        if name in self._containers:
            raise ConflictError(f"The container name {name} is already in use.")
        del self._containers[found.spec.name]
        found.spec, found.info = replace(found.spec, name=name), replace(found.info, name=name)
        self._containers[name] = found

    async def start(self, container: str) -> None:
        self._fail("start")
        found = self._at(container)
        if not found.info.running:
            node = self._machines.place(found.spec, list(self._containers.values()))
            found.start(node, keeps_files=not self._machines.names)

    async def stop(self, container: str, grace: float) -> None:
        self._fail("stop")
        self._at(container).end(143)

    async def remove(self, container: str) -> None:
        self._fail("remove")
        with suppress(NotFoundError):
            found = self._at(container)
            found.end(137)
            del self._containers[found.spec.name]

    async def read_file(self, container: str, path: PurePosixPath) -> bytes | None:
        self._fail("read_file")
        files = self._at(container).files
        content = files.get(str(path))
        if str(path) in files and (content is None or len(content) > _FILE_LIMIT):
            raise EngineError(f"{path} is not a regular file, or is larger than {_FILE_LIMIT // 1024} KiB.")
        return content

    async def write_files(self, container: str, files: Sequence[ContainerFile]) -> None:
        self._fail("write_files")
        for file in files:
            if not file.path.is_absolute() or ".." in file.path.parts:
                raise BadInputError(f"{file.path} is not an absolute path in a container.")
        self._at(container).files.update({str(file.path): file.content for file in files})

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
        """Runs `argv` on this machine as the user of this process, with PATH and HOME of its variables only.

        Below a mount, `cwd` is the mount's source.
        """
        self._fail("exec")
        found = self._at(container)
        if not found.info.running:
            raise ContainerExitedError(f"The container {container} does not run.")
        variables = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        variables |= {**self._images[found.info.image_id].env, **found.spec.env, **(env or {})}
        try:
            stream = await started(argv, variables, found.host_directory(cwd), terminal)
        except OSError as error:
            # Docker tells it in the output, and by the exit code.
            said = f"OCI runtime exec failed: exec: {argv[0]!r}: {error.strerror}"
            stream = await started(["/bin/sh", "-c", 'echo "$0"; exit 126', said], variables, None, terminal)
        found.processes.append(stream.process)
        self._processes.append(stream.process)
        return stream

    async def logs(self, container: str, tail: int = 200) -> str:
        """Nothing: there is no main process."""
        self._fail("logs")
        self._at(container)
        return ""

    async def close(self) -> None:
        """Ends every command that still runs."""
        for container in self._containers.values():
            container.end(137)
        for process in self._processes:
            await process.wait()
            # A pipe that is still open would be closed by the garbage collector, when its loop is no more.
            process._transport.close()  # type: ignore[attr-defined]
        self._processes.clear()

    def _fail(self, method: str) -> None:
        if waiting := self._failures.get(method):
            raise waiting.pop(0)

    def _at(self, container: str) -> FakeContainer:
        for found in list(self._containers.values()):
            if container in (found.spec.name, found.info.id, *found.former_ids):
                return found
        raise NotFoundError(f"There is no container {container}.")

    def _identity(self, reference: str) -> str | None:
        return reference if reference in self._images else self._tags.get(_full(reference))

    def _image_at(self, reference: str) -> str:
        identity = self._identity(reference)
        if identity is None:
            raise NotFoundError(f"There is no image {reference}.")
        return identity

    def _image_info(self, identity: str) -> ImageInfo:
        tags = tuple(tag for tag, tagged in self._tags.items() if tagged == identity)
        return replace(self._images[identity], tags=tags)


def _copied(request: BuildRequest, path: str) -> bytes:
    text = request.files.get(path)
    return (request.directory / path).read_bytes() if text is None else text.encode()


def _full(reference: str) -> str:
    return reference if ":" in reference.rpartition("/")[2] else f"{reference}:latest"
