"""One holder at a time for each project, in all processes of this user on this machine."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from time import monotonic, sleep

from .connection import place
from .errors import ConflictError

PAUSE = 0.02
#: Seconds for who only wants to know whether a lock is free.
AT_ONCE = 0.05


class ProjectLocks:
    """Locks by the project's path. Within the process first come, first served."""

    def __init__(self) -> None:
        self._locks: dict[Path, asyncio.Lock] = {}

    @asynccontextmanager
    async def hold(self, path: Path, limit: float = 120.0) -> AsyncIterator[None]:
        """Hold the project's lock. Raises `ConflictError` when it is not free within `limit` seconds."""
        try:
            async with asyncio.timeout(limit) as waiting:
                async with self._locks.setdefault(path, asyncio.Lock()):
                    descriptor = await _flock(path)
                    waiting.reschedule(None)
                    try:
                        yield
                    finally:
                        # Closing frees it, and so does the end of this process however it ends.
                        os.close(descriptor)
        except TimeoutError:
            if not waiting.expired():
                raise
            raise _busy(path, limit) from None

    @asynccontextmanager
    async def share(self, path: Path, limit: float = 120.0) -> AsyncIterator[None]:
        """Be one of those, in any process, that use what has this path; nobody can `claim` it meanwhile.

        Raises `ConflictError` when somebody claims it for `limit` seconds.
        """
        try:
            descriptor = await asyncio.wait_for(_flock(path / "use", fcntl.LOCK_SH), limit)
        except TimeoutError:
            raise _busy(path, limit) from None
        try:
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def claim(self, path: Path) -> Iterator[bool]:
        """Whether nobody uses what has this path; if so, nobody does while this lasts."""
        descriptor = _open(path / "use")
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                is_free = True
            except BlockingIOError:
                is_free = False
            yield is_free
        finally:
            os.close(descriptor)


def of_rebuild(project: Path) -> Path:
    """What to `hold` while the project at that path is rebuilt: minutes, in which its own lock is free."""
    return project / "rebuild"


def _busy(path: Path, limit: float) -> ConflictError:
    return ConflictError(
        f"Project {path.name} has been busy for {limit:.0f} s with another operation.",
        remedy="Wait for it to end, then try again.",
    )


@contextmanager
def hold_briefly(path: Path, limit: float = 30.0) -> Iterator[None]:
    """Hold the lock of a file while it is read, changed and written; blocks this thread, for moments.

    Raises `ConflictError` when it is not free within `limit` seconds.
    """
    descriptor = _open(path)
    try:
        until = monotonic() + limit
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if monotonic() > until:
                    raise ConflictError(
                        f"Another process has been writing {path.name} for {limit:.0f} s.",
                        remedy="Wait for it to end, then try again.",
                    ) from None
                sleep(PAUSE)
        yield
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    name = hashlib.sha256(os.fsencode(path)).hexdigest()[:24]
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(place("locks") / name, flags, 0o600)


async def _flock(path: Path, kind: int = fcntl.LOCK_EX) -> int:
    descriptor = _open(path)
    try:
        while True:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                await asyncio.sleep(PAUSE)
            else:
                return descriptor
    except BaseException:
        os.close(descriptor)
        raise
