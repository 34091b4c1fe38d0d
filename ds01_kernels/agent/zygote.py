"""A plain interpreter that has imported ipykernel and waits; each request forks it into a kernel.

A fork skips the imports, which are most of a kernel's start, and shares their memory. That is sound only
while the process has a single thread (https://docs.python.org/3/library/os.html#os.fork): it checks that
before it offers itself.

On its channel, a stream socket, it reports by a line of JSON: ``{"files": {path: stamp}}``, or ``{"failed":
reason}``; and again when it has had the time to import the rest. From then on each byte it gets carries a
descriptor: the line to the kernel that is wanted (`kernel.attend`).
"""

from __future__ import annotations

import array
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from contextlib import suppress
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence

from . import kernel, processes, sharing

#: Imported by every kernel while it initialises or at its first cell; a missing one is skipped. Not
#: matplotlib_inline's backend, which loads numpy where it is: its libraries start threads.
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
    "psutil",
    "sqlite3",
    "tornado.platform.asyncio",
)

#: Not needed before a kernel's first completions: imported when nobody has wanted a kernel for some seconds.
LAST_IMPORTS = ("jedi",)
PAUSE = 1.0

#: Of a file: time of its last change in ns, size, inode. None when it changed while it was being imported.
Stamp = Optional[List[int]]


def main(setup: Dict[str, Any], channel_fd: int) -> None:
    """Preload, say so, then fork a kernel for each line until the agent closes the channel."""
    own = kernel.Setup(**setup)
    channel = socket.socket(fileno=channel_fd)
    channel.set_inheritable(False)
    processes.die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Collecting amid the imports takes a tenth of their time, and finds next to nothing.
    gc.disable()
    began = time.time_ns()
    report = _report(lambda: {"files": _preload(own, began)})
    _send(channel, report)
    is_complete = False
    while "files" in report:
        if not is_complete and not select.select([channel], [], [], PAUSE)[0]:
            report = _report(lambda: _preload_rest(began, channel))
            is_complete = "complete" in report
            _send(channel, report)
            continue
        line = _next_line(channel)
        if line is None:
            return
        if _fork():
            # The child leaves the loop, to end as an interpreter ends: threads joined, exit handlers run.
            channel.close()
            kernel.attend(line, own.agent)
            return
        line.close()


def _report(preload: Callable[[], Dict[str, object]]) -> Dict[str, object]:
    try:
        return preload()
    except BaseException:  # whatever the project's packages raise at import is the agent's to report
        return {"failed": traceback.format_exc()[-2000:]}


def _send(channel: socket.socket, report: Dict[str, object]) -> None:
    channel.sendall(json.dumps(report).encode("ascii") + b"\n")


def _preload(setup: kernel.Setup, began: int) -> Dict[str, Stamp]:
    # The copy that stands in for a missing ipykernel must never hide a package of the project's; where the
    # project's own is too old, the copy comes first until everything it consists of is imported.
    setup.put_on_path()
    importlib.import_module("ipykernel.kernelapp")
    for name in (".holding", ".notices", ".spare"):
        importlib.import_module(kernel.__package__ + name)
    _import([*LATE_IMPORTS, *(LAST_IMPORTS if setup.first else ())])
    if setup.first:
        del sys.path[: len(setup.path)]
        sys.path.extend(setup.path)
    return _ready_to_fork(began)


def _preload_rest(began: int, channel: socket.socket) -> Dict[str, object]:
    """All that nobody is to wait for: it is begun again later when somebody wants a kernel meanwhile."""
    _import(LAST_IMPORTS)
    _refuse_threads()
    called = _called(channel)
    if called is None:
        return {"files": _ready_to_fork(began)}
    # Of what came since: to look through the rest would take its pages from kernels that have begun.
    gc.collect()
    sharing.arrange(called)
    return {"files": _ready_to_fork(began), "complete": True}


def _called(channel: socket.socket) -> Optional[List[List[str]]]:
    """See `rehearsal.called`; nothing where there can be no rehearsal."""
    try:
        rehearsal: Any = importlib.import_module(__package__ + ".rehearsal")
        called: Optional[List[List[str]]] = rehearsal.called(channel)
    except Exception:
        return []
    return called


def _import(names: Sequence[str]) -> None:
    for name in names:
        with suppress(Exception):
            importlib.import_module(name)


def _ready_to_fork(began: int) -> Dict[str, Stamp]:
    """The files behind the loaded modules. Raises `RuntimeError` when a fork would not be sound."""
    _refuse_threads()
    if "numpy.random" in sys.modules:
        raise RuntimeError("numpy was loaded at start, so all kernels would draw the same random numbers")
    files = stamps(began, list(sys.modules))
    # Keeps the collector from touching, and so copying, the pages that all kernels share.
    gc.freeze()
    gc.enable()
    return files


def has_threads() -> bool:
    """Whether a fork of this process would lack some: one was started while something was imported."""
    return threading.active_count() > 1 or len(os.listdir("/proc/self/task")) > 1


def _refuse_threads() -> None:
    if has_threads():
        raise RuntimeError("a package started a thread while it was imported, so forking would not be safe")


def stamps(began: int, modules: Iterable[str]) -> Dict[str, Stamp]:
    """The files behind modules loaded since `began` (ns), with what tells that one was replaced."""
    files: Dict[str, Stamp] = {}
    now = time.time_ns()
    for module in modules:
        name = getattr(sys.modules.get(module), "__file__", None)
        if isinstance(name, str):
            stamp = read_stamp(name)
            if stamp is not None:
                files[name] = None if began <= stamp[0] <= now else stamp
    return files


def read_stamp(path: str) -> Stamp:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return [status.st_mtime_ns, status.st_size, status.st_ino]


def _next_line(channel: socket.socket) -> Optional[socket.socket]:
    """The line of the next kernel; None when no more are wanted."""
    descriptors = array.array("i")
    byte, ancillary, _, _ = channel.recvmsg(
        1, socket.CMSG_SPACE(descriptors.itemsize), socket.MSG_CMSG_CLOEXEC
    )
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: descriptors.itemsize])
    return socket.socket(fileno=descriptors[0]) if byte and descriptors else None


def _fork() -> bool:
    """True in the new process.

    Forks twice, so that the new process becomes a child of the agent, which is a subreaper: exit codes reach
    it whatever becomes of the zygote. Where no process can be made, none reports itself on the line.
    """
    try:
        middle = os.fork()
    except OSError:
        return False
    if middle != 0:
        os.waitpid(middle, 0)
        return False
    try:
        if os.fork() != 0:
            os._exit(0)
    except OSError:
        os._exit(1)
    os.setsid()
    return True
