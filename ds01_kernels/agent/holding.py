"""Holds back what is asked of a kernel that comes after another one, until that one is over.

What it is it says at once: servers and pages ask for that before all else, and no code of the user's runs.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import importlib
import inspect
import signal
import socket
import threading
from contextlib import contextmanager
from typing import Any, Callable, Iterator

#: On the kernel's line to the agent: it serves everything from now on.
GO = b"G"

#: The requests that are answered in any case.
HARMLESS = ("kernel_info_request",)


def hold(kernel: Any, line: socket.socket) -> None:
    """Until `GO` comes on `line`; to be called before the event loop runs. Requests that end the kernel come
    by another way."""
    turn: concurrent.futures.Future[None] = concurrent.futures.Future()
    handlers = dict(kernel.shell_handlers)
    held = {kind: _held(handler, turn) for kind, handler in handlers.items() if kind not in HARMLESS}
    kernel.shell_handlers.update(held)
    ioloop: Any = importlib.import_module("tornado.ioloop")
    loop = ioloop.IOLoop.current()

    def told(*_: object) -> None:
        loop.remove_handler(line)
        # Else the agent is gone, and this process with it.
        if line.recv(1) == GO:
            kernel.shell_handlers.update(handlers)
            turn.set_result(None)

    line.settimeout(None)
    loop.add_handler(line, told, loop.READ)


def _held(handler: Callable[..., Any], turn: concurrent.futures.Future[None]) -> Callable[..., Any]:
    async def handle(*arguments: Any) -> None:
        with _uninterrupted():
            # A subshell's loop is another one.
            await asyncio.wrap_future(turn)
        outcome = handler(*arguments)
        if inspect.isawaitable(outcome):
            await outcome

    return handle


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """An interrupt would come to the event loop, and end the kernel."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)
