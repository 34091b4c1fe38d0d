"""The agent and its zygote, on their way as soon as their container starts.

This runs in an interpreter such as kernels have, which the container's main process was started beside. A
fork of it becomes the zygote, and has begun its imports when another interpreter would still be starting; the
process itself becomes the agent, isolated, by running another program.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import asdict
from typing import NoReturn, Optional

from . import loaded, loader, prepared, processes, relay, zygote
from .kernel import Preparation, Setup


def main(digest: str, guess: str, file: str, home: str) -> None:
    """`digest` is the agent's source hash, `guess` what a client will tell it (JSON of a `Preparation`).

    `file` is that of this program, for one start. At the socket `home` waits the client that has started the
    container, if any; we connect before all else, so that it sees at once when we end without having become
    the agent.
    """
    os.remove(file)
    client = _connected(home)
    # A shell lets what it starts in the background ignore them.
    for signum in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(signum, signal.SIG_DFL)
    folder = relay.private_folder()
    path = os.path.join(folder, digest + ".sock")
    # The agent lets go of it when it listens.
    lock = os.open(path + ".lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    other = relay.connect(path)
    if other is not None:
        other.close()
        return
    relay.detach(relay.open_log(path))
    told = prepared.recall(folder, guess)
    if told is None or not _is_fit(told):
        _become_agent(folder, path, told, lock, client)
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        for descriptor in (lock, client):
            if descriptor >= 0:
                os.close(descriptor)
        os.setsid()
        zygote.main(asdict(Setup(os.getppid(), told.path, told.first)), theirs.detach())
        return
    theirs.close()
    _become_agent(folder, path, told, lock, client, pid, ours.detach())


def _connected(home: str) -> int:
    """The descriptor of a connection to that socket; -1 where nobody waits there."""
    with suppress(OSError):
        client = relay.connect(home)
        if client is not None:
            return client.detach()
    return -1


def _is_fit(told: Preparation) -> bool:
    """Whether a fork of this interpreter is what another one would be with what was told."""
    is_same = all(os.environ.get(name) == value for name, value in told.env.items())
    return is_same and not zygote.has_threads()


def _become_agent(
    folder: str,
    path: str,
    told: Optional[Preparation],
    lock: int,
    client: int,
    pid: int = 0,
    channel: int = -1,
) -> NoReturn:
    arguments = [told and told._asdict(), client, pid, channel]
    text = processes.nameless(folder, loader.program(loaded, "begin", arguments).encode("utf-8"))
    for descriptor in (text, lock, client, channel):
        if descriptor >= 0:
            os.set_inheritable(descriptor, True)
    command = processes.command(text, "agent")
    os.execv(sys.executable, [sys.executable, "-I", "-c", command, path, str(lock)])  # noqa: S606 - no shell
