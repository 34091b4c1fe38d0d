"""The stream to the agent of a container: the programs that it carries there, the greeting, then messages.

What comes back was written inside a container, by whatever runs there: nothing of it is taken on trust.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Any

from .agent import loader, protocol
from .agent.kernel import Preparation
from .agent_listener import AgentListener
from .engine import Engine, Stream
from .errors import AgentError, ContainerExitedError, Ds01Error, EngineError, NoPythonError, ProtocolError
from .exits import Cause, Exit
from .text import clean

log = logging.getLogger("ds01_kernels")

#: Seconds for an agent that has come by itself to answer; for the relay and the agent; and for a relay that
#: failed to say the rest of why.
WELCOME_LIMIT = 10.0
CONNECT_LIMIT = 30.0
REASON_LIMIT = 2.0
REASON_LENGTH = 4096

#: Bytes of memory that a container may claim to be limited to, or to use.
MOST_MEMORY = 1 << 60

_FIND_PYTHON = """\
for python in "$2" /usr/bin/python "$(command -v python)" "$(command -v python3)"; do
    [ -n "$python" ] && [ -x "$python" ] || continue
    %sexec "$python" -I -c "$1"
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

_SURVEY = {
    **dict.fromkeys(("executable", "implementation", "libc", "machine", "home"), str),
    **dict.fromkeys(("version", "libc_version"), list),
    **dict.fromkeys(("ipykernel", "pip"), (str, type(None))),
    "user": int,
}


@dataclass(frozen=True)
class Welcome:
    """What the agent says first.

    `survey` is the answer of `agent.survey`. Of our own kernel processes by id: `kernels` run, `ready` of
    them have said so, `exits` have ended. `ended` are a predecessor's, ended for us.
    `streams` are those of hello that go on.
    """

    survey: Mapping[str, Any]
    nonce: str
    kernels: frozenset[str]
    ready: frozenset[str]
    exits: Mapping[str, Exit]
    ended: tuple[str, ...]
    streams: Mapping[str, Any]


class ClosedEarlyError(AgentError):
    """The agent closed the stream before it said welcome: it was just ending itself, perhaps."""


class AgentStream:
    """A stream on which the agent has said welcome; made by `reach`."""

    def __init__(self, stream: Stream, decoder: protocol.Decoder, welcome: Welcome, early: list[Any]) -> None:
        self.welcome = welcome
        self._stream = stream
        self._decoder = decoder
        self._early = early

    async def messages(self) -> AsyncIterator[protocol.Message | protocol.Data]:
        """What the agent says, to the end. Raises `ProtocolError`, `EngineError` or `OSError`."""
        for message in self._early:
            yield message
        while data := await self._stream.read():
            for message in _decoded(self._decoder, data):
                yield message

    async def write(self, frame: bytes) -> None:
        await self._stream.write(frame)

    async def close(self) -> None:
        await self._stream.close()


async def reach(
    engine: Engine,
    container: str,
    python: str,
    hello: Mapping[str, Any],
    limit: float = CONNECT_LIMIT,
    listener: AgentListener | None = None,
) -> AgentStream:
    """Reach the agent, starting it if there is none, and greet it. Raises `AgentError` or `EngineError`.

    `python` is the interpreter to prefer; `hello` has the fields of that message; `limit` is in seconds. To a
    `listener` it may come by itself.
    """
    if listener is not None and (came := await _arrived(listener, hello)):
        return came
    try:
        return await _reach(engine, container, python, hello, limit)
    except ClosedEarlyError:
        return await _reach(engine, container, python, hello, limit)


async def _arrived(listener: AgentListener, hello: Mapping[str, Any]) -> AgentStream | None:
    """The agent that comes by itself; None where none does."""
    stream = await listener.accept()
    if stream is None:
        return None
    try:
        async with asyncio.timeout(WELCOME_LIMIT):
            return await _greeted(stream, b"", hello)
    except (Ds01Error, OSError, TimeoutError) as error:
        log.debug("What came by itself is no agent: %s", error)
        await stream.close()
        return None
    except BaseException:
        await stream.close()
        raise


async def _reach(
    engine: Engine, container: str, python: str, hello: Mapping[str, Any], limit: float
) -> AgentStream:
    stream = await engine.exec(container, ["/bin/sh", "-c", find_python(), "ds01", _RELAY_STUB, python])
    try:
        async with asyncio.timeout(limit):
            received = await _join_relay(stream)
            return await _greeted(stream, received, hello)
    except TimeoutError:
        await stream.close()
        raise AgentError(
            f"The agent in the container did not answer within {limit:.0f} s. {_said(stream)}".strip()
        ) from None
    except OSError as error:
        await stream.close()
        raise AgentError(f"The stream to the agent in the container broke: {error}.") from error
    except BaseException:
        await stream.close()
        raise


async def _join_relay(stream: Stream) -> bytes:
    """Give the relay its text and, when it asks, the agent's program; what came after it was through."""
    relay, agent, digest = programs()
    await stream.write(_counted(f"{relay}\n\nrelay(read, {digest!r})\n".encode()))
    received = b""
    may_ask = True
    while True:
        received = received or await stream.read()
        if not received:
            raise await _why_no_relay(stream)
        answer, rest = received[:1], received[1:]
        if answer == b"R":
            return rest
        if answer != b"S" or not may_ask:
            raise AgentError(
                f"The agent could not be started in the container: {await _reason(stream, received)}"
            )
        await stream.write(_counted(agent))
        may_ask, received = False, rest


async def _greeted(stream: Stream, received: bytes, hello: Mapping[str, Any]) -> AgentStream:
    await stream.write(protocol.encode({"kind": "hello", "protocol": protocol.VERSION, **hello}))
    decoder = protocol.Decoder()
    while received := received or await stream.read():
        messages = _decoded(decoder, received)
        for number, message in enumerate(messages):
            if isinstance(message, dict) and message["kind"] == "welcome":
                return AgentStream(stream, decoder, _welcome(message), messages[number + 1 :])
        received = b""
    raise ClosedEarlyError(f"The agent in the container closed the connection. {_said(stream)}".strip())


def _decoded(decoder: protocol.Decoder, data: bytes) -> list[protocol.Message | protocol.Data]:
    try:
        return decoder.feed(data)
    except protocol.FramingError as error:
        raise ProtocolError(f"The agent in the container sends what is not its protocol: {error}.") from error


def _welcome(message: protocol.Message) -> Welcome:
    survey = field(message, "survey", dict)
    for name, kind in _SURVEY.items():
        field(survey, name, kind)
    if not all(isinstance(number, int) for number in [*survey["version"], *survey["libc_version"]]):
        raise ProtocolError("The agent in the container names no version of Python.")
    return Welcome(
        survey=survey,
        nonce=field(message, "nonce", str),
        kernels=frozenset(field(message, "kernels", dict)),
        ready=frozenset(map(str, field(message, "ready", list))),
        exits={id_: exit_of(status) for id_, status in field(message, "exits", dict).items()},
        ended=tuple(map(str, field(message, "ended", list))),
        streams=field(message, "streams", dict),
    )


def exit_of(status: Any) -> Exit:
    """From a message or a part of one; all but code and detail may be missing. Raises `ProtocolError`."""
    status = {"cause": "", "limit": 0, "heard": True, **(status if isinstance(status, dict) else {})}
    cause = field(status, "cause", str)
    return Exit(
        field(status, "code", int),
        Cause(cause) if cause in (Cause.MEMORY, Cause.MACHINE_MEMORY) else Cause.PROCESS,
        clean(field(status, "detail", str), colours=False).strip(),
        min(max(field(status, "limit", int), 0), MOST_MEMORY),
        field(status, "heard", bool),
    )


@dataclass(frozen=True)
class Load:
    """How many kernels run in a container, of all clients; and the bytes of memory in use there, or None."""

    kernels: int
    memory: int | None


def load_of(message: Any) -> Load:
    """From the message `counted`. Raises `ProtocolError`."""
    memory = message.get("memory")
    known = isinstance(memory, int) and 0 < memory <= MOST_MEMORY
    return Load(field(message, "kernels", int), memory if known else None)


def field(message: Any, name: str, kind: Any) -> Any:
    """That field of a message, which must be of that type. Raises `ProtocolError`."""
    value = message.get(name) if isinstance(message, dict) else None
    if not isinstance(value, kind):
        raise ProtocolError(f"The agent in the container sends a message whose {name} is missing or wrong.")
    return value


async def _why_no_relay(stream: Stream) -> Exception:
    code = await stream.exit_code()
    if code == 127:
        return no_python()
    if code in (126, 137, 143):
        return ContainerExitedError(
            f"What connects to the container was ended before it answered. {_said(stream)}".strip(),
            remedy="Restart the kernel.",
        )
    return AgentError(
        f"The agent could not be started in the container (exit code {code}). {_said(stream)}".strip()
    )


def no_python() -> NoPythonError:
    return NoPythonError(
        "There is no Python in this project's image.",
        remedy="Add a line to the Dockerfile that installs it, for example "
        "`RUN apt-get update && apt-get install -y python3 python-is-python3`.",
    )


async def _reason(stream: Stream, received: bytes) -> str:
    """The sentence that has begun with `received`, to its end where that comes soon."""
    with suppress(EngineError, TimeoutError):
        async with asyncio.timeout(REASON_LIMIT):
            while len(received) < REASON_LENGTH and (more := await stream.read()):
                received += more
    text = received[:REASON_LENGTH].decode("utf-8", "replace").removeprefix("E")
    return clean(text, colours=False).strip()


def _said(stream: Stream) -> str:
    return clean(stream.errors, colours=False).strip()


def find_python(first: str = "") -> str:
    """A shell's program that runs the one in $1 with the interpreter in $2, or another one that there is.

    What it does `first` knows that as $python.
    """
    return _FIND_PYTHON % first


@cache
def programs() -> tuple[str, bytes, str]:
    """The relay's text, the agent's program, and the hash that tells agents of the same source."""
    texts, digest = _source()
    return texts["relay"], loader.program(texts, "begin", []).encode(), digest


def early_start(guess: Preparation, file: PurePosixPath, home: PurePosixPath | None = None) -> bytes:
    """What is run with a container, from that file, to start the agent in it (`agent.early`).

    `home` is the socket at which it is awaited.
    """
    texts, digest = _source()
    arguments = [digest, guess.encode(), str(file), str(home or "")]
    return loader.program(texts, "early", arguments).encode()


@cache
def _source() -> tuple[dict[str, str], str]:
    folder = files("ds01_kernels.agent")
    texts = {
        entry.name.removesuffix(".py"): entry.read_text(encoding="utf-8")
        for entry in folder.iterdir()
        if entry.name.endswith(".py")
    }
    digest = hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()[:12]
    return texts, f"{protocol.VERSION}-{digest}"


def _counted(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data
