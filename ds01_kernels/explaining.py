"""A kernel that stands in where none could start: it runs no code, and answers every cell with the reason.

It is the one place that every client shows, VS Code's included. It lives in the server's process, on the same
five channels that Jupyter was given. When the image only has to be built, the first cell that is run builds
it, with the build's output in that cell; when there is no room for the container, it says so and waits. Then
messages are passed on to the real kernel, the waiting cell first. Jupyter's paths are handed over at that
moment, so that whoever connects from then on talks to the real kernel directly. Clients that are connected
already stay with us: to close their connections could lose a message that is on its way.

The messages: https://jupyter-client.readthedocs.io/en/stable/messaging.html
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import zmq
import zmq.asyncio
from jupyter_client._version import protocol_version
from jupyter_client.session import Session

from .connection import PORTS
from .errors import BuildFailedError, Ds01Error
from .exits import Exit
from .text import clean

log = logging.getLogger("ds01_kernels")

CHANNELS = {name.removesuffix("_port"): port for name, port in PORTS.items()}
REQUESTS = ("shell", "control")

#: Seconds for the real kernel to be heard, and between two attempts.
HEARD_LIMIT, HEARD_PAUSE = 30.0, 0.1

#: Seconds within which a client that has reached one channel has subscribed on another.
SUBSCRIBED = 0.1

#: Of what a failed build printed, beneath its reason.
LAST_LINES = 10

Say = Callable[[str], None]


class ExplainingKernel:
    """Stands for a kernel process towards the provisioner.

    `connection` is Jupyter's (key, signature scheme, curve keys), `prefix` the path that the five sockets are
    bound at. `prepare`, if there is one, is awaited at the first cell that is run: it may say things into the
    cell, and returns the prefix of the real kernel's sockets or raises a `Ds01Error`. `hand_over` is called
    when Jupyter's paths may be pointed there. `notice` is said once, in the first cell that is answered.
    """

    def __init__(
        self,
        connection: Mapping[str, Any],
        prefix: str,
        reason: Ds01Error,
        *,
        prepare: Callable[[Say], Awaitable[str]] | None = None,
        hand_over: Callable[[str], None] = lambda _: None,
        notice: str = "",
    ) -> None:
        self.id = ""
        self.pid = 0
        self.exit: Exit | None = None
        self.reason = reason
        #: What is still to be said of the process before this one.
        self.notice = notice
        self._connection = connection
        self._prefix = prefix
        self._prepare = prepare
        self._hand_over = hand_over
        self._session = _session(connection)
        self._context = zmq.asyncio.Context()
        self._sockets: dict[str, zmq.asyncio.Socket] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._preparing: asyncio.Task[str] | None = None
        self._passing: _Passing | None = None
        self._waiting: list[tuple[str, list[bytes]]] = []
        self._count = 0
        self._ended = asyncio.Event()

    # As a process

    async def open(self) -> None:
        """Bind the five sockets and answer from now on."""
        kinds = {
            "shell": zmq.ROUTER,
            "control": zmq.ROUTER,
            "stdin": zmq.ROUTER,
            "iopub": zmq.PUB,
            "hb": zmq.REP,
        }
        for channel, kind in kinds.items():
            socket = self._sockets[channel] = self._context.socket(kind)
            socket.linger = 500
            if kind == zmq.ROUTER:
                socket.router_handover = True
            _encrypt(socket, self._connection, server=True)
            socket.bind(f"ipc://{self._prefix}-{CHANNELS[channel]}")
        for work in (self._answer("shell"), self._answer("control"), self._answer("stdin"), self._echo()):
            self._tasks.append(asyncio.create_task(work))

    async def ended(self) -> Exit:
        await self._ended.wait()
        assert self.exit is not None
        return self.exit

    def signal(self, signum: int) -> None:
        """SIGINT cancels a preparation that is under way; SIGTERM and SIGKILL end this kernel."""
        if signum == signal.SIGINT:
            if self._preparing is not None:
                self._preparing.cancel()
        elif signum:
            self.end()

    def end(self) -> None:
        if self.exit is None:
            self.exit = Exit(0)
            if self._preparing is not None:
                self._preparing.cancel()
            self._close()
            self._ended.set()

    def _close(self) -> None:
        current = asyncio.current_task()
        for task in self._tasks:
            if task is not current:
                task.cancel()
        if self._passing is not None:
            self._passing.close()
        for socket in self._sockets.values():
            socket.close()
        self._context.term()

    # Answering

    async def _answer(self, channel: str) -> None:
        is_first = True
        while True:
            frames = await self._sockets[channel].recv_multipart()
            if is_first:
                # Clients of the kernel before us come back to each channel on its own: what is said in their
                # cell before they subscribe again would be lost.
                await asyncio.sleep(SUBSCRIBED)
                is_first = False
            if self._passing is not None:
                await self._passing.send(channel, frames)
            elif channel in REQUESTS:
                await self._receive(channel, frames)

    async def _receive(self, channel: str, frames: list[bytes]) -> None:
        try:
            identities, rest = self._session.feed_identities(frames)
            message = self._session.deserialize(rest)
        except (ValueError, TypeError, KeyError) as error:
            log.debug("A message that is not for this kernel: %s", error)
            return
        kind = message["header"]["msg_type"]
        if kind == "execute_request" and not message["content"].get("silent"):
            if self._prepare is not None:
                self._waiting.append((channel, frames))
                self._start_preparing(message)
                return
            content = self._explain(message)
        else:
            self._publish("status", {"execution_state": "busy"}, message)
            content = _answer_to(kind, self._count, self.reason)
        self._reply(channel, message, identities, content)
        if kind == "shutdown_request":
            # After what asked for it has its reply.
            asyncio.get_running_loop().call_later(0.05, self.end)

    def _explain(self, message: dict[str, Any]) -> dict[str, Any]:
        """Say the reason in the cell of that request; returns the reply's content."""
        self._count += 1
        code = message["content"].get("code", "")
        self._publish("status", {"execution_state": "busy"}, message)
        self._publish("execute_input", {"code": code, "execution_count": self._count}, message)
        notice, self.notice = self.notice, ""
        if notice:
            told = {"data": {"text/plain": clean(notice)}, "metadata": {}, "transient": {}}
            self._publish("display_data", told, message)
        error = _as_error(self.reason)
        self._publish("error", error, message)
        return {"status": "error", "execution_count": self._count, **error}

    def _reply(
        self, channel: str, message: dict[str, Any], identities: list[bytes], content: dict[str, Any]
    ) -> None:
        kind = message["header"]["msg_type"].replace("_request", "_reply")
        reply = self._session.msg(kind, content, parent=message["header"])
        self._send(channel, [*identities, *self._session.serialize(reply)])
        self._publish("status", {"execution_state": "idle"}, message)

    def _publish(self, kind: str, content: dict[str, Any], parent: dict[str, Any]) -> None:
        message = self._session.msg(kind, content, parent=parent["header"])
        self._send("iopub", self._session.serialize(message, ident=kind.encode()))

    def _send(self, channel: str, frames: list[bytes]) -> None:
        # The socket queues, so this is done at once; nothing waits for the future.
        self._sockets[channel].send_multipart(frames)

    async def _echo(self) -> None:
        heartbeat = self._sockets["hb"]
        while True:
            await heartbeat.send_multipart(await heartbeat.recv_multipart())

    # Preparing the real one

    def _start_preparing(self, message: dict[str, Any]) -> None:
        """At the first cell; further cells wait in line."""
        if self._preparing is None:
            self._tasks.append(asyncio.create_task(self._prepare_and_pass(message)))

    async def _prepare_and_pass(self, message: dict[str, Any]) -> None:
        def say(text: str) -> None:
            self._publish("stream", {"name": "stdout", "text": clean(text)}, message)

        assert self._prepare is not None
        self._publish("status", {"execution_state": "busy"}, message)
        self._preparing = asyncio.ensure_future(self._prepare(say))
        try:
            prefix = await self._preparing
            passing = _Passing(self._context, self._connection, prefix, self._sockets)
            self._tasks += passing.start()
            await passing.heard()
        except Ds01Error as error:
            self.reason = error
        except asyncio.CancelledError:
            if self.exit is not None:
                raise
            self.reason = Ds01Error(
                "The preparation was interrupted.", remedy="Run the cell again to start over."
            )
        else:
            for channel, frames in self._waiting:
                await passing.send(channel, frames)
            self._passing = passing
            self._hand_over(prefix)
            return
        finally:
            self._preparing = None
        await self._refuse_waiting()

    async def _refuse_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for channel, frames in waiting:
            identities, rest = self._session.feed_identities(frames)
            # It has been checked before; its signature must not be taken for a replay.
            self._session.digest_history.discard(rest[0])
            message = self._session.deserialize(rest)
            self._reply(channel, message, identities, self._explain(message))


class _Passing:
    """Passes messages between our sockets and the real kernel's, as a ROUTER-DEALER proxy does."""

    def __init__(
        self,
        context: zmq.asyncio.Context,
        connection: Mapping[str, Any],
        prefix: str,
        front: Mapping[str, zmq.asyncio.Socket],
    ) -> None:
        self._front = front
        self._session = _session(connection)
        self._listening = asyncio.Event()
        self._back: dict[str, zmq.asyncio.Socket] = {}
        identity = secrets.token_bytes(8)
        for channel in ("shell", "control", "stdin", "iopub"):
            socket = self._back[channel] = context.socket(zmq.SUB if channel == "iopub" else zmq.DEALER)
            socket.linger = 500
            if channel == "iopub":
                socket.subscribe(b"")
            else:
                # The kernel asks for input by the identity of the shell's request.
                socket.routing_id = identity
            _encrypt(socket, connection, server=False)
            socket.connect(f"ipc://{prefix}-{CHANNELS[channel]}")

    def start(self) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(self._return(channel)) for channel in self._back]

    async def heard(self) -> None:
        """Wait until what the real kernel publishes reaches us. Raises `Ds01Error`."""
        deadline = asyncio.get_running_loop().time() + HEARD_LIMIT
        while not self._listening.is_set():
            if asyncio.get_running_loop().time() > deadline:
                raise Ds01Error("The kernel in the container does not answer.", remedy="Restart the kernel.")
            question = self._session.serialize(self._session.msg("kernel_info_request", {}))
            await self._back["shell"].send_multipart(question)
            try:
                await asyncio.wait_for(self._listening.wait(), HEARD_PAUSE)
            except TimeoutError:
                continue

    async def send(self, channel: str, frames: list[bytes]) -> None:
        await self._back[channel].send_multipart(frames)

    def close(self) -> None:
        for socket in self._back.values():
            socket.close()

    async def _return(self, channel: str) -> None:
        while True:
            frames = await self._back[channel].recv_multipart()
            if channel == "iopub":
                self._listening.set()
            elif frames[0] == b"<IDS|MSG>":
                # The answer to a question of ours.
                continue
            await self._front[channel].send_multipart(frames)


def _answer_to(kind: str, count: int, reason: Ds01Error) -> dict[str, Any]:
    """The content of the reply to a request that needs no kernel; nothing is claimed to be known."""
    answers: dict[str, dict[str, Any]] = {
        "kernel_info_request": {
            "protocol_version": protocol_version,
            "implementation": "ds01-explaining",
            "implementation_version": "1",
            "banner": reason.sentence,
            "language_info": {
                "name": "python",
                "version": "3",
                "mimetype": "text/x-python",
                "file_extension": ".py",
                "pygments_lexer": "ipython3",
                "codemirror_mode": {"name": "ipython", "version": 3},
                "nbconvert_exporter": "python",
            },
            "help_links": [],
        },
        "execute_request": {"execution_count": count, "payload": [], "user_expressions": {}},
        "complete_request": {"matches": [], "cursor_start": 0, "cursor_end": 0, "metadata": {}},
        "inspect_request": {"found": False, "data": {}, "metadata": {}},
        "history_request": {"history": []},
        "is_complete_request": {"status": "unknown"},
        "comm_info_request": {"comms": {}},
        "interrupt_request": {},
        "shutdown_request": {"restart": False},
    }
    if kind in answers:
        return {"status": "ok", **answers[kind]}
    return {"status": "error", **_as_error(reason)}


def _as_error(reason: Ds01Error) -> dict[str, Any]:
    sentence, remedy = clean(str(reason)), clean(reason.remedy)
    log = clean(reason.log) if isinstance(reason, BuildFailedError) else ""
    last = log.rstrip().splitlines()[-LAST_LINES:]
    lines = [f"\x1b[31m{sentence}\x1b[0m", *last, *([remedy] if remedy else [])]
    return {"ename": type(reason).__name__, "evalue": f"{sentence} {remedy}".strip(), "traceback": lines}


def _session(connection: Mapping[str, Any]) -> Session:
    return Session(key=connection["key"], signature_scheme=connection["signature_scheme"])


def _encrypt(socket: zmq.asyncio.Socket, connection: Mapping[str, Any], *, server: bool) -> None:
    if "curve_secretkey" not in connection:
        return
    socket.curve_publickey = connection["curve_publickey"].encode()
    socket.curve_secretkey = connection["curve_secretkey"].encode()
    if server:
        socket.curve_server = True
    else:
        socket.curve_serverkey = connection["curve_publickey"].encode()
