"""Starts kernel processes: by a fork of the zygote where possible, else by an interpreter of their own."""

from __future__ import annotations

import array
import asyncio
import json
import os
import socket
from dataclasses import asdict
from typing import Any, Awaitable, Callable, Dict, List, NamedTuple, Optional, Set, Tuple

from . import processes
from .begin import Preloading, preload, python
from .holding import GO
from .kernel import CLOSED, PID, READY, Preparation, Request, Setup, is_start_bound
from .paths import kernel_path, user_site
from .prepared import remember
from .room import Room
from .spare import can_follow, is_init_bound
from .spares import Spares
from .zygote import Stamp, read_stamp

#: Seconds until a zygote that says nothing is given up, and a process that was to report itself.
PRELOAD_LIMIT = 60.0
FORK_LIMIT = 20.0


class Started(NamedTuple):
    """`how` is "fork" or "start"; `note` says why not by fork."""

    pid: int
    how: str
    note: str = ""


class Starter:
    """`on_ready(kernel)` is called when a kernel can be reached, `on_closed(kernel)` when it cannot any more.

    `is_over(kernel)` waits for the end of one. `early` is a zygote on its way.
    """

    def __init__(
        self,
        texts: Dict[str, str],
        folder: str,
        on_ready: Callable[[str], None],
        on_closed: Callable[[str], None],
        is_over: Callable[[str], Awaitable[None]],
        early: Optional[Preloading],
        *,
        sockets: str,
        room: Room,
    ) -> None:
        self._texts = texts
        self._early = early
        self._folder = folder
        self._on_ready = on_ready
        self._on_closed = on_closed
        self._is_over = is_over
        self._setup: Optional[Setup] = None
        self._env: Dict[str, str] = {}
        self._zygote: Optional[Zygote] = None
        self._following: Set[asyncio.Future[None]] = set()
        self._spares = Spares(folder, sockets, self._begin_spare, room)

    @property
    def pids(self) -> Set[int]:
        """Zygote and spares."""
        zygote = set() if self._zygote is None or self._zygote.ended else {self._zygote.pid}
        return zygote | self._spares.pids

    def prepare(self, path: List[str], first: bool, env: Dict[str, str], spares: int) -> None:
        """Say where ipykernel is, and warm a zygote and spare kernels, unless that is so already.

        Raises `OSError`, and `ValueError` for variables that no process can have.
        """
        setup = Setup(os.getpid(), path, first)
        remember(self._folder, Preparation(path, first, env))
        env = {**os.environ, **env}
        changed = (setup, env) != (self._setup, self._env)
        self._setup, self._env = setup, env
        self._current_zygote(setup, renew=changed)
        self._spares.want(spares)

    async def start(self, request: Request) -> Started:
        """Start the kernel of `request`. Raises `OSError` or `ValueError` when no process can be made."""
        if self._setup is None:
            raise ValueError("the agent has not been told where ipykernel is")
        note = "its variables bind at start"
        if not self._needs_own_interpreter(request.env):
            try:
                return await self._fork(self._setup, request)
            except ZygoteError as failure:
                note = str(failure)
        return Started(await self._start_alone(self._setup, request), "start", note)

    def look(self) -> None:
        """To be called now and then."""
        self._spares.look()

    def child_exited(self, pid: int) -> bool:
        """To be told of every child that ended; whether it was a spare."""
        if self._early is not None and self._early.pid == pid:
            self._early.channel.close()
            self._early = None
        if self._zygote is not None and self._zygote.pid == pid:
            self._zygote.ended = True
        return self._spares.child_exited(pid)

    def close(self) -> None:
        self._drop_early()
        self._spares.drop()
        if self._zygote is not None:
            self._zygote.retire()

    # By fork

    async def _fork(self, setup: Setup, request: Request) -> Started:
        if can_follow(request) and not self._differs(request.env, is_init_bound):
            spare = await self._spares.take(request, self._is_sound)
            if spare is not None:
                self._follow(request, spare.line, is_sent=True)
                return Started(spare.pid, "spare")
        zygote = self._current_zygote(setup)
        await zygote.warm()
        self._spares.delay()
        pid, line = await self._fork_from(zygote)
        self._follow(request, line)
        return Started(pid, "fork")

    async def _begin_spare(self) -> Tuple[int, Line]:
        if self._zygote is None:
            raise ZygoteError("nothing was prepared")
        zygote = self._zygote
        await zygote.complete()
        return await self._fork_from(zygote)

    async def _fork_from(self, zygote: Zygote) -> Tuple[int, Line]:
        line, theirs = await _open_line()
        try:
            zygote.fork(theirs)
            # Only the new process is to have it open, so that its end is seen.
            theirs.close()
            (pid,) = PID.unpack(await asyncio.wait_for(line.reader.readexactly(PID.size), FORK_LIMIT))
        except (EOFError, OSError, asyncio.TimeoutError) as error:
            # A process that reports itself after all finds its line closed, and ends.
            line.close()
            raise ZygoteError("the preloaded process made no kernel: %r" % error) from error
        except BaseException:
            line.close()
            raise
        finally:
            theirs.close()
        return int(pid), line

    def _current_zygote(self, setup: Setup, renew: bool = False) -> Zygote:
        if self._zygote is None or renew or self._zygote.is_stale():
            former, self._zygote = self._zygote, None
            if former is not None:
                former.retire()
            self._spares.drop()
            self._zygote = Zygote(self._preloading(setup))
        return self._zygote

    def _is_sound(self) -> bool:
        return self._zygote is not None and not self._zygote.is_stale()

    def _preloading(self, setup: Setup) -> Preloading:
        early = self._early
        if early is not None and (early.setup, early.env) == (setup, self._env):
            self._early = None
            return early
        self._drop_early()
        return preload(self._texts, self._folder, setup, self._env)

    def _drop_early(self) -> None:
        early, self._early = self._early, None
        if early is not None:
            processes.kill(early.pid)
            early.channel.close()

    def _needs_own_interpreter(self, env: Dict[str, str]) -> bool:
        return self._differs(env, is_start_bound)

    def _differs(self, env: Dict[str, str], is_bound: Callable[[str], bool]) -> bool:
        names = set(env) | set(self._env)
        return any(is_bound(name) and env.get(name) != self._env.get(name) for name in names)

    # By an interpreter of its own

    async def _start_alone(self, setup: Setup, request: Request) -> int:
        line, theirs = await _open_line()
        try:
            pid = processes.start_python(
                python(),
                self._folder,
                self._texts,
                "kernel",
                [asdict(setup)],
                inherit=theirs.fileno(),
                env=request.env,
                output=request.log,
            )
        except BaseException:
            line.close()
            raise
        finally:
            theirs.close()
        self._follow(request, line, PID.size)
        return pid

    # Both

    def _follow(self, request: Request, line: Line, skip: int = 0, is_sent: bool = False) -> None:
        """Send the request, and pass on what the kernel says; `skip` bytes come before that."""

        async def follow() -> None:
            if not is_sent:
                line.writer.write(request.encode())
            try:
                await line.reader.readexactly(skip)
                if await line.reader.readexactly(1) == READY:
                    self._on_ready(request.kernel)
                    if request.after:
                        await self._is_over(request.after)
                        line.writer.write(GO)
                    if await line.reader.readexactly(1) == CLOSED:
                        self._on_closed(request.kernel)
            except (EOFError, OSError):
                pass  # it has ended before, which its exit tells
            finally:
                line.close()

        # asyncio keeps only weak references to tasks.
        following = asyncio.ensure_future(follow())
        self._following.add(following)
        following.add_done_callback(self._following.discard)


class ZygoteError(Exception):
    """This zygote cannot fork, for the reason in its text."""


class Zygote:
    """A preloaded process and the channel to it."""

    def __init__(self, preloading: Preloading) -> None:
        #: Set by whoever hears of its exit.
        self.ended = False
        self.pid = preloading.pid
        self._channel = preloading.channel
        self._complete = asyncio.Event()
        self._setup = preloading.setup
        self._site = read_site(preloading.setup)
        self._files: Dict[str, Stamp] = {}
        #: Why it cannot preload, in the end.
        self._reason = ""
        # Nobody may be waiting when it fails.
        self._warm: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._warm.add_done_callback(lambda warm: warm.cancelled() or warm.exception())
        self._reading = asyncio.ensure_future(self._read_report())

    async def warm(self) -> None:
        """Wait until it can fork. Raises `ZygoteError`."""
        try:
            await asyncio.wait_for(asyncio.shield(self._warm), PRELOAD_LIMIT)
        except asyncio.TimeoutError:
            self._cannot("it took longer than %d s" % PRELOAD_LIMIT)
            self.retire()
            await self._warm

    async def complete(self) -> None:
        """Wait until it has imported all that it is going to."""
        await self.warm()
        await self._complete.wait()

    def is_stale(self) -> bool:
        """Whether another one would do better.

        One that has failed is tried again when packages have come or gone; a warm one is replaced when a
        module that it has loaded, or what Python reads at start, has changed.
        """
        if self._reason:
            return read_site(self._setup) != self._site
        if self.ended or not self._warm.done():
            return self.ended
        changed = any(stamp is None or read_stamp(name) != stamp for name, stamp in self._files.items())
        return changed or read_site(self._setup).paths != self._site.paths

    def fork(self, line: socket.socket) -> None:
        """Let it make a process that attends `line`. Raises `OSError`."""
        rights = array.array("i", [line.fileno()])
        self._channel.sendmsg([b"F"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])

    def retire(self) -> None:
        """End it: a warm one after the forks that it was asked for, by closing its channel."""
        if not self._warm.done() or self._reason:
            self._fail("the preloaded process was replaced")
            if not self.ended:
                processes.kill(self.pid)
        # Not before the loop has left it: its number may be another one's at once.
        self._reading.add_done_callback(lambda _: self._channel.close())
        self._reading.cancel()

    async def _read_report(self) -> None:
        loop = asyncio.get_running_loop()
        report = bytearray()
        try:
            while True:
                data = await loop.sock_recv(self._channel, 1 << 16)
                if not data:
                    self._fail("the preloaded process ended")
                    return
                report += data
                while b"\n" in report:
                    line, _, report = report.partition(b"\n")
                    self._told(json.loads(line.decode("ascii")))
        except (OSError, ValueError) as error:
            self._fail("the preloaded process sent no report: %s" % error)

    def _told(self, told: Dict[str, Any]) -> None:
        if "failed" in told:
            self._cannot(told["failed"])
        elif not self._reason:
            self._files = told["files"]
            if "complete" in told:
                self._complete.set()
            if not self._warm.done():
                self._warm.set_result(None)

    def _cannot(self, why: str) -> None:
        self._reason = "ipykernel cannot be preloaded: %s" % why
        self._fail(self._reason)

    def _fail(self, reason: str) -> None:
        if not self._warm.done():
            self._warm.set_exception(ZygoteError(reason))


class Line(NamedTuple):
    """The agent's end of the socket to one kernel process."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def close(self) -> None:
        self.writer.close()


async def _open_line() -> Tuple[Line, socket.socket]:
    ours, theirs = socket.socketpair()
    try:
        reader, writer = await asyncio.open_unix_connection(sock=ours)
    except BaseException:
        ours.close()
        theirs.close()
        raise
    return Line(reader, writer), theirs


class Site(NamedTuple):
    """Where packages come from: `folders` change with every install, `paths` with what is read at start."""

    folders: Dict[str, Stamp]
    paths: Dict[str, Stamp]


def read_site(setup: Setup) -> Site:
    """The state of the folders for packages, and of the files there that matter to a process that runs.

    Those are ``.pth`` files, and packages that `setup`'s copy of ipykernel stands in for.
    """
    folders: Dict[str, Stamp] = {}
    paths: Dict[str, Stamp] = {}
    standing_in: Set[str] = set()
    if not setup.first:
        for folder in setup.path:
            standing_in.update(_listdir(folder))
    # The user's in any case: a venv that does not heed it loses nothing by a new zygote.
    for folder in dict.fromkeys([*kernel_path(), user_site()]):
        if folder.endswith("-packages"):
            folders[folder] = read_stamp(folder)
            for name in _listdir(folder):
                if name.endswith(".pth") or name in standing_in:
                    path = os.path.join(folder, name)
                    paths[path] = read_stamp(path) if name.endswith(".pth") else None
    return Site(folders, paths)


def _listdir(folder: str) -> List[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
