"""What a test makes on the Docker engine itself, in its name: gone afterwards."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import docker
from conftest import BASE_IMAGE
from docker import APIClient

from ds01_kernels.engine import BuildProgress, BuildRequest, ContainerSpec
from ds01_kernels.engine.docker import DockerEngine
from ds01_kernels.engine.docker_builders import BuilderName

LABEL = "ds01-kernels.test"
ADDRESS = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")


class Lab:
    """`mark` is a test's own; `name` is its container's, `reference` its image's."""

    def __init__(self) -> None:
        self.mark = secrets.token_hex(6)
        self.name = f"ds01-test-{self.mark}"
        self.reference = f"ds01-test-{self.mark}/image:latest"

    def spec(self, **more: object) -> ContainerSpec:
        more.setdefault("entrypoint", ("sleep", "1000"))
        more.setdefault("network", "none")
        more.setdefault("labels", {LABEL: self.mark})
        return ContainerSpec(self.name, BASE_IMAGE, **more)  # type: ignore[arg-type]

    def request(self, directory: Path, text: str, **more: object) -> BuildRequest:
        return BuildRequest(directory, text, self.reference, labels={LABEL: self.mark}, **more)  # type: ignore[arg-type]

    def clean(self) -> None:
        client = APIClient(ADDRESS)
        ours = {"label": f"{LABEL}={self.mark}"}
        for one in client.containers(all=True, filters=ours):
            client.remove_container(one["Id"], force=True, v=True)
        for image in client.images(filters={"reference": f"ds01-test-{self.mark}/*"}):
            for tag in image["RepoTags"]:
                client.remove_image(tag, force=True)
        # An image that another one is made of goes after that.
        while images := client.images(filters=ours):
            for image in images:
                with suppress(docker.errors.APIError):
                    client.remove_image(image["Id"], force=True)
            assert len(client.images(filters=ours)) < len(images)
        client.close()


@contextmanager
def a_lab() -> Iterator[Lab]:
    lab = Lab()
    try:
        yield lab
    finally:
        lab.clean()


def run(
    flow: Callable[[DockerEngine], Awaitable[None]],
    builder: BuilderName | None = None,
    *,
    timeout: float = 60.0,
    limit: float = 120.0,
) -> None:
    """Run `flow` with an engine that builds that way; `timeout` is for each call, `limit` for all."""

    async def whole() -> None:
        engine = DockerEngine(timeout=timeout, builder=builder)
        try:
            await asyncio.wait_for(flow(engine), limit)
        finally:
            await engine.close()

    asyncio.run(whole())


async def built(engine: DockerEngine, request: BuildRequest) -> list[BuildProgress]:
    return [progress async for progress in engine.build(request)]
