"""Jobs: what takes minutes, outlives the browser that asked for it, and can be followed from anywhere.

`Jobs.start` runs a coroutine in the loop that it is called in, the workbench's; the coroutine says and
reports on its `Job`. That is on disk within a moment (`files`), written in a thread, so that the loop never
waits for a file system.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ..errors import Ds01Error, NotFoundError
from ..events import JobChanged
from ..locks import ProjectLocks
from ..projects import Project
from ..records import Records
from . import files
from .job import Job
from .state import JobError, JobState, Kind, Phase, Progress

__all__ = ["Job", "JobError", "JobState", "Jobs", "Kind", "LogText", "Phase", "Progress", "Work"]

logger = logging.getLogger("ds01_kernels")

#: Seconds between looks at whether another process asks for the end.
LOOK = 1.0
#: Seconds from one writing to the next; a new phase does not wait.
PAUSE = 0.2

#: For so long a job that is over counts as one of just now.
JUST = timedelta(minutes=1)

Work = Callable[[Job], Awaitable[None]]


@dataclass(frozen=True)
class LogText:
    """A part of a log. `offset`, in bytes, is where to read on; `done`: the job is over, this is the end."""

    text: str
    offset: int
    done: bool

    def as_json(self) -> dict[str, object]:
        return dict(vars(self))


class Jobs:
    """The jobs of all projects: those that run here, and what is on disk of the others.

    `start` and `cancel` belong to the workbench's loop. The others read files, and may be called from any
    thread.
    """

    def __init__(self, records: Records, emit: Callable[[JobChanged], None]) -> None:
        self._records = records
        self._emit = emit
        self._locks = ProjectLocks()
        self._ours: dict[str, Job] = {}

    async def start(self, project: Project, kind: Kind, work: Work, *, join: bool = False) -> JobState:
        """Run `work` as a job; with `join`, unless one of that project and kind runs already: that one is the
        answer.

        A `Ds01Error` of `work` becomes the job's error. Raises `Ds01Error` when nothing can be written.
        """
        # Also held by other processes, which may be about to start the same.
        async with self._locks.hold(project.path / "jobs"):
            if join:
                for state in await asyncio.to_thread(self.all, project):
                    if state.kind == kind and not state.over:
                        return state
            job = await asyncio.to_thread(self._open, project, kind)
            begun = asyncio.Event()
            job.task = asyncio.create_task(self._run(job, work, begun))
            # Until then, to cancel it would leave no trace.
            await begun.wait()
        return job.state

    def get(self, project: Project, id_: str) -> JobState:
        """Raises `NotFoundError`."""
        if (job := self._own(project, id_)) is not None:
            return job.state
        state = files.folder(self._folder(project), id_).state()
        if state is None:
            raise NotFoundError(
                f"Project {project.name} has no job {id_}.", remedy="It may have been too old to be kept."
            )
        return state

    def all(self, project: Project) -> list[JobState]:
        """Those that run and those that ran lately, the newest first."""
        states = files.all_states(self._folder(project))
        return [job.state if (job := self._own(project, state.id)) else state for state in states]

    def lately(self, projects: Iterable[Project]) -> list[JobState]:
        """Of all of these projects, what runs, and what has ended within the last minute.

        So that a page which was being loaded when a job ended is told, too.
        """
        limit = datetime.now(UTC) - JUST
        return [
            state
            for project in projects
            for state in self.all(project)
            if not state.over or (state.ended is not None and state.ended > limit)
        ]

    def log(self, project: Project, id_: str, offset: int = 0) -> LogText:
        """What the job wrote, from that byte on, as much as is given at once. Raises `NotFoundError`."""
        # These first: once the job is over, and that is on disk, the log is complete.
        job, state = self._own(project, id_), self.get(project, id_)
        complete = state.over and (job is None or job.is_written)
        return LogText(*files.folder(self._folder(project), id_).log(offset, complete=complete))

    async def cancel(self, project: Project, id_: str) -> JobState:
        """Ask for the job's end; how it stands now. What is over stays as it is. Raises `NotFoundError`.

        A job of another process ends within some seconds, when that process looks.
        """
        if (job := self._own(project, id_)) is not None:
            job.cancel()
            return job.state
        state = await asyncio.to_thread(self.get, project, id_)
        if state.over:
            return state
        await asyncio.to_thread(files.folder(self._folder(project), id_).ask_to_end)
        return await asyncio.to_thread(self.get, project, id_)

    def _own(self, project: Project, id_: str) -> Job | None:
        job = self._ours.get(id_)
        return job if job is not None and job.project.path == project.path else None

    def _folder(self, project: Project) -> Path:
        return self._records.folder(project) / "jobs"

    def _open(self, project: Project, kind: Kind) -> Job:
        jobs = self._folder(project)
        try:
            files.remove_old(jobs)
            folder = files.new_folder(jobs)
            try:
                state = JobState(folder.id, project.name, kind)
                folder.keep(state)
            except BaseException:
                folder.leave()
                folder.remove()
                raise
        except OSError as error:
            raise Ds01Error(
                f"Nothing can be started, since nothing can be written to {jobs}: {error.strerror}.",
                remedy="Free some space there, or correct its permissions.",
            ) from None
        return Job(project, state, folder)

    async def _run(self, job: Job, work: Work, begun: asyncio.Event) -> None:
        self._ours[job.id] = job
        job.loop = asyncio.get_running_loop()
        recording = asyncio.create_task(self._record(job))
        begun.set()
        self._emit(job.changed())
        try:
            phase, error = await _outcome(job, work)
        except asyncio.CancelledError:
            # The loop ends, and the process with it: nothing can be awaited any more.
            recording.cancel()
            job.end("failed", JobError("The server that ran it was stopped before it was done.", "abandoned"))
            job.write()
            job.leave()
            raise
        job.end(phase, error)
        await recording
        job.is_written = True
        await asyncio.to_thread(job.leave)
        if job.is_kept:
            del self._ours[job.id]

    async def _record(self, job: Job) -> None:
        """Have what the job says written, until it is over."""
        is_over = False
        while not is_over:
            await _within(LOOK, job.wake)
            job.wake.clear()
            job.urgent.clear()
            is_over = job.state.over
            written, is_asked_to_end = await asyncio.to_thread(job.write)
            for event in written:
                self._emit(event)
            if is_asked_to_end:
                job.cancel()
            if written and not is_over:
                await _within(PAUSE, job.urgent)


async def _outcome(job: Job, work: Work) -> tuple[Phase, JobError | None]:
    """How the work ended. Raises `CancelledError` only when the loop ends."""
    try:
        await work(job)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if job.state.cancelling:
            if task is not None:
                task.uncancel()
            return "cancelled", None
        if task is not None and task.cancelling():
            raise
        return "failed", _unexpected(job)
    except Ds01Error as error:
        return "failed", JobError.of(error)
    except Exception:  # noqa: BLE001 - whatever it is must not reach the loop
        return "failed", _unexpected(job)
    return "rolled-back" if job.state.kind == "rollback" else "done", None


def _unexpected(job: Job) -> JobError:
    logger.exception("Job %s (%s) of project %s failed", job.id, job.state.kind, job.project.name)
    sentence = "It failed for a reason that was not foreseen. The server's log has the details."
    return JobError(sentence, "internal")


async def _within(seconds: float, event: asyncio.Event) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
