"""Which builder an engine has, and the build with it: the best one that works, chosen once.

1. ``docker buildx``, from 0.13 on; 2. BuildKit through the engine's API; 3. BuildKit of a docker client;
4. the classic builder. The first and the third are processes of a client, the others calls to the engine.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Literal

import docker.errors
from docker import APIClient
from docker.utils import version_gte

from ds01_kernels.engine import BuildProgress, BuildRequest
from ds01_kernels.engine.docker_build import RefusedError, buildkit_build, classic_build, pulled
from ds01_kernels.engine.docker_client import client_build, client_kind
from ds01_kernels.engine.docker_connection import RAISED, is_podman, translated
from ds01_kernels.engine.docker_context import Context
from ds01_kernels.engine.docker_conversation import Connect
from ds01_kernels.engine.docker_needs import Needs, needs
from ds01_kernels.errors import BadInputError, EngineError

BuilderName = Literal["buildx", "buildkit", "client", "classic"]

log = logging.getLogger("ds01_kernels")

# https://docs.docker.com/reference/api/engine/version-history/#v139-api-changes
_BUILDKIT_SINCE = "1.39"
_TAKE_SECRETS = ("buildx", "client")
_SAID: dict[BuilderName, str] = {
    "buildx": "docker buildx",
    "buildkit": "BuildKit through the engine's API",
    "client": "the docker client's BuildKit",
    "classic": "the classic builder",
}


class Builders:
    """The builders of one engine. `forced` is used whatever there is."""

    def __init__(self, connect: Connect, forced: BuilderName | None = None) -> None:
        self._connect = connect
        self._forced = forced
        self._usable: list[BuilderName] | None = [forced] if forced else None

    async def build(self, request: BuildRequest) -> AsyncGenerator[BuildProgress, None]:
        """As `Engine.build`. A builder that turns out not to work is not tried again."""
        if self._usable is None:
            self._usable = await asyncio.to_thread(self._found)
        chosen = [one for one in self._usable if not request.secrets or one in _TAKE_SECRETS]
        if not chosen:
            raise BadInputError(
                f"This build needs secrets, which {_SAID[self._usable[0]]} cannot take.",
                remedy="That takes a docker client with the buildx plugin; ask the administrator for it.",
            )
        wanted = needs(request.dockerfile, request.args)
        named = (*(wanted.bases or ()), *(wanted.images or ()))
        here = await asyncio.to_thread(self._here, named)
        context = await self._context(request, wanted, here)
        missing = [one for one in dict.fromkeys(named) if request.pull or one not in here]
        if notice := await asyncio.to_thread(context.notice):
            yield BuildProgress(log=notice)
        for index, builder in enumerate(chosen):
            try:
                async with aclosing(self._built(builder, request, context, missing)) as values:
                    async for progress in values:
                        yield progress
            except RefusedError as error:
                reason = f"{_SAID[builder]} cannot be used here: {error}".rstrip(".")
                if builder == self._forced or index + 1 == len(chosen):
                    raise EngineError(f"Docker could not build the image: {reason}.") from error
                log.warning("%s. Building with %s instead.", reason, _SAID[chosen[index + 1]])
                self._usable = [one for one in self._usable if one != builder]
                yield BuildProgress(log=f"Notice: {reason}.\n")
            else:
                return

    def _found(self) -> list[BuilderName]:
        """The builders there are, the best first. Blocks; raises the `EngineError` family."""
        kind = client_kind()
        try:
            client = self._connect()
            try:
                has_buildkit = _has_buildkit(client)
            finally:
                client.close()
        except RAISED as error:
            raise translated(error, "say how it builds") from error
        found: list[BuilderName] = ["classic"]
        if has_buildkit:
            found = ["buildkit", *([kind] if kind == "client" else []), *found]
            if kind == "buildx":
                found.insert(0, kind)
        log.debug("Images are built with %s.", _SAID[found[0]])
        return found

    def _built(
        self, builder: BuilderName, request: BuildRequest, context: Context, missing: Sequence[str]
    ) -> AsyncGenerator[BuildProgress, None]:
        if builder == "classic":
            return classic_build(self._connect, request, context)
        if builder == "buildkit":
            return self._pulled_and_built(request, context, missing)
        return client_build(builder, request, context)

    async def _pulled_and_built(
        self, request: BuildRequest, context: Context, missing: Sequence[str]
    ) -> AsyncGenerator[BuildProgress, None]:
        """Without a client there is nobody whom BuildKit could ask for the user's account at a registry; the
        engine's own pull takes it along."""
        for reference in missing:
            async with aclosing(pulled(self._connect, reference, request)) as values:
                async for progress in values:
                    yield progress
        async with aclosing(buildkit_build(self._connect, request, context)) as values:
            async for progress in values:
                yield progress

    async def _context(self, request: BuildRequest, wanted: Needs, here: Mapping[str, bool]) -> Context:
        # The copying may also stand in a base image, in its ONBUILD.
        bases = wanted.bases
        is_known = not request.pull and bases is not None and all(here.get(one) is False for one in bases)
        left: list[bool] = []
        try:
            return await asyncio.to_thread(
                Context.of,
                request.directory,
                request.dockerfile,
                wanted.paths if is_known else None,
                files=request.files,
                is_cancelled=lambda: bool(left),
            )
        finally:
            left.append(True)

    def _here(self, images: Iterable[str]) -> dict[str, bool]:
        """Those of the images that the engine has, and whether they have an ONBUILD. Blocks."""
        found = {}
        try:
            client = self._connect()
            try:
                for image in images:
                    try:
                        answer = client.inspect_image(image)  # type: ignore[no-untyped-call]
                    except docker.errors.APIError as error:
                        # What cannot be a name is told, with its line, by whoever is to pull it.
                        if not error.is_client_error():
                            raise
                    else:
                        found[image] = bool((answer.get("Config") or {}).get("OnBuild"))
            finally:
                client.close()
        except RAISED as error:
            raise translated(error, "look at the base image") from error
        return found


def _has_buildkit(client: APIClient) -> bool:
    version = client.version()
    if is_podman(version) or str(version.get("Os", "linux")) != "linux":
        return False
    ping = client.get(f"{client.base_url}/_ping", timeout=client.timeout)
    # 2 is BuildKit, 1 that the administrator wants the other one; older engines say nothing.
    return ping.headers.get("Builder-Version") != "1" and version_gte(client.api_version, _BUILDKIT_SINCE)
