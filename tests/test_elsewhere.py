"""What a container needs that mounts nothing of this machine but the project."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, cast

import pytest

from ds01_kernels.agent_client import Agent
from ds01_kernels.elsewhere import bring_ipykernel, check_files
from ds01_kernels.engine import ContainerInfo, ContainerSpec
from ds01_kernels.errors import AgentError, EngineError
from ds01_kernels.projects import Project
from ds01_kernels.testing import FakeEngine

INFO = ContainerInfo("id", "p._.0", "running", "sha256:0", {}, datetime.now(UTC))


@dataclass
class Seen:
    """An agent that sees a folder as /workspace, and what it was asked for."""

    folder: Path
    asked: list[str] = field(default_factory=list)
    container: str = "c"

    async def look(self, path: str) -> str:
        self.asked.append(path)
        place = self.folder / PurePosixPath(path).relative_to("/workspace")
        return place.read_text()[:100] if place.is_file() else ""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    folder = tmp_path / "p"
    folder.mkdir()
    (folder / "Dockerfile").write_text("FROM x\n")
    return Project("p", folder, tmp_path)


def check(project: Project, agent: Any) -> None:
    asyncio.run(check_files(project, INFO, cast(Agent, agent)))


def names(project: Project) -> list[str]:
    return sorted(path.name for path in project.path.iterdir())


def test_the_same_folder_is_recognised_and_left_as_it_was(project: Project) -> None:
    agent = Seen(project.path)
    check(project, agent)
    check(project, agent)
    assert len(set(agent.asked)) == 2
    assert names(project) == ["Dockerfile"]


def test_a_copy_of_the_folder_is_another_one(project: Project, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "Dockerfile").write_text("FROM x\n")
    with pytest.raises(EngineError) as caught:
        check(project, Seen(copy))
    assert str(project.path) in str(caught.value)
    assert "container-retire p" in caught.value.remedy
    assert names(project) == ["Dockerfile"]


def test_nothing_is_left_when_the_agent_is_lost(project: Project) -> None:
    class Lost(Seen):
        async def look(self, path: str) -> str:
            raise AgentError("It is gone.")

    with pytest.raises(AgentError):
        check(project, Lost(project.path))
    assert names(project) == ["Dockerfile"]


def test_a_container_that_removes_the_mark_is_no_trouble(project: Project) -> None:
    class Tidy(Seen):
        async def look(self, path: str) -> str:
            text = await super().look(path)
            (self.folder / PurePosixPath(path).name).unlink()
            return text

    check(project, Tidy(project.path))


@pytest.mark.skipif(os.getuid() == 0, reason="root can write everywhere")
def test_a_folder_that_cannot_be_written_to_is_recognised_by_its_dockerfile(project: Project) -> None:
    project.path.chmod(0o500)
    try:
        check(project, Seen(project.path))
    finally:
        project.path.chmod(0o700)


def test_a_folder_that_is_gone_is_said(project: Project, tmp_path: Path) -> None:
    project.path.rename(tmp_path / "away")
    with pytest.raises(EngineError, match="cannot be seen whether"):
        check(project, Seen(tmp_path))


def test_a_copy_of_ipykernel_is_brought_once(tmp_path: Path) -> None:
    (tmp_path / "cp311" / "zmq").mkdir(parents=True)
    (tmp_path / "cp311" / "zmq" / "a.so").write_bytes(b"\0\1")

    async def work() -> None:
        engine = FakeEngine()
        await engine.create(ContainerSpec("c", "ds01/base:latest", ("sleep",)))

        class Inside:
            container = "c"

            async def look(self, path: str) -> str:
                return (await engine.read_file("c", PurePosixPath(path)) or b"").decode()

        agent = cast(Agent, Inside())
        await bring_ipykernel(engine, agent, tmp_path, "cp311")
        found = await engine.read_file("c", PurePosixPath("/opt/ds01/ipykernel/cp311/zmq/a.so"))
        assert found == b"\0\1"
        engine.fail_next("write_files", EngineError("It was written twice."))
        await bring_ipykernel(engine, agent, tmp_path, "cp311")

    asyncio.run(work())
