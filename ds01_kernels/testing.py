"""`FakeEngine`: an engine in memory, for tests of whatever stands on the `Engine` protocol.

Its containers have state and files but no main process; `exec` runs the command for real, as a process
of this machine, so that streams, exit codes and large data are what they are with Docker.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import signal
import struct
import termios
from asyncio import StreamReader, StreamWriter
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
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
    Stream,
)
from ds01_kernels.engine.docker_steps import instructions
from ds01_kernels.errors import (
    BadInputError,
    BuildFailedError,
    ConflictError,
    ContainerExitedError,
    Ds01Error,
    EngineError,
    NotFoundError,
)

_FILE_LIMIT = 1024 * 1024
_ERRORS_KEPT = 16 * 1024


class FakeEngine:
    """An `Engine` without an engine. `images` are there from the start."""

    def __init__(
        self, *, images: Sequence[str] = ("ds01/base:latest",), info: EngineInfo | None = None
    ) -> None:
        self._info = info or EngineInfo("fake", "1", local=True, cpus=2, memory=2**32)
        self._images: dict[str, ImageInfo] = {}
        self._image_files: dict[str, Mapping[str, bytes]] = {}
        self._tags: dict[str, str] = {}
        self._containers: dict[str, _Container] = {}
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

    async def info(self) -> EngineInfo:
        self._fail("info")
        return self._info

    async def image(self, reference: str) -> ImageInfo | None:
        self._fail("image")
        identity = self._identity(reference)
        return self._image_info(identity) if identity else None

    async def build(self, request: BuildRequest) -> AsyncIterator[BuildProgress]:
        """Walks through the instructions; fails at `RUN false`, and at FROM of an image that is not there."""
        self._fail("build")
        lines = request.dockerfile.splitlines()
        steps = list(instructions(request.dockerfile))
        if not steps:
            raise BuildFailedError("The Dockerfile cannot be built: it is empty.")
        for number, (line, keyword) in enumerate(steps, 1):
            words = lines[line - 1].split()
            name = " ".join(words)
            yield BuildProgress(number, len(steps), name, line, log=f"Step {number}/{len(steps)} : {name}\n")
            await asyncio.sleep(0)
            missing = keyword == "FROM" and self._identity("".join(words[1:2])) is None
            if missing or (keyword == "RUN" and words[1:] == ["false"]):
                message = f"The build failed at line {line} of the Dockerfile: `{name}`."
                raise BuildFailedError(message, line=line, log=name)
        image = self.add_image(request.tag, labels=request.labels)
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

    async def containers(self, labels: Mapping[str, str]) -> list[ContainerInfo]:
        self._fail("containers")
        everyone = self._containers.values()
        return [one.info for one in everyone if labels.items() <= one.spec.labels.items()]

    async def container(self, name: str) -> ContainerInfo | None:
        self._fail("container")
        with suppress(NotFoundError):
            return self._at(name).info
        return None

    async def create(self, spec: ContainerSpec) -> ContainerInfo:
        self._fail("create")
        if spec.name in self._containers:
            raise ConflictError(f"The container name {spec.name} is already in use.")
        image_id = self._image_at(spec.image)
        made = datetime.now(UTC)
        info = ContainerInfo(secrets.token_hex(32), spec.name, "created", image_id, spec.labels, made)
        self._containers[spec.name] = _Container(spec, info, dict(self._image_files[image_id]))
        return info

    async def start(self, container: str) -> None:
        self._fail("start")
        self._at(container).start()

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
            stream = await _started(argv, variables, found.host_directory(cwd), terminal)
        except OSError as error:
            # Docker tells it in the output, and by the exit code.
            said = f"OCI runtime exec failed: exec: {argv[0]!r}: {error.strerror}"
            stream = await _started(["/bin/sh", "-c", 'echo "$0"; exit 126', said], variables, None, terminal)
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

    def _at(self, container: str) -> _Container:
        for found in self._containers.values():
            if container in (found.spec.name, found.info.id):
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


def _full(reference: str) -> str:
    return reference if ":" in reference.rpartition("/")[2] else f"{reference}:latest"


@dataclass
class _Container:
    spec: ContainerSpec
    info: ContainerInfo
    files: dict[str, bytes | None]
    processes: list[Process] = field(default_factory=list)

    def start(self) -> None:
        if not self.info.running:
            now = datetime.now(UTC)
            self.info = replace(self.info, state="running", exit_code=None, oom_killed=False, started=now)

    def end(self, exit_code: int, oom_killed: bool = False) -> None:
        if not self.info.running:
            return
        self.info = replace(self.info, state="exited", exit_code=exit_code, oom_killed=oom_killed)
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


async def _started(argv: Sequence[str], env: Mapping[str, str], cwd: str | None, pty: bool) -> _LocalStream:
    ours, theirs = os.openpty() if pty else (-1, PIPE)
    try:
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=theirs, stdout=theirs, stderr=theirs, env=env, cwd=cwd, start_new_session=True
        )
    except OSError:
        if pty:
            os.close(ours)
        raise
    finally:
        if pty:
            os.close(theirs)
    if process.stdin and process.stdout:
        return _LocalStream(process, process.stdout, process.stdin, None)
    loop, reader = asyncio.get_running_loop(), StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    await loop.connect_read_pipe(lambda: protocol, os.fdopen(ours, "rb", 0))
    flow = asyncio.streams.FlowControlMixin
    transport, writing = await loop.connect_write_pipe(flow, os.fdopen(os.dup(ours), "wb", 0))
    return _LocalStream(process, reader, StreamWriter(transport, writing, None, loop), ours)


class _LocalStream:
    """A process of this machine as a `Stream`."""

    def __init__(self, process: Process, reader: StreamReader, writer: StreamWriter, pty: int | None) -> None:
        self.process = process
        self._reader, self._writer, self._terminal = reader, writer, pty
        self._errors = bytearray()
        self._collecting = asyncio.create_task(self._collect())
        self._draining: asyncio.Task[None] | None = None
        self._input_ended = False
        self._ended = False

    async def read(self) -> bytes:
        if self._draining:
            return b""
        try:
            data = await self._reader.read(64 * 1024)
        except OSError:
            # So a terminal says that its last process has gone.
            data = b""
        if not data:
            await asyncio.shield(self._collecting)
            self._ended = True
        return data

    async def write(self, data: bytes) -> None:
        if self._draining or self._ended or self._input_ended:
            raise EngineError("Nothing more can be sent to the command: it, or its input, has ended.")
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            raise EngineError("The command no longer reads what is sent to it: it has ended.") from error

    async def end_input(self) -> None:
        if self._input_ended or self._draining or self._ended:
            return
        with suppress(OSError, EngineError):
            if self._terminal is not None:
                await self.write(b"\x04")
            else:
                await self._writer.drain()
                self._writer.close()
        self._input_ended = True

    async def resize(self, columns: int, rows: int) -> None:
        if self._terminal is not None and not self._ended:
            fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    async def exit_code(self) -> int | None:
        if self._ended:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.process.wait(), 1.0)
        code = self.process.returncode
        # Docker adds 128 to the signal that ended a command.
        return 128 - code if code is not None and code < 0 else code

    @property
    def errors(self) -> str:
        return self._errors.decode("utf-8", "replace")

    async def close(self) -> None:
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain())
            self._writer.close()

    async def _collect(self) -> None:
        while self.process.stderr and (data := await self.process.stderr.read(64 * 1024)):
            self._errors = (self._errors + data)[-_ERRORS_KEPT:]

    async def _drain(self) -> None:
        """The command runs on when its stream is closed, so its output must go somewhere."""
        with suppress(OSError):
            while await self._reader.read(64 * 1024):
                pass
