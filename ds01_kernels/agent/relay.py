"""The near end of a client's exec stream: joins it to the agent, which it starts when there is none.

Its text arrives on standard input. It answers ``S`` when it needs the agent's program (four bytes of length, then text), then ``R`` when bytes flow, or ``E`` and a
sentence. Standard library only, and no module of this package: it runs before the package exists.
"""

import fcntl
import os
import select
import socket
import stat
import subprocess
import sys


def relay(read, digest):
    """Join standard input and output to the agent with that source hash; `read(n)` reads exactly n bytes."""
    try:
        folder = private_folder()
        path = os.path.join(folder, digest + ".sock")
        agent = connect(path)
        if agent is None:
            os.write(1, b"S")
            program = read(int.from_bytes(read(4), "big"))
            agent = start(folder, path, program)
    except Exception as error:
        os.write(1, b"E" + ("%s: %s" % (type(error).__name__, error)).encode("utf-8", "replace"))
        sys.exit(1)
    os.write(1, b"R")
    pump(agent)


def private_folder():
    """The agent's own folder; refused when somebody else may have put it there."""
    folder = os.environ.get("DS01_AGENT_FOLDER") or "/tmp/.ds01-agent-%d" % os.getuid()
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        pass
    status = os.lstat(folder)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise RuntimeError("%s is not a private folder of uid %d" % (folder, os.getuid()))
    return folder


def connect(path):
    agent = socket.socket(socket.AF_UNIX)
    try:
        agent.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        agent.close()
        return None
    return agent


def start(folder, path, program):
    """Start the agent, detached; two relays at once start one."""
    with open(path + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        agent = connect(path)
        if agent is not None:
            return agent
        text = os.memfd_create("ds01-agent", 0)
        os.write(text, program)
        os.lseek(text, 0, os.SEEK_SET)
        ready, told = os.pipe()
        log = os.open(path + ".log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        subprocess.Popen(
            [sys.executable, "-I", "-c", "exec(open(%d).read()) # ds01 agent" % text, path, str(told)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(text, told),
            start_new_session=True,
            cwd="/",
        )
        os.close(told)
        if os.read(ready, 1) != b"1":
            with open(path + ".log", errors="replace") as output:
                raise RuntimeError("the agent did not start. " + output.read()[-2000:])
    agent = connect(path)
    if agent is None:
        raise RuntimeError("the agent ended at once")
    return agent


def pump(agent):
    """Copy both ways until either side ends."""
    while True:
        readable, _, _ = select.select([0, agent], [], [])
        if 0 in readable:
            data = os.read(0, 1 << 16)
            if not data:
                return
            agent.sendall(data)
        if agent in readable:
            data = agent.recv(1 << 16)
            if not data:
                return
            write_all(data)


def write_all(data):
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]
