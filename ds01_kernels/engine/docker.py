"""Docker, and Podman through the same API, as an `Engine`."""

from __future__ import annotations

import asyncio
import math
import re
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import docker.errors
from docker import APIClient
from docker.utils import parse_repository_tag

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
from ds01_kernels.engine.docker_builders import BuilderName, Builders
from ds01_kernels.engine.docker_connection import RAISED, connect, is_lost, timed_out, translated
from ds01_kernels.engine.docker_files import file_content, packed, pieces
from ds01_kernels.engine.docker_stream import READ_AHEAD, DockerStream, Frames, plain_socket
from ds01_kernels.engine.docker_values import container_info, creation, engine_info, image_info
from ds01_kernels.engine.placing import refuse_place
from ds01_kernels.errors import BadInputError, Ds01Error, EngineError, NotFoundError

T = TypeVar("T")

_THREADS = 16
# On the daemon's PATH it is all that Docker needs to give GPUs, whatever runtimes are set up:
# https://github.com/moby/moby/blob/v26.1.5/daemon/nvidia_linux.go
_GPU_HOOK = "nvidia-container-runtime-hook"
# What Docker allows in a name. Anything else could reach into another path of its API.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
# On containers that Docker Swarm has made: https://github.com/moby/moby/blob/v26.1.5/daemon/cluster/executor/container/container.go
_TASK = "com.docker.swarm.task.id"
# Docker takes the default keys (Ctrl-P, Ctrl-Q) out of a terminal's input, and Ctrl-P is the shell's
# "previous line". Nobody types this sequence: https://docs.docker.com/reference/cli/docker/container/attach/#detach-keys
_DETACH_KEYS = "ctrl-^,ctrl-],ctrl-^,ctrl-],ctrl-^"


class DockerEngine:
    """The engine that DOCKER_HOST, DOCKER_CONTEXT or the current docker context names.

    `timeout`, in seconds, holds for every call but `build`, `import_image` and open exec streams; `stop`
    has its grace on top. A connection that broke is made anew by the next call. `builder` is what builds
    images; None: the best one that works here. `reach` makes a connection whose waits have that limit.
    """

    def __init__(
        self,
        *,
        timeout: float = 60.0,
        builder: BuilderName | None = None,
        reach: Callable[[float], APIClient] = connect,
    ) -> None:
        self._timeout = timeout
        self._reach = partial(reach, timeout)
        # Connections of their own: to end a build is to cut its connection.
        self._builders = Builders(self._reach, builder)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="ds01-docker")
        self._client: APIClient | None = None
        self._log_driver: str | None = None
        self._connecting = threading.Lock()

    async def info(self) -> EngineInfo:
        def ask(client: APIClient) -> EngineInfo:
            unix = client.base_url == "http+docker://localhost"
            hook = unix and shutil.which(_GPU_HOOK) is not None
            return engine_info(client.info(), client.version(), unix, has_gpu_hook=hook)

        return await self._ask("say what it is", ask)

    async def nodes(self) -> list[NodeInfo]:
        info = await self.info()
        return [NodeInfo(info.machine, info.cpus, info.memory)]

    async def image(self, reference: str) -> ImageInfo | None:
        _check_reference(reference)
        return await self._ask(
            f"look up the image {reference}",
            lambda client: _unless_missing(lambda: self._inspected_image(client, reference)),
        )

    def build(self, request: BuildRequest) -> AsyncIterator[BuildProgress]:
        return self._builders.build(request)

    async def import_image(self, archive: Path, reference: str, changes: Sequence[str] = ()) -> ImageInfo:
        _check_reference(reference)
        repository, tag = self._import_name(reference)
        cancelled = threading.Event()

        def ask(client: APIClient) -> None:
            client.import_image_from_data(
                pieces(archive, cancelled),  # requests sends any iterable of bytes
                repository=repository,
                tag=tag,
                changes=list(changes),  # sent as one parameter for each
            )

        try:
            await self._ask(f"import {archive}", ask, again=False, limit=math.inf)
        finally:
            cancelled.set()
        image = await self.image(reference)
        if image is None:
            raise EngineError(f"Docker imported {archive} but has no image {reference}.")
        return image

    async def tag(self, image_id: str, reference: str) -> None:
        _check_reference(image_id)
        _check_reference(reference)
        repository, tag = parse_repository_tag(reference)
        await self._ask(
            f"tag {image_id} as {reference}",
            lambda client: client.tag(image_id, repository, tag or "latest", force=True),
        )

    async def remove_image(self, reference: str) -> None:
        """Raises `ConflictError` when a container uses the image and this is its last tag."""
        _check_reference(reference)
        await self._ask(
            f"remove the image {reference}",
            lambda client: _unless_missing(lambda: client.remove_image(reference)),
        )

    async def images(self, labels: Mapping[str, str]) -> list[ImageInfo]:
        wanted = _filters(labels)

        def ask(client: APIClient) -> list[ImageInfo]:
            # Not with `all`: the classic builder keeps the layers between as images too.
            ids = [one["Id"] for one in client.images(filters=wanted)]
            found = (_unless_missing(partial(self._inspected_image, client, identity)) for identity in ids)
            return [image for image in found if image is not None]

        return await self._ask("list images", ask)

    async def containers(self, labels: Mapping[str, str]) -> list[ContainerInfo]:
        """By labels only its own: those that Docker Swarm has made carry labels too, of their services."""
        wanted = _filters(labels)

        def ask(client: APIClient) -> list[ContainerInfo]:
            # The list lacks the exit code and the start; what goes meanwhile is left out.
            found = (_inspected(client, one["Id"]) for one in client.containers(all=True, filters=wanted))
            return [one for one in found if one is not None and not (labels and _TASK in one.labels)]

        return await self._ask("list containers", ask)

    async def container(self, name: str) -> ContainerInfo | None:
        if not _NAME.fullmatch(name):
            return None
        found = await self._ask(f"look up {name}", lambda client: _inspected(client, name))
        # Docker also takes the beginning of an id for a name.
        return found if found is not None and name in (found.name, found.id) else None

    async def create(self, spec: ContainerSpec) -> ContainerInfo:
        if not _NAME.fullmatch(spec.name):
            raise BadInputError(f"{spec.name!r} cannot be the name of a container.")
        refuse_place(spec, "Docker")

        def ask(client: APIClient) -> ContainerInfo:
            if self._log_driver is None:
                self._log_driver = str(client.info().get("LoggingDriver"))
            made = client.create_container(**self._creation(client, spec, self._log_driver))
            return container_info(client.inspect_container(made["Id"]))

        return await self._ask(f"create the container {spec.name}", ask, again=False)

    async def rename(self, container: str, name: str) -> None:
        _check_name(container)
        if not _NAME.fullmatch(name):
            raise BadInputError(f"{name!r} cannot be the name of a container.")

        def ask(client: APIClient) -> None:
            # Docker takes its own name again for a conflict.
            if client.inspect_container(container)["Name"] != f"/{name}":
                client.rename(container, name)

        await self._ask(f"rename {container}", ask)

    async def start(self, container: str) -> None:
        _check_name(container)
        await self._ask(f"start {container}", lambda client: client.start(container))

    async def stop(self, container: str, grace: float) -> None:
        _check_name(container)
        # Docker counts whole seconds.
        seconds = math.ceil(grace)
        await self._ask(
            f"stop {container}",
            lambda client: client.stop(container, timeout=seconds),
            limit=self._timeout + seconds,
        )

    async def remove(self, container: str) -> None:
        if _NAME.fullmatch(container):
            await self._ask(f"remove {container}", lambda client: _removed(client, container, self._timeout))

    async def read_file(self, container: str, path: PurePosixPath) -> bytes | None:
        """Follows links, inside the container only. Raises `EngineError` for a directory or a larger file."""
        _check_name(container)
        return await self._ask(
            f"read {path} in {container}", lambda client: file_content(client, container, path)
        )

    async def write_files(self, container: str, files: Sequence[ContainerFile]) -> None:
        _check_name(container)
        archive = packed(files)
        await self._ask(
            f"write files into {container}", lambda client: client.put_archive(container, "/", archive)
        )

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
        """A command that cannot be started is no error here: it ends with exit code 126 or 127, and the
        reason is in its output (not in `errors`), as "OCI runtime exec failed: ...".
        """
        _check_name(container)

        def ask(client: APIClient) -> tuple[str, Any]:
            made = client.exec_create(
                container,
                list(argv),
                stdin=True,
                tty=terminal,
                user=user,
                environment=dict(env or {}),
                workdir=cwd or None,
                detach_keys=_DETACH_KEYS if terminal else None,
            )
            opened = client.exec_start(made["Id"], tty=terminal, socket=True)
            return made["Id"], plain_socket(opened)

        doing = f"run {argv[0]} in {container}"
        identity, (connection, early) = await self._ask(doing, ask, again=False)
        reader, writer = await asyncio.open_connection(sock=connection, limit=READ_AHEAD)
        return DockerStream(
            reader,
            writer,
            early,
            frames=None if terminal else Frames(),
            inspect=lambda: self._exec_state(identity),
            resize=lambda columns, rows: self._ask(
                "resize a terminal", lambda client: client.exec_resize(identity, height=rows, width=columns)
            ),
        )

    async def _exec_state(self, identity: str) -> tuple[bool, int | None]:
        """Whether the command runs, and its exit code; Docker forgets both some time after its end."""
        answer = await self._ask(
            "look up a command", lambda client: _unless_missing(lambda: client.exec_inspect(identity))
        )
        return (bool(answer["Running"]), answer["ExitCode"]) if answer else (False, None)

    async def logs(self, container: str, tail: int = 200) -> str:
        _check_name(container)
        written = await self._ask(
            f"read the logs of {container}", lambda client: client.logs(container, tail=tail)
        )
        return written.decode("utf-8", "replace")

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        client, self._client = self._client, None
        if client is not None:
            client.close()

    async def _ask(
        self, doing: str, ask: Callable[[APIClient], T], *, again: bool = True, limit: float | None = None
    ) -> T:
        """`ask` in a thread, within `limit` seconds, its errors turned into ours.

        `again`: it may be asked twice, so after a broken connection (the engine was restarted) it is at once.
        """
        limit = self._timeout if limit is None else limit
        work = asyncio.get_running_loop().run_in_executor(self._threads, self._answer, ask, again)
        try:
            return await asyncio.wait_for(work, None if limit == math.inf else limit)
        except TimeoutError as error:
            raise self._told(timed_out(doing)) from error
        except RAISED as error:
            raise self._told(translated(error, doing)) from error

    def _answer(self, ask: Callable[[APIClient], T], again: bool) -> T:
        try:
            return ask(self._connected())
        except RAISED as error:
            if not is_lost(error):
                raise
            self._client = None
            if not again:
                raise
        return ask(self._connected())

    def _connected(self) -> APIClient:
        with self._connecting:
            if self._client is None:
                self._client = self._reach()
            return self._client

    # In what engines that speak Docker's API differ

    def _told(self, error: Ds01Error) -> Ds01Error:
        return error

    def _import_name(self, reference: str) -> tuple[str, str | None]:
        """Repository and tag, as a request to import has them."""
        repository, tag = parse_repository_tag(reference)
        return repository, tag or "latest"

    def _creation(self, client: APIClient, spec: ContainerSpec, log_driver: str) -> dict[str, Any]:
        return creation(client, spec, log_driver)

    def _inspected_image(self, client: APIClient, reference: str) -> ImageInfo:
        return image_info(client.inspect_image(reference))  # type: ignore[no-untyped-call]


def _filters(labels: Mapping[str, str]) -> dict[str, list[str]]:
    # Podman takes no empty list.
    return {"label": [f"{name}={value}" for name, value in labels.items()]} if labels else {}


def _check_name(container: str) -> None:
    if not _NAME.fullmatch(container):
        raise NotFoundError(f"There is no container {container!r}.")


def _check_reference(reference: str) -> None:
    # Docker says precisely what is wrong with most; this keeps what would reach into another path of its API.
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.:/@-]*", reference) or ".." in reference:
        raise BadInputError(f"{reference!r} cannot be the name of an image.")


def _unless_missing(ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except docker.errors.NotFound:
        return None


def _inspected(client: APIClient, name: str) -> ContainerInfo | None:
    return _unless_missing(lambda: container_info(client.inspect_container(name)))


def _removed(client: APIClient, container: str, limit: float) -> None:
    """Raises TimeoutError when another's removal does not end within `limit` seconds."""
    try:
        _unless_missing(lambda: client.remove_container(container, force=True, v=True))
    except docker.errors.APIError as error:
        if "already in progress" not in str(error.explanation):
            raise
        end = time.monotonic() + limit
        while _unless_missing(lambda: client.inspect_container(container)) is not None:
            if time.monotonic() > end:
                raise TimeoutError from error
            time.sleep(0.05)
