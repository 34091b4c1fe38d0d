"""Starts kernel processes: by a fork of the zygote where that is possible, else by an interpreter of their own."""

import asyncio
import json
import os
import signal
import socket
import sys

from . import processes
from .kernel import is_start_bound

#: Seconds until a zygote that says nothing is given up.
PRELOAD_LIMIT = 60.0
FORK_LIMIT = 10.0


class Starter:
    """`on_ready(kernel)` is called when a kernel's sockets are bound."""

    def __init__(self, texts, folder, on_ready):
        self._texts = texts
        self._folder = folder
        self._on_ready = on_ready
        self._setup = None
        self._zygote = None

    def prepare(self, path, first, env):
        """Say where ipykernel is, and warm a zygote; nothing happens when that is so already."""
        setup = {"path": path, "first": first, "env": env}
        if setup != self._setup or self._zygote is None:
            self._setup = setup
            self._renew()

    async def start(self, request):
        """Start the kernel of `request`; returns its pid, how it was started, and a note (empty, or why not by fork)."""
        note = "its variables bind at start"
        if not self._needs_own_interpreter(request["env"]):
            try:
                return await self._fork(request), "fork", ""
            except (ZygoteFailed, asyncio.TimeoutError) as error:
                note = str(error) or "the preloaded process did not answer"
        return self._start_alone(request), "start", note

    def child_exited(self, pid):
        """To be told of every child that ended."""
        if self._zygote is not None and self._zygote.pid == pid:
            self._zygote.fail("the preloaded process ended")
            self._zygote = None

    def close(self):
        if self._zygote is not None:
            self._zygote.retire()

    async def _fork(self, request):
        if self._zygote is None or (self._zygote.is_warm and self._zygote.is_stale()):
            self._renew()
        await self._zygote.warm()
        return await self._zygote.fork(request)

    def _renew(self):
        if self._zygote is not None:
            self._zygote.retire()
        self._zygote = Zygote(self._texts, self._folder, self._setup, self._on_ready)

    def _needs_own_interpreter(self, env):
        prepared = _merged(self._setup["env"])
        names = set(env) | set(prepared)
        return any(is_start_bound(name) and env.get(name) != prepared.get(name) for name in names)

    def _start_alone(self, request):
        ours, theirs = _channel()
        with open(request["log"], "ab") as log:
            process = processes.start_python(
                _python(),
                self._texts,
                "kernel",
                [dict(request, path=self._setup["path"], first=self._setup["first"]), theirs.fileno()],
                "kernel",
                pass_fds=(theirs.fileno(),),
                env=request["env"],
                stdout=log,
                stderr=log,
                cwd="/",
            )
        theirs.close()
        _on_packets(ours, lambda packet: self._on_ready(packet.decode()))
        return process.pid


class ZygoteFailed(Exception):
    """This zygote cannot fork, for the reason in its text."""


class Zygote:
    """One preloaded process and the channel to it."""

    def __init__(self, texts, folder, setup, on_ready):
        self._stamps_path = os.path.join(folder, "stamps-%d-%s" % (os.getpid(), os.urandom(4).hex()))
        self._on_ready = on_ready
        self._forks = {}
        self._files = None
        self._warm = asyncio.get_event_loop().create_future()
        # Nobody may be waiting when it fails.
        self._warm.add_done_callback(lambda warm: warm.cancelled() or warm.exception())
        self._channel, theirs = _channel()
        arguments = {"path": setup["path"], "first": setup["first"], "stamps": self._stamps_path}
        self.pid = processes.start_python(
            _python(),
            texts,
            "zygote",
            [arguments, theirs.fileno()],
            "zygote",
            pass_fds=(theirs.fileno(),),
            env=_merged(setup["env"]),
            cwd="/",
        ).pid
        theirs.close()
        _on_packets(self._channel, self._on_packet)

    @property
    def is_warm(self):
        return self._warm.done()

    async def warm(self):
        """Wait until it can fork. Raises `ZygoteFailed`."""
        await asyncio.wait_for(asyncio.shield(self._warm), PRELOAD_LIMIT)

    def is_stale(self):
        """Whether a module that it has loaded was replaced, or a ``.pth`` file came or went, since it started."""
        return self._files is None or _stamps(self._files) != self._files or _path_files() != self._path_files

    async def fork(self, request):
        """The pid of a new kernel process. Raises `ZygoteFailed`."""
        packet = json.dumps(request).encode("utf-8", "surrogateescape")
        forked = self._forks[request["kernel"]] = asyncio.get_event_loop().create_future()
        try:
            self._channel.send(packet)
            return await asyncio.wait_for(forked, FORK_LIMIT)
        except OSError as error:
            raise ZygoteFailed("the preloaded process does not take the request: %s" % error) from error
        finally:
            self._forks.pop(request["kernel"], None)

    def fail(self, reason):
        """No more forks from this one."""
        if not self._warm.done():
            self._warm.set_exception(ZygoteFailed(reason))
        for forked in self._forks.values():
            if not forked.done():
                forked.set_exception(ZygoteFailed(reason))

    def retire(self):
        """End it. The channel stays until the kernels that are starting have said that they are ready."""
        self.fail("the preloaded process was replaced")
        try:
            os.kill(self.pid, signal.SIGTERM)
        except OSError:
            pass

    def _on_packet(self, packet):
        if not packet.startswith(b"{"):
            self._on_ready(packet.decode())
            return
        message = json.loads(packet.decode("utf-8", "surrogateescape"))
        if message["kind"] == "forked":
            forked = self._forks.get(message["kernel"])
            if forked is not None and not forked.done():
                forked.set_result(message["pid"])
        elif message["kind"] == "failed":
            self.fail("ipykernel cannot be preloaded. " + message["detail"])
        elif not self._warm.done():
            self._read_stamps()
            self._warm.set_result(None)

    def _read_stamps(self):
        with open(self._stamps_path, errors="surrogateescape") as stamps:
            self._files = json.load(stamps)
        os.remove(self._stamps_path)
        self._path_files = _path_files()


def _python():
    # What ipykernel's own kernelspec does: the debugger cannot step into frozen modules.
    # https://github.com/ipython/ipykernel/blob/main/ipykernel/kernelspec.py
    flags = ["-Xfrozen_modules=off"] if sys.version_info >= (3, 11) else []
    return [sys.executable, *flags]


def _merged(env):
    merged = dict(os.environ)
    merged.update(env)
    return merged


def _channel():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    return ours, theirs


def _on_packets(channel, receive):
    """Call `receive` for each packet until the other side has closed, then close."""
    loop = asyncio.get_event_loop()

    def readable():
        try:
            packet = channel.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if packet:
            receive(packet)
        else:
            loop.remove_reader(channel)
            channel.close()

    loop.add_reader(channel, readable)


def _stamps(files):
    stamps = {}
    for name in files:
        try:
            status = os.stat(name)
        except OSError:
            return None
        stamps[name] = [status.st_mtime_ns, status.st_size, status.st_ino]
    return stamps


def _path_files():
    """The ``.pth`` files that `site` reads when an interpreter starts."""
    from .survey import kernel_path

    found = set()
    for folder in kernel_path():
        if folder.endswith("-packages") and os.path.isdir(folder):
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.endswith(".pth"):
                        found.add((entry.path, entry.stat().st_mtime_ns))
    return found
