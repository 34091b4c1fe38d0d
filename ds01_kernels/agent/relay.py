"""The near end of a client's exec stream: joins it to the agent, which it starts when there is none.

Its text arrives on standard input. It answers ``S`` when it needs the agent's program (four bytes of length,
then text), then ``R`` when bytes flow, or ``E`` and a sentence. Standard library only, and no module of this
package: it runs before the package exists.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import stat
import sys
from contextlib import suppress
from typing import Callable, Optional

#: Seconds for the agent to listen.
START_LIMIT = 20.0
#: Bytes that are copied at once, and that the pipes to the engine are to hold. What is under way in them is
#: limited elsewhere (`streams.WINDOW`).
CHUNK = 1 << 18
#: https://man7.org/linux/man-pages/man2/fcntl.2const.html, F_SETPIPE_SZ; Python has a name for it since 3.10.
SET_PIPE_SIZE = 1031


def relay(read: Callable[[int], bytes], digest: str) -> None:
    """Join standard input and output to the agent with that source hash; `read(n)` reads exactly n bytes."""
    try:
        folder = private_folder()
        path = os.path.join(folder, digest + ".sock")
        agent = connect(path) or join(path)
        if agent is None:
            os.write(1, b"S")
            program = read(int.from_bytes(read(4), "big"))
            agent = start(path, program)
    except Exception as error:
        os.write(1, b"E" + ("%s: %s" % (type(error).__name__, error)).encode("utf-8", "replace"))
        sys.exit(1)
    os.write(1, b"R")
    pump(agent)


def private_folder() -> str:
    """The agent's own folder; refused when somebody else may have put it there."""
    folder = os.environ.get("DS01_AGENT_FOLDER") or "/tmp/.ds01-agent-%d" % os.getuid()  # noqa: S108 - checked below
    with suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    status = os.lstat(folder)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise RuntimeError("%s is not a private folder of uid %d" % (folder, os.getuid()))
    return folder


def connect(path: str) -> Optional[socket.socket]:
    agent = socket.socket(socket.AF_UNIX)
    try:
        agent.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        agent.close()
        return None
    return agent


def join(path: str) -> Optional[socket.socket]:
    """The agent that somebody else is just starting, once it listens."""
    with open(path + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return connect(path)


def start(path: str, program: bytes) -> socket.socket:
    """Start the agent, detached; two relays at once start one."""
    with open(path + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        agent = connect(path)
        if agent is not None:
            return agent
        ready, told = os.pipe()
        log = open_log(path)
        pid = os.fork()
        if pid == 0:
            for descriptor in (ready, lock.fileno()):
                os.close(descriptor)
            be_agent(log, program, path, str(told))
        for descriptor in (told, log):
            os.close(descriptor)
        answered = select.select([ready], [], [], START_LIMIT)[0]
        if not answered or os.read(ready, 1) != b"1":
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
            with open(path + ".log", errors="replace") as output:
                raise RuntimeError("the agent did not start. " + output.read()[-2000:])
        os.close(ready)
    agent = connect(path)
    if agent is None:
        raise RuntimeError("the agent ended at once")
    return agent


def be_agent(log: int, program: bytes, *arguments: str) -> None:
    """Be a process of its own, and the agent to its end.

    In this interpreter, which would be the same: another one takes as long to start as all the rest.
    """
    code = 1
    try:
        detach(log)
        entitle("# ds01 agent")
        sys.argv = ["agent", *arguments]
        exec(program, {"__name__": "__main__"})  # noqa: S102 - it is ours
        code = 0
    except BaseException:
        import traceback  # not for every relay

        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stderr.flush()
        os._exit(code)


def open_log(path: str) -> int:
    # The agent shortens its log when it grows, so every write has to go to its end.
    return os.open(path + ".log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)


def detach(log: int) -> None:
    """Let nothing tie this process to those that started it; its output goes there."""
    os.setsid()
    os.chdir("/")
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, own in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, own)
    for descriptor in (nothing, log):
        os.close(descriptor)


def entitle(title: str) -> None:
    """What `ps` and /proc show this process as, in the place of its arguments (proc(5), arg_start)."""
    import ctypes  # not for every relay

    with suppress(OSError, ValueError, IndexError):
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        start, size = int(fields[45]), int(fields[46]) - int(fields[45])
        # Without the right to know them they are 0.
        if start > 0 and size > 0:
            ctypes.memmove(start, title.encode("ascii").ljust(size, b"\0")[: size - 1] + b"\0", size)


def pump(agent: socket.socket) -> None:
    """Copy both ways until either side ends. One way never waits for the other: each holds one piece."""
    number = agent.fileno()
    ways = ((0, number), (number, 1))
    for descriptor in (0, 1, number):
        os.set_blocking(descriptor, False)
    for descriptor in (0, 1):
        with suppress(OSError):  # it is no pipe, or others have all that there may be
            fcntl.fcntl(descriptor, SET_PIPE_SIZE, CHUNK)
    waiting = {0: b"", number: b""}
    try:
        while True:
            readable, writable, _ = select.select(
                [source for source, sink in ways if not waiting[source]],
                [sink for source, sink in ways if waiting[source]],
                [],
            )
            for source, sink in ways:
                with suppress(BlockingIOError):
                    if source in readable:
                        waiting[source] = os.read(source, CHUNK)
                        if not waiting[source]:
                            return
                    elif sink in writable:
                        waiting[source] = waiting[source][os.write(sink, waiting[source]) :]
    except OSError:
        return  # a side that has ended is no fault of the relay's
