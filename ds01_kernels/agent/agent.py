"""The agent: one process in the container, detached, through which everything there is done.

It listens on a unix socket in its own private folder. Clients (a server, a command line) come through relays;
one that has just started the container waits for the agent to come to it. Each owns the kernels that it asked
for. When a client's stream is lost, its kernels have its grace time left; when it says goodbye, or another
process takes over its `owner` name, they end at once. With no client and no kernel left for a while the agent
ends itself.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from contextlib import suppress
from typing import Dict, List, Optional, Set

from . import files, loaded, logs, memory, processes
from .begin import Preloading
from .client import PORTS, SOCKETS, Client, Session
from .kernels import Kernel
from .room import Room
from .spares import sweep
from .starter import Starter
from .survey import survey
from .watch import PackageWatch

#: Seconds.
IDLE_LIMIT = 900.0
LOG_PAUSE = 5.0
MEMORY_PAUSE = 5.0


def main(path: str, told: int, early: Optional[Preloading], waiting: Optional[socket.socket]) -> None:
    """`early` is a zygote that was started before all else, with what the last agent here was told.

    `waiting` is a connection to a client that waits for us.
    """
    processes.end_orphans()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    loop.run_until_complete(Agent(path, early).serve(told, waiting))


class Agent:
    """`clients` by id, `kernels` by id, of all clients."""

    def __init__(self, path: str, early: Optional[Preloading]) -> None:
        self.path = path
        self.folder = os.path.dirname(path)
        #: Where the sockets of kernels are.
        self.sockets = SOCKETS if os.path.ismount(SOCKETS) else self.folder
        self.survey = survey()
        self.memory = memory.Watch()
        self.packages = PackageWatch(self.folder, self._packages_changed)
        #: Those that have said hello.
        self.sessions: Set[Session] = set()
        self.clients: Dict[str, Client] = {}
        self.kernels: Dict[str, Kernel] = {}
        room = Room(self.memory.usage)
        self.starter = Starter(
            loaded,
            self.folder,
            self._on_ready,
            self._on_closed,
            self._is_over,
            early,
            sockets=self.sockets,
            room=room,
        )
        self._unclaimed: Dict[int, int] = {}
        self._over = asyncio.Event()
        self._needed = 0.0

    async def serve(self, told: int, waiting: Optional[socket.socket]) -> None:
        """Listen, say so on the descriptor `told`, and go on until nobody needs us."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        self._reap()  # a zygote may have ended before
        for signum in (signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(signum, lambda: None)
        loop.add_signal_handler(signal.SIGTERM, self._over.set)
        self.packages.start()
        files.remove(self.path)
        self._sweep()
        server = await asyncio.start_unix_server(self._accept, self.path)
        ours = _inode(self.path)
        os.write(told, b"1")
        os.close(told)
        if waiting is not None:
            await loop.connect_accepted_socket(self._protocol, waiting)
        self._needed = loop.time()
        self._check_idle()
        self._check_logs()
        self._check_memory()
        await self._over.wait()
        # First, so that no relay finds it and is then turned away; and never that of a successor.
        if _inode(self.path) == ours:
            files.remove(self.path)
        server.close()
        for kernel in list(self.kernels.values()):
            kernel.end()
        self.starter.close()

    def all_kernels(self) -> List[str]:
        """The ids of the kernels that run here, also of agents of other versions, which run beside."""
        in_use = processes.open_files()
        folder = os.path.realpath(self.folder)
        beside = [id_ for id_ in _with_files(self.folder) if os.path.join(folder, id_ + ".log") in in_use]
        return sorted({*self.kernels, *beside})

    def _sweep(self) -> None:
        """Remove the files of kernels whose agent was killed, with its container or alone."""
        if _others_listen(self.folder, self.path):
            return  # and may be starting some
        sweep(self.folder, self.sockets)
        for kernel_id in _with_files(self.folder):
            sockets = ["%s/%s-%d" % (self.sockets, kernel_id, port) for port in PORTS]
            own = [os.path.join(self.folder, kernel_id + end) for end in (".log", ".json", ".notice")]
            files.remove(*own, *sockets)

    @property
    def pids(self) -> Set[int]:
        """The processes that are ours here, with those of kernels, and without what those have started."""
        return self.starter.pids.union(kernel.pid for kernel in self.kernels.values() if kernel.pid)

    def claim(self, pid: int) -> Optional[int]:
        """The exit code of a kernel that ended before its start was reported; None while it runs."""
        code = self._unclaimed.pop(pid, None)
        self.forget_unclaimed()
        return code

    def forget_unclaimed(self) -> None:
        """Exits that no starting kernel will claim any more: a later process may have the same pid."""
        if not self._is_starting():
            self._unclaimed.clear()

    def session_began(self, session: Session) -> None:
        self.sessions.add(session)
        self.packages.set_active(True)

    def session_ended(self, session: Session) -> None:
        self.sessions.discard(session)
        self.packages.set_active(bool(self.sessions))

    def _packages_changed(self) -> None:
        for session in list(self.sessions):
            session.send(kind="packages-changed")

    def _protocol(self) -> asyncio.StreamReaderProtocol:
        """What `asyncio.start_unix_server` makes for a connection."""
        return asyncio.StreamReaderProtocol(asyncio.StreamReader(), self._accept)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await Session(self, reader, writer).run()

    def _on_ready(self, kernel_id: str) -> None:
        kernel = self.kernels.get(kernel_id)
        if kernel is not None:
            kernel.is_ready()

    def _on_closed(self, kernel_id: str) -> None:
        kernel = self.kernels.get(kernel_id)
        if kernel is not None:
            kernel.is_closed()

    async def _is_over(self, kernel_id: str) -> None:
        kernel = self.kernels.get(kernel_id)
        if kernel is not None:
            await kernel.over.wait()

    def _reap(self) -> None:
        while True:
            try:
                # It stays a zombie, and so its pid nobody else's, while what it left is being ended.
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            try:
                code = processes.returncode(ended)
                if not self.starter.child_exited(ended.si_pid):
                    self._exited(ended.si_pid, code)
                elif code == -signal.SIGKILL:
                    self.memory.blame()  # that kill explains no other process
            finally:
                os.waitpid(ended.si_pid, 0)

    def _exited(self, pid: int, code: int) -> None:
        for kernel in self.kernels.values():
            if kernel.pid == pid:
                kernel.exited(code)
                return
        if self._is_starting():
            # It may be the one whose start is just being reported.
            self._unclaimed[pid] = code

    def _is_starting(self) -> bool:
        return any(kernel.pid is None for kernel in self.kernels.values())

    def _check_idle(self) -> None:
        """End this process when nothing has needed it for `IDLE_LIMIT` seconds."""
        loop = asyncio.get_running_loop()
        if self.kernels or self.clients:
            self._needed = loop.time()
        if loop.time() - self._needed >= IDLE_LIMIT:
            self._over.set()
        else:
            loop.call_later(IDLE_LIMIT / 10, self._check_idle)

    def _check_logs(self) -> None:
        for path in [self.path + ".log", *(kernel.request.log for kernel in self.kernels.values())]:
            logs.shorten(path)
        asyncio.get_running_loop().call_later(LOG_PAUSE, self._check_logs)

    def _check_memory(self) -> None:
        self.memory.look()
        self.starter.look()
        asyncio.get_running_loop().call_later(MEMORY_PAUSE, self._check_memory)


def _with_files(folder: str) -> List[str]:
    """The ids of the kernels that have a connection file there, which may have been left behind."""
    return [name[: -len(".json")] for name in os.listdir(folder) if name.endswith(".json")]


def _others_listen(folder: str, own: str) -> bool:
    """Whether another agent of this folder runs."""
    others = [os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".sock")]
    with suppress(OSError):
        for path in others:
            if path != own:
                with socket.socket(socket.AF_UNIX) as other:
                    if other.connect_ex(path) == 0:
                        return True
    return False


def _inode(path: str) -> Optional[int]:
    try:
        return os.stat(path).st_ino
    except OSError:
        return None
