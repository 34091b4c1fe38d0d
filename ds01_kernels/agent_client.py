"""The server's side of the agent: the stream to it, and the kernel processes that it runs for us.

Everything here lives on one event loop (`Workbench` has it in a thread of its own); `KernelProcess.exit` may be read from any thread.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from .agent import loader, protocol
from .engine import Engine, Stream
from .errors import (
    AgentError,
    AgentLostError,
    ContainerExitedError,
    EngineError,
    KernelFailedError,
    NoPythonError,
    ProtocolError,
)

log = logging.getLogger("ds01_kernels")

#: Seconds: for the relay and the agent to answer, and for a kernel process to bind its sockets.
CONNECT_LIMIT = 30.0
CALL_LIMIT = 90.0
READY_LIMIT = 60.0
RECONNECT_PAUSE = 0.5

#: Runs the program text in $1 with the interpreter in $2, or /usr/bin/python, or what `python` and `python3` mean here.
FIND_PYTHON = """\
for python in "$2" /usr/bin/python "$(command -v python)" "$(command -v python3)"; do
    [ -n "$python" ] && [ -x "$python" ] && exec "$python" -I -c "$1"
done
echo "there is no Python in this image" >&2
exit 127"""

#: The whole of what an exec call carries: it reads the relay's text from standard input.
_RELAY_STUB = """\
import os
def read(n):
    data = b""
    while len(data) < n:
        more = os.read(0, n - len(data))
        if not more: raise SystemExit
        data += more
    return data
exec(read(int.from_bytes(read(4), "big")))
"""


@dataclass(frozen=True)
class Identity:
    """Who a process is to the agents it talks to.

    `owner` outlives the process (the server on that host and port): its next holder ends this one's kernels. Empty: nobody succeeds it.
    `grace` is in seconds.
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
        self._ready = asyncio.Event()
        self._ended = asyncio.Event()

    async def ready(self) -> None:
        """Wait until its sockets are bound. Raises `KernelFailedError` when it ends before that."""
        try:
            await asyncio.wait_for(self._ready.wait(), READY_LIMIT)
        except TimeoutError:
            self.agent.send(kind="end", kernel=self.id)
            raise KernelFailedError(
                f"The kernel process did not answer within {READY_LIMIT:.0f} s."
            ) from None
        if self.exit is not None:
            raise KernelFailedError(
                f"The kernel process ended before it answered (code {self.exit.code}). {self.exit.reason}".strip()
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
    """The agent of one container, connected; made by `connect`."""

    def __init__(
        self, engine: Engine, container: str, identity: Identity, nonce: tuple[str, str], python: str
    ) -> None:
        self.engine = engine
        self.container = container
        self.identity = identity
        self.survey: dict[str, Any] = {}
        #: Kernels of a predecessor that were ended when we connected.
        self.ended: list[str] = []
        #: None while it can be used; else why not.
        self.lost: str | None = None
        self.shares_directory = False
        self._nonce = nonce
        self._python = python
        self._stream: Stream | None = None
        self._processes: dict[str, KernelProcess] = {}
        self._calls: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._call_numbers = itertools.count(1)
        self._outgoing: asyncio.Queue[bytes] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    async def connect(self) -> None:
        """Reach the agent, starting it if there is none. Raises `AgentError` or `EngineError`."""
        stream, decoder = await self._reach()
        welcome = await _expect_welcome(stream, decoder)
        self._welcome(stream, welcome)
        self._spawn_task(self._read(stream, decoder))
        self._spawn_task(self._write(stream))

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
        except BaseException:
            self._processes.pop(request.process, None)
            if not self._closing:
                self.send(kind="end", kernel=request.process)
            raise
        process.pid, process.how = answer["pid"], answer["how"]
        if answer["note"]:
            log.info("Kernel process %d was started without the zygote: %s", process.pid, answer["note"])
        return process

    async def adopt(self, process_id: str, client: str) -> KernelProcess:
        """Take over a kernel process of another client. Raises `AgentError` when it is gone."""
        process = self._processes[process_id] = KernelProcess(self, process_id)
        try:
            answer = await self.call(kind="adopt", kernel=process_id, client=client)
        except BaseException:
            self._processes.pop(process_id, None)
            raise
        process.pid, process.how = answer["pid"], "adopt"
        process.is_ready()
        return process

    def prepare(self, path: Sequence[str], *, first: bool, env: Mapping[str, str]) -> None:
        """Say where ipykernel is; the agent warms its zygote."""
        self.send(kind="prepare", path=list(path), first=first, env=dict(env))

    async def count_kernels(self) -> int:
        """How many kernels run in the container, of all clients."""
        return int((await self.call(kind="count"))["kernels"])

    async def call(self, **message: Any) -> dict[str, Any]:
        """Send a message and wait for its answer. Raises `AgentError` with the agent's sentence."""
        number = next(self._call_numbers)
        answered = self._calls[number] = asyncio.get_running_loop().create_future()
        try:
            self.send(call=number, **message)
            return await asyncio.wait_for(answered, CALL_LIMIT)
        except TimeoutError:
            raise AgentError(
                f"The agent in the container did not answer within {CALL_LIMIT:.0f} s."
            ) from None
        finally:
            self._calls.pop(number, None)

    def send(self, **message: Any) -> None:
        if self.lost is not None:
            raise AgentLostError(self.lost)
        self._outgoing.put_nowait(protocol.encode(message))

    async def close(self) -> None:
        """End our kernels in the container and the stream."""
        if self._closing:
            return
        self._closing = True
        if self._stream is not None and self.lost is None:
            try:
                await asyncio.wait_for(self._stream.write(protocol.encode({"kind": "goodbye"})), 2)
            except (EngineError, OSError, TimeoutError):
                log.debug("The agent of %s could not be told goodbye", self.container)
        self._give_up("the connection to the container was closed")
        for task in self._tasks:
            task.cancel()
        if self._stream is not None:
            await self._stream.close()

    # The stream

    async def _reach(self) -> tuple[Stream, protocol.Decoder]:
        stream = await self.engine.exec(
            self.container, ["/bin/sh", "-c", FIND_PYTHON, "ds01", _RELAY_STUB, self._python]
        )
        try:
            async with asyncio.timeout(CONNECT_LIMIT):
                rest = await _join_relay(stream)
                await stream.write(
                    protocol.encode(
                        {
                            "kind": "hello",
                            "protocol": protocol.VERSION,
                            "client": self.identity.id,
                            "owner": self.identity.owner,
                            "grace": self.identity.grace,
                            "nonce": self._nonce[0],
                        }
                    )
                )
        except TimeoutError:
            await stream.close()
            raise AgentError(
                f"The container did not answer within {CONNECT_LIMIT:.0f} s. {stream.errors}".strip()
            ) from None
        except BaseException:
            await stream.close()
            raise
        decoder = protocol.Decoder()
        assert not rest
        return stream, decoder

    def _welcome(self, stream: Stream, welcome: dict[str, Any]) -> None:
        self._stream = stream
        self.survey = welcome["survey"]
        self.ended = list(welcome["ended"])
        self.shares_directory = bool(self._nonce[1]) and welcome["nonce"] == self._nonce[1]
        for process in list(self._processes.values()):
            if process.pid and process.id not in welcome["kernels"]:
                known = welcome["exits"].get(process.id)
                self._ended(
                    process.id, known or {"code": -9, "detail": "the agent in the container was ended"}
                )

    async def _read(self, stream: Stream, decoder: protocol.Decoder) -> None:
        try:
            while data := await stream.read():
                for message in decoder.feed(data):
                    if isinstance(message, dict):
                        self._receive(message)
        except (EngineError, OSError) as error:
            log.debug("The stream to %s broke: %s", self.container, error)
        except protocol.FramingError as error:
            log.warning("The agent of %s sends what is not its protocol: %s", self.container, error)
        if not self._closing:
            await self._reconnect(stream)

    async def _write(self, stream: Stream) -> None:
        try:
            while True:
                await stream.write(await self._outgoing.get())
        except (EngineError, OSError) as error:
            log.debug("Nothing more can be sent to %s: %s", self.container, error)

    def _receive(self, message: dict[str, Any]) -> None:
        kind = message["kind"]
        if "call" in message:
            answered = self._calls.get(message["call"])
            if answered is None or answered.done():
                return
            if kind == "error":
                answered.set_exception(AgentError(str(message["message"])))
            else:
                answered.set_result(message)
        elif kind == "ready" and message["kernel"] in self._processes:
            self._processes[message["kernel"]].is_ready()
        elif kind == "exited":
            self._ended(message["kernel"], message)

    def _ended(self, process_id: str, status: Mapping[str, Any]) -> None:
        process = self._processes.pop(process_id, None)
        if process is not None:
            process.has_ended(Exit(int(status["code"]), str(status["detail"])))

    async def _reconnect(self, broken: Stream) -> None:
        """The kernels may live on in the container, until their grace time ends there."""
        await broken.close()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + max(self.identity.grace, RECONNECT_PAUSE)
        why = "the connection to the container was lost"
        while loop.time() < deadline and self._processes and not self._closing:
            try:
                info = await self.engine.container(self.container)
                if info is None or not info.running:
                    why = _why_gone(info)
                    break
                stream, decoder = await self._reach()
                self._welcome(stream, await _expect_welcome(stream, decoder))
            except (EngineError, AgentError) as error:
                why = str(error)
                await asyncio.sleep(RECONNECT_PAUSE)
                continue
            self._outgoing = asyncio.Queue()
            self._spawn_task(self._write(stream))
            self._spawn_task(self._read(stream, decoder))
            return
        self._give_up(why)

    def _give_up(self, why: str) -> None:
        self.lost = why
        for answered in self._calls.values():
            if not answered.done():
                answered.set_exception(AgentLostError(why))
        for process in list(self._processes):
            self._ended(process, {"code": -9, "detail": why})

    def _spawn_task(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _join_relay(stream: Stream) -> bytes:
    """Give the relay its text and, when it asks, the agent's program; returns when bytes flow to the agent."""
    relay, agent, digest = _programs()
    await stream.write(_counted(f"{relay}\n\nrelay(read, {digest!r})\n".encode()))
    received = b""
    while True:
        if not received:
            received = await stream.read()
        if not received:
            raise await _why_no_relay(stream)
        answer, received = received[:1], received[1:]
        if answer == b"R":
            return received
        if answer != b"S":
            raise AgentError(
                f"The agent could not be started in the container: {_sentence(answer + received)}"
            )
        await stream.write(_counted(agent))


async def _expect_welcome(stream: Stream, decoder: protocol.Decoder) -> dict[str, Any]:
    async def first() -> dict[str, Any]:
        while data := await stream.read():
            for message in decoder.feed(data):
                if isinstance(message, dict) and message["kind"] == "welcome":
                    return message
        raise AgentError(f"The agent in the container closed the connection. {stream.errors}".strip())

    try:
        return await asyncio.wait_for(first(), CONNECT_LIMIT)
    except TimeoutError:
        raise AgentError(f"The agent did not answer within {CONNECT_LIMIT:.0f} s.") from None
    except protocol.FramingError as error:
        raise ProtocolError(f"The agent in the container sends what is not its protocol: {error}") from error


async def _why_no_relay(stream: Stream) -> Exception:
    code = await stream.exit_code()
    if code == 127:
        return NoPythonError(
            "There is no Python in this project's image.",
            remedy="Add a line to the Dockerfile that installs it, for example `RUN apt-get update && apt-get install -y python3 python-is-python3`.",
        )
    if code in (126, 137, 143):
        return ContainerExitedError(
            f"The container ended while it was being connected. {stream.errors}".strip()
        )
    return AgentError(
        f"The agent could not be started in the container (exit code {code}). {stream.errors}".strip()
    )


def _why_gone(info: Any) -> str:
    if info is None:
        return "its container was removed"
    if info.oom_killed:
        return "its container ran out of memory"
    return f"its container was stopped (it is {info.state})"


@cache
def _programs() -> tuple[str, bytes, str]:
    """The relay's text, the agent's program, and the hash by which agents of the same source are recognised."""
    folder = files("ds01_kernels.agent")
    texts = {
        entry.name.removesuffix(".py"): entry.read_text(encoding="utf-8")
        for entry in folder.iterdir()
        if entry.name.endswith(".py")
    }
    relay = texts.pop("relay")
    program = loader.program(texts, "agent", []).encode()
    digest = hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()[:12]
    return relay, program, f"{protocol.VERSION}-{digest}"


def _counted(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def _sentence(data: bytes) -> str:
    return data.decode("utf-8", "replace").lstrip("E").strip()
