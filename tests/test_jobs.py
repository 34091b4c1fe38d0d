"""Jobs with real files, a real loop, and other processes that look on."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jupyter_events import EventLogger

from ds01_kernels.errors import BuildFailedError, ConflictError, NotFoundError
from ds01_kernels.events import SCHEMA_FILES, ContainerChanged, DriftChanged, Event, JobChanged, Listeners
from ds01_kernels.jobs import Job, Jobs, JobState
from ds01_kernels.jobs.log import LogWriter, read
from ds01_kernels.jobs.state import JobError, Progress
from ds01_kernels.projects import Project
from ds01_kernels.records import Records

LIMIT = 60.0

# Another process of the same user, on the same records.
PRELUDE = """\
import asyncio, json, sys
from pathlib import Path
from ds01_kernels.jobs import Jobs
from ds01_kernels.projects import Project
from ds01_kernels.records import Records

path = Path(sys.argv[2])
project = Project(path.name, path, path.parent)
jobs = Jobs(Records(Path(sys.argv[1])), lambda event: None)
"""

RUNS_FOR_EVER = """
async def work(job):
    job.report(phase="build", step=2, steps=5, name="RUN true")
    job.say("zwei von fünf\\n")
    await asyncio.Event().wait()

async def main():
    state = await jobs.start(project, "build", work)
    while not jobs.log(project, state.id).text:
        await asyncio.sleep(0.02)
    print(state.id, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


class Desk:
    """A project, its jobs, and the events that they tell."""

    def __init__(self, root: Path) -> None:
        self.root = root
        path = root / "workspace" / "thesis"
        path.mkdir(parents=True)
        self.project = Project("thesis", path, path.parent)
        self.records = Records(root / "records")
        self.events: list[JobChanged] = []
        self.jobs = Jobs(self.records, self.events.append)

    @property
    def folder(self) -> Path:
        return self.records.folder(self.project) / "jobs"

    async def over(self, id_: str) -> JobState:
        """The job's state once it has ended and its log is complete."""
        async with asyncio.timeout(LIMIT):
            while not self.jobs.log(self.project, id_, 1 << 40).done:
                await asyncio.sleep(0.01)
        return self.jobs.get(self.project, id_)

    async def run(self, work: Callable[[Job], Coroutine[Any, Any, None]], kind: Any = "build") -> JobState:
        return await self.over((await self.jobs.start(self.project, kind, work)).id)

    def text(self, id_: str) -> str:
        return self.jobs.log(self.project, id_).text

    @contextmanager
    def other(self, program: str) -> Iterator[subprocess.Popen[str]]:
        """Another process, with `jobs` and `project` as its names for ours."""
        process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + program, str(self.root / "records"), str(self.project.path)],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def ask(self, program: str) -> Any:
        """What another process prints, as JSON."""
        with self.other(program) as process:
            told, _ = process.communicate(timeout=LIMIT)
        assert process.returncode == 0
        return json.loads(told)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


async def until(condition: Callable[[], Any]) -> Any:
    async with asyncio.timeout(LIMIT):
        while not (found := condition()):
            await asyncio.sleep(0.01)
    return found


# One job


def test_a_job_is_told_from_its_start_to_its_end(desk: Desk) -> None:
    async def work(job: Job) -> None:
        job.report(phase="edit")
        job.say("first\n")
        job.report(phase="build", step=1, steps=2, name="FROM x")
        job.report(step=2, name="RUN y")
        job.say("no end of line")

    async def main() -> JobState:
        begun = await desk.jobs.start(desk.project, "rebuild", work)
        assert (begun.project, begun.kind, begun.error) == ("thesis", "rebuild", None)
        return await desk.over(begun.id)

    state = asyncio.run(main())
    assert (state.phase, state.kind, state.error, state.cancelling) == ("done", "rebuild", None, False)
    assert state.ended is not None
    assert state.started <= state.ended <= datetime.now(UTC)
    assert desk.text(state.id) == "first\nno end of line\n"
    told = [event.phase for event in desk.events]
    assert [phase for at, phase in enumerate(told) if phase not in told[:at]] == [
        "waiting",
        "edit",
        "build",
        "done",
    ]
    assert {(event.project, event.id, event.kind) for event in desk.events} == {
        ("thesis", state.id, "rebuild")
    }
    assert desk.jobs.all(desk.project) == [state]


def test_a_new_phase_counts_anew(desk: Desk) -> None:
    seen: list[JobState] = []

    async def work(job: Job) -> None:
        job.report(phase="build", step=3, steps=4, name="\x1b[31mRUN\x1b[0m \x1b]0;title\x07a\n  b")
        seen.append(job.state)
        job.report(phase="check")
        seen.append(job.state)
        with pytest.raises(ValueError, match="not reported"):
            job.report(phase="done")

    asyncio.run(desk.run(work))
    assert [state.progress for state in seen] == [Progress(3, 4, "RUN a b"), Progress()]


def test_files_are_private(desk: Desk) -> None:
    async def work(job: Job) -> None:
        job.say("secret\n")

    state = asyncio.run(desk.run(work))
    folder = desk.folder / state.id
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(desk.folder.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {
        "state.json": 0o600,
        "log.0": 0o600,
    }


def test_errors_become_the_jobs(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    async def builds(job: Job) -> None:
        job.report(phase="build", step=3, steps=9, name="RUN false")
        raise BuildFailedError("Line 7 \x1b[1mfailed\x1b[0m.", remedy="Correct it.", line=7)

    async def conflicts(job: Job) -> None:
        raise ConflictError("It is in use.")

    async def is_wrong(job: Job) -> None:
        raise KeyError("nobody thought of this")

    async def gives_up(job: Job) -> None:
        raise asyncio.CancelledError

    async def main() -> list[JobState]:
        return [await desk.run(work) for work in (builds, conflicts, is_wrong, gives_up)]

    with caplog.at_level(logging.ERROR):
        failed = asyncio.run(main())
    assert {state.phase for state in failed} == {"failed"}
    errors = [state.error for state in failed]
    assert errors[0] == JobError("Line 7 failed. Correct it.", "build-failed", 7)
    assert failed[0].progress == Progress(3, 9, "RUN false")
    assert failed[0].as_json()["error"] == {
        "message": "Line 7 failed. Correct it.",
        "reason": "build-failed",
        "line": 7,
    }
    assert errors[1] == JobError("It is in use.", "conflict")
    assert "line" not in failed[1].as_json()["error"]
    for unexpected in failed[2:]:
        assert unexpected.error is not None
        assert unexpected.error.reason == "internal"
        assert "nobody" not in unexpected.error.message
    assert "nobody thought of this" in caplog.text
    assert "Traceback" in caplog.text
    assert desk.text(failed[0].id).endswith("Line 7 failed. Correct it.\n")


def test_a_rollback_ends_as_rolled_back(desk: Desk) -> None:
    async def work(job: Job) -> None:
        pass

    assert asyncio.run(desk.run(work, "rollback")).phase == "rolled-back"


def test_what_a_program_prints_is_cleaned_and_whole(desk: Desk) -> None:
    async def work(job: Job) -> None:
        for part in (
            "\x1b]0;ti",
            "tle\x07\x1b[3",
            "1mred\x1b[0m\x9b",
            " \x1b[2Kend\n",
            "10%\r50",
            "%\r100%\n",
            "a\0b\n",
        ):
            job.say(part)
            await asyncio.sleep(0.3)

    state = asyncio.run(desk.run(work))
    assert desk.text(state.id) == "\x1b[31mred\x1b[0m end\n100%\nab\n"


def test_a_line_without_an_end_does_not_wait_for_ever(desk: Desk) -> None:
    async def work(job: Job) -> None:
        job.say("x" * 10_000)
        await until(lambda: desk.text(job.id) == "x" * 10_000)
        job.say("y" * 5)

    state = asyncio.run(desk.run(work))
    assert (state.phase, desk.text(state.id)) == ("done", "x" * 10_000 + "y" * 5 + "\n")


def test_threads_may_say_and_report(desk: Desk) -> None:
    def talk(job: Job, name: str) -> None:
        for number in range(200):
            job.say(f"{name} {number}\n")
            job.report(phase="build", step=number)

    async def work(job: Job) -> None:
        await asyncio.gather(*(asyncio.to_thread(talk, job, name) for name in "ab"))

    state = asyncio.run(desk.run(work))
    lines = desk.text(state.id).splitlines()
    assert [line for line in lines if line[0] == "a"] == [f"a {number}" for number in range(200)]
    assert len(lines) == 400


def test_a_job_goes_on_when_nothing_can_be_written(desk: Desk) -> None:
    async def work(job: Job) -> None:
        shutil.rmtree(desk.folder / job.id)
        job.say("lost\n")
        job.report(phase="build", step=1)
        await until(lambda: not job.is_kept)

    async def main() -> JobState:
        state = await desk.run(work)
        await desk.run(nothing)
        return state

    assert asyncio.run(main()).phase == "done"


async def nothing(job: Job) -> None:
    """A job's work that has nothing to do."""


async def for_ever(job: Job) -> None:
    """A job's work that does not end by itself."""
    await asyncio.Event().wait()


# The end at somebody's request


def test_cancel_is_idempotent(desk: Desk) -> None:
    ended: list[str] = []

    async def work(job: Job) -> None:
        job.report(phase="build")
        try:
            await asyncio.Event().wait()
        finally:
            # A second request must not disturb what the first one has begun.
            await asyncio.sleep(0.2)
            ended.append(job.id)

    async def main() -> None:
        id_ = (await desk.jobs.start(desk.project, "build", work)).id
        await until(lambda: desk.jobs.get(desk.project, id_).phase == "build")
        for _ in range(3):
            assert (await desk.jobs.cancel(desk.project, id_)).cancelling
            await asyncio.sleep(0.02)
        state = await desk.over(id_)
        assert (state.phase, state.cancelling, state.error) == ("cancelled", False, None)
        assert await desk.jobs.cancel(desk.project, id_) == state
        assert ended == [id_]

    asyncio.run(main())


def test_a_cancel_right_after_the_start_holds(desk: Desk) -> None:
    async def main() -> JobState:
        id_ = (await desk.jobs.start(desk.project, "build", for_ever)).id
        await desk.jobs.cancel(desk.project, id_)
        return await desk.over(id_)

    assert asyncio.run(main()).phase == "cancelled"


def test_what_is_over_cannot_be_cancelled(desk: Desk) -> None:
    async def main() -> None:
        state = await desk.run(nothing)
        assert await desk.jobs.cancel(desk.project, state.id) == state
        assert desk.jobs.get(desk.project, state.id) == state

    asyncio.run(main())


def test_work_that_cannot_be_stopped_any_more_is_done(desk: Desk) -> None:
    async def work(job: Job) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            job.say("too late\n")

    async def main() -> JobState:
        id_ = (await desk.jobs.start(desk.project, "build", work)).id
        await asyncio.sleep(0.05)
        await desk.jobs.cancel(desk.project, id_)
        return await desk.over(id_)

    assert asyncio.run(main()).phase == "done"


# Several


def test_a_second_start_may_join_the_first(desk: Desk) -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def work(job: Job) -> None:
            await go.wait()

        starts = [desk.jobs.start(desk.project, "rebuild", work, join=True) for _ in range(5)]
        joined = {state.id for state in await asyncio.gather(*starts)}
        assert len(joined) == 1
        other = await desk.jobs.start(desk.project, "install", work, join=True)
        apart = await desk.jobs.start(desk.project, "rebuild", work)
        assert len({*joined, other.id, apart.id}) == 3
        go.set()
        for id_ in (*joined, other.id, apart.id):
            assert (await desk.over(id_)).phase == "done"
        later = await desk.jobs.start(desk.project, "rebuild", nothing, join=True)
        assert later.id not in joined

    asyncio.run(main())


def test_old_jobs_go_and_running_ones_stay(desk: Desk) -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def work(job: Job) -> None:
            await go.wait()

        running = await desk.jobs.start(desk.project, "rebuild", work)
        ids = [(await desk.run(nothing)).id for _ in range(24)]
        aged = desk.folder / ids[-1] / "state.json"
        value = json.loads(aged.read_text())
        value["state"]["started"] = (datetime.now(UTC) - timedelta(days=31)).isoformat()
        aged.write_text(json.dumps(value))
        last = await desk.run(nothing)
        # The last one was not there yet when the old ones were looked for.
        assert {state.id for state in desk.jobs.all(desk.project)} == {running.id, last.id, *ids[3:-1]}
        assert sorted(os.listdir(desk.folder)) == sorted([running.id, last.id, *ids[3:-1]])
        go.set()
        assert (await desk.over(running.id)).phase == "done"

    asyncio.run(main())


@pytest.mark.parametrize(
    "id_", ["", ".", "..", "../x", "a/b", "0" * 15, "0" * 17, "A" * 16, "0" * 16 + "\n", "\0" * 16]
)
def test_what_is_no_id_is_looked_for_nowhere(desk: Desk, id_: str) -> None:
    for ask in (desk.jobs.get, desk.jobs.log):
        with pytest.raises(NotFoundError):
            ask(desk.project, id_)
    with pytest.raises(NotFoundError):
        asyncio.run(desk.jobs.cancel(desk.project, id_))


def test_a_job_is_its_projects_alone(desk: Desk) -> None:
    other = Project("other", desk.project.workspace / "other", desk.project.workspace)

    async def work(job: Job) -> None:
        for ask in (desk.jobs.get, desk.jobs.log):
            with pytest.raises(NotFoundError):
                ask(other, job.id)
        with pytest.raises(NotFoundError):
            await desk.jobs.cancel(other, job.id)
        assert desk.jobs.all(other) == []

    assert asyncio.run(desk.run(work)).phase == "done"


@pytest.mark.parametrize(
    "junk", [b"", b"{", b"[]", b'{"state": {"id": 1}, "host": ""}', b"\xff", b"[" * 60_000]
)
def test_a_damaged_state_counts_as_absent(desk: Desk, junk: bytes) -> None:
    state = asyncio.run(desk.run(nothing))
    (desk.folder / state.id / "state.json").write_bytes(junk)
    # Who ran it may still know of it.
    others = Jobs(desk.records, desk.events.append)
    assert others.all(desk.project) == []
    with pytest.raises(NotFoundError):
        others.get(desk.project, state.id)


def test_a_state_is_the_same_after_the_disk() -> None:
    state = JobState(
        "0" * 16,
        "thesis",
        "rebuild",
        "failed",
        Progress(1, 2, "é"),
        JobError("m", "r", 3),
        datetime(2024, 5, 6, 7, 8, 9, 123000, tzinfo=UTC),
        datetime(2024, 5, 6, 7, 8, 10, tzinfo=UTC),
    )
    written = state.as_json()
    assert written["started"] == "2024-05-06T07:08:09.123Z"
    assert JobState.from_json(json.loads(json.dumps(written))) == state
    for key, value in (
        ("phase", "idle"),
        ("id", 1),
        ("started", "2024-05-06"),
        ("error", {}),
        ("progress", None),
    ):
        with pytest.raises(ValueError, match=r"not|none|has"):
            JobState.from_json({**written, key: value})


# Other processes


def test_another_process_follows_and_cancels(desk: Desk) -> None:
    read_on = """
import time
(state,) = jobs.all(project)
offset, text = 0, ""
while not text:
    log = jobs.log(project, state.id, offset)
    offset, text = log.offset, text + log.text
    time.sleep(0.05)
state = jobs.get(project, state.id)
again = asyncio.run(jobs.cancel(project, state.id))
print(json.dumps([state.as_json(), text, log.done, again.cancelling]))
"""

    async def main() -> None:
        async def work(job: Job) -> None:
            job.report(phase="build", step=1, steps=3, name="eins")
            job.say("größer\n")
            await asyncio.Event().wait()

        id_ = (await desk.jobs.start(desk.project, "build", work)).id
        seen, text, done, cancelling = await asyncio.to_thread(desk.ask, read_on)
        assert (seen["id"], seen["phase"], text, done) == (id_, "build", "größer\n", False)
        assert seen["progress"] == {"step": 1, "steps": 3, "name": "eins"}
        assert cancelling is True
        assert (await desk.over(id_)).phase == "cancelled"
        ask_again = f"print(json.dumps(asyncio.run(jobs.cancel(project, {id_!r})).as_json()))"
        assert (await asyncio.to_thread(desk.ask, ask_again))["phase"] == "cancelled"

    asyncio.run(main())


def test_a_killed_server_leaves_failed_jobs_and_their_logs(desk: Desk) -> None:
    with desk.other(RUNS_FOR_EVER) as process:
        assert process.stdout is not None
        id_ = process.stdout.readline().strip()
        alive = desk.jobs.get(desk.project, id_)
        assert (alive.phase, alive.progress) == ("build", Progress(2, 5, "RUN true"))
        assert not desk.jobs.log(desk.project, id_).done
        process.send_signal(signal.SIGKILL)
        process.wait(LIMIT)
    dead = desk.jobs.get(desk.project, id_)
    assert dead.phase == "failed"
    assert dead.error is not None
    assert dead.error.reason == "abandoned"
    assert "The server that ran it ended" in dead.error.message
    assert dead.ended is not None
    log = desk.jobs.log(desk.project, id_)
    assert (log.text, log.done) == ("zwei von fünf\n", True)

    async def main() -> None:
        assert (await desk.jobs.cancel(desk.project, id_)).phase == "failed"
        # Nothing is in the way of the next one.
        assert (await desk.jobs.start(desk.project, "build", nothing, join=True)).id != id_

    asyncio.run(main())


def test_a_job_of_another_process_is_joined(desk: Desk) -> None:
    with desk.other(RUNS_FOR_EVER) as process:
        assert process.stdout is not None
        id_ = process.stdout.readline().strip()
        joined = asyncio.run(desk.jobs.start(desk.project, "build", nothing, join=True))
        assert joined.id == id_


def test_the_end_of_the_loop_is_written(desk: Desk) -> None:
    async def main() -> str:
        return (await desk.jobs.start(desk.project, "build", for_ever)).id

    # `asyncio.run` cancels what is left, as the workbench does at its end.
    id_ = asyncio.run(main())
    for jobs in (desk.jobs, Jobs(desk.records, lambda event: None)):
        state = jobs.get(desk.project, id_)
        assert (state.phase, state.error and state.error.reason) == ("failed", "abandoned")


def test_another_hosts_job_is_judged_by_its_signs_of_life(desk: Desk) -> None:
    state = asyncio.run(desk.run(nothing))
    file = desk.folder / state.id / "state.json"
    value = json.loads(file.read_text())
    value["state"] |= {"phase": "build", "ended": None}
    value["host"] = "far-away"
    file.write_text(json.dumps(value))
    assert desk.jobs.get(desk.project, state.id).phase == "build"
    os.utime(file, (time.time() - 600,) * 2)
    assert desk.jobs.get(desk.project, state.id).phase == "failed"


# The log


def read_all(folder: Path, offset: int = 0) -> tuple[str, int]:
    text, done = "", False
    while not done:
        part, offset, done = read(folder, offset, complete=True)
        text += part
    return text, offset


@given(st.lists(st.text(alphabet="aß€😀\n", max_size=6), max_size=6), st.integers(0, 130))
def test_a_log_reads_from_every_offset(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str], at: int
) -> None:
    folder = tmp_path_factory.mktemp("log")
    writer = LogWriter(folder)
    for part in parts:
        writer.write(part)
    writer.close()
    data = "".join(parts).encode()
    rest = data[at:]
    while rest[:1] and 0x80 <= rest[0] < 0xC0:
        rest = rest[1:]
    assert read(folder, at, complete=True) == (rest.decode(), len(data) if data else 0, True)
    text, offset, done = read(folder, at, complete=False)
    assert (text, offset, done) == (rest.decode(), len(data) if data else 0, False)


def test_a_character_that_is_half_written_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "log.0"
    file.write_bytes(b"a" + "€".encode()[:2])
    assert read(tmp_path, 0, complete=False) == ("a", 1, False)
    # Nobody will write the rest.
    assert read(tmp_path, 0, complete=True) == ("a\ufffd", 3, True)
    file.write_bytes("a€".encode())
    assert read(tmp_path, 1, complete=False) == ("€", 4, False)


def test_a_log_is_bounded_and_keeps_its_beginning_and_its_end(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path)
    lines = [f"{number:07d} {'ü' * 500}\n" for number in range(9000)]
    size = sum(len(line.encode()) for line in lines)
    followed, offset, offsets = "", 0, []
    for number, line in enumerate(lines):
        writer.write(line)
        if number % 100 == 0:
            # Who follows misses nothing.
            text, offset, _ = read(tmp_path, offset, complete=False)
            followed += text
            offsets.append(offset)
    writer.close()
    followed += read_all(tmp_path, offset)[0]
    assert followed == "".join(lines)
    assert offsets == sorted(set(offsets))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 4 << 20

    text, end = read_all(tmp_path)
    assert end == size
    begin, marker, tail = text.partition("\n[")
    assert marker
    gone = int(tail.split()[0])
    assert f"[{gone} bytes of this log were not kept]\n" in text
    assert len(text.encode()) - len(f"\n[{gone} bytes of this log were not kept]\n") == size - gone
    assert begin.startswith(lines[0])
    assert len(begin.encode()) > 2 << 20
    assert text.endswith("".join(lines[-500:]))
    # An offset in the part that is gone leads to what comes after it.
    text, _ = read_all(tmp_path, size // 2 + 1000000)
    assert text.startswith("\n[")
    assert text.endswith(lines[-1])
    assert read(tmp_path, size + 5, complete=True) == ("", size, True)


def test_one_large_text_is_written_in_parts(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path)
    writer.write("€" * 1_000_000)
    writer.close()
    text, end = read_all(tmp_path)
    assert (text, end) == ("€" * 1_000_000, 3_000_000)


def test_a_log_is_read_while_it_turns_over(tmp_path: Path) -> None:
    ended = threading.Event()

    def write() -> None:
        writer = LogWriter(tmp_path)
        for number in range(60_000):
            writer.write(f"{number} {'x' * 150}\n")
        writer.close()
        ended.set()

    thread = threading.Thread(target=write)
    thread.start()
    offset, seen, done = 0, "", False
    while not done:
        complete = ended.is_set()
        text, later, done = read(tmp_path, offset, complete=complete)
        assert later >= offset
        offset, seen = later, seen + text
    thread.join(LIMIT)
    numbers = [
        int(line.split()[0]) for line in seen.splitlines() if line and line[0].isdigit() and line[-1] == "x"
    ]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 59_999


# Events


@pytest.mark.parametrize(
    "event",
    [
        DriftChanged("thesis", 1, 0, 2),
        JobChanged("thesis", "0123456789abcdef", "rebuild", "rolled-back"),
        ContainerChanged("thesis", "thesis._.1000", "running"),
    ],
)
def test_events_are_as_their_schemas_say(event: Event) -> None:
    logger = EventLogger()
    for file in SCHEMA_FILES:
        logger.register_event_schema(file)
    logger.schemas.validate_event(event.schema, event.as_json())
    required = logger.schemas.get(event.schema)._schema["required"]
    assert sorted(required) == sorted(event.as_json())


def test_every_kind_and_phase_is_in_the_schema() -> None:
    from typing import get_args

    import yaml

    from ds01_kernels.jobs import Kind, Phase

    properties = yaml.safe_load(SCHEMA_FILES[1].read_text())["properties"]
    assert properties["kind"]["enum"] == list(get_args(Kind))
    assert properties["phase"]["enum"] == list(get_args(Phase))


def test_one_listener_does_not_disturb_another(caplog: pytest.LogCaptureFixture) -> None:
    def breaks(event: Event) -> None:
        raise RuntimeError("not my day")

    heard: list[Event] = []
    listeners = Listeners()
    for callback in (breaks, heard.append):
        listeners.add(callback)
    event = ContainerChanged("p", "p._.1", "removed")
    listeners.tell(event)
    assert heard == [event]
    assert "not my day" in caplog.text
