"""Images on their way to a registry, from which the nodes get them by their digests.

A local image keeps no name of the registry's: what it is called here decides when it is removed.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import docker.errors
from docker import APIClient
from docker.utils import parse_repository_tag

from ds01_kernels.engine import BuildProgress, BuildRequest, ImageInfo
from ds01_kernels.engine.docker import DockerEngine
from ds01_kernels.engine.docker_builders import BuilderName
from ds01_kernels.errors import ConflictError, EngineError
from ds01_kernels.text import clean

#: Seconds for a push; it is told to stop when it takes longer.
_PUSH_LIMIT = 3600.0
#: How much of all layers has to be sent for another word about it.
_SHARE = 0.1
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
# A name without a registry: https://pkg.go.dev/github.com/distribution/reference
_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
# What an image is called on its way; one that has no other name keeps it.
_PUSHED = re.compile(r":ds01-[0-9a-f]{32}$")
_PLAIN = re.compile(rf"{_PART}(?:/{_PART})*")


class RegistryEngine(DockerEngine):
    """A Docker whose images go into the registry at `registry`, where others get them; empty: nowhere."""

    def __init__(
        self,
        registry: str,
        *,
        timeout: float,
        builder: BuilderName | None,
        reach: Callable[[float], APIClient],
    ) -> None:
        super().__init__(timeout=timeout, builder=builder, reach=reach)
        self._registry = Registry(registry)

    @property
    def has_registry(self) -> bool:
        return bool(self._registry.address)

    async def build(self, request: BuildRequest) -> AsyncGenerator[BuildProgress, None]:
        """With a registry, the last steps bring the image there."""
        last = BuildProgress()
        async with aclosing(super().build(request)) as values:  # type: ignore[type-var]
            async for progress in values:
                last = progress
                if not progress.image_id:
                    yield progress
        if self.has_registry and last.image_id:
            step = replace(last, image_id="", line=None, name=f"Push to {self._registry.address}")
            push = partial(self._brought, last.image_id)
            async with aclosing(
                progress_of(push, replace(step, log="", cached=False, seconds=None))
            ) as values:
                async for progress in values:
                    yield progress
        yield last

    async def _brought(self, image_id: str, say: Callable[[str], None] = lambda line: None) -> str:
        """What the nodes know the image by, once it is in the registry."""
        registry, cancelled = self._registry, False

        def ask(client: APIClient) -> str:
            return registry.push(client, image_id, say, lambda: cancelled)

        try:
            return registry.known(image_id) or await self._ask(
                f"bring an image to {registry.address}", ask, limit=_PUSH_LIMIT
            )
        finally:
            cancelled = True

    async def remove_image(self, reference: str) -> None:
        """Raises `ConflictError` when a service uses the image and this is its last tag."""
        image = await self.image(reference)
        if image is None:
            return
        is_last = len(image.tags) < 2 or reference == image.id
        if is_last and await self._is_used(image.id):
            raise ConflictError(f"The image {reference} is in use by a service of the swarm.")
        await super().remove_image(reference)
        if is_last and image.tags:
            # A task here may have got it from the registry, by a digest that then keeps it.
            with suppress(EngineError):
                await super().remove_image(image.id)

    def _inspected_image(self, client: APIClient, reference: str) -> ImageInfo:
        image = super()._inspected_image(client, reference)
        return replace(image, tags=tuple(tag for tag in image.tags if not _PUSHED.search(tag)))

    async def _is_used(self, image_id: str) -> bool:
        """Whether what runs elsewhere, or will, is made of it."""
        raise NotImplementedError


class Registry:
    """What this process has brought into the registry at `address`."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._digests: dict[str, str] = {}
        self._pushing = threading.Lock()

    def known(self, image_id: str) -> str:
        """What the nodes know that image by, if this process has pushed it."""
        return self._digests.get(image_id, "")

    def push(
        self,
        client: APIClient,
        image_id: str,
        say: Callable[[str], None] = lambda line: None,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> str:
        """Bring the image there and return its reference by digest; `say` gets lines about the progress.

        Layers that are there already are not sent again. Blocks. Raises `EngineError`.
        """
        # Who pushes an image that another one pushes would lose the tag on the way.
        with self._pushing:
            if known := self.known(image_id):
                return known
            name, has_name = _name(client, image_id)
            repository, tag = f"{self.address}/{name}", f"ds01-{image_id.rpartition(':')[2][:32]}"
            client.tag(image_id, repository, tag, force=True)
            try:
                digest = self._pushed(client, repository, tag, say, is_cancelled)
            finally:
                if has_name:
                    # It is not what the image is called here, and would keep it from being removed.
                    with suppress(docker.errors.APIError):
                        client.remove_image(f"{repository}:{tag}")
            self._digests[image_id] = f"{repository}@{digest}"
            return self._digests[image_id]

    def _pushed(
        self,
        client: APIClient,
        repository: str,
        tag: str,
        say: Callable[[str], None],
        is_cancelled: Callable[[], bool],
    ) -> str:
        digest, layers = "", _Layers()
        lines: Iterator[dict[str, Any]] = client.push(repository, tag, stream=True, decode=True)
        for line in lines:
            if is_cancelled():
                raise EngineError("The push was cancelled.")
            if said := line.get("error"):
                raise self._refused(str(said))
            found = str((line.get("aux") or {}).get("Digest") or "")
            digest = found if _DIGEST.fullmatch(found) else digest
            if word := layers.word(line):
                say(word)
        if not digest:
            raise self._refused("it named no digest")
        return digest

    def _refused(self, said: str) -> EngineError:
        return EngineError(
            f"The image could not be brought into the registry {self.address}: "
            f"{clean(said, colours=False).strip().rstrip('.')}.",
            remedy="Does `docker push` into it work here? It may want a `docker login`, or, without TLS, to "
            "be among the daemons' insecure registries.",
        )


async def progress_of(
    push: Callable[[Callable[[str], None]], Awaitable[object]], step: BuildProgress
) -> AsyncGenerator[BuildProgress, None]:
    """What `push` says while it lasts, as values like `step`: it is given a way to say lines from its thread.

    Leaving this early cancels it.
    """
    lines: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    began = loop.time()
    pushing = asyncio.ensure_future(push(lambda line: loop.call_soon_threadsafe(lines.put_nowait, line)))  # type: ignore[arg-type]
    try:
        yield step
        while not (pushing.done() and lines.empty()):
            line = asyncio.ensure_future(lines.get())
            await asyncio.wait([pushing, line], return_when=asyncio.FIRST_COMPLETED)
            if line.done():
                yield replace(step, log=line.result())
            else:
                line.cancel()
        await pushing
        yield replace(step, seconds=loop.time() - began)
    finally:
        pushing.cancel()


class _Layers:
    """How far they are."""

    def __init__(self) -> None:
        self._sent: dict[str, tuple[int, int]] = {}
        self._said = 0.0

    def word(self, line: dict[str, Any]) -> str:
        """A line on each layer that has come there, and on each tenth of all that is sent."""
        layer, status = str(line.get("id") or "")[:20], str(line.get("status") or "")
        if status in ("Pushed", "Layer already exists") or status.startswith("Mounted"):
            return f"{layer}: {status}\n"
        detail = line.get("progressDetail") or {}
        sent, total = detail.get("current"), detail.get("total")
        if not (layer and isinstance(sent, int) and isinstance(total, int) and total > 0):
            return ""
        self._sent[layer] = (min(sent, total), total)
        share = sum(one for one, _ in self._sent.values()) / sum(total for _, total in self._sent.values())
        if share < self._said + _SHARE:
            return ""
        self._said = share
        return f"Sent: {share:.0%}\n"


def _name(client: APIClient, image_id: str) -> tuple[str, bool]:
    """What the image is called in the registry: as here, where that names no other one. And whether it has
    a name.
    """
    image = client.inspect_image(image_id)  # type: ignore[no-untyped-call]
    given = (tag for tag in image.get("RepoTags") or () if not _PUSHED.search(tag))
    names = sorted(parse_repository_tag(tag)[0] for tag in given)
    return next(filter(_PLAIN.fullmatch, names), "ds01/image"), bool(names)
