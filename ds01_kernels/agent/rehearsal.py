"""Starts a kernel for nobody, in a fork of the zygote, to learn which functions every kernel calls.

It lives for as long as that takes, in a folder of its own: nothing is read of what is the user's, and nothing
stays of it.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from typing import Any, Callable, Dict, List, Optional, Tuple

from . import kernel, notices, processes, spare
from .relay import entitle

#: Seconds.
LIMIT = 10.0

#: Bytes that are read at once.
CHUNK = 1 << 16


def called(channel: socket.socket) -> Optional[List[List[str]]]:
    """The functions that a kernel calls until its first cell has run: for each its module and qualified name.

    None when something comes on `channel`, which is not kept waiting. Raises `OSError`.
    """
    folder = tempfile.mkdtemp(prefix="ds01-")
    ours, theirs = os.pipe()
    try:
        pid = os.fork()
        if pid == 0:
            _rehearse(folder, theirs, channel)
        try:
            os.close(theirs)
            return _told(ours, channel)
        finally:
            processes.kill(pid)
            os.waitpid(pid, 0)
    finally:
        os.close(ours)
        shutil.rmtree(folder, ignore_errors=True)


def _told(pipe: int, channel: socket.socket) -> Optional[List[List[str]]]:
    """What comes; nothing when it takes too long."""
    found = b""
    deadline = time.monotonic() + LIMIT
    while True:
        watched: List[Any] = [pipe, channel]
        ready = select.select(watched, [], [], max(0.0, deadline - time.monotonic()))[0]
        if channel in ready:
            return None
        data = os.read(pipe, CHUNK) if ready else b""
        if not data:
            break
        found += data
    names: List[List[str]] = json.loads(found.decode("utf-8")) if found else []
    return names


def _rehearse(folder: str, pipe: int, channel: socket.socket) -> None:
    """Be the process that does it. Does not return."""
    names: Dict[Tuple[str, str], None] = {}

    def note(frame: Any, event: str, _: Any) -> None:
        # Python has told it since 3.11.
        name = getattr(frame.f_code, "co_qualname", "")
        if event == "call" and name:
            names[frame.f_globals.get("__name__", ""), name] = None

    def end() -> None:
        try:
            with open(pipe, "wb") as told:
                told.write(json.dumps(list(names)).encode("utf-8"))
        finally:
            # Nothing of it is to be left in order, and the sockets' folder goes with it.
            os._exit(0)

    try:
        processes.die_with_parent()
        channel.close()
        spare.raise_score()
        _make_unseen()
        threading.setprofile(note)
        sys.setprofile(note)
        _be_kernel(folder, end)
    finally:
        sys.setprofile(None)
        end()


def _make_unseen() -> None:
    """Not a zygote or a kernel to whoever counts these, and silent."""
    entitle("# ds01 rehearsal")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)


def _be_kernel(folder: str, end: Callable[[], None]) -> None:
    path, sockets = os.path.join(folder, "kernel.json"), os.path.join(folder, "s")
    os.environ["IPYTHONDIR"] = folder
    os.environ.pop(spare.STARTUP, None)
    with open(path, "w", encoding="ascii") as file:
        json.dump(spare.connection(sockets), file)
    app = kernel.application()

    def load_config_file() -> None:
        del app.load_config_file
        spare.refuse_configuration(app)

    app.load_config_file = load_config_file
    kernel.initialize(app, path)
    notices.attach(app.shell)
    threading.Thread(target=_ask, args=(app.session, sockets + "-1", end), daemon=True).start()
    app.start()


def _ask(session: Any, shell: str, end: Callable[[], None]) -> None:
    """Have it do what is asked of every kernel."""
    try:
        zmq: Any = importlib.import_module("zmq")
        asking = type(session)(key=session.key)
        requester = zmq.Context().socket(zmq.DEALER)
        requester.connect("ipc://" + shell)
        cell = {"code": "1 + 1", "silent": False, "store_history": True, "user_expressions": {}}
        for kind, content in (("kernel_info_request", {}), ("execute_request", cell)):
            asking.send(requester, kind, content)
            requester.recv_multipart()
    finally:
        end()
