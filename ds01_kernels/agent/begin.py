"""The agent's first steps: a zygote is on its way before the agent itself is imported.

What that one needs is known from the last time: most of a first kernel's start is done while others still
connect.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Dict, List, NamedTuple, Optional

from . import loaded, processes
from .kernel import Preparation, Setup
from .paths import prepare_user_site
from .prepared import recall


class Preloading(NamedTuple):
    """A zygote that was just started, and our end of the channel to it."""

    setup: Setup
    env: Dict[str, str]
    pid: int
    channel: socket.socket


def main(told: Optional[Dict[str, Any]] = None, client: int = -1, pid: int = 0, channel: int = -1) -> None:
    """Be the agent. `told` is a `Preparation`, and `pid` a zygote that was forked with it (`early.py`).

    `client` is the descriptor of a connection to one that waits for us, `channel` that of the zygote's.
    """
    path, listening = sys.argv[1], int(sys.argv[2])
    waiting = _ours(socket.socket(fileno=client)) if client >= 0 else None
    processes.become_subreaper()
    prepare_user_site()
    folder = os.path.dirname(path)
    likely = recall(folder) if told is None else Preparation(**told)
    early: Optional[Preloading] = None
    if likely is not None:
        setup, env = Setup(os.getpid(), likely.path, likely.first), {**os.environ, **likely.env}
        if pid:
            early = Preloading(setup, env, pid, _ours(socket.socket(fileno=channel)))
        else:
            with suppress(OSError, ValueError):
                early = preload(loaded, folder, setup, env)
    # Only now: its import takes as long as a quarter of the zygote's.
    agent: Any = importlib.import_module(__package__ + ".agent")
    agent.main(path, listening, early, waiting)


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
    return Preloading(setup, env, pid, _ours(ours))


def python() -> List[str]:
    # What ipykernel's own kernelspec does: the debugger cannot step into frozen modules.
    # https://github.com/ipython/ipykernel/blob/main/ipykernel/kernelspec.py
    flags = ["-Xfrozen_modules=off"] if sys.version_info >= (3, 11) else []
    return [sys.executable, *flags]


def _ours(connection: socket.socket) -> socket.socket:
    connection.set_inheritable(False)
    connection.setblocking(False)
    return connection
