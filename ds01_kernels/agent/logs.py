"""The files that standard output and standard error of kernels, and of the agent, go to.

A kernel writes there until it has redirected both into its notebook, and later what goes around that: log
lines of ipykernel, the last words of a crash. It is a file, since a pipe would block a kernel whenever nobody
reads it. It may grow for as long as the kernel lives, so it is emptied now and then when it has become large.
Who writes faster than that fills the disk, as any code in a notebook can: this is against accidents.
"""

from __future__ import annotations

import os

#: Bytes: a larger file is emptied; what is told of one.
LIMIT = 4 * 1024 * 1024
TAIL = 2000


def tail(path: str) -> str:
    """Its last lines; nothing when it cannot be read."""
    try:
        with open(path, "rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - TAIL))
            return log.read(TAIL).decode("utf-8", "replace")
    except OSError:
        return ""


def shorten(path: str) -> None:
    """Keep only the tail of a file that has become large; all who write to it append."""
    try:
        with open(path, "r+b") as log:
            if os.fstat(log.fileno()).st_size > LIMIT:
                kept = tail(path)
                log.truncate(0)
                os.write(log.fileno(), kept.encode("utf-8"))
    except OSError:
        pass


def say(sentence: str) -> None:
    """One line in the agent's own."""
    print(sentence, flush=True)  # noqa: T201 - standard output is that file
