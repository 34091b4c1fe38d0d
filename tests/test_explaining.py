"""The kernel that stands in where none could start, talked to as Jupyter's clients do."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.connect import write_connection_file

from ds01_kernels.background import Background
from ds01_kernels.connection import PORTS
from ds01_kernels.errors import BuildFailedError, NotBuiltError
from ds01_kernels.explaining import ExplainingKernel, Say

REASON = NotBuiltError("The image has not been built.", remedy="Build it.")
LIMIT = 60


class Talk:
    """A client of one explaining kernel."""

    def __init__(self, folder: Path, prepare: Callable[[Say], Awaitable[str]] | None, curve: bool) -> None:
        self.links = folder / "s"
        self.background = Background("test")
        self.connection: dict[str, Any] = {"key": b"secret-key", "signature_scheme": "hmac-sha256"}
        if curve:
            public, secret = zmq.curve_keypair()
            self.connection |= {"curve_publickey": public.decode(), "curve_secretkey": secret.decode()}
        self.real = ""
        self.kernel = self.background.call(self._make(folder, prepare))
        for port in PORTS.values():
            Path(f"{self.links}-{port}").symlink_to(f"{folder}/e-{port}")
        self.client = BlockingKernelClient()
        self.client.load_connection_info(
            {"transport": "ipc", "ip": str(self.links), **PORTS, **self.connection}
        )
        self.client.start_channels()

    async def _make(self, folder: Path, prepare: Callable[[Say], Awaitable[str]] | None) -> ExplainingKernel:
        made = ExplainingKernel(
            self.connection, f"{folder}/e", REASON, prepare=prepare, hand_over=self.hand_over
        )
        await made.open()
        return made

    def hand_over(self, prefix: str) -> None:
        for port in PORTS.values():
            link = Path(f"{self.links}-{port}")
            fresh = link.with_name(f"n-{port}")
            fresh.symlink_to(f"{prefix}-{port}")
            fresh.rename(link)

    def run(self, code: str, **options: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        said: list[dict[str, Any]] = []
        reply = self.client.execute_interactive(code, timeout=LIMIT, output_hook=said.append, **options)
        return reply["content"], said

    def close(self) -> None:
        self.client.stop_channels()

        async def end() -> None:
            self.kernel.end()

        self.background.call(end())
        self.background.stop()


@pytest.fixture
def talk() -> Iterator[Callable[..., Talk]]:
    made: list[Talk] = []
    # A short path: unix sockets allow 107 bytes.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:

        def make(prepare: Callable[[Say], Awaitable[str]] | None = None, curve: bool = False) -> Talk:
            made.append(Talk(Path(folder), prepare, curve))
            made[-1].client.wait_for_ready(timeout=LIMIT)
            return made[-1]

        yield make
        for one in made:
            one.close()


def text_of(said: list[dict[str, Any]]) -> str:
    return "".join(message["content"].get("text", "") for message in said)


@pytest.mark.parametrize("curve", [False, True])
def test_every_cell_is_answered_with_reason_and_remedy(talk: Callable[..., Talk], curve: bool) -> None:
    here = talk(curve=curve)
    for _ in range(2):
        reply, said = here.run("1 + 1", allow_stdin=False)
        assert reply["status"] == "error"
        assert reply["evalue"] == "The image has not been built. Build it."
        [error] = [message["content"] for message in said if message["msg_type"] == "error"]
        assert "The image has not been built." in error["traceback"][0]
        assert error["traceback"][1] == "Build it."


def test_silent_requests_are_ok_and_nothing_is_claimed(talk: Callable[..., Talk]) -> None:
    here = talk()
    assert here.run("secret()", silent=True)[0]["status"] == "ok"
    assert here.client.complete("im", reply=True, timeout=LIMIT)["content"]["matches"] == []
    assert here.client.inspect("x", reply=True, timeout=LIMIT)["content"]["found"] is False
    assert here.client.history(reply=True, timeout=LIMIT)["content"]["history"] == []
    assert here.client.comm_info(reply=True, timeout=LIMIT)["content"]["comms"] == {}
    here.client.is_complete("1")
    assert here.client.get_shell_msg(timeout=LIMIT)["content"]["status"] == "unknown"
    assert here.client.kernel_info(reply=True, timeout=LIMIT)["content"]["language_info"]["name"] == "python"


def test_messages_with_another_key_are_not_answered(talk: Callable[..., Talk]) -> None:
    here = talk()
    other = BlockingKernelClient()
    other.load_connection_info(
        {"transport": "ipc", "ip": str(here.links), **PORTS, "key": b"x", "signature_scheme": "hmac-sha256"}
    )
    other.start_channels()
    other.kernel_info()
    with pytest.raises(Exception, match=r"^$"):  # queue.Empty
        other.get_shell_msg(timeout=0.5)
    other.stop_channels()
    assert here.run("1")[0]["status"] == "error"


def test_shutdown_ends_it(talk: Callable[..., Talk]) -> None:
    here = talk()
    assert here.client.shutdown(reply=True, timeout=LIMIT)["content"]["status"] == "ok"
    assert here.background.call(here.kernel.ended(), timeout=LIMIT).code == 0


@pytest.mark.parametrize("curve", [False, True])
def test_the_first_cell_prepares_and_then_runs_in_the_real_kernel(
    talk: Callable[..., Talk], curve: bool
) -> None:
    processes: list[subprocess.Popen[bytes]] = []
    here: Talk

    async def prepare(say: Say) -> str:
        say("step 1\n")
        say("\x1b]0;title\x07step 2\n")
        folder = here.links.parent
        write_connection_file(
            str(folder / "real.json"), ip=f"{folder}/r", transport="ipc", **PORTS, **_bytes(here.connection)
        )
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", str(folder / "real.json")]
        processes.append(subprocess.Popen(command))
        while not all(Path(f"{folder}/r-{port}").exists() for port in PORTS.values()):
            await asyncio.sleep(0.05)
        here.real = f"{folder}/r"
        return here.real

    here = talk(prepare, curve)
    try:
        reply, said = here.run(
            "import os; print(os.getpid()); x = input('name? ')",
            allow_stdin=True,
            stdin_hook=lambda _: here.client.input("me"),
        )
        assert reply["status"] == "ok", reply
        assert text_of(said) == f"step 1\nstep 2\n{processes[0].pid}\n"
        # Before, during and after the hand-over: the same client, the same variables.
        for round_ in range(30):
            reply, said = here.run(f"print(x, {round_})")
            assert (reply["status"], text_of(said)) == ("ok", f"me {round_}\n")
        deadline = time.monotonic() + LIMIT
        while os.readlink(f"{here.links}-1") != f"{here.real}-1" and time.monotonic() < deadline:
            time.sleep(0.05)
        assert os.readlink(f"{here.links}-1") == f"{here.real}-1"
        reply, said = here.run("print(x)")
        assert (reply["status"], text_of(said)) == ("ok", "me\n")
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_a_failed_preparation_is_explained_and_can_be_tried_again(talk: Callable[..., Talk]) -> None:
    tries = []

    async def prepare(say: Say) -> str:
        tries.append(1)
        say(f"try {len(tries)}\n")
        raise BuildFailedError("Line 3 failed.", remedy="Mend it.")

    here = talk(prepare)
    for number in (1, 2):
        reply, said = here.run("1")
        assert (reply["status"], reply["evalue"]) == ("error", "Line 3 failed. Mend it.")
        assert text_of(said) == f"try {number}\n"


def test_an_interrupt_stops_the_preparation(talk: Callable[..., Talk]) -> None:
    stopped = []

    async def prepare(say: Say) -> str:
        say("waiting\n")
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            stopped.append(1)
            raise
        return ""

    here = talk(prepare)

    async def interrupt() -> None:
        while here.kernel._preparing is None:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        here.kernel.signal(signal.SIGINT)

    interrupting = here.background.submit(interrupt())
    reply, _ = here.run("1")
    interrupting.result(LIMIT)
    assert reply["evalue"].startswith("The preparation was interrupted.")
    assert stopped


def _bytes(connection: dict[str, Any]) -> dict[str, Any]:
    return {name: value.encode() if name.startswith("curve") else value for name, value in connection.items()}
