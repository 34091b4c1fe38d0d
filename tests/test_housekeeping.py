"""What is removed of what is left over: ours alone, by label, and nothing that may still be in use."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from servers import House, a_house

from ds01_kernels import containers
from ds01_kernels.agent_requests import Identity
from ds01_kernels.engine import ContainerSpec, Engine
from ds01_kernels.errors import AgentError, ContainerExitedError, Ds01Error
from ds01_kernels.housekeeping import Housekeeping
from ds01_kernels.launch import Launcher
from ds01_kernels.locks import of_rebuild
from ds01_kernels.projects import Project
from ds01_kernels.settings import Settings
from ds01_kernels.testing import FakeEngine

UID = str(os.getuid())


@dataclass
class Yard:
    """An engine with one project of ours, and things that lie about; nothing is young."""

    project: Project
    engine: FakeEngine
    launcher: Launcher
    keeping: Housekeeping

    @property
    def labels(self) -> dict[str, str]:
        return containers.labels(self.project)

    async def container(self, name: str, image: str, **labels: str) -> str:
        own = self.project.container_name(os.getuid())
        everything = {**self.labels, containers.LABEL_NAME: own, **labels}
        made = await self.engine.create(ContainerSpec(name, image, ("sh",), labels=everything))
        return made.name

    def dangling(self, labels: dict[str, str]) -> str:
        """An image whose name another one has got since."""
        made = self.engine.add_image("somebody:1", labels=labels)
        self.engine.add_image("somebody:1")
        return made.id


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    project = Project("thesis", tmp_path / "thesis", tmp_path)
    engine = FakeEngine()
    launcher = Launcher(engine, lambda project: Settings(), Identity("tests", "", 0))
    return Yard(project, engine, launcher, Housekeeping(launcher, young=timedelta(seconds=-1)))


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


def test_what_is_left_of_rebuilds_is_removed(yard: Yard) -> None:
    async def pruned() -> None:
        engine: Engine = yard.engine
        latest = yard.engine.add_image(yard.project.image_name(os.getuid()), labels=yard.labels)
        previous = yard.engine.add_image(f"ds01-{UID}/thesis:previous", labels=yard.labels)
        candidate = yard.engine.add_image(f"ds01-{UID}/thesis:candidate-0123abcd", labels=yard.labels)
        nameless = yard.dangling(yard.labels)
        own = await yard.container(yard.project.container_name(os.getuid()), latest.id)
        for beside in ("next-0123abcd", "old-0123abcd", "trial-0123abcd"):
            await yard.container(f"{own}.{beside}", latest.id)
        told = (await yard.keeping.look()).as_json()
        assert told == (await yard.keeping.prune()).as_json()
        assert sorted(told["containers"]) == [f"{own}.{one}-0123abcd" for one in ("next", "old", "trial")]
        assert told["images"] == [f"ds01-{UID}/thesis:candidate-0123abcd", nameless[7:19]]
        assert [info.name for info in await engine.containers({})] == [own]
        assert await engine.image(candidate.id) is None
        assert await engine.image(nameless) is None
        assert await engine.image(latest.id) is not None
        assert await engine.image(previous.id) is not None
        assert (await yard.keeping.look()).lines == ["There is nothing to remove."]

    run(pruned)


def test_what_is_young_stays(yard: Yard) -> None:
    async def looked() -> None:
        yard.dangling(yard.labels)
        latest = yard.engine.add_image(yard.project.image_name(os.getuid()), labels=yard.labels)
        await yard.container("thesis.next-0123abcd", latest.id)
        assert (await Housekeeping(yard.launcher).look()).as_json() == {
            "containers": [],
            "images": [],
            "size": 0,
        }

    run(looked)


def test_what_is_not_ours_stays(yard: Yard) -> None:
    async def looked() -> None:
        ours = yard.engine.add_image(yard.project.image_name(os.getuid()), labels=yard.labels)
        yard.dangling({})
        yard.dangling({**yard.labels, containers.LABEL_UID: "99999"})
        yard.dangling({containers.LABEL_UID: UID})
        # Whoever tagged it wants it.
        yard.engine.add_image("mine:1", labels=yard.labels)
        await yard.container("theirs", ours.id, **{containers.LABEL_UID: "99999"})
        await yard.engine.create(
            ContainerSpec("nobodys", ours.id, ("sh",), labels={containers.LABEL_UID: UID})
        )
        await yard.engine.create(ContainerSpec("earlier", ours.id, ("sh",), labels=yard.labels))
        assert (await yard.keeping.look()).lines == ["There is nothing to remove."]

    run(looked)


def test_what_is_in_use_stays(yard: Yard) -> None:
    async def pruned() -> None:
        engine: Engine = yard.engine
        used = yard.dangling(yard.labels)
        await yard.container(yard.project.container_name(os.getuid()), used)
        tried = yard.engine.add_image(f"ds01-{UID}/thesis:candidate-0123abcd", labels=yard.labels)
        await yard.container("thesis.next-0123abcd", tried.id)
        async with yard.launcher.locks.hold(of_rebuild(yard.project.path)):
            assert (await yard.keeping.prune()).as_json()["containers"] == []
        assert await engine.image(used) is not None
        assert await engine.image(tried.id) is not None
        assert (await yard.keeping.prune()).as_json()["containers"] == ["thesis.next-0123abcd"]

    run(pruned)


def test_only_replaced_containers_go_when_a_server_starts(yard: Yard) -> None:
    async def begun() -> None:
        latest = yard.engine.add_image(yard.project.image_name(os.getuid()), labels=yard.labels)
        own = await yard.container(yard.project.container_name(os.getuid()), latest.id)
        for beside in ("next-0123abcd", "old-0123abcd", "old-mine"):
            await yard.container(f"{own}.{beside}", latest.id)
        assert not await yard.keeping.retire_replaced()
        left = sorted(info.name for info in await yard.engine.containers({}))
        assert left == [own, f"{own}.next-0123abcd", f"{own}.old-mine"]

    run(begun)


@pytest.mark.parametrize(
    ("error", "is_gone"),
    [
        (ContainerExitedError("Somebody is just removing it."), True),
        (AgentError("It does not answer."), False),
    ],
)
def test_a_container_that_ends_meanwhile_is_waited_for(yard: Yard, error: Ds01Error, is_gone: bool) -> None:
    """Where no agent can be reached in one that runs on, kernels may be in it."""

    async def retired() -> None:
        latest = yard.engine.add_image(yard.project.image_name(os.getuid()), labels=yard.labels)
        name = await yard.container(f"{yard.project.container_name(os.getuid())}.old-0123abcd", latest.id)
        await yard.engine.start(name)
        yard.engine.fail_next("exec", error)
        assert await yard.launcher.former.retire_if_idle(name) == is_gone
        assert (await yard.engine.container(name) is None) == is_gone

    run(retired)


class SlowEngine(FakeEngine):
    async def remove(self, container: str) -> None:
        await asyncio.sleep(0.1)
        await super().remove(container)


def test_a_process_that_ends_waits_for_the_container_that_it_removes(yard: Yard) -> None:
    async def left() -> None:
        yard.engine = yard.launcher.engine = SlowEngine()
        latest = yard.engine.add_image(yard.project.image_name(os.getuid()), labels=yard.labels)
        name = await yard.container(f"{yard.project.container_name(os.getuid())}.old-0123abcd", latest.id)
        yard.launcher.former.leave(name)
        assert await yard.engine.container(name) is not None
        await yard.launcher.close()
        assert await yard.engine.container(name) is None

    run(left)


@pytest.fixture
def house(engine_available: None) -> Iterator[House]:
    with a_house() as house:
        yield house


@pytest.mark.engine
def test_prune_by_the_command_line_only_shows_when_asked_to(house: House) -> None:
    told = house.ds01("prune", "--dry-run", "--json")
    assert told.returncode == 0, told.stderr
    assert set(json.loads(told.stdout)) == {"containers", "images", "size"}
