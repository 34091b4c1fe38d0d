"""A swap of Dockerfile, image and container that is ended at any point: then all are old, or all are new.

With an engine in memory that can fail, or take its process with it, at each of its calls.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from ds01_kernels import containers
from ds01_kernels.engine import ContainerSpec, Engine
from ds01_kernels.errors import (
    BadInputError,
    ConflictError,
    Ds01Error,
    EngineError,
    EngineUnreachableError,
    NotFoundError,
)
from ds01_kernels.projects import Project
from ds01_kernels.rebuild import PHASES, Exchange, Exchanges, Journals, Step
from ds01_kernels.rebuild.journal import Previous
from ds01_kernels.rebuild.phases import Walk, diagram
from ds01_kernels.records import Records
from ds01_kernels.testing import FakeEngine

OLD, NEW, OLDER = "FROM old\n", "FROM new\n", "FROM older\n"
ID = "0123abcd"
#: More calls than any exchange makes.
MANY = 40
#: The number of the call that gives the new container its name.
LAST_STEP = 4


class KilledError(BaseException):
    """The process is gone: nothing of it runs any more."""


class Mortal:
    """An engine's calls, counted; `at` says what becomes of the call of that number, from 0."""

    def __init__(self, engine: FakeEngine, at: Callable[[int], BaseException | None], *, after: bool = False):
        self._engine = engine
        self._at = at
        self._after = after
        self.calls = 0

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        method = getattr(self._engine, name)

        async def call(*given: Any, **more: Any) -> Any:
            number, self.calls = self.calls, self.calls + 1
            error = self._at(number)
            if error is not None and not self._after:
                raise error
            answer = await method(*given, **more)
            if error is not None:
                raise error
            return answer

        return call


@dataclass
class World:
    """A project with an engine, in a state in which an exchange can begin."""

    project: Project
    records: Records
    engine: FakeEngine
    exchange: Exchange
    #: The id of the container that there is at the beginning.
    running: str | None

    @property
    def latest(self) -> str:
        return self.project.image_name(os.getuid())

    @property
    def container(self) -> str:
        return self.project.container_name(os.getuid())

    @property
    def journals(self) -> Journals:
        return Journals(self.records)

    def exchanges(self, engine: Any = None) -> Exchanges:
        """As a new process would have them."""
        return Exchanges(lambda: engine or self.engine, self.journals)

    async def look(self) -> dict[str, Any]:
        """All that has to agree. Names of containers that stand beside are told apart by their kind."""
        engine: Engine = self.engine
        latest, previous, candidate = [
            await engine.image(reference)
            for reference in (self.latest, self.latest.replace(":latest", ":previous"), self.candidate)
        ]
        found = await engine.containers(containers.labels(self.project))
        return {
            "file": (self.project.path / "Dockerfile").read_text(),
            "latest": latest and latest.id,
            "previous": previous and previous.id,
            "candidate": candidate and candidate.id,
            "containers": {info.name.removeprefix(self.container): info.id for info in found},
        }

    @property
    def candidate(self) -> str:
        return self.latest.replace(":latest", f":candidate-{ID}")

    def old(self) -> dict[str, Any]:
        one = self.exchange
        return {
            "file": OLD,
            "latest": one.old_image,
            "previous": one.older_image,
            "candidate": None,
            "containers": {"": self.running} if self.running else {},
        }

    def new(self) -> dict[str, Any]:
        one = self.exchange
        is_same = one.old_image in (None, one.new_image)
        beside = {f".old-{ID}": one.old_container} if one.old_container else {}
        # Of an update the old container is the project's until it is replaced.
        current = one.new_container or self.running
        return {
            "file": NEW,
            "latest": one.new_image,
            "previous": one.older_image if is_same else one.old_image,
            "candidate": None,
            "containers": {**({"": current} if current else {}), **beside},
        }


@dataclass(frozen=True)
class Kind:
    """What there is before, and what is exchanged."""

    image: bool = True
    container: bool = True
    older: bool = True
    swaps: bool = True
    rollback: bool = False
    cached: bool = False


KINDS = {
    "a rebuild": Kind(),
    "a second rebuild": Kind(older=False),
    "of a project that does not run": Kind(container=False),
    "the first one": Kind(image=False, container=False, older=False),
    "an update": Kind(swaps=False),
    "a rollback": Kind(rollback=True),
    "of what changes nothing": Kind(cached=True),
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())


async def world(tmp_path: Path, kind: Kind = Kind()) -> World:
    workspace = tmp_path / "workspace"
    project = Project("thesis", workspace / "thesis", workspace)
    project.path.mkdir(parents=True)
    (project.path / "Dockerfile").write_text(OLD)
    engine = FakeEngine()
    uid, labels = os.getuid(), containers.labels(project)
    latest, name = project.image_name(uid), project.container_name(uid)

    async def container(called: str, image: str) -> str:
        spec = ContainerSpec(called, image, ("sh",), labels={**labels, containers.LABEL_NAME: name})
        made = await engine.create(spec)
        await engine.start(made.id)
        return made.id

    old = engine.add_image(latest, labels=labels).id if kind.image else None
    older = engine.add_image(latest.replace(":latest", ":previous"), labels=labels).id if kind.older else None
    candidate = "" if kind.rollback else latest.replace(":latest", f":candidate-{ID}")
    if kind.rollback:
        new = older
    elif kind.cached:
        new = old
        await engine.tag(str(old), candidate)
    else:
        new = engine.add_image(candidate, labels=labels).id
    assert new is not None
    running = await container(name, str(old)) if kind.container else None
    exchange = Exchange(
        ID,
        "Dockerfile",
        OLD,
        NEW,
        new_image=new,
        old_image=old,
        older_image=older,
        candidate=candidate,
        old_container=running if kind.swaps else None,
        new_container=await container(f"{name}.next-{ID}", new) if kind.swaps else None,
    )
    found = World(project, Records(tmp_path / "records"), engine, exchange, running)
    if kind.older:
        await found.journals.keep_previous(project, Previous(str(older), "Dockerfile", OLDER))
    await found.journals.note(project, exchange)
    return found


async def over(one: World, exchanges: Exchanges) -> None:
    """What `Rebuilds` does with an exchange that is done but for the kernels."""
    if (done := await exchanges.settle(one.project)) is not None:
        assert done.old_container is not None
        await one.journals.forget(one.project)


async def agrees(one: World, *, tidy: bool = True) -> bool:
    """Whether all is new; else all is old. Nothing is left of the way there, or, unless `tidy`, one image."""
    found = await one.look()
    expected = one.new()
    assert found in (one.old(), expected)
    assert await one.journals.pending(one.project) is None
    is_new = bool(found == expected)
    images = {image.id for image in await one.engine.images(containers.labels(one.project))}
    used = {found["latest"], found["previous"], *found["containers"].values()}
    used |= {info.image_id for info in await one.engine.containers({})}
    assert images <= used or not tidy, "an image is left that nobody can go back to"
    previous = one.exchange.old_image if is_new else one.exchange.older_image
    if previous not in (None, one.exchange.new_image) or (not is_new and previous):
        assert (await one.journals.previous(one.project)).image == previous
    return is_new


async def fails(one: World, exchanges: Exchanges) -> bool:
    """Whether the exchange raises the engine's error: to tidy up afterwards is no part of it."""
    try:
        await exchanges.carry_out(one.project, one.exchange)
    except EngineError:
        return True
    return False


def counted(tmp_path: Path, kind: Kind) -> int:
    """How many calls the whole exchange makes of the engine; afterwards all is new."""

    async def count() -> int:
        one = await world(tmp_path / "counted", kind)
        mortal = Mortal(one.engine, lambda number: None)
        await one.exchanges(mortal).carry_out(one.project, one.exchange)
        await over(one, one.exchanges())
        assert await agrees(one)
        return mortal.calls

    return asyncio.run(count())


@every_kind
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_kill_at_each_call_ends_in_the_old_or_in_the_new(tmp_path: Path, kind: Kind, after: bool) -> None:
    async def killed(number: int) -> None:
        one = await world(tmp_path / str(number), kind)
        mortal = Mortal(one.engine, lambda n: KilledError() if n == number else None, after=after)
        with pytest.raises(KilledError):
            await one.exchanges(mortal).carry_out(one.project, one.exchange)
        await over(one, one.exchanges())
        await agrees(one)
        assert await one.exchanges().settle(one.project) is None

    for number in range(counted(tmp_path, kind)):
        asyncio.run(killed(number))


@every_kind
@pytest.mark.parametrize("direction", ["trying", "forward", "back", "done"])
def test_a_kill_right_after_each_entry_in_the_journal(tmp_path: Path, kind: Kind, direction: Any) -> None:
    async def killed() -> None:
        one = await world(tmp_path, kind)
        if direction == "done":
            await one.exchanges().carry_out(one.project, one.exchange)
        else:
            await one.journals.note(one.project, replace(one.exchange, direction=direction))
        await over(one, one.exchanges())
        assert await agrees(one) == (direction in ("forward", "done"))

    asyncio.run(killed())


@every_kind
def test_a_kill_of_who_settles_as_well(tmp_path: Path, kind: Kind) -> None:
    """At each pair of calls: the one in the exchange, the other in what ends it."""

    async def killed(first: int, second: int) -> bool:
        one = await world(tmp_path / f"{first}-{second}", kind)
        mortal = Mortal(one.engine, lambda n: KilledError() if n == first else None)
        with pytest.raises(KilledError):
            await one.exchanges(mortal).carry_out(one.project, one.exchange)
        successor = Mortal(one.engine, lambda n: KilledError() if n == second else None, after=True)
        try:
            await over(one, one.exchanges(successor))
            is_killed = False
        except KilledError:
            is_killed = True
            await over(one, one.exchanges())
        await agrees(one)
        return is_killed

    for first in range(counted(tmp_path, kind)):
        second = 0
        while asyncio.run(killed(first, second)):
            second += 1
            assert second < MANY


async def in_place(tmp_path: Path, *, container: bool = True) -> tuple[World, Callable[[Any], Any]]:
    """A world whose one container has to go before there is a new one; and what makes that."""
    one = await world(tmp_path, Kind(swaps=False, container=container))
    one.exchange = replace(one.exchange, in_place=True, old_container=one.running)

    async def renew(engine: Any) -> None:
        if one.running is not None:
            await engine.remove(one.running)
        name = {containers.LABEL_NAME: one.container}
        spec = ContainerSpec(one.container, one.latest, ("sh",), labels=containers.labels(one.project) | name)
        try:
            await engine.create(spec)
        except EngineError:
            await one.engine.remove(one.container)
            raise

    return one, renew


async def goes_together(one: World) -> bool:
    """Whether all is new; else all is old. There may be no container: the next who wants it makes it."""
    found = await one.look()
    is_new = found["file"] == NEW
    assert found["latest"] == (one.exchange.new_image if is_new else one.exchange.old_image)
    assert found["previous"] == (one.exchange.old_image if is_new else one.exchange.older_image)
    assert found["candidate"] is None
    assert found["containers"].keys() <= {""}
    info = await one.engine.container(one.container)
    assert info is None or info.image_id == found["latest"]
    assert await one.journals.pending(one.project) is None
    return is_new


async def over_in_place(one: World, exchanges: Exchanges) -> None:
    if (done := await exchanges.settle(one.project)) is not None:
        await one.engine.remove(str(done.old_container))
        await one.journals.forget(one.project)


@pytest.mark.parametrize("container", [True, False], ids=["runs", "does-not-run"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("dies", [True, False], ids=["killed", "failed"])
def test_an_exchange_in_place_that_is_ended_at_any_call(
    tmp_path: Path, container: bool, after: bool, dies: bool
) -> None:
    async def ended(number: int) -> bool:
        one, renew = await in_place(tmp_path / str(number), container=container)
        end = KilledError() if dies else EngineError("No.")
        mortal = Mortal(one.engine, lambda n: end if n == number else None, after=after)
        is_over = False
        try:
            await one.exchanges(mortal).carry_out(one.project, one.exchange, lambda: renew(mortal))
        except (KilledError, EngineError):
            is_over = True
        await over_in_place(one, one.exchanges())
        is_new = await goes_together(one)
        assert await one.exchanges().settle(one.project) is None
        return is_over or not is_new

    number = 0
    while asyncio.run(ended(number)):
        number += 1
        assert number < MANY
    assert number > 3


@every_kind
def test_an_error_at_each_call_leaves_all_as_it_was(tmp_path: Path, kind: Kind) -> None:
    async def failed(number: int) -> None:
        one = await world(tmp_path / str(number), kind)
        mortal = Mortal(one.engine, lambda n: EngineError("No.") if n == number else None)
        has_failed = await fails(one, one.exchanges(mortal))
        await over(one, one.exchanges())
        assert await agrees(one, tidy=False) != has_failed

    for number in range(counted(tmp_path, kind)):
        asyncio.run(failed(number))


@every_kind
def test_an_engine_that_goes_away_gets_it_back_when_it_returns(tmp_path: Path, kind: Kind) -> None:
    async def away(number: int) -> None:
        one = await world(tmp_path / str(number), kind)
        gone = EngineUnreachableError("The engine is away.")
        mortal = Mortal(one.engine, lambda n: gone if n >= number else None)
        has_failed = await fails(one, one.exchanges(mortal))
        if has_failed:
            with pytest.raises(EngineUnreachableError):
                await one.exchanges(mortal).settle(one.project)
            assert (one.project.path / "Dockerfile").read_text() == OLD
        await over(one, one.exchanges())
        assert await agrees(one, tidy=False) != has_failed

    for number in range(counted(tmp_path, kind)):
        asyncio.run(away(number))


class FullDisk(Journals):
    """Nothing more can be written once the exchange has begun."""

    async def note(self, project: Project, exchange: Exchange) -> None:
        if exchange.direction in ("back", "done"):
            raise Ds01Error("The disk is full.")
        await super().note(project, exchange)


@every_kind
def test_a_full_disk_keeps_nothing_from_going_back(tmp_path: Path, kind: Kind) -> None:
    async def failed(number: int) -> None:
        one = await world(tmp_path / str(number), kind)
        mortal = Mortal(one.engine, lambda n: EngineError("No.") if n == number else None)
        has_failed = await fails(one, Exchanges(lambda: mortal, FullDisk(one.records)))  # type: ignore[arg-type, return-value]
        assert await agrees(one, tidy=False) != has_failed

    for number in range(counted(tmp_path, kind)):
        asyncio.run(failed(number))


def test_a_full_disk_at_the_end_does_not_matter(tmp_path: Path) -> None:
    async def done() -> None:
        one = await world(tmp_path)
        await Exchanges(lambda: one.engine, FullDisk(one.records)).carry_out(one.project, one.exchange)
        assert await agrees(one)

    asyncio.run(done())


def test_who_gave_up_does_not_go_on(tmp_path: Path) -> None:
    """The exchange failed with a sentence that says so: it must not succeed a moment later."""

    async def settled() -> None:
        one = await world(tmp_path)
        await one.journals.note(one.project, replace(one.exchange, direction="forward"))
        assert await one.exchanges().settle(one.project, back=True) is None
        assert not await agrees(one)

    asyncio.run(settled())


@pytest.mark.parametrize("begun", [False, True], ids=["before it was written", "at the last step"])
def test_a_dockerfile_that_somebody_edits_meanwhile_stays(tmp_path: Path, begun: bool) -> None:
    async def edited() -> None:
        one = await world(tmp_path, Kind())
        if begun:
            mortal = Mortal(one.engine, lambda n: KilledError() if n == LAST_STEP else None)
            with pytest.raises(KilledError):
                await one.exchanges(mortal).carry_out(one.project, one.exchange)
        else:
            await one.journals.note(one.project, replace(one.exchange, direction="forward"))
        (one.project.path / "Dockerfile").write_text("FROM mine\n")
        await over(one, one.exchanges())
        assert await one.look() == {**one.old(), "file": "FROM mine\n"}

    asyncio.run(edited())


def lead_out(dockerfile: Path) -> None:
    dockerfile.unlink()
    dockerfile.symlink_to("/etc/hostname")


def make_a_folder(dockerfile: Path) -> None:
    dockerfile.unlink()
    dockerfile.mkdir()


def rename_the_project(dockerfile: Path) -> None:
    dockerfile.parent.rename(dockerfile.parent.with_name("renamed"))


@pytest.mark.parametrize(
    "replaced", [Path.unlink, lead_out, make_a_folder, rename_the_project], ids=lambda one: one.__name__
)
def test_a_dockerfile_that_is_something_else_by_now_is_a_conflict(
    tmp_path: Path, replaced: Callable[[Path], None]
) -> None:
    async def conflict() -> None:
        one = await world(tmp_path)
        replaced(one.project.path / "Dockerfile")
        with pytest.raises((ConflictError, BadInputError)) as error:
            await one.exchanges().carry_out(one.project, one.exchange)
        assert error.value.remedy
        assert await one.journals.pending(one.project) is None
        engine: Engine = one.engine
        latest = await engine.image(one.latest)
        current = await engine.container(one.container)
        assert latest is not None
        assert current is not None
        assert (latest.id, current.id) == (one.exchange.old_image, one.exchange.old_container)
        assert await engine.image(one.candidate) is None
        assert len(await engine.containers({})) == 1

    asyncio.run(conflict())


def test_a_text_of_ours_that_cannot_be_taken_back_is_tried_again(tmp_path: Path) -> None:
    async def tried() -> None:
        one = await world(tmp_path)
        dockerfile = one.project.path / "Dockerfile"
        dockerfile.write_text(NEW)
        dockerfile.chmod(0o444)
        await one.journals.note(one.project, replace(one.exchange, direction="back"))
        with pytest.raises(BadInputError, match="cannot be written"):
            await one.exchanges().settle(one.project)
        dockerfile.chmod(0o644)
        await over(one, one.exchanges())
        assert not await agrees(one)

    asyncio.run(tried())


def test_a_new_container_that_was_removed_leads_back(tmp_path: Path) -> None:
    async def removed() -> None:
        one = await world(tmp_path)
        await one.journals.note(one.project, replace(one.exchange, direction="forward"))
        await one.engine.remove(str(one.exchange.new_container))
        await over(one, one.exchanges())
        assert not await agrees(one)

    asyncio.run(removed())


def test_a_container_made_after_the_last_entry_is_found_by_its_name(tmp_path: Path) -> None:
    async def found() -> None:
        one = await world(tmp_path)
        await one.journals.note(one.project, replace(one.exchange, new_container=None, new_image=None))
        await over(one, one.exchanges())
        assert not await agrees(one)

    asyncio.run(found())


def test_the_candidate_of_somebody_who_runs_it_is_left(tmp_path: Path) -> None:
    async def left() -> None:
        one = await world(tmp_path)
        spec = ContainerSpec("theirs", one.candidate, ("sh",))
        await one.engine.create(spec)
        await over(one, one.exchanges())
        assert await one.engine.container("theirs") is not None
        assert await one.journals.pending(one.project) is None

    asyncio.run(left())


GARBAGE = {
    "empty": b"",
    "not JSON": b"{",
    "a list": b"[]",
    "of another version": b'{"format": 99, "id": "0123abcd", "direction": "forward"}',
    "without a direction": b'{"format": 1, "id": "0123abcd", "file": "", "before": "", "after": ""}',
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE.keys())
def test_a_journal_that_cannot_be_used_is_absent(tmp_path: Path, content: bytes) -> None:
    async def absent() -> None:
        one = await world(tmp_path)
        one.records.of_host(one.project, "rebuild").write_bytes(content)
        before = await one.look()
        assert await one.exchanges().settle(one.project) is None
        assert await one.look() == before
        # And it is in nobody's way.
        await one.exchanges().carry_out(one.project, one.exchange)
        await over(one, one.exchanges())
        assert await agrees(one)

    asyncio.run(absent())


BAD = {
    "id": ["", "../../etc", 5, None],
    "file": [None, 5],
    "direction": ["sideways", None],
    "kernels": ["k", 5],
    "old_container": [5],
}


@pytest.mark.parametrize(
    ("field", "value"), [(name, value) for name, values in BAD.items() for value in values]
)
def test_a_journals_fields_are_checked(field: str, value: Any) -> None:
    good = Exchange(ID, "Dockerfile", OLD, NEW, new_image="i", kernels=frozenset({"k"})).as_json()
    assert Exchange.from_json(good).as_json() == good
    with pytest.raises(ValueError, match="it"):
        Exchange.from_json({**good, field: value})


@pytest.mark.parametrize("kept", ["named", "used", ""])
def test_the_image_before_the_previous_one_goes_unless_somebody_has_it(tmp_path: Path, kept: str) -> None:
    async def exchanged() -> None:
        one = await world(tmp_path)
        older = str(one.exchange.older_image)
        if kept == "named":
            await one.engine.tag(older, "mine:1")
        if kept == "used":
            await one.engine.create(ContainerSpec("mine", older, ("sh",)))
        await one.exchanges().carry_out(one.project, one.exchange)
        assert (await one.engine.image(older) is not None) == bool(kept)

    asyncio.run(exchanged())


def test_nothing_to_go_back_to(tmp_path: Path) -> None:
    async def asked() -> None:
        one = await world(tmp_path, KINDS["the first one"])
        with pytest.raises(NotFoundError, match="nothing to go back to"):
            await one.journals.previous(one.project)

    asyncio.run(asked())


# The phases


ENDS = ("done", "failed", "cancelled", "rolled-back")


def test_every_phase_can_be_reached_and_every_way_ends() -> None:
    reached, ahead = set(), ["preview"]
    while ahead:
        phase = ahead.pop()
        if phase not in reached:
            reached.add(phase)
            ahead += PHASES[phase]  # type: ignore[index]
    assert reached == set(PHASES)
    assert {phase for phase, following in PHASES.items() if not following} == set(ENDS)
    # No way leads back, so each ends.
    order = list(PHASES)
    for phase, following in PHASES.items():
        assert all(order.index(phase) < order.index(one) for one in following)


def test_a_cancellation_comes_in_time_before_the_swap_only() -> None:
    assert {phase for phase, following in PHASES.items() if "cancelled" in following} == {
        *("waiting", "edit", "build", "check")
    }


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("following", PHASES)
def test_a_walk_goes_only_where_the_table_leads(phase: Any, following: Any) -> None:
    told: list[Step] = []
    walk = Walk(told.append)
    walk.phase = phase
    if following == phase or following in PHASES[phase]:
        walk(Step(following))
        assert told == [Step(following)]
        assert walk.phase == following
    else:
        with pytest.raises(ValueError, match=f"from {phase} to {following}"):
            walk(Step(following))
        assert told == []


def test_the_diagram_in_the_documentation_is_the_table() -> None:
    text = (Path(__file__).parent.parent / "ARCHITECTURE.md").read_text()
    assert f"```mermaid\n{diagram()}```\n" in text
