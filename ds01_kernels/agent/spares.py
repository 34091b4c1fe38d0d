"""Keeps kernel processes that are begun before anybody wants them, while the machine has room for them."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING, Any, Awaitable, Callable, Dict, List, Optional, Set, Tuple

from . import files, logs, processes
from .kernel import LENGTH, Request
from .room import Room
from .spare import TAKEN, WAITS, Spare, connection
from .zygote import Stamp, read_stamp

if TYPE_CHECKING:
    from .starter import Line

#: The most that can be asked for.
MOST = 16

#: Seconds: after a start, for the new kernel to have the machine for itself; between looks at the room there
#: is; for a spare to initialise; for it to become a kernel.
QUIET = 0.15
PAUSE = 0.5
LIMIT = 20.0
TAKE_LIMIT = 2.0

#: Bytes that one takes, and somewhat more: what is begun must not be short of memory by that alone.
SIZE = 32 << 20


class Waiting:
    """A spare that waits, and the line to it."""

    def __init__(self, own: Spare, pid: int, line: Line, stamps: Dict[str, Stamp]) -> None:
        self.own = own
        self.pid = pid
        self.line = line
        self._stamps = stamps

    def is_stale(self) -> bool:
        """Whether a module that it has loaded has changed."""
        return any(stamp is None or read_stamp(name) != stamp for name, stamp in self._stamps.items())


class Spares:
    """`begin` forks a process that attends the line that it returns; the folder holds what spares need."""

    def __init__(
        self, folder: str, sockets: str, begin: Callable[[], Awaitable[Tuple[int, Line]]], room: Room
    ) -> None:
        self._folder = folder
        self._sockets = sockets
        self._begin = begin
        self._room = room
        self._wanted = 0
        self._waiting: List[Waiting] = []
        self._number = 0
        self._began: Dict[int, Spare] = {}
        self._filling: Optional[asyncio.Future[None]] = None
        self._quiet_until = 0.0
        self._is_futile = False

    @property
    def pids(self) -> Set[int]:
        return set(self._began)

    def want(self, count: int) -> None:
        """Keep that many from now on."""
        self._wanted = min(max(count, 0), MOST)
        while len(self._waiting) > self._wanted:
            self._end(self._waiting.pop())
        self.fill()

    def drop(self) -> None:
        """End all that wait: they are of a zygote that is to be replaced."""
        if self._filling is not None:
            self._filling.cancel()
            self._filling = None
        for pid in list(self._began):
            processes.signal_group(pid, 9)
            self._forget(pid)
        for spare in self._waiting:
            spare.line.close()
        self._waiting.clear()
        self._is_futile = False

    def look(self) -> None:
        """To be called now and then: under memory pressure all go; else there are to be enough."""
        if self._room.is_short():
            if self._began:
                logs.say("%d spare kernels end, since memory is short" % len(self._began))
            self.drop()
        else:
            self.fill()

    def delay(self) -> None:
        """A kernel starts, which is to have the machine for itself."""
        self._quiet_until = asyncio.get_running_loop().time() + QUIET

    def fill(self) -> None:
        is_busy = self._filling is not None and not self._filling.done()
        if self._wanted > len(self._waiting) and not is_busy and not self._is_futile:
            self._filling = asyncio.ensure_future(self._fill())

    async def take(self, request: Request, is_sound: Callable[[], bool]) -> Optional[Waiting]:
        """One that is that kernel now; None when there is none, or their zygote is not sound any more.

        That is looked at, with a thousand files, while the first one becomes the kernel.
        """
        self.delay()
        while self._waiting:
            spare = self._waiting.pop(0)
            # From here on its exit is that of a kernel, and none of our business.
            del self._began[spare.pid]
            spare.line.writer.write(request.encode())
            zygote_is_sound = is_sound()
            if zygote_is_sound and not spare.is_stale() and await _is_taken(spare):
                files.remove(spare.own.connection_file)
                self.fill()
                return spare
            self._began[spare.pid] = spare.own
            self._end(spare)
            if not zygote_is_sound:
                return None
        self.fill()
        return None

    def child_exited(self, pid: int) -> bool:
        """Whether that child was a spare."""
        self._waiting[:] = [spare for spare in self._waiting if spare.pid != pid]
        was_spare = pid in self._began
        self._forget(pid)
        return was_spare

    async def _fill(self) -> None:
        loop = asyncio.get_running_loop()
        while len(self._waiting) < self._wanted:
            await asyncio.sleep(max(self._quiet_until - loop.time(), 0.0))
            if loop.time() < self._quiet_until:
                continue
            if not self._room.is_calm() or self._room.is_short(SIZE):
                await asyncio.sleep(PAUSE)
                continue
            try:
                spare = await self._begin_one()
            except Exception as error:
                # Until the zygote is another one: what stands in the way is still there.
                self._is_futile = True
                logs.say("there are no spare kernels: %.500r" % error)
                return
            # It may have ended meanwhile.
            if spare.pid in self._began:
                self._waiting.append(spare)

    async def _begin_one(self) -> Waiting:
        pid, line = await self._begin()
        self._number += 1
        name = "spare-%d-%d" % (os.getpid(), self._number)
        path = os.path.join(self._folder, name)
        own = Spare(path + ".spare", path + ".log", os.path.join(self._sockets, name))
        self._began[pid] = own
        try:
            files.write_private(own.connection_file, json.dumps(connection(own.sockets)))
            line.writer.write(own.encode())
            return Waiting(own, pid, line, await asyncio.wait_for(_waits(line), LIMIT))
        except BaseException:
            line.close()
            processes.signal_group(pid, 9)
            self._forget(pid)
            raise

    def _end(self, spare: Waiting) -> None:
        spare.line.close()
        processes.signal_group(spare.pid, 9)
        self._forget(spare.pid)

    def _forget(self, pid: int) -> None:
        own = self._began.pop(pid, None)
        if own is not None:
            sockets = ["%s-%d" % (own.sockets, port) for port in range(1, 6)]
            files.remove(own.connection_file, own.log, *sockets)


def sweep(folder: str, sockets: str) -> None:
    """Remove the files of spares whose agent was killed."""
    for name in os.listdir(folder):
        if name.startswith("spare-") and name.endswith(".spare"):
            stem = name[: -len(".spare")]
            log = os.path.join(folder, stem + ".log")
            ports = [os.path.join(sockets, "%s-%d" % (stem, port)) for port in range(1, 6)]
            files.remove(os.path.join(folder, name), log, *ports)


async def _is_taken(spare: Waiting) -> bool:
    try:
        return await asyncio.wait_for(spare.line.reader.readexactly(1), TAKE_LIMIT) == TAKEN
    except (EOFError, OSError, asyncio.TimeoutError):
        return False


async def _waits(line: Line) -> Dict[str, Any]:
    if await line.reader.readexactly(1) != WAITS:
        raise ValueError("a spare that does not wait")
    (length,) = LENGTH.unpack(await line.reader.readexactly(LENGTH.size))
    stamps: Dict[str, Any] = json.loads((await line.reader.readexactly(length)).decode("ascii"))
    return stamps
