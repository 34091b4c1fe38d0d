"""A job that runs, as its work sees it."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

from ..events import JobChanged
from ..projects import Project
from ..text import clean
from .files import RunningJobFolder
from .state import ENDS, MOST_NAME, JobError, JobState, Phase, Progress

logger = logging.getLogger("ds01_kernels")

#: Seconds between signs of life for other hosts.
SIGN = 20.0
#: Characters after which a line is written that has no end yet.
LONGEST_LINE = 8192


class Job:
    """A job that runs, as its work sees it: `say` and `report` may be called from any thread."""

    task: asyncio.Task[None]
    loop: asyncio.AbstractEventLoop

    def __init__(self, project: Project, state: JobState, files: RunningJobFolder) -> None:
        self.project = project
        self.state = state
        self.wake, self.urgent = asyncio.Event(), asyncio.Event()
        #: Whether the end is on disk, as far as it can be written.
        self.is_written = False
        #: Whether what was written last is there.
        self.is_kept = True
        self._files = files
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._line = ""
        self._said: list[str] = []
        self._states: list[JobState] = []
        self._next_sign = time.monotonic() + SIGN

    @property
    def id(self) -> str:
        return self.state.id

    def say(self, text: str) -> None:
        """Add to the log any part of what a program prints. It is cleaned; a line is written once it ends."""
        with self._lock:
            whole, newline, self._line = (self._line + text).rpartition("\n")
            if len(self._line) > LONGEST_LINE:
                whole, newline, self._line = whole + newline, self._line, ""
            if whole or newline:
                self._said.append(clean(whole + newline))
        self._rouse()

    def report(
        self,
        *,
        phase: Phase | None = None,
        step: int | None = None,
        steps: int | None = None,
        name: str | None = None,
    ) -> None:
        """How far it is; what is left out stays as it was, but for a new phase, which counts anew.

        The job's end is not reported: it is when its work ends.
        """
        if phase in ENDS:
            raise ValueError(f"{phase} is the end of a job, which is not reported")
        with self._lock:
            state = self.state if phase in (None, self.state.phase) else _in_phase(self.state, phase)
            known = state.progress
            shown = known.name if name is None else " ".join(clean(name, colours=False).split())[:MOST_NAME]
            count = known.step if step is None else max(step, 0)
            total = known.steps if steps is None else max(steps, 0)
            self._become(replace(state, progress=Progress(count, total, shown)))

    def cancel(self) -> None:
        """Cancel its work, once; in the job's own loop."""
        with self._lock:
            if self.state.cancelling or self.state.over:
                return
            self._become(replace(self.state, cancelling=True))
        self.task.cancel()

    def end(self, phase: Phase, error: JobError | None) -> None:
        with self._lock:
            rest = [self._line and f"{clean(self._line)}\n", error.message + "\n" if error else ""]
            self._said += [text for text in rest if text]
            self._line = ""
            over = _in_phase(self.state, phase) if phase == "done" else replace(self.state, phase=phase)
            self._become(replace(over, error=error, ended=datetime.now(UTC), cancelling=False))

    def write(self) -> tuple[list[JobChanged], bool]:
        """Bring to disk what is new.

        Returns what there is to tell, and whether another process asks for the end.
        """
        with self._writing:
            with self._lock:
                said, self._said = "".join(self._said), []
                states, self._states = self._states, []
                now = self.state
            try:
                try:
                    self._files.write(said)
                finally:
                    for state in states:
                        self._files.keep(state)
                self.is_kept = True
            except OSError as error:
                if self.is_kept:
                    logger.warning(
                        "Job %s of project %s is not recorded: %s", self.id, self.project.name, error
                    )
                self.is_kept = False
            if time.monotonic() > self._next_sign:
                self._next_sign = time.monotonic() + SIGN
                self._files.give_sign()
            changed = states or ([now] if said else [])
            return [self.changed(state) for state in changed], self._files.is_asked_to_end()

    def leave(self) -> None:
        self._files.leave()

    def changed(self, state: JobState | None = None) -> JobChanged:
        state = state or self.state
        return JobChanged(self.project.name, self.id, state.kind, state.phase)

    def _become(self, state: JobState) -> None:
        is_other = state.phase != self.state.phase
        self.state = state
        # Every phase is written, of what happens within one the last.
        if self._states and self._states[-1].phase == state.phase:
            self._states[-1] = state
        else:
            self._states.append(state)
        self._rouse(urgent=is_other)

    def _rouse(self, *, urgent: bool = False) -> None:
        # Not when the loop is closed: the process ends.
        with suppress(RuntimeError):
            if not self.wake.is_set():
                self.loop.call_soon_threadsafe(self.wake.set)
            if urgent:
                self.loop.call_soon_threadsafe(self.urgent.set)


def _in_phase(state: JobState, phase: Phase | None) -> JobState:
    return state if phase is None else replace(state, phase=phase, progress=Progress())
