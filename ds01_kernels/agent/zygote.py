"""A plain interpreter that has imported ipykernel and waits; each request forks it into a kernel.

A fork skips the imports, which are most of a kernel's start, and shares their memory. That is sound only while the process has a
single thread (https://docs.python.org/3/library/os.html#os.fork): it checks that before it offers itself.
"""

import gc
import importlib
import json
import os
import signal
import socket
import sys
import threading
import traceback

from . import kernel

#: Imported by every kernel while it initialises or at its first cell; a missing one is skipped.
LATE_IMPORTS = (
    "IPython.core.completerlib",
    "IPython.core.debugger",
    "IPython.core.logger",
    "IPython.core.oinspect",
    "IPython.extensions.storemagic",
    "IPython.utils.wildcard",
    "debugpy.server.api",
    "faulthandler",
    "ipykernel.debugger",
    "ipykernel.pylab.backend_inline",
    "jedi",
    "matplotlib_inline.backend_inline",
    "psutil",
    "sqlite3",
    "tornado.platform.asyncio",
)


def main(setup, channel_fd):
    """Preload, say so, then fork a kernel for each packet until the agent closes the channel."""
    channel = socket.socket(fileno=channel_fd)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        _preload(setup["path"], setup["first"])
        _write_stamps(setup["stamps"])
    except BaseException:  # whatever the project's packages raise at import is the agent's to report
        _tell(channel, kind="failed", detail=traceback.format_exc()[-2000:])
        return
    _tell(channel, kind="warm")
    while True:
        packet = channel.recv(1 << 20)
        if not packet:
            return
        request = json.loads(packet.decode("utf-8", "surrogateescape"))
        if _fork(channel, request):
            # The child leaves the loop, so that it ends as an interpreter ends: threads joined, exit handlers run.
            kernel.run(request, channel)
            return


def _preload(path, first):
    # The copy that stands in for a missing ipykernel must never hide a package of the project's; where the
    # project's own is too old, the copy comes first until everything it consists of is imported.
    at = 0 if first else len(sys.path)
    sys.path[at:at] = path
    importlib.import_module("ipykernel.kernelapp")
    for name in LATE_IMPORTS:
        try:
            importlib.import_module(name)
        except Exception:
            continue
    if first:
        del sys.path[: len(path)]
        sys.path.extend(path)
    if threading.active_count() > 1 or len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError("a package started a thread while it was imported, so forking would not be safe")
    gc.collect()
    # Keeps the collector from touching, and so copying, the pages that all kernels share.
    gc.freeze()


def _write_stamps(path):
    """The files behind the loaded modules, with what tells that one was replaced."""
    files = {}
    for module in list(sys.modules.values()):
        name = getattr(module, "__file__", None)
        if isinstance(name, str) and os.path.exists(name):
            status = os.stat(name)
            files[name] = [status.st_mtime_ns, status.st_size, status.st_ino]
    with open(path, "w", errors="surrogateescape") as output:
        json.dump(files, output)


def _fork(channel, request):
    """True in the new process.

    Forks twice, so that the new process becomes a child of the agent, which is a subreaper: exit codes reach the
    agent whatever becomes of the zygote.
    """
    pid_read, pid_write = os.pipe()
    middle = os.fork()
    if middle == 0:
        child = os.fork()
        if child != 0:
            os.write(pid_write, b"%d" % child)
            os._exit(0)
        os.close(pid_read)
        os.close(pid_write)
        os.setsid()
        kernel.die_with(request["agent"])
        _redirect(request["log"])
        return True
    os.close(pid_write)
    pid = os.read(pid_read, 32)
    os.close(pid_read)
    os.waitpid(middle, 0)
    _tell(channel, kind="forked", kernel=request["kernel"], pid=int(pid or 0))
    return False


def _redirect(log):
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)


def _tell(channel, **message):
    channel.send(json.dumps(message).encode("utf-8", "surrogateescape"))
