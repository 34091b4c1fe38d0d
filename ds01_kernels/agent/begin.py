"""The agent's first steps: a zygote is on its way before the agent itself is imported.

What that one needs is known from the last time, which the agent's folder in the container keeps: a container
that is started again has most of its first kernel's start done while others still connect.
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

from . import loaded, processes
from .kernel import Setup
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


class Preparation(NamedTuple):
    """Where ipykernel is, and the variables that a zygote is to have beside the agent's own."""

    path: List[str]
    first: bool
    env: Dict[str, str]


def main() -> None:
    path, told = sys.argv[1], int(sys.argv[2])
    processes.become_subreaper()
    prepare_user_site()
    early = _as_last_time(os.path.dirname(path))
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
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as output:
            json.dump(preparation._asdict(), output)
        os.rename(fresh, path)


def recall(folder: str) -> Optional[Preparation]:
    """What the last agent here was told; None when there is nothing that can be used."""
    try:
        descriptor = os.open(os.path.join(folder, NAME), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as kept:
            told = json.loads(kept.read(LIMIT).decode("ascii"))
        path, env = told["path"], told["env"]
        if not isinstance(path, list) or not isinstance(env, dict):
            return None
        if not all(isinstance(text, str) for text in [*path, *env, *env.values()]):
            return None
        return Preparation(path, bool(told["first"]), env)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _as_last_time(folder: str) -> Optional[Preloading]:
    last = recall(folder)
    if last is None:
        return None
    with suppress(OSError, ValueError):
        return preload(loaded, folder, Setup(os.getpid(), last.path, last.first), {**os.environ, **last.env})
    return None
