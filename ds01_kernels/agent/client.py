"""Clients of the agent, and their streams."""

from __future__ import annotations

import asyncio
import json
import math
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Coroutine, Dict, List, Optional, Set, Union

from . import files, logs, protocol, requests
from .kernels import Kernel
from .requests import text
from .streams import MOST, Stream, Streams
from .survey import installing

if TYPE_CHECKING:
    from .agent import Agent

#: Seconds for a client to say who it is, and that one may ask its kernels to be kept without it.
HELLO_LIMIT = 10.0
LONGEST_GRACE = 24 * 3600.0
EXITS_KEPT = 100
#: Bytes that wait for a client that does not read, until it is given up.
UNREAD_LIMIT = 2 * protocol.MAX_FRAME
#: Seconds that a kernel waits for the list of what is installed, and requirements kept of one install.
BASELINE_LIMIT = 20.0
SPECS_KEPT = 1000
#: Characters of what a kernel is to say of the one before it.
NOTICE_LIMIT = 2000

#: In the container, the folder that the engine mounts from the host: kernels' sockets go there.
SOCKETS = "/run/ds01"
#: What their names end in.
PORTS = range(1, 6)


class Client:
    """A process outside that owns kernels here, whether or not its stream is up."""

    def __init__(self, agent: Agent, client_id: str, owner: str) -> None:
        self.agent = agent
        self.id = client_id
        self.owner = owner
        #: Nothing is done for it any more.
        self.gone = False
        self.kernels: Dict[str, Kernel] = {}
        self.exits: Dict[str, Dict[str, Any]] = {}
        self.streams = Streams(self._wake)
        self._grace = 0.0
        self._session: Optional[Session] = None
        self._timer: Optional[asyncio.TimerHandle] = None

    def connected(self, session: Session, grace: float) -> None:
        self._grace = grace
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        former, self._session = self._session, session
        if former is not None:
            former.close()

    def disconnected(self, session: Session) -> None:
        """Its stream is lost: kernels live on for its grace time, and exits that it may not have heard of."""
        if self._session is not session:
            return
        self._session = None
        if not self.gone:
            self._timer = asyncio.get_running_loop().call_later(self._grace, self.end)

    def _wake(self) -> None:
        if self._session is not None:
            self._session.wake()

    def is_heard_on(self, session: Session) -> bool:
        """Whether that is its connection now, and none that was lost."""
        return self._session is session

    def end(self) -> List[str]:
        """End all its kernels and forget it; its stream closes when they have ended. Returns their ids."""
        self.gone = True
        ended = list(self.kernels)
        for kernel in list(self.kernels.values()):
            kernel.end()
        if self._timer is not None:
            self._timer.cancel()
        if self.agent.clients.get(self.id) is self:
            del self.agent.clients[self.id]
        self.streams.close()
        self.close_when_over()
        return ended

    def close_when_over(self) -> None:
        if self.gone and not self.kernels and self._session is not None:
            self._session.close()
            self._session = None

    def remember(self, kernel_id: str, exit_status: Dict[str, Any]) -> None:
        """Keep it for a client that reconnects; the newest are enough, the others it heard of."""
        self.exits[kernel_id] = exit_status
        while len(self.exits) > EXITS_KEPT:
            del self.exits[next(iter(self.exits))]

    def send(self, **message: Any) -> None:
        if self._session is not None:
            self._session.send(**message)


class Session:
    """One connected stream: reads messages, calls the method of that name."""

    def __init__(self, agent: Agent, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.agent = agent
        self._reader = reader
        self._writer = writer
        self._client: Optional[Client] = None
        self._following: Set[asyncio.Future[None]] = set()
        self._wanted = asyncio.Event()
        self._carrying: Optional[asyncio.Future[None]] = None

    async def run(self) -> None:
        decoder = protocol.Decoder()
        timer = asyncio.get_running_loop().call_later(HELLO_LIMIT, self._give_up)
        try:
            while True:
                data = await self._reader.read(1 << 16)
                if not data:
                    break
                for message in decoder.feed(data):
                    self._receive(message)
        except Exception as error:  # one client's mistakes are not the others'
            logs.say("a client's stream failed: %.500r" % error)
        finally:
            timer.cancel()
            self.close()
            self.agent.session_ended(self)
            if self._client is not None:
                self._client.disconnected(self)

    def send(self, **message: Any) -> None:
        if self._writer.is_closing():
            return
        self._writer.write(protocol.encode(message))
        if self._writer.transport.get_write_buffer_size() > UNREAD_LIMIT:
            self._writer.transport.abort()

    def close(self) -> None:
        if self._carrying is not None:
            self._carrying.cancel()
        if not self._writer.is_closing():
            self._writer.close()

    def wake(self) -> None:
        self._wanted.set()

    async def _carry(self, streams: Streams) -> None:
        """Send what streams have to send, as fast as it is read; messages go between.

        What is written and not read yet is little, so that no message waits behind much of it.
        """
        with suppress(OSError):
            while True:
                frames = streams.frames()
                if frames:
                    self._writer.write(frames)
                    await self._writer.drain()
                else:
                    self._wanted.clear()
                    await self._wanted.wait()

    def _give_up(self) -> None:
        if self._client is None:
            self.close()

    def _receive(self, message: Union[protocol.Message, protocol.Data]) -> None:
        if isinstance(message, protocol.Data):
            self._pass_on(message)
            return
        kind = message["kind"]
        if self._client is None:
            if kind == "hello":
                self._hello(message)
                return
            raise ValueError("the first message is %.100r, not hello" % kind)
        if self._client.gone:
            return
        handler = getattr(self, "on_" + kind, None)
        if handler is None:
            self.send(kind="error", call=message.get("call"), message="unknown message %.100r" % kind)
        else:
            handler(self._client, message)

    def _hello(self, message: protocol.Message) -> None:
        if message["protocol"] != protocol.VERSION:
            raise ValueError("protocol %.100r, not %d" % (message["protocol"], protocol.VERSION))
        agent = self.agent
        client_id, owner = text(message, "client"), text(message, "owner")
        grace = float(message["grace"])
        if not (math.isfinite(grace) and 0 <= grace <= LONGEST_GRACE):
            raise ValueError("a grace time of %r s" % grace)
        nonce = requests.read_mark(os.path.join(SOCKETS, os.path.basename(text(message, "nonce"))))
        ended: List[str] = []
        for other in list(agent.clients.values()):
            if other.id != client_id and other.owner and other.owner == owner:
                ended += other.end()
        client = agent.clients.get(client_id)
        if client is None:
            client = agent.clients[client_id] = Client(agent, client_id, owner)
        offsets = message["streams"]
        if not isinstance(offsets, dict):
            raise TypeError("the offsets of streams are none")
        self._client = client
        client.connected(self, grace)
        client.streams.resume(offsets)
        self.send(
            kind="welcome",
            protocol=protocol.VERSION,
            pid=os.getpid(),
            survey=agent.survey,
            nonce=nonce,
            kernels={kernel.id: kernel.pid for kernel in client.kernels.values()},
            ready=[kernel.id for kernel in client.kernels.values() if kernel.ready],
            exits=client.exits,
            ended=ended,
            streams=client.streams.offsets(),
        )
        self._carrying = asyncio.ensure_future(self._carry(client.streams))
        agent.session_began(self)

    def on_prepare(self, client: Client, message: protocol.Message) -> None:
        path = message["path"]
        if not isinstance(path, list) or not all(isinstance(entry, str) for entry in path):
            raise ValueError("a path that is no list of texts")
        try:
            self.agent.starter.prepare(
                path, bool(message["first"]), requests.variables(message, "env"), int(message["spares"])
            )
        except (OSError, ValueError) as error:
            # Each start tries again, and reports it.
            logs.say("no process could be preloaded: %r" % error)

    def on_spawn(self, client: Client, message: protocol.Message) -> None:
        """Answered once it has started, and again for a client whose stream was lost and that asks again."""
        call = message.get("call")
        try:
            known = client.kernels.get(text(message, "kernel"))
            if known is not None:
                known.call = call
                if known.pid is not None:
                    known.tell_started()
                return
            request = requests.request(self.agent, client, message)
            files.write_private(request.connection_file, json.dumps(message["connection"]))
            if request.notice:
                files.write_private(request.notice, message["notice"][:NOTICE_LIMIT])
        except Exception as error:
            client.send(kind="error", call=call, message=_reason(error))
            return
        # It is known at once, since the next message may be to end it.
        self._follow(self._start(Kernel(client, request, call)))

    def _follow(self, work: Coroutine[Any, Any, None]) -> None:
        # asyncio keeps only weak references to tasks.
        task = asyncio.ensure_future(work)
        self._following.add(task)
        task.add_done_callback(self._following.discard)

    async def _start(self, kernel: Kernel) -> None:
        # What its cells install is to be seen as a change.
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(self.agent.packages.baseline), BASELINE_LIMIT)
        try:
            pid, how, note = await self.agent.starter.start(kernel.request)
        except Exception as error:
            kernel.failed(_reason(error))
        else:
            kernel.started(pid, how, note)

    def on_signal(self, client: Client, message: protocol.Message) -> None:
        kernel = client.kernels.get(text(message, "kernel"))
        if kernel is not None:
            kernel.signal(int(message["signum"]))

    def on_end(self, client: Client, message: protocol.Message) -> None:
        kernel = client.kernels.get(text(message, "kernel"))
        if kernel is not None:
            kernel.end()

    def on_adopt(self, client: Client, message: protocol.Message) -> None:
        """Take over a kernel whose client knew its own id and told it to us."""
        kernel = client.kernels.get(text(message, "kernel"))
        if kernel is None:
            former = self.agent.clients.get(text(message, "client"))
            kernel = former.kernels.get(message["kernel"]) if former else None
        if kernel is None or kernel.pid is None:
            self.send(kind="error", call=message.get("call"), message="that kernel has ended")
            return
        kernel.belongs_to(client)
        self.send(kind="adopted", call=message.get("call"), pid=kernel.pid)

    def on_goodbye(self, client: Client, message: protocol.Message) -> None:
        client.end()

    def on_count(self, client: Client, message: protocol.Message) -> None:
        kernels = self.agent.all_kernels()
        used = self.agent.memory.used()
        self.send(kind="counted", call=message.get("call"), kernels=len(kernels), ids=kernels, memory=used)

    def on_packages(self, client: Client, message: protocol.Message) -> None:
        self._follow(self._list(message.get("call")))

    async def _list(self, call: object) -> None:
        try:
            listed = await self.agent.packages.listed()
            listed.update(await asyncio.get_running_loop().run_in_executor(None, installing))
        except Exception as error:
            self.send(kind="error", call=call, message=_reason(error))
        else:
            self.send(kind="listed", call=call, **listed)

    def on_open(self, client: Client, message: protocol.Message) -> None:
        """A stream to one of the sockets of a kernel of that client."""
        number, port = int(message["stream"]), int(message["port"])
        kernel = client.kernels.get(text(message, "kernel"))
        if not client.is_heard_on(self) or client.streams.has(number):
            return  # it comes again on the connection that took the place of this one
        if kernel is None or port not in PORTS or len(client.streams) >= MOST:
            client.streams.answer({"kind": "close", "stream": number})
            return
        self._follow(_joined(Stream(client.streams, number), "%s-%d" % (kernel.request.sockets, port)))

    def on_ack(self, client: Client, message: protocol.Message) -> None:
        self._pass_on(message)

    def on_close(self, client: Client, message: protocol.Message) -> None:
        self._pass_on(message)

    def _pass_on(self, message: Union[protocol.Message, protocol.Data]) -> None:
        # What is left to be read of a connection that was lost is sent again on the new one.
        if self._client is not None and self._client.is_heard_on(self):
            self._client.streams.receive(message)

    def on_look(self, client: Client, message: protocol.Message) -> None:
        """What the client's machine has put into a folder that both should see."""
        self.send(kind="seen", call=message.get("call"), text=requests.read_mark(text(message, "path")))

    def on_asked(self, client: Client, message: protocol.Message) -> None:
        specs = message["specs"]
        if not isinstance(specs, list) or not all(isinstance(spec, str) for spec in specs):
            raise ValueError("specs that are no list of texts")
        self.agent.packages.add_asked(specs[:SPECS_KEPT])

    def on_replace(self, client: Client, message: protocol.Message) -> None:
        """This container has a successor: whoever has one of those kernels is to restart it there."""
        wanted = message["kernels"]
        if wanted is not None and not isinstance(wanted, list):
            raise ValueError("kernels that are no list")
        for owner in list(self.agent.clients.values()):
            kernels = [kernel for kernel in owner.kernels if wanted is None or kernel in wanted]
            owner.send(kind="replaced", kernels=kernels)


async def _joined(stream: Stream, path: str) -> None:
    try:
        await asyncio.get_running_loop().create_unix_connection(lambda: stream, path)
    except OSError:
        stream.end()  # the kernel has ended, or never bound it


def _reason(error: Exception) -> str:
    return "%s: %s" % (type(error).__name__, str(error)[:2000])
