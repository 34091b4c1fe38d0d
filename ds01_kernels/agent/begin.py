"""The agent's first steps: a zygote is on its way before the agent itself is imported.

What that one needs is known from the last time, which the agent's folder in the container keeps, or else from
whoever started the container: most of a first kernel's start is done while others still connect.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Dict, List, NamedTuple, Optional

from . import files, loaded, processes
from .kernel import Preparation, Setup
from .paths import prepare_user_site

#: In the agent's folder: what the last zygote was started with. Bytes of it that are read.
NAME = "prepared"
LIMIT = 1 << 16


class Preloading(NamedTuple):
    """A zygote that was just started, and our end of the channel to it."""

    setup: Setup
    env: Dict[str, str]
    pid: int
    channel: socket.socket


def main() -> None:
    path, told = sys.argv[1], int(sys.argv[2])
    processes.become_subreaper()
    prepare_user_site()
    early = _preloading(os.path.dirname(path), sys.argv[3:])
    # Only now: its import takes as long as a quarter of the zygote's.
    agent: Any = importlib.import_module(__package__ + ".agent")
    agent.main(path, told, early)


def preload(texts: Dict[str, str], folder: str, setup: Setup, env: Dict[str, str]) -> Preloading:
    """Start a zygote. Raises `OSError`, and `ValueError` for variables that no process can have."""
    ours, theirs = socket.socketpair()
    try:
        pid = processes.start_python(
            python(), folder, texts, "zygote", [asdict(setup)], inherit=theirs.fileno(), env=env
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    ours.setblocking(False)
    return Preloading(setup, env, pid, ours)


def python() -> List[str]:
    # What ipykernel's own kernelspec does: the debugger cannot step into frozen modules.
    # https://github.com/ipython/ipykernel/blob/main/ipykernel/kernelspec.py
    flags = ["-Xfrozen_modules=off"] if sys.version_info >= (3, 11) else []
    return [sys.executable, *flags]


def remember(folder: str, preparation: Preparation) -> None:
    """Keep it for the next agent in this container; a full disk only costs that one its head start."""
    path = os.path.join(folder, NAME)
    fresh = "%s-%d" % (path, os.getpid())
    with suppress(OSError):
        files.write_private(fresh, preparation.encode())
        os.rename(fresh, path)


def recall(folder: str) -> Optional[Preparation]:
    """What the last agent here was told; None when there is nothing that can be used."""
    try:
        descriptor = os.open(os.path.join(folder, NAME), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as kept:
            return _understood(kept.read(LIMIT).decode("ascii"))
    except (OSError, ValueError):
        return None


def _understood(text: str) -> Optional[Preparation]:
    try:
        told = json.loads(text)
        path, env = told["path"], told["env"]
        if not isinstance(path, list) or not isinstance(env, dict):
            return None
        if not all(isinstance(text, str) for text in [*path, *env, *env.values()]):
            return None
        return Preparation(path, bool(told["first"]), env)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _preloading(folder: str, guesses: List[str]) -> Optional[Preloading]:
    """A zygote as the last one was, or as the first of `guesses` (JSON of a `Preparation`) says."""
    for likely in (recall(folder), *map(_understood, guesses)):
        if likely is not None:
            setup = Setup(os.getpid(), likely.path, likely.first)
            with suppress(OSError, ValueError):
                return preload(loaded, folder, setup, {**os.environ, **likely.env})
    return None
