"""The agent of a container that is just being started comes by itself; where it does not, it is reached."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path, PurePosixPath
from typing import Any

import live
import pytest
from passage import Passage
from test_agent import LIMIT, PYTHON, Site, kill, run, site, wait_until
from test_head_start import started_early

from ds01_kernels.agent.kernel import Preparation
from ds01_kernels.agent.protocol import encode
from ds01_kernels.agent_client import Agent
from ds01_kernels.agent_listener import AgentListener, SocketStream
from ds01_kernels.agent_requests import Identity, Limits
from ds01_kernels.connection import SocketDirectory
from ds01_kernels.containers import LABEL_SOCKETS
from ds01_kernels.engine import ContainerFile, Engine, Stream
from ds01_kernels.engine.docker import DockerEngine
from ds01_kernels.engine.forwarding import ForwardingEngine
from ds01_kernels.errors import AgentError, EngineError
from ds01_kernels.station import Station
from ds01_kernels.workbench import Workbench

__all__ = ["site"]

#: Seconds: longer than any test may take.
NEVER = 1000.0


def agent_of(site: Site) -> Agent:
    limits = Limits(pause=0.05, goodbye=LIMIT)
    return Agent(site.engine, "c", Identity("me", "", 30.0), ("", ""), PYTHON, limits)


def calling(path: Path) -> socket.socket:
    caller = socket.socket(socket.AF_UNIX)
    caller.settimeout(LIMIT)
    caller.connect(str(path))
    return caller


def sockets_of(pid: int) -> set[str]:
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it was closed meanwhile
            found.add(str(link.readlink()))
    return {name for name in found if name.startswith("socket:")}


class Way(Passage):
    """From one socket to another one."""

    def __init__(self, path: Path, target: Path) -> None:
        self.path, self.target = path, target
        super().__init__()

    def listening(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.path))
        listener.listen()
        return listener

    def far(self) -> socket.socket:
        return calling(self.target)


def test_an_agent_that_comes_is_reached_by_nobody_until_its_connection_breaks(site: Site) -> None:
    async def work() -> None:
        shared = site.folder / "shared"
        shared.mkdir()
        with AgentListener(NEVER) as listener:
            way = Way(site.folder / "way", shared / listener.open(shared))
            early = started_early(site, Preparation([], True, {}), way.path)
            agent = agent_of(site)
            await agent.connect(listener)
        assert list(shared.iterdir()) == []
        assert site.agents() == {early.pid}
        agent.prepare([], first=True, env={})
        process = await site.kernel(agent)
        assert process.how == "fork"
        for other in (min(site.zygotes(process)), process.pid):
            shared_by_both = sockets_of(early.pid) & sockets_of(other)
            assert not shared_by_both, "the end of the agent would not be seen"
        assert await site.run(process, "kept = 'x' * 10**6", "len(kept)") == "1000000"
        assert not site.relays()
        way.cut()
        await wait_until(lambda: len(site.relays()) == 1)
        assert await agent.count_kernels() == 1
        assert await site.run(process, "", "len(kept)") == "1000000"
        await agent.close()
        kill(early.pid, signal.SIGTERM)
        assert await asyncio.to_thread(early.wait, LIMIT) == 0

    run(site, work)


WELCOME = encode({"kind": "welcome", "survey": {}})


@pytest.mark.parametrize(
    "said", [None, b"", b"\xff" * 64, b"GET / HTTP/1.1\r\n\r\n" * 9, WELCOME, WELCOME[:-1]]
)
def test_where_no_agent_comes_it_is_reached(site: Site, said: bytes | None) -> None:
    async def work() -> None:
        with ExitStack() as left, AgentListener(0.1 if said is None else NEVER) as listener:
            home = site.folder / listener.open(site.folder)
            if said is not None:
                caller = left.enter_context(calling(home))
                caller.sendall(said)
                caller.shutdown(socket.SHUT_WR)
            agent = agent_of(site)
            await agent.connect(listener)
            assert not home.exists()
        assert len(site.relays()) == 1
        assert await agent.count_kernels() == 0
        await agent.close()

    run(site, work)


def test_an_early_start_that_does_not_become_the_agent_is_not_waited_for(site: Site) -> None:
    async def work() -> None:
        for outcome in ("another listens", "refused"):
            if outcome == "refused":
                kill(site.agent_pid(), signal.SIGTERM)
                await wait_until(lambda: not site.agents())
                site.agent_folder.chmod(0o755)
            else:
                former = await site.connect("former", prepared=False)
            with AgentListener(NEVER) as listener:
                home = site.folder / listener.open(site.folder)
                early = started_early(site, Preparation([], True, {}), home)
                agent = agent_of(site)
                if outcome == "refused":
                    with pytest.raises(AgentError, match="is not a private folder"):
                        await agent.connect(listener)
                else:
                    await agent.connect(listener)
                    assert await agent.count_kernels() == 0
                    assert len(site.agents()) == 1
                    await former.close()
                await agent.close()
            await asyncio.to_thread(early.wait, LIMIT)

    run(site, work)


# The socket


def test_only_the_first_who_comes_is_taken(tmp_path: Path) -> None:
    async def work() -> None:
        with AgentListener(NEVER) as listener:
            home = tmp_path / listener.open(tmp_path)
            with calling(home) as first, calling(home) as second:
                stream = await listener.accept()
                assert stream is not None
                assert not home.exists()
                first.sendall(b"first")
                assert await stream.read() == b"first"
                with suppress(ConnectionResetError):
                    assert second.recv(1) == b""
                assert await listener.accept() is None
                await stream.close()
                assert first.recv(1) == b""
            assert listener.open(tmp_path) not in ("", home.name), "another start has another name"
        assert list(tmp_path.iterdir()) == []

    asyncio.run(work())


def test_nothing_is_listened_at_where_that_cannot_be(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    with AgentListener(NEVER) as listener:
        assert listener.open(long) == ""
        assert listener.open(tmp_path / "missing") == ""
        assert asyncio.run(listener.accept()) is None
    # What has taken the socket's place is left alone.
    with AgentListener(NEVER) as listener:
        home = tmp_path / listener.open(tmp_path)
        home.unlink()
        home.mkdir()
    assert home.is_dir()


def connected(work: Callable[[SocketStream, socket.socket], Any], folder: Path) -> None:
    async def run() -> None:
        with AgentListener(NEVER) as listener, calling(folder / listener.open(folder)) as far:
            stream = await listener.accept()
            assert stream is not None
            async with asyncio.timeout(LIMIT):
                await work(stream, far)
                await stream.close()
            assert (await stream.exit_code(), stream.errors) == (None, "")

    asyncio.run(run())


def test_much_is_read_and_written_as_fast_as_the_other_side_can(tmp_path: Path) -> None:
    much = b"0123456789abcdef" * (1 << 20)

    def received(far: socket.socket) -> bytes:
        data = bytearray()
        while len(data) < len(much):
            data += far.recv(1 << 16)
        return bytes(data)

    async def work(stream: SocketStream, far: socket.socket) -> None:
        writing = asyncio.create_task(stream.write(much))
        assert not (await asyncio.wait([writing], timeout=0.1))[0], "it waits until that is read"
        assert await asyncio.to_thread(received, far) == much
        await writing
        sending = asyncio.create_task(asyncio.to_thread(far.sendall, much))
        data = bytearray()
        while len(data) < len(much):
            data += await stream.read()
        assert data == much
        await sending
        await stream.end_input()
        assert await asyncio.to_thread(far.recv, 1) == b""

    connected(work, tmp_path)


def test_a_connection_that_the_other_side_has_closed(tmp_path: Path) -> None:
    async def work(stream: SocketStream, far: socket.socket) -> None:
        far.close()
        assert await stream.read() == b""
        with suppress(EngineError):
            await stream.write(b"seen by that")
        with pytest.raises(EngineError, match="does not listen"):
            await stream.write(b"x")
        assert await stream.read() == b""

    connected(work, tmp_path)


def test_what_nobody_reads_does_not_hold_up_the_end(tmp_path: Path) -> None:
    async def work(stream: SocketStream, far: socket.socket) -> None:
        writing = asyncio.create_task(stream.write(bytes(1 << 24)))
        await asyncio.wait([writing], timeout=0.1)
        assert not writing.done()
        await stream.close()
        with suppress(EngineError):
            await writing
        while far.recv(1 << 16):
            pass

    connected(work, tmp_path)


# The engine


class Recording(ForwardingEngine):
    """Keeps what is run in containers."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.run: list[Sequence[str]] = []

    async def _reached(self) -> Engine:
        return self.engine

    async def exec(
        self,
        container: str,
        argv: Sequence[str],
        *,
        user: str = "",
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        terminal: bool = False,
    ) -> Stream:
        self.run.append(argv)
        return await super().exec(container, argv, user=user, env=env, cwd=cwd, terminal=terminal)

    async def close(self) -> None:
        await self.engine.close()


#: Ends the interpreter that is to become the agent, and no other one.
_BAD_PTH = b"""\
import os; b"/run/ds01/agent" in open("/proc/self/cmdline", "rb").read() and os._exit(1)
"""


@pytest.mark.engine
def test_no_command_is_run_in_a_container_for_its_start(engine_available: None) -> None:
    with live.a_site() as place:
        folder = place.project("called")
        engine = Recording(DockerEngine())
        workbench = Workbench.open(engine=engine)
        launcher = workbench.launcher
        project = workbench.projects().get(folder.name)
        image = workbench.call(launcher.image_id(project))
        assert image is not None

        def commands(*calls: Any) -> int:
            """How many commands the last of those calls takes."""
            for call in calls:
                engine.run.clear()
                workbench.call(call)
            return len(engine.run)

        def reached() -> Station:
            station = workbench.call(launcher.reach(project))
            assert station.agent.shares_directory
            sockets = SocketDirectory.recorded(station.running.info.labels[LABEL_SOCKETS])
            assert sockets is not None
            assert not list(sockets.path.glob("home-*"))
            return station

        async def on_trial() -> None:
            async with launcher.trial(project, image) as agent:
                assert await agent.count_kernels() == 0

        # On a machine that is busy with other things one may take too long to come.
        live.until(lambda: commands(launcher.retire(project, force=True), launcher.reach(project)) == 0)
        former = reached()
        live.until(lambda: commands(engine.stop(former.running.info.id, 0), launcher.reach(project)) == 0)
        live.until(lambda: commands(on_trial()) == 0)
        station = reached()
        assert station.running.info.id == former.running.info.id
        with live.a_kernel(f"ds01-{project.name}") as kernel:
            assert kernel.run("print(6 * 7)") == "42\n"
        path = PurePosixPath("/usr/local/lib/python3.11/dist-packages/bad.pth")
        bad = ContainerFile(path, _BAD_PTH, 0, 0, 0o644)
        workbench.call(engine.write_files(station.running.info.id, [bad]))
        assert commands(launcher.stop(project), launcher.reach(project)) == 1
        reached()
        with live.a_kernel(f"ds01-{project.name}") as kernel:
            assert kernel.run("print(6 * 7)") == "42\n"
