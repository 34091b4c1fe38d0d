"""Podman as an `Engine`, through its Docker-compatible API: what differs from Docker."""

from __future__ import annotations

import os
import re
import resource
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

from docker import APIClient

from ds01_kernels.engine import BuildProgress, BuildRequest, ContainerInfo, ContainerSpec, ImageInfo, Stream
from ds01_kernels.engine.docker import DockerEngine
from ds01_kernels.engine.docker_connection import POOL_SIZE
from ds01_kernels.engine.docker_values import NO_PODMAN_GPUS
from ds01_kernels.engine.placing import refuse_place
from ds01_kernels.engine.podman_build import PodmanBuilders
from ds01_kernels.engine.podman_service import reached, refusal
from ds01_kernels.engine.podman_stream import PodmanStream
from ds01_kernels.errors import Ds01Error, EngineDeniedError, EngineError, EngineUnreachableError

# What podman writes before the names of images that have no registry in them, and Docker does not.
_REGISTRIES = ("docker.io/library/", "docker.io/", "localhost/")

# What root's podman sets for each container when nobody says otherwise, and what raising a limit takes:
# https://github.com/containers/podman/blob/v4.3.1/pkg/specgen/generate/oci.go
_MOST = 1048576
_CAP_SYS_RESOURCE = 24
_LIMITS = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}

# What the parts say that podman cannot do without, and what they come with.
_MISSING = (
    (r"container-init binary not found|catatonit", "Install catatonit, the init of podman's containers."),
    (
        r"cni plugin|netavark|failed to find plugin",
        "Podman's networks need netavark, or containernetworking-plugins.",
    ),
    (
        r"slirp4netns|pasta",
        "Networks of rootless podman need slirp4netns or passt, and /dev/net/tun.",
    ),
)


class PodmanEngine(DockerEngine):
    """Podman, reached by `reach`; by default the one of this machine (`podman_service`): root's for root,
    rootless for everybody else.
    """

    def __init__(self, *, timeout: float = 60.0, reach: Callable[[float], APIClient] | None = None) -> None:
        super().__init__(timeout=timeout, builder="classic", reach=reach or _connect)
        self._builders = PodmanBuilders(self._reach)

    async def create(self, spec: ContainerSpec) -> ContainerInfo:
        """Raises `EngineError` when GPUs are asked for: podman would leave them out without a word."""
        refuse_place(spec, "Podman")
        if spec.gpus:
            raise EngineError(
                f"Podman could not create the container {spec.name}, which is to have GPUs. {NO_PODMAN_GPUS}",
                remedy="Ask for no GPUs, or use Docker.",
            )
        return await super().create(spec)

    async def import_image(self, archive: Path, reference: str, changes: Sequence[str] = ()) -> ImageInfo:
        return await super().import_image(archive, _full(reference), changes)

    async def tag(self, image_id: str, reference: str) -> None:
        await super().tag(image_id, _full(reference))

    async def remove_image(self, reference: str) -> None:
        await super().remove_image(_full(reference))

    async def images(self, labels: Mapping[str, str]) -> list[ImageInfo]:
        # Of several labels podman 4 finds no image that has them all.
        found = await super().images(dict(list(labels.items())[:1]))
        return [image for image in found if labels.items() <= image.labels.items()]

    async def exec(self, container: str, argv: Sequence[str], **options: Any) -> Stream:
        return PodmanStream(await super().exec(container, argv, **options))

    async def build(self, request: BuildRequest) -> AsyncGenerator[BuildProgress, None]:
        """By the podman program where there is one (`PodmanBuilders`)."""
        build = self._builders.build(replace(request, tag=_full(request.tag)))
        try:
            async with aclosing(build) as values:
                async for progress in values:
                    yield progress
        except Ds01Error as error:
            raise self._told(error) from error

    def _connected(self) -> APIClient:
        # Between two calls our service may have ended, for want of any; asking for it starts it.
        if self._client is not None and not _is_answered(self._client):
            self._client = None
        return super()._connected()

    def _told(self, error: Ds01Error) -> Ds01Error:
        return in_podmans_words(error)

    def _import_name(self, reference: str) -> tuple[str, str | None]:
        # Podman 4 heeds no tag beside the name.
        return reference, None

    def _creation(self, client: APIClient, spec: ContainerSpec, log_driver: str) -> dict[str, Any]:
        arguments = super()._creation(client, spec, log_driver)
        if limits := list(_reachable_limits()):
            arguments["host_config"]["Ulimits"] = limits
        return arguments

    def _inspected_image(self, client: APIClient, reference: str) -> ImageInfo:
        image = super()._inspected_image(client, reference)
        return replace(image, tags=tuple(dict.fromkeys(_short(tag) for tag in image.tags)))


def _connect(timeout: float) -> APIClient:
    address = reached()
    if not address.startswith(("unix://", "tcp://")):
        raise EngineUnreachableError(
            f"Podman at {address} cannot be used: only addresses with unix:// and tcp:// can.",
            remedy="Correct CONTAINER_HOST, or unset it.",
        )
    # requests takes fractions of a second; the type stubs of docker-py know whole ones only.
    return APIClient(address, timeout=timeout, max_pool_size=POOL_SIZE)  # type: ignore[arg-type]


def in_podmans_words(error: Ds01Error) -> Ds01Error:
    """The same error where it speaks of Docker."""
    message = re.sub(r"\bDocker\b", "Podman", str(error))
    remedy = error.remedy.replace("`docker ", "`podman ").replace("Docker", "Podman")
    if isinstance(error, EngineUnreachableError) and "cannot be reached" in message:
        remedy = "`podman info` says whether podman works; if it runs elsewhere, set CONTAINER_HOST."
    elif isinstance(error, EngineDeniedError) and "group" in remedy:
        remedy = "Ask the administrator for access, or unset CONTAINER_HOST to use rootless podman."
    elif "needs secrets" in message:
        message = message.replace("the classic builder", "Podman's service")
        remedy = "That takes the podman program on this machine, with the images that the service has."
    elif not remedy:
        remedy = next((words for said, words in _MISSING if re.search(said, message)), "")
    error.args, error.remedy = (message,), remedy
    return error


def _is_answered(client: APIClient) -> bool:
    path = getattr(client.get_adapter(client.base_url), "socket_path", None)
    return path is None or not refusal(path)


def _full(reference: str) -> str:
    """The name that podman's own program gives an image without a registry: its API would say docker.io."""
    if re.fullmatch(r"sha256:.*|[0-9a-f]{12,64}", reference):
        return reference
    registry, slash, _ = reference.partition("/")
    has_registry = slash and (registry == "localhost" or any(one in registry for one in ".:"))
    return reference if has_registry else f"localhost/{reference}"


def _short(tag: str) -> str:
    return next((tag.removeprefix(one) for one in _REGISTRIES if tag.startswith(one)), tag)


def _reachable_limits() -> Iterator[dict[str, Any]]:
    """As much of the limits that podman sets as this machine lets it set; nothing where it can set them."""
    if os.getuid() != 0 or _may_raise_limits():
        return
    for name, limit in _LIMITS.items():
        hard = resource.getrlimit(limit)[1]
        if hard != resource.RLIM_INFINITY and hard < _MOST:
            # Podman lowers its own number of processes to this, and cannot raise it again.
            most = min(hard, _most_processes()) if name == "nproc" else hard
            yield {"Name": name, "Soft": most, "Hard": most}


def _most_processes() -> int:
    try:
        return int(Path("/proc/sys/kernel/pid_max").read_text())
    except (OSError, ValueError):
        return _MOST


def _may_raise_limits() -> bool:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return True
    effective = re.search(r"^CapEff:\t([0-9a-f]+)$", status, re.MULTILINE)
    return effective is None or bool(int(effective[1], 16) >> _CAP_SYS_RESOURCE & 1)
