"""What of the settings a build is given."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ds01_kernels import images
from ds01_kernels.engine import BuildRequest
from ds01_kernels.projects import Project
from ds01_kernels.testing import FakeEngine


class Noting(FakeEngine):
    """Keeps what it was asked to build."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[BuildRequest] = []

    def build(self, request: BuildRequest):  # type: ignore[no-untyped-def]
        self.asked.append(request)
        return super().build(request)


@pytest.mark.parametrize(
    ("line", "given"),
    [
        ("RUN --mount=type=secret,id=pip,target=/etc/pip.conf pip install x", {"pip"}),
        ("RUN --mount=type=secret,id=pip --mount=id=other,type=secret pip install x", {"pip", "other"}),
        ("RUN --mount=type=cache,id=pip,target=/root/.cache pip install x", set()),
        ("RUN --mount=type=secret,id=unknown true", set()),
        ("RUN echo type=secret,id=pip", set()),
    ],
)
def test_a_build_gets_the_secrets_that_its_dockerfile_asks_for(
    line: str, given: set[str], tmp_path: Path
) -> None:
    engine = Noting()

    async def build() -> None:
        text = f"FROM ds01/base:latest\n{line}\n"
        secrets = {"pip": Path("/etc/pip.conf"), "other": Path("/etc/other")}
        project = Project("p", tmp_path, tmp_path.parent)
        async for _ in images.build(engine, project, text=text, secrets=secrets):
            pass

    asyncio.run(build())
    assert set(engine.asked[0].secrets) == given
