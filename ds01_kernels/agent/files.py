"""Files where anybody in the container may put things: no wait, no reading on and on, no writing to links."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress


def read(path: str, limit: int, *, end: bool = False) -> bytes:
    """The first `limit` bytes of a regular file, or with `end` its last ones.

    Raises `OSError`, and `ValueError` for what is no regular file: to open a pipe would wait for its writer.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is no regular file")
        if end and status.st_size > limit:
            os.lseek(descriptor, status.st_size - limit, os.SEEK_SET)
        # One byte more than it has now, so that its end is seen.
        data = os.read(descriptor, min(limit, status.st_size + 1))
        while len(data) < min(limit, status.st_size):
            more = os.read(descriptor, limit - len(data))
            if not more:
                break
            data += more
        return data
    finally:
        os.close(descriptor)


def truncate(path: str) -> None:
    """Empty a file that every user may write to. Raises `OSError`, also for one that not all may."""
    flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or not status.st_mode & stat.S_IWOTH:
            raise PermissionError(errno.EPERM, "not everybody may write to it")
        os.truncate(descriptor, 0)
    finally:
        os.close(descriptor)


def append(path: str, line: str) -> None:
    """Add a line to a file of ours. Raises `OSError`."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o644)
    try:
        os.write(descriptor, line.encode("utf-8", "replace") + b"\n")
    finally:
        os.close(descriptor)


def write_private(path: str, text: str) -> None:
    """Write a file that its owner alone may read. Raises `OSError`, also for a link."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as output:
        output.write(text)


def remove(*paths: str) -> None:
    """Those that are there and may be removed."""
    for path in paths:
        with suppress(OSError):
            os.remove(path)
