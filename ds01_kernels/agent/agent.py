"""The agent: one process in the container, detached, through which everything there is done.

It listens on a unix socket in its own private folder. Clients (a server, a command line) come through relays; each owns the kernels that it
asked for. When a client's stream is lost, its kernels have its grace time left; when it says goodbye, or another process takes over its `owner` name,
they end at once. With no client and no kernel left for a while the agent ends itself.
"""

import asyncio
import os
import signal
import sys

from . import client as clients
from . import loaded, processes
from .starter import Starter
from .survey import prepare_user_site, survey

IDLE_LIMIT = 900.0


def main():
    path, told = sys.argv[1], int(sys.argv[2])
    processes.become_subreaper()
    prepare_user_site()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    loop.run_until_complete(Agent(path).serve(told))


class Agent:
    def __init__(self, path):
        self.path = path
        self.folder = os.path.dirname(path)
        self.survey = survey()
        self.clients = {}
        self.kernels = {}
        self.unclaimed = {}
        self.starter = None
        self._idle = asyncio.Event()

    async def serve(self, told):
        """Listen, say so on the descriptor `told`, and go on until nobody needs us."""
        loop = asyncio.get_running_loop()
        self.starter = Starter(loaded, self.folder, self._on_ready)
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        for signum in (signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(signum, lambda: None)
        loop.add_signal_handler(signal.SIGTERM, self._idle.set)
        if os.path.exists(self.path):
            os.remove(self.path)
        server = await asyncio.start_unix_server(self._accept, self.path)
        os.write(told, b"1")
        os.close(told)
        self.schedule_idle_check()
        await self._idle.wait()
        server.close()
        os.remove(self.path)
        for kernel in list(self.kernels.values()):
            kernel.end()
        self.starter.close()

    def schedule_idle_check(self):
        """End this process when nothing has needed it for `IDLE_LIMIT` seconds."""
        asyncio.get_running_loop().call_later(IDLE_LIMIT, self._check_idle)

    def _check_idle(self):
        if self.kernels or self.clients:
            self.schedule_idle_check()
        else:
            self._idle.set()

    async def _accept(self, reader, writer):
        await clients.Session(self, reader, writer).run()

    def _on_ready(self, kernel_id):
        kernel = self.kernels.get(kernel_id)
        if kernel is not None:
            kernel.ready = True
            kernel.client.send(kind="ready", kernel=kernel_id)

    def _reap(self):
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self.starter.child_exited(pid)
            self._exited(pid, processes.returncode(status))

    def _exited(self, pid, code):
        starting = False
        for kernel in self.kernels.values():
            if kernel.pid == pid:
                kernel.exited(code)
                return
            starting = starting or kernel.pid is None
        if starting:
            # It may be the one whose start is just being reported.
            self.unclaimed[pid] = code
        else:
            self.unclaimed.clear()
