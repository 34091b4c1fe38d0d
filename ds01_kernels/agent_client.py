"""The server's side of the agent: the stream to it, and the kernel processes that it runs for us.

Everything here lives on one event loop (`Workbench` has it in a thread of its own); `KernelProcess.exit` may
be read from any thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any

from .agent import protocol
from .agent_calls import Calls
from .agent_listener import AgentListener
from .agent_requests import USUAL, Identity, KernelRequest, Limits
from .agent_return import reached_or_over
from .agent_stream import AgentStream, Load, Welcome, exit_of, field, load_of, reach
from .channel_streams import ChannelStreams
from .engine import Engine
from .errors import AgentError, EngineError, KernelFailedError, NotFoundError, ProtocolError
from .exits import Cause, Exit, gone

log = logging.getLogger("ds01_kernels")

_BROKEN = (
    "Is one of its packages broken in the container? `jupyter ds01 container-retire PROJECT` removes that; "
    "the next kernel gets a new one."
)


class KernelProcess:
    """One kernel process in a container, as the agent reports it."""

    def __init__(self, agent: Agent, process: str) -> None:
        self.agent = agent
        self.id = process
        self.pid = 0
        self.how = ""
        #: None while it runs.
        self.exit: Exit | None = None
        self.is_unwanted = False
        #: Set when clients have lost it, and all that was registered for its end is done; or it has ended.
        self.closed = asyncio.Event()
        self._ready = asyncio.Event()
        self._ended = asyncio.Event()

    async def ready(self) -> None:
        """Wait until its sockets are bound. Raises `KernelFailedError` when it ends before that."""
        try:
            await asyncio.wait_for(self._ready.wait(), self.agent.limits.ready)
        except TimeoutError:
            self.end()
            raise KernelFailedError(
                f"The kernel process did not answer within {self.agent.limits.ready:.0f} s."
            ) from None
        if self.exit is not None:
            raise KernelFailedError(
                f"The kernel process ended before it answered: {self.exit.why}. {self.exit.detail}".strip(),
                remedy=_BROKEN if self.exit.cause is Cause.PROCESS else self.exit.remedy,
            )

    async def ended(self) -> Exit:
        await self._ended.wait()
        assert self.exit is not None
        return self.exit

    def signal(self, signum: int) -> None:
        """To its process group."""
        if self.exit is None:
            self.agent.send(kind="signal", kernel=self.id, signum=signum)

    def end(self) -> None:
        """SIGKILL to it and to everything that it started."""
        self.is_unwanted = True
        if self.exit is None:
            self.agent.send(kind="end", kernel=self.id)

    def is_ready(self) -> None:
        self._ready.set()

    def has_ended(self, exit_: Exit) -> None:
        if self.exit is None:
            self.exit = exit_
            self._ready.set()
            self.closed.set()
            self._ended.set()


class Agent:
    """The agent of one container, connected; made by `connect`.

    When its stream breaks while kernel processes of ours run, it is reached again within our grace time.
    Nothing is lost by that: what was not sent or not answered is sent again, and the agent does no call
    twice.
    """

    def __init__(
        self,
        engine: Engine,
        container: str,
        identity: Identity,
        nonce: tuple[str, str],
        python: str,
        limits: Limits = USUAL,
        *,
        on_change: Callable[[], None] = lambda: None,
        on_replaced: Callable[[frozenset[str]], None] = lambda kernels: None,
        started: datetime | None = None,
        why_ended: Callable[[Exit], Awaitable[Exit | None]] | None = None,
    ) -> None:
        """`on_change` is called when something was installed, or may have been while the stream was lost;
        `on_replaced` with kernel processes of ours that are to be restarted in another container. `started`
        is when the container was, if known; `why_ended` may know more of its end.
        """
        self.engine = engine
        self.container = container
        self.identity = identity
        self.limits = limits
        self.survey: Mapping[str, Any] = {}
        #: Kernels of a predecessor that were ended when we connected.
        self.ended: list[str] = []
        self.shares_directory = False
        #: Another container has taken the place of this one, which is kept for kernels that still run there.
        self.has_successor = False
        self._nonce = nonce
        self._python = python
        self._started = started
        self._on_change = on_change
        self._on_replaced = on_replaced
        self._why_ended = why_ended
        self._processes: dict[str, KernelProcess] = {}
        self._channels = ChannelStreams()
        self._calls = Calls(limits.call, self._channels.streams)
        self._preparation: protocol.Message | None = None
        self._reading: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def lost(self) -> str | None:
        """None while it can be used; else why not."""
        return self._calls.lost

    async def connect(self, listener: AgentListener | None = None) -> None:
        """Reach the agent, or start it; it may come to `listener`. Raises `AgentError`, `EngineError`."""
        stream = await self._reach(listener)
        self._welcome(stream.welcome)
        # Once: the file that shows it is removed then, and the container keeps its mounts.
        self.shares_directory = bool(self._nonce[1]) and stream.welcome.nonce == self._nonce[1]
        self._reading = asyncio.create_task(self._follow(stream))

    async def spawn(self, request: KernelRequest) -> KernelProcess:
        """Start a kernel process; it is not `ready` yet. Raises `AgentError`."""
        process = self._processes[request.process] = KernelProcess(self, request.process)
        try:
            answer = await self.call(
                kind="spawn",
                kernel=request.process,
                cwd=request.cwd,
                env=dict(request.env),
                files=dict(request.files),
                connection=dict(request.connection),
                arguments=list(request.arguments),
                notice=request.notice,
                after=request.after,
            )
            process.pid, process.how = field(answer, "pid", int), field(answer, "how", str)
        except BaseException:
            self._processes.pop(request.process, None)
            if self.lost is None:
                self.send(kind="end", kernel=request.process)
            raise
        if note := field(answer, "note", str):
            log.info("Kernel process %d was started without the zygote: %s", process.pid, note)
        return process

    async def adopt(self, process_id: str, client: str) -> KernelProcess:
        """Take over a kernel process of another client. Raises `AgentError` when it is gone."""
        process = self._processes[process_id] = KernelProcess(self, process_id)
        try:
            answer = await self.call(kind="adopt", kernel=process_id, client=client)
            process.pid, process.how = field(answer, "pid", int), "adopt"
        except BaseException:
            self._processes.pop(process_id, None)
            raise
        process.is_ready()
        return process

    def prepare(self, path: Sequence[str], first: bool, env: Mapping[str, str], *, spares: int = 0) -> None:
        """Say where ipykernel is; the agent warms its zygote, and so many spare kernels.

        Raises `AgentLostError`.
        """
        what = {"path": list(path), "first": first, "env": dict(env), "spares": spares}
        self._preparation = {"kind": "prepare", **what}
        self._calls.send(self._preparation)

    async def count_kernels(self) -> int:
        """How many kernels run in the container, of all clients. Raises `AgentError`."""
        return (await self.load()).kernels

    async def load(self) -> Load:
        """What is on the container now. Raises `AgentError`."""
        return load_of(await self.call(kind="count"))

    async def packages(self) -> protocol.Message:
        """What is installed in the container now: the message `listed`, unchecked. Raises `AgentError`."""
        return await self.call(kind="packages")

    def asked(self, specs: Sequence[str]) -> None:
        """Say what is about to be installed, as the user typed it. Raises `AgentLostError`."""
        self.send(kind="asked", specs=list(specs))

    async def kernels(self) -> frozenset[str]:
        """The ids of the kernel processes in the container, of all clients. Raises `AgentError`."""
        return frozenset(map(str, field(await self.call(kind="count"), "ids", list)))

    async def listen(self, process: KernelProcess) -> str:
        """Sockets of this machine that lead to that process's; what comes before the port in their paths.

        Raises `OSError` or `Ds01Error`.
        """
        return await self._channels.listen(process.id)

    async def look(self, path: str) -> str:
        """The beginning of a file in the container, or nothing. Raises `AgentError`."""
        return str(field(await self.call(kind="look", path=path), "text", str))

    def replaced(self, kernels: frozenset[str] | None) -> None:
        """Have those kernels, or all, restarted by their owners: the container has a successor."""
        self.send(kind="replace", kernels=None if kernels is None else sorted(kernels))

    async def call(self, **message: Any) -> protocol.Message:
        """Send a message and wait for its answer. Raises `AgentError` with the agent's sentence."""
        return await self._calls.call(message)

    def send(self, **message: Any) -> None:
        """Send a message that has no answer. Raises `AgentLostError`."""
        self._calls.send(message)

    async def is_lost(self) -> bool:
        """Wait until it cannot be used any more; False when that is because it was closed here."""
        if self._reading is not None:
            await asyncio.wait([self._reading])
        return not self._closing

    async def close(self) -> None:
        """End our kernels in the container and the stream."""
        if self._closing:
            return
        self._closing = True
        if self.lost is None and self._reading is not None:
            self.send(kind="goodbye")
            # The agent closes the stream when it has ended them.
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._reading), self.limits.goodbye)
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])
        self._give_up(Exit(-9, Cause.LOST, "it was closed"))

    # The stream

    async def _reach(self, listener: AgentListener | None = None) -> AgentStream:
        hello = {
            "client": self.identity.id,
            "owner": self.identity.owner,
            "grace": self.identity.grace,
            "nonce": self._nonce[0],
            "streams": self._channels.streams.offsets(),
        }
        return await reach(self.engine, self.container, self._python, hello, self.limits.connect, listener)

    def _welcome(self, welcome: Welcome) -> None:
        self.survey = welcome.survey
        self.ended = list(welcome.ended)
        self._channels.resume(welcome.streams)

    async def _follow(self, stream: AgentStream) -> None:
        """Read and write until nothing more is to come, through as many streams as it takes."""
        end = Exit(-9, Cause.LOST)
        try:
            following: AgentStream | None = stream
            while following is not None:
                await self._converse(following)
                following, end = (None, end) if self._closing else await self._reconnect()
        finally:
            self._give_up(end)

    async def _converse(self, stream: AgentStream) -> None:
        writing = asyncio.create_task(self._write(stream))
        try:
            async for message in stream.messages():
                self._receive(message)
        except (EngineError, OSError) as error:
            log.debug("The stream to %s broke: %s", self.container, error)
        except ProtocolError as error:
            log.warning("%s (%s)", error, self.container)
        finally:
            writing.cancel()
            await stream.close()

    async def _write(self, stream: AgentStream) -> None:
        try:
            await self._calls.write(stream)
        except (EngineError, OSError) as error:
            log.debug("Nothing more can be sent to %s: %s", self.container, error)
            await stream.close()

    def _receive(self, message: protocol.Message | protocol.Data) -> None:
        if isinstance(message, protocol.Data):
            self._channels.receive(message)
            return
        kind = message["kind"]
        if kind in ("ack", "close"):
            self._channels.receive(message)
        elif "call" in message:
            self._calls.answered(message)
        elif kind in ("ready", "closed"):
            if process := self._processes.get(field(message, "kernel", str)):
                if kind == "ready":
                    process.is_ready()
                elif not self._channels.listens(process.id):
                    # Or what it has still said may be on its way in those streams.
                    process.closed.set()
        elif kind == "packages-changed":
            self._tell_change()
        elif kind == "replaced":
            self.has_successor = True
            self._on_replaced(frozenset(self._processes) & set(map(str, field(message, "kernels", list))))
        elif kind == "exited":
            self._ended(field(message, "kernel", str), exit_of(message))

    def _ended(self, process_id: str, exit_: Exit) -> None:
        process = self._processes.pop(process_id, None)
        if process is not None:
            self._channels.stop(process_id)
            process.has_ended(exit_)

    async def _reconnect(self) -> tuple[AgentStream | None, Exit]:
        """A new stream, or None and the kernels' end; they may live on until our grace time ends there."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + max(self.identity.grace, self.limits.pause)
        end = Exit(-9, Cause.LOST)
        while self._processes and not self._closing and loop.time() < deadline:
            try:
                async with asyncio.timeout_at(deadline):
                    found = await reached_or_over(self._reach, self._over, self.limits.look)
                    if isinstance(found, Exit):
                        if found.cause is not Cause.STOPPED or end.cause is Cause.STOPPED:
                            return None, (self._why_ended and await self._why_ended(found)) or found
                        # Whoever removes it, or starts it anew, has stopped it first.
                        end = found
                        await asyncio.sleep(self.limits.pause)
                        continue
            except (EngineError, NotFoundError, AgentError, TimeoutError) as error:
                end = replace(end, detail=str(error))
                await asyncio.sleep(self.limits.pause)
                continue
            self._resume(found.welcome)
            return found, end
        return None, end

    async def _over(self) -> Exit | None:
        return gone(await self.engine.container(self.container), self._started, self.container)

    def _resume(self, welcome: Welcome) -> None:
        """Learn what was missed, and have everything sent again that may not have got through."""
        self._welcome(welcome)
        for process in list(self._processes.values()):
            if process.id in welcome.exits:
                self._ended(process.id, welcome.exits[process.id])
            elif process.id in welcome.ready:
                process.is_ready()
            elif process.pid and process.id not in welcome.kernels:
                self._ended(process.id, Exit(-9, Cause.AGENT))
        for id_ in welcome.kernels:
            if id_ not in self._processes or self._processes[id_].is_unwanted:
                self.send(kind="end", kernel=id_)
        self._calls.resume(self._preparation)
        self._tell_change()

    def _tell_change(self) -> None:
        try:
            self._on_change()
        except Exception:  # a listener's mistake must not cost us the stream
            log.exception("A change of the packages in %s was not taken in.", self.container)

    def _give_up(self, end: Exit) -> None:
        self._calls.give_up(end.in_full)
        for process in list(self._processes):
            self._ended(process, end)
        self._channels.close()
