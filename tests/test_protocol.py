"""The agent's protocol under hostile bytes: the decoder, a real agent, and the server's side."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ds01_kernels.agent import loader, protocol
from ds01_kernels.agent.protocol import MAX_FRAME, Data, Decoder, FramingError, Message, encode
from ds01_kernels.agent_client import Agent
from ds01_kernels.agent_requests import Identity, KernelRequest, Limits
from ds01_kernels.agent_stream import Load, load_of, programs
from ds01_kernels.engine import ContainerSpec, Stream
from ds01_kernels.errors import AgentError, AgentLostError, KernelFailedError, ProtocolError
from ds01_kernels.testing import FakeEngine

Frame = Message | Data

#: The interpreter that stands for the image's.
PYTHON = os.environ.get("DS01_TEST_PYTHON", sys.executable)

anything = settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)

texts = st.text(st.characters(exclude_categories=()), max_size=30)  # lone surrogates too
scalars = st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False) | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
messages = st.builds(
    lambda kind, rest: {**rest, "kind": kind}, texts, st.dictionaries(texts, values, max_size=5)
)
data_frames = st.builds(Data, st.integers(0, 2**64 - 1), st.binary(max_size=300))
frames = st.lists(messages | data_frames, max_size=6)


def raw(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


def pieces(stream: bytes, cuts: Iterable[int]) -> list[bytes]:
    ends = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    return [stream[start:end] for start, end in pairwise(ends)]


def fed(parts: Iterable[bytes]) -> list[Frame]:
    decoder = Decoder()
    return [frame for part in parts for frame in decoder.feed(part)]


# The decoder


@anything
@given(frames, st.lists(st.integers(0, 2000), max_size=20))
def test_any_split_gives_the_same_messages(sent: list[Frame], cuts: list[int]) -> None:
    stream = b"".join(encode(frame) for frame in sent)
    assert fed(pieces(stream, cuts)) == sent


@settings(anything, max_examples=30)
@given(frames)
def test_one_byte_at_a_time_gives_the_same_messages(sent: list[Frame]) -> None:
    stream = b"".join(encode(frame) for frame in sent)
    assert fed(stream[at : at + 1] for at in range(len(stream))) == sent


@anything
@given(frames, st.data())
def test_a_cut_stream_gives_the_whole_frames_before_the_cut(sent: list[Frame], data: st.DataObject) -> None:
    stream = b"".join(encode(frame) for frame in sent)
    received = fed([stream[: data.draw(st.integers(0, len(stream)))]])
    assert received == sent[: len(received)]


@anything
@given(st.lists(st.binary(max_size=80), max_size=8))
@example([b"\0\0\0\0"])
@example([b"\xff\xff\xff\xff"])
@example([raw(b"J{}")])
def test_garbage_gives_messages_or_a_framing_error(parts: list[bytes]) -> None:
    assert_messages_or_framing_error(parts)


@anything
@given(messages, st.integers(0, 400), st.integers(0, 255), st.binary(max_size=8))
def test_a_changed_frame_gives_messages_or_a_framing_error(
    message: Message, at: int, byte: int, more: bytes
) -> None:
    stream = bytearray(encode(message) * 2)
    stream[at % len(stream)] = byte
    assert_messages_or_framing_error([bytes(stream), more])


@anything
@given(st.sampled_from(b"JDX\0"), st.binary(max_size=60))
def test_any_body_gives_messages_or_a_framing_error(kind: int, content: bytes) -> None:
    assert_messages_or_framing_error([raw(bytes([kind]) + content)])


def assert_messages_or_framing_error(parts: list[bytes]) -> None:
    decoder = Decoder()
    try:
        for part in parts:
            for frame in decoder.feed(part):
                assert isinstance(frame, Data) or isinstance(frame["kind"], str)
    except FramingError:
        assert_takes_no_more(decoder)


def assert_takes_no_more(decoder: Decoder) -> None:
    for data in (b"", encode({"kind": "count"})):
        with pytest.raises(FramingError):
            decoder.feed(data)


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(raw(b""), id="zero length"),
        pytest.param(struct.pack(">I", MAX_FRAME + 1), id="oversized"),
        pytest.param(raw(b"X{}"), id="unknown kind of frame"),
        pytest.param(raw(b"D1234567"), id="data without its stream"),
        pytest.param(raw(b"J"), id="no JSON"),
        pytest.param(raw(b"J{"), id="half of a JSON text"),
        pytest.param(raw(b'J[{"kind":"count"}]'), id="a list"),
        pytest.param(raw(b'J"kind"'), id="a text"),
        pytest.param(raw(b"J{}"), id="no kind"),
        pytest.param(raw(b'J{"kind":1}'), id="a kind that is no text"),
        pytest.param(raw(b'J{"kind":"\xff"}'), id="not UTF-8"),
        pytest.param(raw(b'J{"kind":"\xed\xa0\x80"}'), id="a surrogate in UTF-8"),
        pytest.param(raw(b'J{"kind":"a","n":' + b"9" * 100_000 + b"}"), id="a number that takes long"),
        pytest.param(raw(b"J" + b"[" * 200_000), id="deep nesting, open"),
        pytest.param(raw(b'J{"kind":"a","x":' + b"[" * 200_000 + b"]" * 200_000 + b"}"), id="deep nesting"),
    ],
)
def test_what_is_not_legal_fails_for_good(stream: bytes) -> None:
    decoder = Decoder()
    assert decoder.feed(encode({"kind": "count"})) == [{"kind": "count"}]
    with pytest.raises(FramingError):
        decoder.feed(stream)
    assert_takes_no_more(decoder)


def test_an_announced_frame_reserves_nothing() -> None:
    decoder = Decoder()
    tracemalloc.start()
    try:
        decoder.feed(struct.pack(">I", MAX_FRAME) + b"J")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000


def test_what_is_kept_is_bounded() -> None:
    decoder = Decoder()
    chunk = b"\0" * (1 << 20)
    tracemalloc.start()
    try:
        decoder.feed(struct.pack(">I", MAX_FRAME) + b"X")
        for _ in range(MAX_FRAME // len(chunk) - 1):
            decoder.feed(chunk)
        with pytest.raises(FramingError):
            decoder.feed(chunk * 8)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * MAX_FRAME
    assert kept < 1 << 20, "a stream that has failed keeps nothing"


def test_the_largest_frame_passes_and_no_larger_one() -> None:
    room = MAX_FRAME - len(encode(Data(1, b""))) + 4
    largest = Data(1, bytes(room))
    stream = encode(largest)
    assert fed(pieces(stream, range(0, len(stream), 1 << 16))) == [largest]
    with pytest.raises(FramingError):
        encode(Data(1, bytes(room + 1)))
    with pytest.raises(FramingError):
        encode({"kind": "spawn", "env": "x" * MAX_FRAME})


# A real agent process


class AgentProcess:
    """An agent of this machine, without a relay before it."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "agent.sock")
        program = folder / "program"
        program.write_bytes(programs()[1])
        told, tell = os.pipe()
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [PYTHON, "-I", "-c", f"exec(open({str(program)!r}).read())", self.path, str(tell)],
                pass_fds=[tell],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": os.environ["PATH"], "HOME": str(folder)},
            )
        os.close(tell)
        with open(told, "rb") as answer:
            assert answer.read() == b"1", (folder / "log").read_text()

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(30)
        client.connect(self.path)
        return client

    def send(self, stream: bytes) -> bytes:
        """Everything that it answers to `stream`, until it has closed."""
        with self.connect() as client:
            answer = b""
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                client.sendall(stream)
                client.shutdown(socket.SHUT_WR)
                while data := client.recv(1 << 16):
                    answer += data
            return answer

    def assert_serves(self) -> None:
        assert self.process.poll() is None
        kinds = [frame["kind"] for frame in fed([self.send(HELLO + encode({"kind": "count", "call": 1}))])]
        assert kinds == ["welcome", "counted"]


def hello(**fields: Any) -> bytes:
    return encode(
        {
            "kind": "hello",
            "protocol": protocol.VERSION,
            "client": "test",
            "owner": "",
            "grace": 0,
            "nonce": "",
            "streams": {},
            **fields,
        }
    )


HELLO = hello()


@pytest.fixture(scope="module")
def agent() -> Iterator[AgentProcess]:
    folder = Path(tempfile.mkdtemp(prefix="ds01-"))
    running = AgentProcess(folder)
    yield running
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(30) == 0
    shutil.rmtree(folder)


@anything
@given(st.binary(max_size=200), st.booleans())
def test_the_agent_survives_garbage(agent: AgentProcess, garbage: bytes, greets: bool) -> None:
    agent.send(HELLO * greets + garbage)
    agent.assert_serves()


FIELDS = (
    "call",
    "kernel",
    "cwd",
    "env",
    "files",
    "connection",
    "arguments",
    "path",
    "first",
    "signum",
    "client",
)
known_kinds = st.sampled_from(
    ["hello", "spawn", "signal", "end", "adopt", "goodbye", "count", "welcome", "prepare", "", "_x"]
)
wild_messages = st.builds(
    lambda kind, fields: {**fields, "kind": kind},
    known_kinds,
    st.dictionaries(
        st.sampled_from(FIELDS), values | st.just("k1") | st.just({"ip": "/nowhere"}), max_size=11
    ),
)


@anything
@given(st.lists(wild_messages, max_size=5))
def test_the_agent_survives_messages_with_wild_fields(agent: AgentProcess, wild: list[Message]) -> None:
    agent.send(HELLO + b"".join(map(encode, wild)))
    agent.assert_serves()


@pytest.mark.parametrize(
    ("stream", "answers"),
    [
        pytest.param(hello(grace="nan"), [], id="a grace time that is no number"),
        pytest.param(hello(grace=float("inf")), [], id="grace without end"),
        pytest.param(hello(grace=-1), [], id="negative grace"),
        pytest.param(hello(client=["list"]), [], id="a client that cannot be a key"),
        pytest.param(hello(protocol=0), [], id="another protocol"),
        pytest.param(hello(nonce="../../etc/passwd\0"), ["welcome"], id="a nonce that is no name"),
        pytest.param(encode({"kind": "spawn"}), [], id="no hello"),
        pytest.param(HELLO + HELLO, ["welcome", "error"], id="hello twice"),
        pytest.param(HELLO[:-1], [], id="truncated"),
        pytest.param(struct.pack(">I", MAX_FRAME) + b"J", [], id="announced and not sent"),
    ],
)
def test_the_agent_serves_others_after(agent: AgentProcess, stream: bytes, answers: list[str]) -> None:
    assert [frame["kind"] for frame in fed([agent.send(stream)])] == answers
    agent.assert_serves()


def test_the_agent_says_what_it_does_not_know_and_goes_on(agent: AgentProcess) -> None:
    unknown = encode({"kind": "fly", "call": 3})
    answer = fed([agent.send(HELLO + unknown + encode({"kind": "count", "call": 4}))])
    assert [frame["kind"] for frame in answer] == ["welcome", "error", "counted"]
    assert "fly" in answer[1]["message"]


def test_a_client_that_reads_nothing_does_not_hold_up_others(agent: AgentProcess) -> None:
    with agent.connect() as deaf:
        deaf.sendall(HELLO)
        deaf.settimeout(1)
        with contextlib.suppress(TimeoutError, BrokenPipeError, ConnectionResetError):
            for number in range(3000):
                deaf.sendall(encode({"kind": "fly" * 30, "call": number}))
        agent.assert_serves()


def test_many_clients_at_once(agent: AgentProcess) -> None:
    idle = [agent.connect() for _ in range(60)]
    for number, client in enumerate(idle):
        client.sendall(hello(client=f"c{number}")[: number * 7])
    agent.assert_serves()
    for client in idle:
        client.close()
    agent.assert_serves()


# The server's side


class ScriptedStream(Stream):
    """Says `parts` one by one, then ends; or, if it `stays`, says no more until it is closed."""

    errors = "what it wrote to standard error"

    def __init__(self, parts: Iterable[bytes], *, stays: bool = False) -> None:
        self.parts = list(parts)
        self.stays = stays
        self.written = b""
        self.closed = asyncio.Event()

    async def read(self) -> bytes:
        while self.parts:
            await asyncio.sleep(0)
            if part := self.parts.pop(0):
                return part
        if self.stays:
            await self.closed.wait()
        return b""

    async def write(self, data: bytes) -> None:
        self.written += data

    async def resize(self, columns: int, rows: int) -> None:
        raise NotImplementedError

    async def exit_code(self) -> int | None:
        return 1

    async def close(self) -> None:
        self.closed.set()


class ScriptedEngine(FakeEngine):
    """Gives one stream after the other to whoever runs a command."""

    def __init__(self, *streams: ScriptedStream) -> None:
        super().__init__()
        self.streams = list(streams)
        self.given: list[ScriptedStream] = []

    async def exec(self, *_: object, **__: object) -> Stream:
        self.given.append(self.streams.pop(0) if self.streams else ScriptedStream([]))
        return self.given[-1]


SURVEY = {
    "executable": "/usr/bin/python",
    "version": [3, 11, 2],
    "implementation": "cpython",
    "libc": "glibc",
    "libc_version": [2, 36],
    "machine": "x86_64",
    "ipykernel": None,
    "pip": None,
    "user": 0,
    "home": "/root",
}
WELCOME = {
    "kind": "welcome",
    "protocol": protocol.VERSION,
    "pid": 7,
    "survey": SURVEY,
    "nonce": "",
    "streams": {},
    "kernels": {},
    "ready": [],
    "exits": {},
    "ended": [],
}
GREETING = b"R" + encode(WELCOME)
QUICK = Limits(connect=0.3, call=0.3, ready=0.3, goodbye=0.1, pause=0.01)


def converse(*streams: ScriptedStream, work: Callable[[Agent], Any], grace: float = 0.0) -> ScriptedEngine:
    """Connect to an agent that is these streams, and do `work` with it; every stream is closed at the end."""

    async def run() -> ScriptedEngine:
        engine = ScriptedEngine(*streams)
        await engine.create(ContainerSpec("c", "ds01/base:latest", ("sleep",)))
        await engine.start("c")
        agent = Agent(engine, "c", Identity("me", "", grace), ("", ""), "", QUICK)
        async with asyncio.timeout(60):
            try:
                await agent.connect()
                await work(agent)
            finally:
                await agent.close()
        assert all(stream.closed.is_set() for stream in engine.given)
        return engine

    return asyncio.run(run())


async def nothing(agent: Agent) -> None:
    pass


async def must_be_lost(agent: Agent) -> None:
    with pytest.raises(AgentError):
        await agent.count_kernels()
    while agent.lost is None:
        await asyncio.sleep(0)
    with pytest.raises(AgentLostError):
        agent.send(kind="signal")


def test_a_right_greeting_is_taken_in_any_pieces() -> None:
    converse(ScriptedStream([GREETING]), work=nothing)
    converse(ScriptedStream([GREETING[at : at + 1] for at in range(len(GREETING))]), work=nothing)


def test_what_comes_with_the_welcome_is_not_lost() -> None:
    async def work(agent: Agent) -> None:
        process = await agent.spawn(KernelRequest("k", "/", {}, {}, {}))
        assert (await process.ended()).code == 3

    spawned = {"kind": "spawned", "call": 1, "kernel": "k", "pid": 5, "how": "fork", "note": ""}
    exited = {"kind": "exited", "kernel": "k", "code": 3, "detail": ""}
    broken = ScriptedStream([GREETING, b"", b"", encode(spawned)])
    again = ScriptedStream([b"R" + encode({**WELCOME, "kernels": {"k": 5}}) + encode(exited)], stays=True)
    converse(broken, again, work=work, grace=30.0)


@anything
@given(st.lists(st.binary(max_size=60), max_size=6))
@example([b"S", b"S", b"S"])
@example([b"E", b"xception: ", b"no room"])
@example([b"R"])
@example([b"R" + encode({"kind": "count"})])
@example([b"R" + raw(b"X")])
def test_garbage_instead_of_the_agent_is_an_agent_error(parts: list[bytes]) -> None:
    with pytest.raises(AgentError):
        converse(ScriptedStream(parts), ScriptedStream(parts), work=nothing)


@pytest.mark.parametrize("said", [b"", b"S", b"R", b"E", GREETING[:-1], b"R" + encode({"kind": "ready"})])
def test_silence_instead_of_the_agent_is_an_agent_error(said: bytes) -> None:
    with pytest.raises(AgentError) as caught:
        converse(ScriptedStream([said], stays=True), work=nothing)
    assert "within" in str(caught.value) or "could not be started" in str(caught.value)


def test_the_relays_reason_arrives_whole() -> None:
    with pytest.raises(AgentError, match="no room left"):
        converse(ScriptedStream([b"E", b"no room ", b"left\x1b[2J"]), work=nothing)


@anything
@given(st.sampled_from([*WELCOME, *SURVEY]), values)
def test_a_welcome_with_wild_fields_is_taken_or_an_agent_error(name: str, value: Any) -> None:
    wild = json.loads(json.dumps(WELCOME))
    (wild if name in wild else wild["survey"])[name] = value
    with contextlib.suppress(AgentError):
        converse(ScriptedStream([b"R" + encode({**wild, "kind": "welcome"})]), work=nothing)


@anything
@given(st.lists(st.binary(max_size=60), max_size=5))
def test_garbage_after_the_greeting_ends_it(parts: list[bytes]) -> None:
    converse(ScriptedStream([GREETING, *parts]), work=must_be_lost)


ANSWERS = ("call", "kernel", "pid", "how", "note", "code", "detail", "message", "kernels", "memory")
wild_answers = st.builds(
    lambda kind, fields: {**fields, "kind": kind},
    st.sampled_from(["spawned", "ready", "exited", "adopted", "counted", "error", "welcome", "?"]),
    st.dictionaries(st.sampled_from(ANSWERS), values | st.just(1) | st.just("k"), max_size=9),
)


@anything
@given(st.lists(wild_answers, max_size=5))
def test_wild_answers_hang_nothing(wild: list[Message]) -> None:
    async def work(agent: Agent) -> None:
        with contextlib.suppress(AgentError, KernelFailedError):
            process = await agent.spawn(KernelRequest("k", "/", {}, {}, {}))
            await process.ready()
            await process.ended()
        with contextlib.suppress(AgentError):
            await agent.count_kernels()

    converse(ScriptedStream([GREETING, *map(encode, wild)]), work=work)


@pytest.mark.parametrize("memory", [None, "1", -1, 0, 2**70, 1.5, [1]])
def test_memory_in_use_that_cannot_be_is_not_told(memory: Any) -> None:
    assert load_of({"kernels": 2, "memory": 2**20}) == Load(2, 2**20)
    assert load_of({"kernels": 2, "memory": memory}) == Load(2, None)


def test_an_agent_that_does_not_answer_is_an_error_and_not_a_hang() -> None:
    async def work(agent: Agent) -> None:
        with pytest.raises(AgentError, match="did not answer"):
            await agent.count_kernels()
        with pytest.raises(AgentError, match="did not answer"):
            await agent.spawn(KernelRequest("k", "/", {}, {}, {}))

    converse(ScriptedStream([GREETING], stays=True), work=work)


def test_a_request_that_is_too_large_is_an_agent_error() -> None:
    async def work(agent: Agent) -> None:
        with pytest.raises(AgentError, match="over the limit"):
            await agent.spawn(KernelRequest("k", "/", {"X": "x" * MAX_FRAME}, {}, {}))

    converse(ScriptedStream([GREETING], stays=True), work=work)


def test_framing_failure_says_so() -> None:
    with pytest.raises(ProtocolError, match="not its protocol"):
        converse(ScriptedStream([b"R" + raw(b"X")]), work=nothing)


# The programs


def test_the_relays_text_runs_alone() -> None:
    relay, _, _ = programs()
    stub = "import os\ndef read(n): return os.read(0, n)\n"
    text = f"{stub}exec({(relay + chr(10) + 'print(relay.__module__, pump.__name__)').encode()!r})"
    done = subprocess.run([PYTHON, "-I", "-c", text], capture_output=True, text=True, check=False)
    assert done.stdout == "__main__ pump\n", done.stderr


def test_the_agents_modules_import_from_memory_alone() -> None:
    texts_ = {
        path.stem: path.read_text()
        for path in Path(loader.__file__).parent.glob("*.py")
        if path.stem != "relay"
    }
    program = loader.program(
        {**texts_, "probe": "def main(x):\n    from . import agent\n    print(x)\n"}, "probe", [7]
    )
    done = subprocess.run(
        [PYTHON, "-I", "-S", "-"], input=program, capture_output=True, text=True, check=False
    )
    assert done.stdout == "7\n", done.stderr
