"""Joins this process's terminal to a command in a container."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from .engine import Engine, Stream
from .errors import EngineError
from .workbench import Workbench


def attach(
    workbench: Workbench, engine: Engine, container: str, command: Sequence[str], env: Mapping[str, str]
) -> int:
    """Run it with our standard input and output until it ends; returns its exit code.

    With a terminal on both sides it gets one of its own, and our keys go through unread.
    """
    has_terminal = all(file is not None and file.isatty() for file in (sys.stdin, sys.stdout))
    with _raw(has_terminal):
        return workbench.call(_join(engine, container, command, env, has_terminal))


async def _join(
    engine: Engine, container: str, command: Sequence[str], env: Mapping[str, str], has_terminal: bool
) -> int:
    stream = await engine.exec(container, command, env=env, terminal=has_terminal)
    keys = asyncio.create_task(_send(stream))
    sizes = asyncio.create_task(_follow_size(stream)) if has_terminal else None
    try:
        while data := await stream.read():
            os.write(sys.stdout.fileno(), data)
        code = await stream.exit_code()
        if stream.errors:
            os.write(sys.stderr.fileno(), stream.errors.encode())
        return code if code is not None else 1
    finally:
        keys.cancel()
        if sizes is not None:
            sizes.cancel()
        await stream.close()


async def _send(stream: Stream) -> None:
    try:
        while sys.stdin is not None and (data := await _typed(sys.stdin.fileno())):
            await stream.write(data)
        await stream.end_input()
    except EngineError:
        return


async def _typed(descriptor: int) -> bytes:
    """What can be read now, or as soon as there is anything; ``b""`` at the end."""
    loop = asyncio.get_running_loop()
    received: asyncio.Future[bytes] = loop.create_future()

    def read() -> None:
        # Only here is it certain that reading does not block, and with it everything else of this loop.
        loop.remove_reader(descriptor)
        try:
            data = os.read(descriptor, 1 << 16)
        except OSError:
            # So a terminal says that it was closed.
            data = b""
        if not received.done():
            received.set_result(data)

    try:
        loop.add_reader(descriptor, read)
    except PermissionError:
        # A regular file cannot be watched, and need not be.
        read()
    try:
        return await received
    finally:
        loop.remove_reader(descriptor)


async def _follow_size(stream: Stream) -> None:
    """Our terminal's size, now and whenever it changes.

    Looked at, not signalled: this loop is not in the main thread.
    """
    known = None
    while True:
        size = shutil.get_terminal_size()
        if size != known:
            # At first the command may not have begun.
            with suppress(EngineError):
                await stream.resize(size.columns, size.lines)
                known = size
        await asyncio.sleep(0.5)


@contextmanager
def _raw(wanted: bool) -> Iterator[None]:
    if not wanted:
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    # Not as an exception in the middle of a call: the container's terminal gets the key.
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        # What was typed meanwhile is kept.
        tty.setraw(sys.stdin, termios.TCSADRAIN)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
        signal.signal(signal.SIGINT, interrupt)
