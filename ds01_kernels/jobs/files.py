"""Jobs on disk, where every process of this user finds them, while they run and afterwards.

::

    <records of the project>/jobs/<id>/
        state.json      how it stands, and the host that runs it; replaced as a whole
        log.<offset>    what it wrote: see `log`
        cancel          somebody asks for its end

The process that runs a job holds a lock for it, which goes with that process however it ends.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import secrets
import shutil
import socket
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ..connection import run_root
from ..errors import NotFoundError
from ..records import write_atomically
from .log import LogWriter, read
from .state import JobError, JobState

logger = logging.getLogger("ds01_kernels")

#: How many jobs of a project are kept once they are over, and for how long.
MOST_KEPT = 20
LONGEST_KEPT = timedelta(days=30)

#: Seconds without a sign of life after which a job of another host counts as dead: its lock is not seen here.
SILENCE = 120.0

#: Bytes of a state that are read.
MOST_STATE = 64 << 10

_ID = re.compile(r"[0-9a-f]{16}")


class JobFolder:
    """One job's directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def id(self) -> str:
        return self.path.name

    def state(self) -> JobState | None:
        """How the job stands; None when nothing can be read. A job whose process is gone has failed."""
        stored = self._stored()
        if stored is None or stored[0].over:
            return stored and stored[0]
        if self._is_alive(stored[1]):
            return replace(stored[0], cancelling=stored[0].cancelling or self.is_asked_to_end())
        # It may have come to its end between the two looks.
        again = self._stored() or stored
        return again[0] if again[0].over else _abandoned(again[0], self._last_sign())

    def log(self, offset: int, *, complete: bool) -> tuple[str, int, bool]:
        return read(self.path, offset, complete=complete)

    def ask_to_end(self) -> None:
        with suppress(FileExistsError, FileNotFoundError):
            os.close(os.open(self._cancel, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))

    def is_asked_to_end(self) -> bool:
        return self._cancel.exists()

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        _lock_file(self.id).unlink(missing_ok=True)

    def _stored(self) -> tuple[JobState, str] | None:
        """The state and the host that runs the job."""
        try:
            with self._state.open("rb") as file:
                value = json.loads(file.read(MOST_STATE))
            return JobState.from_json(value["state"]), str(value["host"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            logger.warning("%s cannot be used: %s", self._state, error)
            return None

    def _is_alive(self, host: str) -> bool:
        if host != socket.gethostname():
            return time.time() - self._last_sign() < SILENCE
        return is_locked(self.id)

    def _last_sign(self) -> float:
        try:
            return self._state.stat().st_mtime
        except OSError:
            return 0.0

    @property
    def _state(self) -> Path:
        return self.path / "state.json"

    @property
    def _cancel(self) -> Path:
        return self.path / "cancel"


class RunningJobFolder(JobFolder):
    """The directory of a job that this process runs: only it writes there."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._lock = _lock(self.id)
        self._log = LogWriter(path)

    def keep(self, state: JobState) -> None:
        """Raises `OSError`."""
        value = {"state": state.as_json(), "host": socket.gethostname()}
        write_atomically(self._state, json.dumps(value).encode())

    def write(self, text: str) -> None:
        """Raises `OSError`."""
        self._log.write(text)

    def give_sign(self) -> None:
        with suppress(OSError):
            os.utime(self._state)

    def leave(self) -> None:
        """The job is over: what is on disk is what there is."""
        self._log.close()
        _lock_file(self.id).unlink(missing_ok=True)
        os.close(self._lock)


def new_folder(jobs: Path) -> RunningJobFolder:
    """A directory for a new job. Raises `OSError`."""
    jobs.mkdir(mode=0o700, exist_ok=True)
    path = jobs / secrets.token_hex(8)
    path.mkdir(mode=0o700)
    return RunningJobFolder(path)


def folder(jobs: Path, id_: str) -> JobFolder:
    """The directory of that job, which need not be there. Raises `NotFoundError` for what is no job's id."""
    if not _ID.fullmatch(id_):
        raise NotFoundError("There is no such job.", remedy="The project's jobs are listed.")
    return JobFolder(jobs / id_)


def all_states(jobs: Path) -> list[JobState]:
    """The jobs in that directory, the newest first."""
    states = (found.state() for found in _folders(jobs))
    return sorted(
        (state for state in states if state is not None), key=lambda state: state.started, reverse=True
    )


def remove_old(jobs: Path) -> None:
    """Remove what is too much or too old, never a job that runs."""
    over = [state for state in all_states(jobs) if state.over]
    limit = datetime.now(UTC) - LONGEST_KEPT
    kept = {state.id for state in over[:MOST_KEPT] if state.started > limit}
    for found in _folders(jobs):
        state = found.state()
        if found.id in kept or (state is not None and not state.over) or is_locked(found.id):
            continue
        # Without a state it has just been made, or its process was killed in that moment.
        if state is not None or time.time() - found.path.stat().st_mtime > SILENCE:
            found.remove()


def is_locked(id_: str) -> bool:
    """Whether a process of this host runs the job, this one included."""
    try:
        descriptor = os.open(_lock_file(id_), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        # Locks belong to what was opened, not to the process: our own is in the way as well.
        # Shared, so that two who ask do not take each other for the one that runs it.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _lock(id_: str) -> int:
    descriptor = os.open(_lock_file(id_), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def _lock_file(id_: str) -> Path:
    # Not beside the state: a home directory on the network may know no locks.
    return run_root() / "locks" / f"job-{id_}"


def _folders(jobs: Path) -> list[JobFolder]:
    try:
        return [JobFolder(path) for path in jobs.iterdir() if _ID.fullmatch(path.name)]
    except FileNotFoundError:
        return []


def _abandoned(state: JobState, when: float) -> JobState:
    error = JobError("The server that ran it ended before it was done. Start it again.", "abandoned")
    return replace(
        state, phase="failed", error=error, ended=datetime.fromtimestamp(when, UTC), cancelling=False
    )
