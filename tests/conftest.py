"""What the tests share: the real engine, a private workspace, and projects with images that nobody else uses.

Several runs may share one engine: every project's name ends in random hex, and what a test leaves behind is
found by the ``ds01-kernels.path`` label, below the test's own workspace. Nothing else is ever removed.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pytest

from ds01_kernels.engine import BuildRequest, Engine, ImageInfo
from ds01_kernels.errors import Ds01Error, EngineError

if TYPE_CHECKING:
    from podman_here import Podman
    from pretended import Pretence
    from servers import House
    from swarm_here import Swarm

BASE_IMAGE = "ds01/base:latest"
FROM_BASE = f"FROM {BASE_IMAGE}\n"
WITH_IPYKERNEL = f"{FROM_BASE}RUN pip install --no-cache-dir --break-system-packages ipykernel\n"

#: Seconds.
REMOVAL_LIMIT = 60.0

T = TypeVar("T")


@dataclass(frozen=True)
class ProjectFolder:
    """A project that a test made. `image` and `container` are the names that the product gives them."""

    name: str
    path: Path
    image: str
    container: str


class MakeProject(Protocol):
    def __call__(
        self, name: str = "p", *, dockerfile: str | None = None, ipykernel: bool = False, built: bool = True
    ) -> ProjectFolder: ...


@pytest.fixture(autouse=True)
def _engine_when_marked(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("engine"):
        request.getfixturevalue("engine_available")


@pytest.fixture(scope="session")
def engine_available() -> None:
    """Skips without an engine or without the base image; with the variable CI set, fails instead."""
    missing = _missing()
    if missing and os.environ.get("CI"):
        pytest.fail(missing, pytrace=False)
    if missing:
        pytest.skip(missing)


@pytest.fixture(scope="session")
def podman(engine_available: None) -> Iterator[Podman]:
    """Root's podman of this run's own, with the base image. Skips where there cannot be one."""
    from podman_here import a_podman

    with a_podman([BASE_IMAGE]) as podman:
        yield podman


@pytest.fixture(scope="session")
def swarm(engine_available: None, request: pytest.FixtureRequest) -> Iterator[Swarm]:
    """A swarm of three nodes of this run's own, with the base image and the one that has ipykernel.

    Skips where there cannot be one.
    """
    from swarm_here import a_swarm, why_not

    if missing := why_not():
        pytest.skip(missing)
    with a_swarm([BASE_IMAGE, request.getfixturevalue("ipykernel_image")]) as swarm:
        yield swarm


@pytest.fixture(scope="module")
def house(engine_available: None) -> Iterator[House]:
    """One that the tests of a module share."""
    from servers import a_house

    with a_house() as house:
        yield house


@pytest.fixture
def here() -> Iterator[Pretence]:
    """A workspace and a workbench on engines that are only played."""
    from pretended import a_pretence

    with a_pretence() as pretence:
        yield pretence


@pytest.fixture(scope="session")
def run_id() -> str:
    """Random hex, for the names and the label ``ds01-kernels.test`` of what tests make on the engine."""
    return secrets.token_hex(6)


@pytest.fixture(scope="session")
def ipykernel_image(engine_available: None) -> str:
    """An image of the base with ipykernel. It is kept between runs (label ``ds01-kernels.test=cache``)."""

    async def ensure(engine: Engine) -> str:
        base = await engine.image(BASE_IMAGE)
        assert base is not None
        key = hashlib.sha256(f"{base.id} {WITH_IPYKERNEL}".encode()).hexdigest()[:16]
        reference = f"ds01-test/ipykernel:{key}"
        if await engine.image(reference) is None:
            with tempfile.TemporaryDirectory() as context:
                labels = {"ds01-kernels.test": "cache"}
                await build(engine, BuildRequest(Path(context), WITH_IPYKERNEL, reference, labels=labels))
        return reference

    return with_engine(ensure)


@pytest.fixture
def workspace() -> Iterator[Path]:
    """An empty workspace that ``DS01_WORKSPACE`` names, with Jupyter's directories private to this test.

    The path is short, as sockets want it. At the end containers and images of projects below it are removed.
    """
    root = Path(tempfile.mkdtemp(prefix="ds01-test-")).resolve()
    with pytest.MonkeyPatch.context() as patch:
        folder = set_apart(patch, root)
        yield folder
    remove_projects_below(folder)
    shutil.rmtree(root)


@pytest.fixture
def make_project(workspace: Path, request: pytest.FixtureRequest) -> MakeProject:
    """Makes project folders in the workspace: ``make_project("thesis")`` is called ``thesis-<hex>``.

    `dockerfile` is its text; by default the plain base image, or with `ipykernel` the one that has it. With
    `built` its image is there when the call returns, labelled as the product labels it.
    """

    def make(
        name: str = "p", *, dockerfile: str | None = None, ipykernel: bool = False, built: bool = True
    ) -> ProjectFolder:
        if dockerfile is None:
            dockerfile = f"FROM {request.getfixturevalue('ipykernel_image')}\n" if ipykernel else FROM_BASE
        unique = f"{name}-{secrets.token_hex(4)}"
        project = ProjectFolder(
            name=unique,
            path=workspace / unique,
            image=f"ds01-{os.getuid()}/{unique.lower()}:latest",
            container=f"{unique.lower()}._.{os.getuid()}",
        )
        project.path.mkdir()
        (project.path / "Dockerfile").write_text(dockerfile, encoding="utf-8")
        if built:
            request.getfixturevalue("engine_available")
            with_engine(lambda engine: build_project(engine, project))
        return project

    return make


def set_apart(patch: pytest.MonkeyPatch, root: Path) -> Path:
    """Have this process's workspace, which is returned, and Jupyter's directories below `root`."""
    folder = root / "workspace"
    folder.mkdir()
    patch.setenv("DS01_WORKSPACE", str(folder))
    for name in ("config", "data", "runtime"):
        (root / name).mkdir(mode=0o700)
        patch.setenv(f"JUPYTER_{name.upper()}_DIR", str(root / name))
    for variable in ("JUPYTER_PATH", "JUPYTER_CONFIG_PATH"):
        patch.delenv(variable, raising=False)
    return folder


async def build_project(engine: Engine, project: ProjectFolder) -> ImageInfo:
    """Build the project's image with the labels that the product looks for."""
    labels = {
        "ds01-kernels.project": project.name,
        "ds01-kernels.uid": str(os.getuid()),
        "ds01-kernels.path": str(project.path),
    }
    dockerfile = (project.path / "Dockerfile").read_text(encoding="utf-8")
    return await build(engine, BuildRequest(project.path, dockerfile, project.image, labels=labels))


async def build(engine: Engine, request: BuildRequest) -> ImageInfo:
    async for _ in engine.build(request):
        pass
    image = await engine.image(request.tag)
    assert image is not None
    return image


def with_engine(work: Callable[[Engine], Awaitable[T]]) -> T:
    """Run `work` with an engine of its own, in a thread of its own: a test may be running an event loop."""
    from ds01_kernels.engine.docker import DockerEngine

    async def run() -> T:
        engine = DockerEngine()
        try:
            return await work(engine)
        finally:
            await engine.close()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(run())).result()


def remove_projects_below(folder: Path) -> None:
    """Remove the containers and images whose ``ds01-kernels.path`` lies below `folder`."""
    from ds01_kernels.engine.docker_connection import RAISED, connect

    try:
        client = connect(60.0)
    except (*RAISED, Ds01Error):
        return
    try:
        filters = {"label": "ds01-kernels.path"}
        deadline = time.monotonic() + REMOVAL_LIMIT
        while below := [
            one for one in client.containers(all=True, filters=filters) if _is_below(one, folder)
        ]:
            assert time.monotonic() < deadline, f"these are not removed: {below}"
            for container in below:
                _remove_container(client, container["Id"])
        for image in client.images(filters=filters):
            if _is_below(image, folder):
                client.remove_image(image["Id"], force=True)
    finally:
        client.close()


def _remove_container(client: Any, id_: str) -> None:
    import docker

    try:
        client.remove_container(id_, v=True, force=True)
    except docker.errors.APIError as error:
        # Gone, or being removed by the product, which has not come to its end yet.
        if error.status_code not in (404, 409):
            raise
        time.sleep(0.1)


def _is_below(thing: dict[str, dict[str, str]], folder: Path) -> bool:
    return Path(thing["Labels"]["ds01-kernels.path"]).is_relative_to(folder)


def _missing() -> str:
    async def ask(engine: Engine) -> str:
        await engine.info()
        if await engine.image(BASE_IMAGE) is None:
            return f"there is no {BASE_IMAGE}: scripts/setup builds it"
        return ""

    try:
        return with_engine(ask)
    except EngineError as error:
        return error.sentence
