"""One holder at a time for each project, in all processes of this user on this machine."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from .connection import run_root
from .errors import ConflictError

PAUSE = 0.02


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
            raise ConflictError(
                f"Project {path.name} has been busy for {limit:.0f} s with another operation.",
                remedy="Wait for it to end, then try again.",
            ) from None


async def _flock(path: Path) -> int:
    name = hashlib.sha256(os.fsencode(path)).hexdigest()[:24]
    descriptor = os.open(
        run_root() / "locks" / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
    )
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                await asyncio.sleep(PAUSE)
            else:
                return descriptor
    except BaseException:
        os.close(descriptor)
        raise
