"""Which engine is chosen, by the sockets and programs that there are; podman's service, started once."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from live import until
from podman_here import services, take_down, why_not
from private_daemon import LIMIT

from ds01_kernels.engine import ContainerSpec, EngineName, GpuRequest, podman_service
from ds01_kernels.engine.choosing import Choice, ChosenEngine, choose
from ds01_kernels.engine.docker import DockerEngine
from ds01_kernels.engine.podman import PodmanEngine, in_podmans_words
from ds01_kernels.engine.podman_service import offered
from ds01_kernels.errors import EngineDeniedError, EngineError, EngineUnreachableError

VARIABLES = ("DOCKER_HOST", "DOCKER_CONTEXT", "CONTAINER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH")


class Machine:
    """A machine as a test wants it: sockets that answer, and programs on the PATH."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, stack: ExitStack) -> None:
        self._stack = stack
        self.docker, self.podman = folder / "docker.sock", folder / "podman.sock"
        self.programs = folder / "bin"
        self.programs.mkdir()
        for name in VARIABLES:
            patch.delenv(name, raising=False)
        patch.setenv("DOCKER_CONFIG", str(folder))
        patch.setenv("PATH", str(self.programs))
        self._patch = patch
        if offered() is not None:
            pytest.skip("a podman of this machine answers")

    def answer(self, path: Path, version: dict[str, object]) -> None:
        self._stack.enter_context(answering(path, version))
        if path == self.podman:
            self._patch.setenv("CONTAINER_HOST", f"unix://{path}")

    def choose(self, name: EngineName = "auto") -> Choice:
        return choose(name, 10, usual=f"unix://{self.docker}")

    def program(self, name: str) -> None:
        (self.programs / name).write_text("#!/bin/sh\nexit 1\n")
        (self.programs / name).chmod(0o755)


DOCKER = {"Version": "26.1", "ApiVersion": "1.45", "Components": [{"Name": "Engine"}]}
PODMAN = {"Version": "4.3.1", "ApiVersion": "1.41", "Components": [{"Name": "Podman Engine"}]}


@contextmanager
def answering(path: Path, version: dict[str, object]) -> Iterator[None]:
    """A socket where every question is answered with that version."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen(16)
    body = json.dumps(version).encode()
    fields = ("Content-Type: application/json", "Connection: close", f"Content-Length: {len(body)}")
    head = "\r\n".join(("HTTP/1.1 200 OK", *fields))

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                if connection.recv(64 * 1024):
                    connection.sendall(f"{head}\r\n\r\n".encode() + body)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        # Unlike closing, this wakes who waits for a connection.
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()
        path.unlink()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    with ExitStack() as stack:
        # Short, as sockets want it.
        folder = Path("/tmp") / f"ds01-test-{secrets.token_hex(6)}"
        folder.mkdir(mode=0o700)
        stack.callback(shutil.rmtree, folder)
        yield Machine(folder, monkeypatch, stack)


def test_docker_where_its_socket_answers(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.answer(machine.docker, DOCKER)
    machine.answer(machine.podman, PODMAN)
    machine.program("podman")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{machine.docker}")
    chosen = machine.choose()
    assert type(chosen.engine) is DockerEngine
    assert chosen.why == f"DOCKER_HOST is unix://{machine.docker}."
    assert chosen.is_final


def test_podman_behind_dockers_socket_is_seen(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.answer(machine.docker, PODMAN)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{machine.docker}")
    names: tuple[EngineName, ...] = ("auto", "docker")
    for name in names:
        chosen = machine.choose(name)
        assert type(chosen.engine) is PodmanEngine
        assert chosen.why.endswith("It is Podman that answers.")


@pytest.mark.parametrize("has_socket", [True, False])
def test_podman_where_docker_does_not_answer(machine: Machine, has_socket: bool) -> None:
    if has_socket:
        machine.answer(machine.podman, PODMAN)
    else:
        machine.program("podman")
    chosen = machine.choose()
    assert type(chosen.engine) is PodmanEngine
    assert f"Docker does not answer at {machine.docker} (No such file or directory)" in chosen.why
    assert ("at unix://" in chosen.why) is has_socket


def test_docker_that_is_down_for_the_moment_is_waited_for(machine: Machine) -> None:
    machine.program("podman")
    with socket.socket(socket.AF_UNIX) as closed:
        closed.bind(str(machine.docker))
    chosen = machine.choose()
    assert type(chosen.engine) is DockerEngine
    assert "its socket is there" in chosen.why
    assert not chosen.is_final


def test_what_is_named_is_not_replaced_by_something_else(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.answer(machine.podman, PODMAN)
    machine.program("podman")
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    chosen = machine.choose()
    assert type(chosen.engine) is DockerEngine
    assert not chosen.is_final
    monkeypatch.delenv("DOCKER_HOST")
    assert type(machine.choose("docker").engine) is DockerEngine


def test_nothing_there_says_what_to_install(machine: Machine) -> None:
    with pytest.raises(EngineUnreachableError, match="there is no podman") as refusal:
        machine.choose()
    assert "apt-get install" in refusal.value.remedy
    with socket.socket(socket.AF_UNIX) as closed:
        closed.bind(str(machine.docker))
    with pytest.raises(EngineUnreachableError, match="Connection refused") as refusal:
        machine.choose()
    assert refusal.value.remedy.startswith("Start Docker")


def test_an_engine_that_comes_later_is_found(machine: Machine) -> None:
    async def flow() -> None:
        engine = ChosenEngine(machine.choose)
        with pytest.raises(EngineUnreachableError):
            await engine.info()
        machine.answer(machine.podman, PODMAN)
        found = await engine.info()
        assert (found.name, found.version) == ("podman", "4.3.1")
        assert "Podman does at" in found.why
        await engine.close()

    asyncio.run(flow())


def test_what_podman_cannot_do_is_refused(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.answer(machine.podman, PODMAN)

    async def flow() -> None:
        engine = PodmanEngine(timeout=10)
        spec = ContainerSpec("a", "b", ("c",), gpus=GpuRequest(1))
        with pytest.raises(EngineError, match="Podman ignores requests for GPUs"):
            await engine.create(spec)
        await engine.close()

    asyncio.run(flow())
    monkeypatch.setenv("CONTAINER_HOST", "ssh://elsewhere/podman.sock")
    with pytest.raises(EngineUnreachableError, match="only addresses with"):
        asyncio.run(PodmanEngine(timeout=10).info())


def test_the_words_are_podmans() -> None:
    denied = EngineDeniedError("You may not use Docker: no.", remedy="Ask to be in the `docker` group.")
    assert str(in_podmans_words(denied)) == "You may not use Podman: no."
    assert "docker" not in denied.remedy.lower()
    init = EngineError("Docker could not create x: container-init binary not found on the host.")
    assert "catatonit" in in_podmans_words(init).remedy
    full = EngineError("Docker could not x.", remedy="`docker system df` shows it.")
    assert in_podmans_words(full).remedy == "`podman system df` shows it."


# The service


def test_two_processes_at_once_start_one_service(
    engine_available: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it outlives who started it; containers outlive it."""
    if missing := why_not():
        pytest.skip(missing)
    folder = Path(tempfile.mkdtemp(prefix="ds01-podman-")).resolve()
    storage = f'driver = "overlay"\ngraphroot = "{folder}/data"\nrunroot = "{folder}/run"\n'
    (folder / "storage.conf").write_text(f"[storage]\n{storage}")
    env = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    env["CONTAINERS_STORAGE_CONF"] = str(folder / "storage.conf")
    code = "from ds01_kernels.engine.podman_service import own; print(own())"
    path = None
    try:
        both = [
            subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        said = {one.communicate(timeout=LIMIT)[0].strip() for one in both}
        assert [one.returncode for one in both] == [0, 0]
        (address,) = said
        path = Path(address.removeprefix("unix://"))
        assert path.parent.stat().st_mode & 0o077 == 0
        assert not podman_service.refusal(address)
        assert len(services(path)) == 1
    finally:
        for process in services(path) if path else ():
            process.kill()
            process.wait(LIMIT)
        if path is not None:
            until(lambda: podman_service.refusal(address))
            path.unlink(missing_ok=True)
            path.with_suffix(".log").unlink(missing_ok=True)
        take_down(folder)
