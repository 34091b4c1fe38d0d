"""The server's side of the agent: the stream to it, and the kernel processes that it runs for us.

Everything here lives on one event loop (`Workbench` has it in a thread of its own); `KernelProcess.exit` may
be read from any thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from .agent import protocol
from .agent_calls import Calls
from .agent_stream import CONNECT_LIMIT, AgentStream, Welcome, exit_of, field, reach
from .engine import ContainerInfo, Engine
from .errors import AgentError, EngineError, KernelFailedError, ProtocolError

log = logging.getLogger("ds01_kernels")


@dataclass(frozen=True)
class Limits:
    """Seconds: to reach the agent, for its answer to a call, for a kernel process to bind its sockets, for
    our last words to get through; and between attempts to reach the agent again.
    """

    connect: float = CONNECT_LIMIT
    call: float = 90.0
    ready: float = 60.0
    goodbye: float = 2.0
    pause: float = 0.5


@dataclass(frozen=True)
class Identity:
    """Who a process is to the agents it talks to.

    `owner` outlives the process (the server on that host and port): its next holder ends this one's kernels.
    Empty: nobody succeeds it. `grace` is in seconds.
    """

    id: str
    owner: str
    grace: float


@dataclass(frozen=True)
class Exit:
    """How a kernel process ended: `code` as `subprocess.Popen.returncode` has it, `reason` for people."""

    code: int
    reason: str = ""


@dataclass(frozen=True)
class KernelRequest:
    """A kernel process to be started. `cwd` is a path in the container; `arguments` go to ipykernel."""

    process: str
    cwd: str
    env: Mapping[str, str]
    files: Mapping[str, str]
    connection: Mapping[str, Any]
    arguments: Sequence[str] = ()


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
                f"The kernel process ended before it answered (code {self.exit.code}). "
                f"{self.exit.reason}".strip()
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
        limits: Limits = Limits(),
    ) -> None:
        self.engine = engine
        self.container = container
        self.identity = identity
        self.limits = limits
        self.survey: Mapping[str, Any] = {}
        #: Kernels of a predecessor that were ended when we connected.
        self.ended: list[str] = []
        self.shares_directory = False
        self._nonce = nonce
        self._python = python
        self._processes: dict[str, KernelProcess] = {}
        self._calls = Calls(limits.call)
        self._preparation: protocol.Message | None = None
        self._reading: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def lost(self) -> str | None:
        """None while it can be used; else why not."""
        return self._calls.lost

    async def connect(self) -> None:
        """Reach the agent, starting it if there is none. Raises `AgentError` or `EngineError`."""
        stream = await self._reach()
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

    def prepare(self, path: Sequence[str], *, first: bool, env: Mapping[str, str]) -> None:
        """Say where ipykernel is; the agent warms its zygote. Raises `AgentLostError`."""
        self._preparation = {"kind": "prepare", "path": list(path), "first": first, "env": dict(env)}
        self._calls.send(self._preparation)

    async def count_kernels(self) -> int:
        """How many kernels run in the container, of all clients. Raises `AgentError`."""
        return int(field(await self.call(kind="count"), "kernels", int))

    async def call(self, **message: Any) -> protocol.Message:
        """Send a message and wait for its answer. Raises `AgentError` with the agent's sentence."""
        return await self._calls.call(message)

    def send(self, **message: Any) -> None:
        """Send a message that has no answer. Raises `AgentLostError`."""
        self._calls.send(message)

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
        self._give_up("the connection to the container was closed")

    # The stream

    async def _reach(self) -> AgentStream:
        hello = {
            "client": self.identity.id,
            "owner": self.identity.owner,
            "grace": self.identity.grace,
            "nonce": self._nonce[0],
        }
        return await reach(self.engine, self.container, self._python, hello, self.limits.connect)

    def _welcome(self, welcome: Welcome) -> None:
        self.survey = welcome.survey
        self.ended = list(welcome.ended)

    async def _follow(self, stream: AgentStream) -> None:
        """Read and write until nothing more is to come, through as many streams as it takes."""
        why = "the connection to the container was lost"
        try:
            following: AgentStream | None = stream
            while following is not None:
                await self._converse(following)
                following, why = (None, why) if self._closing else await self._reconnect()
        finally:
            self._give_up(why)

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

    def _receive(self, message: protocol.Message) -> None:
        kind = message["kind"]
        if "call" in message:
            self._calls.answered(message)
        elif kind == "ready":
            self._is_ready(field(message, "kernel", str))
        elif kind == "exited":
            self._ended(field(message, "kernel", str), *exit_of(message))

    def _is_ready(self, process_id: str) -> None:
        if process_id in self._processes:
            self._processes[process_id].is_ready()

    def _ended(self, process_id: str, code: int, reason: str) -> None:
        process = self._processes.pop(process_id, None)
        if process is not None:
            process.has_ended(Exit(code, reason))

    async def _reconnect(self) -> tuple[AgentStream | None, str]:
        """A new stream, or None and why not. The kernels may live on until our grace time ends there."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + max(self.identity.grace, self.limits.pause)
        why = "the connection to the container was lost"
        while self._processes and not self._closing and loop.time() < deadline:
            try:
                async with asyncio.timeout_at(deadline):
                    info = await self.engine.container(self.container)
                    if info is None or not info.running:
                        return None, _why_gone(info)
                    stream = await self._reach()
            except (EngineError, AgentError, TimeoutError) as error:
                why = str(error) or why
                await asyncio.sleep(self.limits.pause)
                continue
            self._resume(stream.welcome)
            return stream, why
        return None, why

    def _resume(self, welcome: Welcome) -> None:
        """Learn what was missed, and have everything sent again that may not have got through."""
        self._welcome(welcome)
        for process in list(self._processes.values()):
            if process.id in welcome.exits:
                self._ended(process.id, *welcome.exits[process.id])
            elif process.id in welcome.ready:
                process.is_ready()
            elif process.pid and process.id not in welcome.kernels:
                self._ended(process.id, -9, "the agent in the container was ended")
        for id_ in welcome.kernels:
            if id_ not in self._processes or self._processes[id_].is_unwanted:
                self.send(kind="end", kernel=id_)
        self._calls.resume(self._preparation)

    def _give_up(self, why: str) -> None:
        self._calls.give_up(why)
        for process in list(self._processes):
            self._ended(process, -9, why)


def _why_gone(info: ContainerInfo | None) -> str:
    if info is None:
        return "its container was removed"
    if info.oom_killed:
        return "its container ran out of memory"
    return f"its container was stopped (it is {info.state})"
