"""``jupyter ds01`` in processes that need not import it: each is forked from one that has.

A command has a process of its own all the same, with its own words, variables, directory and streams. Of a
short one importing takes most of the time, and there are hundreds.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path

# It ends with the process that asks. Between it and a command stands one that waits for the command and tells
# its end, so that several can run at once.
_PROGRAM = """\
import json, os, runpy, signal, socket, sys
import ds01_kernels.app, ds01_kernels.engine.docker
del sys.modules["ds01_kernels.app"]
asked = socket.socket(fileno=int(sys.argv[1]))
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    request, descriptors, *_ = socket.recv_fds(asked, 1 << 20, 4)
    if not request:
        os._exit(0)
    if not os.fork():
        break
    for one in descriptors:
        os.close(one)
asked.close()
signal.signal(signal.SIGCHLD, signal.SIG_DFL)
*streams, teller = descriptors
if pid := os.fork():
    for one in streams:
        os.close(one)
    os.write(teller, b"%d\\n" % pid)
    os.write(teller, b"%d\\n" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    os._exit(0)
os.close(teller)
for target, one in enumerate(streams):
    os.dup2(one, target)
    os.close(one)
signal.signal(signal.SIGINT, signal.default_int_handler)
request = json.loads(request)
os.environ.clear()
os.environ.update(request["env"])
os.chdir(request["cwd"])
sys.argv = ["", *request["words"]]
runpy.run_module("ds01_kernels.app", run_name="__main__", alter_sys=True)
"""


@cache
def _forking() -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """The process that forks, and where it is asked."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    return ours, process


def ds01(
    words: Sequence[str], *, stdin: str, env: Mapping[str, str], cwd: Path, limit: float
) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run` does it with pipes. Raises `subprocess.TimeoutExpired` after `limit` seconds."""
    (their_in, our_in), (our_out, their_out), (our_err, their_err), (told, teller) = (
        os.pipe() for _ in range(4)
    )
    theirs = [their_in, their_out, their_err, teller]
    request = {"words": words, "env": dict(env), "cwd": str(cwd)}
    socket.send_fds(_forking()[0], [json.dumps(request).encode()], theirs)
    for one in theirs:
        os.close(one)
    with open(told) as telling, ThreadPoolExecutor(4) as threads:
        pid = int(telling.readline())
        threads.submit(_write, our_in, stdin.encode())
        reading = [threads.submit(_read, one) for one in (our_out, our_err)]
        try:
            code = int(threads.submit(telling.readline).result(limit))
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired(list(words), limit) from None
        out, err = (one.result() for one in reading)
    return subprocess.CompletedProcess(["jupyter", "ds01", *words], code, out, err)


def _write(pipe: int, data: bytes) -> None:
    # A command need not read it all.
    with suppress(BrokenPipeError), open(pipe, "wb") as file:
        file.write(data)


def _read(pipe: int) -> str:
    with open(pipe) as file:
        return file.read()
