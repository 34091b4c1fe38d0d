"""Clients of the agent, and their streams."""

from __future__ import annotations

import asyncio
import json
import math
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Coroutine, Dict, List, Optional, Set

from . import logs, processes, protocol
from .kernel import Request
from .kernels import Kernel
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
        if not self._writer.is_closing():
            self._writer.close()

    def _give_up(self) -> None:
        if self._client is None:
            self.close()

    def _receive(self, message: object) -> None:
        if not isinstance(message, dict):
            return  # byte streams: none is open
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
        client_id, owner = _text(message, "client"), _text(message, "owner")
        grace = float(message["grace"])
        if not (math.isfinite(grace) and 0 <= grace <= LONGEST_GRACE):
            raise ValueError("a grace time of %r s" % grace)
        nonce = _read_nonce(_text(message, "nonce"))
        ended: List[str] = []
        for other in list(agent.clients.values()):
            if other.id != client_id and other.owner and other.owner == owner:
                ended += other.end()
        client = agent.clients.get(client_id)
        if client is None:
            client = agent.clients[client_id] = Client(agent, client_id, owner)
        self._client = client
        client.connected(self, grace)
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
        )
        agent.session_began(self)

    def on_prepare(self, client: Client, message: protocol.Message) -> None:
        path = message["path"]
        if not isinstance(path, list) or not all(isinstance(entry, str) for entry in path):
            raise ValueError("a path that is no list of texts")
        try:
            self.agent.starter.prepare(
                path, bool(message["first"]), _variables(message, "env"), int(message["spares"])
            )
        except (OSError, ValueError) as error:
            # Each start tries again, and reports it.
            logs.say("no process could be preloaded: %r" % error)

    def on_spawn(self, client: Client, message: protocol.Message) -> None:
        """Answered once it has started, and again for a client whose stream was lost and that asks again."""
        call = message.get("call")
        try:
            known = client.kernels.get(_text(message, "kernel"))
            if known is not None:
                known.call = call
                if known.pid is not None:
                    known.tell_started()
                return
            request = _request(self.agent, client, message)
            _write_private(request.connection_file, json.dumps(message["connection"]))
            if request.notice:
                _write_private(request.notice, message["notice"][:NOTICE_LIMIT])
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
        kernel = client.kernels.get(_text(message, "kernel"))
        if kernel is not None:
            kernel.signal(int(message["signum"]))

    def on_end(self, client: Client, message: protocol.Message) -> None:
        kernel = client.kernels.get(_text(message, "kernel"))
        if kernel is not None:
            kernel.end()

    def on_adopt(self, client: Client, message: protocol.Message) -> None:
        """Take over a kernel whose client knew its own id and told it to us."""
        kernel = client.kernels.get(_text(message, "kernel"))
        if kernel is None:
            former = self.agent.clients.get(_text(message, "client"))
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


def _request(agent: Agent, client: Client, message: protocol.Message) -> Request:
    """What a kernel process needs to know, complete."""
    kernel_id = _text(message, "kernel")
    if kernel_id in agent.kernels or kernel_id in client.exits:
        raise ValueError("the kernel %.100s has been started before" % kernel_id)
    if not kernel_id.replace("-", "").isalnum() or len(kernel_id) > 100:
        raise ValueError("the kernel's id %.100r cannot be used" % kernel_id)
    arguments = message["arguments"]
    if not isinstance(arguments, list) or not all(isinstance(argument, str) for argument in arguments):
        raise ValueError("arguments that are no list of texts")
    env = {**os.environ, **_variables(message, "env")}
    env[processes.KERNEL_VARIABLE] = kernel_id
    env[processes.AGENT_VARIABLE] = processes.identity()
    env["PATH"] = _with_first(os.path.dirname(agent.survey["executable"]), env.get("PATH", os.defpath))
    files = _variables(message, "files")
    env.update(
        {name: path for name, path in files.items() if name not in os.environ and os.path.exists(path)}
    )
    return Request(
        kernel=kernel_id,
        cwd=_text(message, "cwd"),
        env=env,
        arguments=arguments,
        connection_file=os.path.join(agent.folder, kernel_id + ".json"),
        log=os.path.join(agent.folder, kernel_id + ".log"),
        sockets=_text(message["connection"], "ip"),
        notice=os.path.join(agent.folder, kernel_id + ".notice") if _has_notice(message) else "",
        encrypted="curve_secretkey" in message["connection"],
    )


def _reason(error: Exception) -> str:
    return "%s: %s" % (type(error).__name__, str(error)[:2000])


def _text(message: protocol.Message, name: str) -> str:
    value = message[name]
    if not isinstance(value, str):
        raise TypeError("%s is no text" % name)
    return value


def _has_notice(message: protocol.Message) -> bool:
    return bool(message.get("notice")) and bool(_text(message, "notice"))


def _variables(message: protocol.Message, name: str) -> Dict[str, str]:
    """Those that a process can have: neither the fork nor the ordinary start is to fail half-way on them."""
    variables = message[name]
    if not isinstance(variables, dict):
        raise TypeError("%s are no variables" % name)
    for key, value in variables.items():
        if not isinstance(value, str) or not key or "=" in key or "\0" in key + value:
            raise ValueError("no process can have the variable %.100r" % key)
        os.fsencode(key + value)
    return variables


def _with_first(folder: str, path: str) -> str:
    """`which python` and `pip` in a cell's `!` commands are the kernel's own."""
    return os.pathsep.join([folder] + [entry for entry in path.split(os.pathsep) if entry != folder])


def _read_nonce(name: str) -> str:
    """What the host wrote into the mounted folder, to prove that both see the same one."""
    try:
        # Never waiting: it is the kernels' folder too, and they may put a pipe there.
        nonce = os.open(
            os.path.join(SOCKETS, os.path.basename(name)), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        )
    except (OSError, ValueError):
        return ""
    try:
        return os.read(nonce, 100).decode("ascii", "replace")
    except OSError:
        return ""
    finally:
        os.close(nonce)


def _write_private(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as output:
        output.write(text)
