"""Byte streams to kernels: their two ends on a link that breaks, and real kernels behind a real agent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import signal
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.asynchronous.client import AsyncKernelClient
from test_agent import LIMIT, PORTS, Site, kill, lives, run, site, wait_until

from ds01_kernels.agent import protocol
from ds01_kernels.agent.streams import MOST, TURN, WINDOW, Stream, StreamError, Streams
from ds01_kernels.agent_client import Agent, KernelProcess
from ds01_kernels.channel_streams import ChannelStreams
from ds01_kernels.errors import ProtocolError

__all__ = ["site"]


# The two ends


class Link:
    """Carries the frames of two `Streams`, in small steps, until it is cut; then it is made anew."""

    def __init__(self, near: Streams, far: Streams, open_far: Any) -> None:
        self._ends = (near, far)
        self._open_far = open_far
        self._wanted = asyncio.Event()
        near.wake = far.wake = self._wanted.set
        #: Bytes of content that each stream got to the near end, in order of arrival.
        self.arrivals: list[tuple[int, int]] = []

    async def carry(self, most: float = float("inf")) -> None:
        """Carry that many frames, then lose whatever is under way."""
        decoders = (protocol.Decoder(), protocol.Decoder())
        while most > 0:
            frames = [end.frames() for end in self._ends]
            for content, decoder, to in zip(frames, decoders, reversed(self._ends), strict=True):
                for message in decoder.feed(content):
                    self._deliver(to, message)
                    most -= 1
            if not any(frames):
                self._wanted.clear()
                await self._wanted.wait()
            await asyncio.sleep(0)
        for end in self._ends:
            end.frames()

    def resume(self) -> None:
        near, far = self._ends
        far.resume(near.offsets())
        near.resume(far.offsets())

    def _deliver(self, to: Streams, message: protocol.Message | protocol.Data) -> None:
        near, _ = self._ends
        if isinstance(message, dict) and message["kind"] == "open":
            self._open_far(message["stream"])
            return
        if isinstance(message, protocol.Data) and to is near:
            self.arrivals.append((message.stream, len(message.content)))
        to.receive(message)


class Ends:
    """Sockets at the near end that lead to sockets at the far end, where `serve` answers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = iter(range(1, 1000))
        self._tasks: set[asyncio.Task[Any]] = set()
        self.near, self.far = Streams(lambda: None), Streams(lambda: None)
        self.link = Link(self.near, self.far, self._opened)

    async def serve(self, answer: Any) -> None:
        await asyncio.start_unix_server(answer, self._folder / "far")
        loop = asyncio.get_running_loop()
        await loop.create_unix_server(self._accepted, self._folder / "near")

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(self._folder / "near")

    def _accepted(self) -> Stream:
        number = next(self._numbers)
        return Stream(self.near, number, {"kind": "open", "stream": number})

    def _opened(self, number: int) -> None:
        stream = Stream(self.far, number)
        loop = asyncio.get_running_loop()
        connecting = loop.create_unix_connection(lambda: stream, str(self._folder / "far"))
        self._tasks.add(asyncio.ensure_future(connecting))


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ds01-") as name:
        yield Path(name)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def carrying(link: Link) -> AsyncIterator[None]:
    task = asyncio.create_task(link.carry())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.mark.parametrize("seed", range(4))
def test_what_is_sent_arrives_once_and_in_order_over_a_link_that_breaks(folder: Path, seed: int) -> None:
    dice = random.Random(seed)
    contents = [dice.randbytes(size) for size in (1, 1000, 3 * WINDOW, 5 * WINDOW)]

    async def talk(ends: Ends, content: bytes) -> None:
        reader, writer = await ends.connect()

        async def speak() -> None:
            left = memoryview(content)
            while left:
                size = dice.randrange(1, 200_000)
                writer.write(left[:size])
                await writer.drain()
                left = left[size:]

        speaking = asyncio.create_task(speak())
        assert await reader.readexactly(len(content)) == content
        await speaking
        writer.close()

    async def work() -> None:
        ends = Ends(folder)
        await ends.serve(echo)
        talks = asyncio.gather(*(talk(ends, content) for content in contents))
        cuts = 0
        while not talks.done():
            carried = asyncio.create_task(ends.link.carry(dice.randrange(1, 60)))
            await asyncio.wait([carried, talks], return_when=asyncio.FIRST_COMPLETED)
            carried.cancel()
            await asyncio.wait([carried])
            ends.link.resume()
            cuts += 1
        await talks
        assert cuts > 5
        async with carrying(ends.link):
            await wait_until(lambda: len(ends.near) == len(ends.far) == 0)

    asyncio.run(asyncio.wait_for(work(), LIMIT))


def test_the_last_words_of_an_end_that_closes_are_not_lost_with_the_link(folder: Path) -> None:
    words = os.urandom(WINDOW // 2)

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(words)
        writer.close()

    async def work() -> None:
        ends = Ends(folder)
        await ends.serve(say)
        reader, writer = await ends.connect()
        for frames in (1, 2, 3):
            await ends.link.carry(frames)
            ends.link.resume()
        async with carrying(ends.link):
            assert await reader.read(-1) == words
            await wait_until(lambda: len(ends.near) == len(ends.far) == 0)
        writer.close()

    asyncio.run(asyncio.wait_for(work(), LIMIT))


def test_a_flood_lets_others_have_their_turns(folder: Path) -> None:
    """Between a question and its answer comes at most a turn of each flood for each frame of the answer."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.readexactly(1) == b"f":
            with contextlib.suppress(OSError):
                while True:
                    writer.write(bytes(TURN))
                    await writer.drain()
        await echo(reader, writer)

    async def work() -> None:
        ends = Ends(folder)
        await ends.serve(answer)
        async with carrying(ends.link):
            flood, flooding = await ends.connect()
            flooding.write(b"f")
            drained = 0

            async def drain() -> None:
                nonlocal drained
                while data := await flood.read(1 << 16):
                    drained += len(data)

            draining = asyncio.create_task(drain())
            asker, asking = await ends.connect()
            asking.write(b"a")
            await wait_until(lambda: drained > 8 * WINDOW)
            worst = 0
            for _ in range(20):
                began = len(ends.link.arrivals)
                asking.write(b"1+1")
                assert await asker.readexactly(3) == b"1+1"
                since = ends.link.arrivals[began:]
                worst = max(worst, sum(size for stream, size in since if stream == 1))
            # What the loop's own steps take; a queue of all that the flood had ready would be many times it.
            assert 0 < worst < WINDOW
            for writer in (flooding, asking):
                writer.close()
            draining.cancel()

    asyncio.run(asyncio.wait_for(work(), LIMIT))


def test_who_does_not_read_is_kept_little_for_and_holds_up_nobody(folder: Path) -> None:
    written = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        if await reader.readexactly(1) == b"f":
            with contextlib.suppress(OSError):
                while written < 32 * WINDOW:
                    writer.write(bytes(TURN))
                    await writer.drain()
                    written += TURN
        await echo(reader, writer)

    async def work() -> None:
        ends = Ends(folder)
        await ends.serve(answer)
        async with carrying(ends.link):
            _, deaf = await ends.connect()
            deaf.write(b"f")
            asker, asking = await ends.connect()
            asking.write(b"a")
            came = 0
            while came != written or came == 0:
                came = written
                for _ in range(100):
                    asking.write(b"1+1")
                    assert await asker.readexactly(3) == b"1+1"
            # A window at each end, and what the kernel's own buffers and asyncio's hold.
            assert written <= 2 * WINDOW + (1 << 20)
            for writer in (deaf, asking):
                writer.close()

    asyncio.run(asyncio.wait_for(work(), LIMIT))


@pytest.mark.parametrize(
    "message",
    [
        {"kind": "ack", "stream": 1, "bytes": 5},
        {"kind": "ack", "stream": 1, "bytes": -1},
        {"kind": "ack", "stream": 1, "bytes": True},
        {"kind": "ack", "stream": 1},
        protocol.Data(1, bytes(WINDOW + 1)),
    ],
)
def test_an_end_that_breaks_the_rules_is_refused(message: Any) -> None:
    streams = Streams(lambda: None)
    Stream(streams, 1)
    with pytest.raises(StreamError):
        streams.receive(message)


@pytest.mark.parametrize("offsets", [None, [], [0], [1, 0], [0, 1], [-1, -1], ["0", "0"], {"0": 0}])
def test_offsets_that_cannot_be_are_refused(offsets: Any) -> None:
    streams = Streams(lambda: None)
    Stream(streams, 1)
    if offsets is None:
        streams.resume({})  # the other side has forgotten it
        assert len(streams) == 0
        return
    with pytest.raises(StreamError):
        streams.resume({"1": offsets})


def test_messages_for_no_stream_are_left_alone() -> None:
    streams = Streams(lambda: None)
    for number in (7, None, "7", [], 1 << 70):
        streams.receive({"kind": "ack", "stream": number, "bytes": 1})
        streams.receive({"kind": "close", "stream": number})
    streams.receive(protocol.Data(7, b"x"))
    assert streams.frames() == b""


@pytest.mark.parametrize("offsets", [[5, 5], "wild", [0, 0, 0]])
def test_an_agent_that_goes_on_where_nobody_was_costs_its_clients_their_connections(offsets: Any) -> None:
    async def work() -> None:
        channels = ChannelStreams()
        prefix = await channels.listen("k")
        reader, writer = await asyncio.open_unix_connection(f"{prefix}-1")
        await wait_until(lambda: len(channels.streams) == 1)
        with pytest.raises(ProtocolError, match="does not keep to its protocol"):
            channels.receive({"kind": "ack", "stream": 1, "bytes": 9})
        channels.resume({"1": offsets})
        assert await reader.read(-1) == b""
        assert len(channels.streams) == 0
        channels.close()
        assert not Path(prefix).parent.exists()
        writer.close()

    asyncio.run(asyncio.wait_for(work(), LIMIT))


# Kernels


async def a_kernel(site: Site, agent: Agent, **fields: Any) -> tuple[KernelProcess, str]:
    """A kernel whose sockets are in the agent's own folder, and what leads to it here."""
    request = site.request(**fields)
    request.connection["ip"] = ""  # type: ignore[index]
    process = await agent.spawn(request)
    await process.ready()
    return process, await agent.listen(process)


@contextlib.asynccontextmanager
async def a_client(prefix: str) -> AsyncIterator[AsyncKernelClient]:
    """A client that hears what the kernel prints."""
    client = AsyncKernelClient()
    client.load_connection_info(
        {**PORTS, "transport": "ipc", "ip": prefix, "key": "secret", "signature_scheme": "hmac-sha256"}
    )
    client.start_channels(hb=False)
    try:
        # A subscription takes its time.
        heard = asyncio.create_task(client.get_iopub_msg(timeout=LIMIT))
        while not heard.done():
            client.kernel_info()
            await client.get_shell_msg(timeout=LIMIT)
        yield client
    finally:
        client.stop_channels()


async def printed(client: AsyncKernelClient, request: str) -> str:
    """What that request prints, to its end."""
    text = ""
    while True:
        message = await client.get_iopub_msg(timeout=LIMIT)
        if message["parent_header"].get("msg_id") != request:
            continue
        if message["msg_type"] == "stream":
            text += message["content"]["text"]
        elif message["content"].get("execution_state") == "idle":
            return text


def test_two_clients_of_a_kernel_whose_sockets_are_private_to_its_container(site: Site) -> None:
    async def work() -> None:
        agent = await site.connect()
        process, prefix = await a_kernel(site, agent)
        folder = Path(prefix).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert (site.agent_folder / f"{process.id}-1").is_socket()
        async with a_client(prefix) as one, a_client(prefix) as other:
            request = one.execute("print('x' * 3_000_000)")
            texts = await asyncio.gather(printed(one, request), printed(other, request))
            assert [len(text) for text in texts] == [3_000_001] * 2
            # Another kernel of that agent has sockets of its own.
            second, its_prefix = await a_kernel(site, agent)
            async with a_client(its_prefix) as its_client:
                request = its_client.execute("import os; print(os.getpid())")
                assert await printed(its_client, request) == f"{second.pid}\n"
            process.end()
            await process.ended()
            await wait_until(lambda: not folder.exists())
            assert Path(its_prefix).parent.exists()
        await agent.close()
        assert not Path(its_prefix).parent.exists()
        assert not list(site.agent_folder.glob("*-1"))

    run(site, work)


def test_a_spare_kernel_is_taken_where_no_folder_is_shared(site: Site) -> None:
    async def work() -> None:
        agent = await site.connect(spares=1)
        await wait_until(lambda: bool(list(site.agent_folder.glob("spare-*-1"))))
        for _ in range(100):
            process, prefix = await a_kernel(site, agent)
            if process.how == "spare":
                break
            # It was still about to be one.
            process.end()
            await process.ended()
            await asyncio.sleep(0.1)
        assert process.how == "spare"
        async with a_client(prefix) as client:
            assert await printed(client, client.execute("print('here')")) == "here\n"
        await agent.close()

    run(site, work)


def test_no_line_is_lost_when_the_relay_is_killed_again_and_again(site: Site) -> None:
    lines = 300

    async def work() -> None:
        agent = await site.connect()
        _, prefix = await a_kernel(site, agent)
        async with a_client(prefix) as client:
            request = client.execute(
                f"import time\nfor n in range({lines}): print(n, 'x' * 10_000, flush=True); time.sleep(0.01)"
            )
            printing = asyncio.create_task(printed(client, request))
            for _ in range(4):
                await wait_until(lambda: len(site.relays()) == 1 or printing.done())
                (relay,) = site.relays()
                await asyncio.sleep(0.3)
                kill(relay, signal.SIGKILL)
                await wait_until(lambda relay=relay: not lives(relay))  # type: ignore[misc]
            text = await printing
            assert [line.split()[0] for line in text.splitlines()] == [str(n) for n in range(lines)]
            assert len(text) == sum(len(f"{n} ") + 10_001 for n in range(lines))
            # And in the other direction.
            size = 2 * WINDOW
            request = client.execute(f"print(len({'y' * size!r}))")
            (relay,) = site.relays()
            kill(relay, signal.SIGKILL)
            assert await printed(client, request) == f"{size}\n"
        await agent.close()

    run(site, work)


def test_who_comes_back_too_late_has_to_connect_again(site: Site) -> None:
    async def work() -> None:
        agent = await site.connect(grace=30.0)
        process, prefix = await a_kernel(site, agent)
        reader, writer = await asyncio.open_unix_connection(f"{prefix}-1")
        assert await reader.read(1)  # the kernel's greeting
        kill(site.agent_pid(), signal.SIGKILL)
        await process.ended()
        await reader.read(-1)
        assert reader.at_eof()
        await wait_until(lambda: not Path(prefix).parent.exists())
        writer.close()
        await agent.close()

    run(site, work)


def test_streams_to_what_is_no_kernel_of_that_client_are_closed(site: Site) -> None:
    async def work() -> None:
        agent, other = await site.connect("me"), await site.connect("you", prepared=False)
        process, _ = await a_kernel(site, agent)
        for kernel in (process.id, "nobody", "../agent"):
            prefix = await other.listen(KernelProcess(other, kernel))
            reader, writer = await asyncio.open_unix_connection(f"{prefix}-1")
            assert await reader.read(-1) == b""
            writer.close()
        assert await agent.count_kernels() == 1
        await other.close()
        await agent.close()

    run(site, work)


def test_a_mark_in_a_folder_is_seen_and_nothing_else(site: Site) -> None:
    async def work() -> None:
        agent = await site.connect(prepared=False)
        name = secrets.token_hex(4)
        mark = site.folder / name
        mark.write_text("here")
        assert await agent.look(str(mark)) == "here"
        (site.folder / "link").symlink_to(mark)
        os.mkfifo(site.folder / "pipe")
        for path in (site.folder / "link", site.folder / "pipe", site.folder, Path("/nowhere"), "\0"):
            assert await agent.look(str(path)) == ""
        await agent.close()

    run(site, work)


def test_an_agent_refuses_streams_without_end(site: Site) -> None:
    async def work() -> None:
        agent = await site.connect()
        process, prefix = await a_kernel(site, agent)
        for number in range(1_000_000, 1_000_000 + MOST + 10):
            agent.send(kind="open", stream=number, kernel=process.id, port=5)
        assert await agent.count_kernels() == 1
        reader, writer = await asyncio.open_unix_connection(f"{prefix}-1")
        assert await reader.read(-1) == b""
        writer.close()
        await agent.close()

    run(site, work)
