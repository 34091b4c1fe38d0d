"""What only the Docker engine has: its settings, its errors, its connections and its builder."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import select
import shutil
import socket
import ssl
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

import docker.errors
import pytest
import requests
from conftest import BASE_IMAGE
from docker import APIClient
from hypothesis import given
from hypothesis import strategies as st
from lab import ADDRESS, LABEL, Lab, a_lab, built, run

from ds01_kernels.engine import BuildRequest, ContainerSpec, EngineInfo, GpuRequest, Mount
from ds01_kernels.engine.docker import DockerEngine
from ds01_kernels.engine.docker_builders import BuilderName
from ds01_kernels.engine.docker_connection import translated
from ds01_kernels.engine.docker_context import Context
from ds01_kernels.engine.docker_steps import instructions
from ds01_kernels.engine.docker_stream import Frames
from ds01_kernels.engine.docker_values import container_info, engine_info
from ds01_kernels.errors import (
    BadInputError,
    BuildFailedError,
    ConflictError,
    EngineError,
    EngineTimeoutError,
    EngineUnreachableError,
)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with a_lab() as lab:
        yield lab


async def said(engine: DockerEngine, container: str, *argv: str) -> bytes:
    stream = await engine.exec(container, argv)
    output = b""
    while data := await stream.read():
        output += data
    await stream.close()
    return output


# What is created


@pytest.mark.engine
def test_every_setting_reaches_docker(lab: Lab, tmp_path: Path) -> None:
    spec = lab.spec(
        user="1234:1234",
        working_dir="/workspace",
        env={"A": "1=2", "EMPTY": ""},
        labels={LABEL: lab.mark, "other": "x"},
        mounts=(
            Mount(tmp_path, PurePosixPath("/workspace")),
            Mount(tmp_path, PurePosixPath("/ro"), read_only=True),
        ),
        hostname="thesis",
        shm_size=2**26,
        memory=2**28,
        cpus=1.5,
        pids_limit=321,
    )

    async def flow(engine: DockerEngine) -> None:
        made = await engine.create(spec)
        found = APIClient(ADDRESS).inspect_container(made.id)
        config, host = found["Config"], found["HostConfig"]
        assert config["Entrypoint"] == ["sleep", "1000"]
        assert not config["Cmd"]
        assert (config["User"], config["WorkingDir"], config["Hostname"]) == (
            "1234:1234",
            "/workspace",
            "thesis",
        )
        assert {"A=1=2", "EMPTY="} <= set(config["Env"])
        assert config["Labels"].items() >= {LABEL: lab.mark, "other": "x"}.items()
        assert host["Init"] is True
        assert host["SecurityOpt"] == ["no-new-privileges"]
        assert not host["CapAdd"]
        assert not host["Privileged"]
        assert host["NetworkMode"] == "none"
        assert (host["ShmSize"], host["Memory"], host["MemorySwap"]) == (2**26, 2**28, 2**28)
        assert (host["NanoCpus"], host["PidsLimit"]) == (1_500_000_000, 321)
        assert not host["Binds"]
        assert [(one["Type"], one["Source"], one["Target"]) for one in host["Mounts"]] == [
            ("bind", str(tmp_path), "/workspace"),
            ("bind", str(tmp_path), "/ro"),
        ]
        if APIClient(ADDRESS).info()["LoggingDriver"] == "json-file":
            assert host["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "2"}
        await engine.start(made.name)
        assert await said(engine, made.name, "sh", "-c", "id -u; pwd; touch /ro/x 2>&1 | tail -c 22") == (
            b"1234\n/workspace\nRead-only file system\n"
        )

    tmp_path.chmod(0o777)
    run(flow)


@pytest.mark.engine
def test_a_missing_directory_is_refused_and_not_made(lab: Lab, tmp_path: Path) -> None:
    missing = tmp_path / "missing"

    async def flow(engine: DockerEngine) -> None:
        with pytest.raises(EngineError, match=f"directory {missing} does not exist"):
            await engine.create(lab.spec(mounts=(Mount(missing, PurePosixPath("/x")),)))
        assert not missing.exists()
        # One that goes before the start.
        missing.mkdir()
        made = await engine.create(lab.spec(mounts=(Mount(missing, PurePosixPath("/x")),)))
        missing.rmdir()
        with pytest.raises(EngineError, match=str(missing)):
            await engine.start(made.name)
        assert not missing.exists()

    run(flow)


@pytest.mark.engine
@pytest.mark.parametrize("gpus", [GpuRequest(count=1), GpuRequest(ids=("0",))])
def test_gpus_without_a_runtime_get_a_sentence(lab: Lab, gpus: GpuRequest) -> None:
    async def flow(engine: DockerEngine) -> None:
        if "gpus" not in (await engine.info()).cannot:
            pytest.skip("this engine has GPUs")
        made = await engine.create(lab.spec(gpus=gpus))
        requested = APIClient(ADDRESS).inspect_container(made.id)["HostConfig"]["DeviceRequests"][0]
        assert requested["Capabilities"] == [["gpu"]]
        assert (requested["Count"], requested["DeviceIDs"]) == (
            (0, ["0"]) if gpus.ids else (1, requested["DeviceIDs"])
        )
        with pytest.raises(EngineError, match="cannot give GPUs") as refused:
            await engine.start(made.name)
        assert "NVIDIA Container Toolkit" in refused.value.remedy

    run(flow)


@pytest.mark.engine
def test_a_link_is_followed_inside_the_container_only(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("of the host")
    script = f"ln -s {tmp_path}/secret /a; ln -s ../../../../../../etc/hostname /b; ln -s c /c; mkfifo /d"

    async def flow(engine: DockerEngine) -> None:
        made = await engine.create(lab.spec(hostname="inside"))
        await engine.start(made.name)
        await said(engine, made.name, "sh", "-c", script)
        assert await engine.read_file(made.name, PurePosixPath("/a")) is None
        assert await engine.read_file(made.name, PurePosixPath("/b")) == b"inside\n"
        assert b"Debian" in (await engine.read_file(made.name, PurePosixPath("/etc/os-release")) or b"")
        for odd in ("/c", "/d"):
            with pytest.raises(EngineError):
                await engine.read_file(made.name, PurePosixPath(odd))

    run(flow)


@pytest.mark.engine
def test_logs_and_the_exit_of_the_main_process(lab: Lab) -> None:
    async def flow(engine: DockerEngine) -> None:
        script = "for i in 1 2 3; do echo out $i; done; echo err >&2; exit 3"
        made = await engine.create(lab.spec(entrypoint=("sh", "-c", script)))
        await engine.start(made.name)
        while (found := await engine.container(made.name)) and found.running:
            await asyncio.sleep(0.05)
        assert found is not None
        assert (found.state, found.exit_code) == ("exited", 3)
        assert set((await engine.logs(made.name)).splitlines()) == {"out 1", "out 2", "out 3", "err"}
        assert len((await engine.logs(made.name, tail=2)).splitlines()) == 2

    run(flow)


@pytest.mark.engine
def test_memory_that_runs_out_is_told(lab: Lab) -> None:
    async def flow(engine: DockerEngine) -> None:
        eater = ("python3", "-c", "x = b'x' * 2**29")
        made = await engine.create(lab.spec(entrypoint=eater, memory=2**25))
        await engine.start(made.name)
        while (found := await engine.container(made.name)) and found.running:
            await asyncio.sleep(0.05)
        assert found is not None
        assert found.exit_code == 137
        assert found.oom_killed

    run(flow)


@pytest.mark.engine
def test_many_remove_the_same_container(lab: Lab) -> None:
    async def flow(engine: DockerEngine) -> None:
        made = await engine.create(lab.spec())
        await engine.start(made.name)
        await asyncio.gather(*(engine.remove(made.name) for _ in range(5)))
        assert await engine.container(made.name) is None
        await engine.create(lab.spec())

    run(flow)


@pytest.mark.engine
def test_many_calls_at_once_do_not_wait_for_each_other(lab: Lab) -> None:
    """Each command ends when it sees all of them."""
    script = "touch /tmp/$0; until [ $(ls /tmp/all-* | wc -l) = 20 ]; do sleep 0.1; done; echo $0"

    async def flow(engine: DockerEngine) -> None:
        made = await engine.create(lab.spec())
        await engine.start(made.name)
        names = [f"all-{number}" for number in range(20)]
        output = await asyncio.gather(*(said(engine, made.name, "sh", "-c", script, name) for name in names))
        assert output == [f"{name}\n".encode() for name in names]

    run(flow)


# Reaching it


def test_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")

    async def flow(engine: DockerEngine) -> None:
        with pytest.raises(EngineUnreachableError, match=r"Docker is not running.*unix:///nonexistent") as no:
            await engine.info()
        assert "DOCKER_HOST" in no.value.remedy
        with pytest.raises(EngineUnreachableError):
            await built(engine, BuildRequest(Path("/"), "FROM x", "x"))

    run(flow)


def test_a_port_where_nothing_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")

    async def flow(engine: DockerEngine) -> None:
        with pytest.raises(EngineUnreachableError, match=r"tcp://127\.0\.0\.1:9 \(Connection refused\)"):
            await engine.info()

    run(flow, timeout=10)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense://x", "tcp://host.invalid:2375"])
def test_addresses_without_docker(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("DOCKER_HOST", address)

    async def flow(engine: DockerEngine) -> None:
        with pytest.raises(EngineError):
            await engine.info()

    run(flow, timeout=10)


def test_a_context_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("DOCKER_CONTEXT", "lab-server")

    async def flow(engine: DockerEngine) -> None:
        with pytest.raises(EngineUnreachableError, match="context lab-server does not exist"):
            await engine.info()

    run(flow)


@pytest.mark.engine
def test_permission_denied() -> None:
    if os.getuid() != 0 or "DOCKER_HOST" in os.environ:
        pytest.skip("needs root, to become a user who may not use the local socket")
    script = """
import asyncio, os, encodings.idna
from ds01_kernels.engine.docker import DockerEngine
from ds01_kernels.errors import EngineDeniedError
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    asyncio.run(DockerEngine().info())
except EngineDeniedError as error:
    print(error.sentence)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "HOME": "/", "DOCKER_CONFIG": "/nonexistent"},
    )
    assert "You may not use Docker" in done.stdout, done.stderr
    assert "`docker` group" in done.stdout


class Relay:
    """A socket in front of the real one, which can be cut, and speak TLS on a port instead."""

    def __init__(self, address: str | tuple[str, int], tls: ssl.SSLContext | None = None) -> None:
        self.address = address
        self.tls = tls
        self.open_sockets: list[socket.socket] = []
        self.connections = 0

    def open(self) -> None:
        family = socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET
        self.listening = socket.socket(family)
        self.listening.bind(self.address)
        self.address = self.listening.getsockname()
        self.listening.listen(50)
        threading.Thread(target=self._accept, args=(self.listening,), daemon=True).start()

    def cut(self) -> None:
        for one in (self.listening, *self.open_sockets):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self.open_sockets.clear()
        if isinstance(self.address, str):
            Path(self.address).unlink()

    def _accept(self, listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = listening.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        if self.tls:
            near = self.tls.wrap_socket(near, server_side=True)
        far = socket.socket(socket.AF_UNIX)
        far.connect(ADDRESS.removeprefix("unix://"))
        self.open_sockets += [near, far]
        waiting = {near: bytearray(), far: bytearray()}
        other = {near: far, far: near}
        for one in other:
            one.setblocking(False)
        with suppress(OSError, ValueError):
            while all(self._moved(one, waiting[other[one]]) for one in other):
                for one, data in waiting.items():
                    with suppress(ssl.SSLWantWriteError, BlockingIOError):
                        while data:
                            del data[: one.send(data)]
                if not (self.tls and near.pending()):  # type: ignore[attr-defined]
                    select.select([near, far], [one for one, data in waiting.items() if data], [])
        for one in other:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _moved(self, one: socket.socket, waiting: bytearray) -> bool:
        """Whether `one` is still open; what it has to say now waits for the other side."""
        try:
            data = one.recv(65536)
        except (ssl.SSLWantReadError, BlockingIOError):
            return True
        waiting += data
        return bool(data)


@pytest.fixture
def relay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    if not ADDRESS.startswith("unix://"):
        pytest.skip("the engine has no local socket")
    relay = Relay(str(tmp_path / "s"))
    relay.open()
    monkeypatch.setenv("DOCKER_HOST", f"unix://{relay.address}")
    yield relay
    with suppress(OSError):
        relay.cut()


@pytest.mark.engine
def test_a_restarted_engine_is_found_again(relay: Relay) -> None:
    async def flow(engine: DockerEngine) -> None:
        assert await engine.image(BASE_IMAGE) is not None
        relay.cut()
        relay.open()
        assert await engine.image(BASE_IMAGE) is not None
        relay.cut()
        with pytest.raises(EngineUnreachableError):
            await engine.image(BASE_IMAGE)
        relay.open()
        assert await engine.image(BASE_IMAGE) is not None

    run(flow)


@pytest.mark.engine
def test_a_stream_that_is_cut_ends(relay: Relay, lab: Lab) -> None:
    async def flow(engine: DockerEngine) -> None:
        made = await engine.create(lab.spec())
        await engine.start(made.name)
        stream = await engine.exec(made.name, ["cat"])
        await stream.write(b"x")
        assert await stream.read() == b"x"
        relay.cut()
        with suppress(EngineError):
            assert await stream.read() == b""
        with pytest.raises(EngineError):
            await stream.write(b"x" * 2**22)
        with pytest.raises(EngineUnreachableError):
            await stream.exit_code()
        await stream.close()

    run(flow)


@pytest.mark.engine
def test_the_current_docker_context_is_used(
    relay: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = os.environ["DOCKER_HOST"]
    monkeypatch.delenv("DOCKER_HOST")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"currentContext": "mine"}))
    folder = tmp_path / "contexts/meta" / hashlib.sha256(b"mine").hexdigest()
    folder.mkdir(parents=True)
    meta = {"Name": "mine", "Metadata": {}, "Endpoints": {"docker": {"Host": address}}}
    (folder / "meta.json").write_text(json.dumps(meta))

    async def flow(engine: DockerEngine) -> None:
        assert await engine.image(BASE_IMAGE) is not None

    run(flow)
    assert relay.connections > 0


@pytest.mark.engine
@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificates")
def test_streams_over_tls(tmp_path: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    request = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost"
    request += " -addext subjectAltName=DNS:localhost -keyout key.pem -out cert.pem"
    subprocess.run(request.split(), cwd=tmp_path, check=True, capture_output=True)
    # As on hosts whose traffic a proxy signs anew: not for Docker.
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/etc/ssl/certs/ca-certificates.crt")
    shutil.copy(tmp_path / "cert.pem", tmp_path / "ca.pem")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    relay = Relay(("127.0.0.1", 0), server)
    relay.open()
    monkeypatch.setenv("DOCKER_HOST", f"tcp://localhost:{relay.address[1]}")
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "localhost")
    data = os.urandom(20 * 2**20)

    async def flow(engine: DockerEngine) -> None:
        assert not (await engine.info()).local
        made = await engine.create(lab.spec())
        await engine.start(made.name)
        assert await said(engine, made.name, "echo", "hi") == b"hi\n"
        stream = await engine.exec(made.name, ["cat"])
        sending = asyncio.create_task(stream.write(data))
        received = bytearray()
        while len(received) < len(data):
            piece = await stream.read()
            assert piece
            received += piece
        await sending
        assert received == data
        await stream.end_input()
        assert await stream.read() == b""
        assert await stream.exit_code() == 0
        await stream.close()
        # Both copying threads end with the stream.
        while [one for one in threading.enumerate() if one.name.startswith("ds01-exec")]:
            await asyncio.sleep(0.05)

    run(flow)
    monkeypatch.undo()
    relay.cut()


class Scripted:
    """A daemon on a unix socket that answers each request with the bytes of `answer`, or never, for None."""

    def __init__(self, path: Path, answer: Callable[[str], bytes | None]) -> None:
        self.asked: list[str] = []
        self._answer = answer
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen(20)
        self._kept: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        received = b""
        while b"\r\n\r\n" not in received:
            data = connection.recv(65536)
            if not data:
                return
            received += data
        request = received.split(b" HTTP")[0].decode()
        self.asked.append(request)
        answer = self._answer(request)
        if answer is None:
            self._kept.append(connection)
            return
        connection.sendall(answer)
        connection.close()


def http(body: object, status: str = "200 OK") -> bytes:
    text = json.dumps(body).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(text)}\r\n\r\n".encode() + text


VERSION = {"ApiVersion": "1.41", "Version": "20.10"}


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Scripted]:
    def make(answer: Callable[[str], bytes | None]) -> Scripted:
        monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/s")
        asked_first = ("GET /_ping", "GET /version")
        return Scripted(tmp_path / "s", lambda ask: http(VERSION) if ask in asked_first else answer(ask))

    return make


@pytest.mark.parametrize("call", ["image", "exec"])
def test_an_engine_that_hangs(scripted: Callable[..., Scripted], call: str) -> None:
    scripted(lambda ask: None)

    async def flow(engine: DockerEngine) -> None:
        with pytest.raises(EngineTimeoutError, match="took too long"):
            await (engine.image("x") if call == "image" else engine.exec("x", ["true"]))

    run(flow, timeout=0.5)


def test_a_connection_that_breaks_is_tried_once_more(scripted: Callable[..., Scripted]) -> None:
    answers = [b"", http({"message": "No such image: x"}, "404 Not Found")]
    daemon = scripted(lambda ask: answers.pop(0))

    async def flow(engine: DockerEngine) -> None:
        assert await engine.image("x") is None

    run(flow)
    assert daemon.asked.count("GET /v1.41/images/x/json") == 2


def test_what_must_not_happen_twice_is_not_tried_again(scripted: Callable[..., Scripted]) -> None:
    daemon = scripted(lambda ask: http({}) if ask.startswith("GET") else b"")

    async def flow(engine: DockerEngine) -> None:
        with pytest.raises(EngineUnreachableError):
            await engine.create(ContainerSpec("x", "x", ("x",)))

    run(flow)
    assert len([ask for ask in daemon.asked if ask.startswith("POST")]) == 1


def frame(kind: int, data: bytes) -> bytes:
    return bytes([kind, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


@pytest.mark.parametrize("terminal", [False, True])
def test_output_that_comes_with_the_headers_is_not_lost(
    scripted: Callable[..., Scripted], terminal: bool
) -> None:
    body = b"first\nsecond\n" if terminal else frame(1, b"first\n") + frame(2, b"e") + frame(1, b"second\n")
    upgraded = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n" + body

    def answer(ask: str) -> bytes:
        if ask.endswith("/start"):
            return upgraded
        return http({"Running": False, "ExitCode": 4} if ask.endswith("/json") else {"Id": "e"})

    scripted(answer)

    async def flow(engine: DockerEngine) -> None:
        stream = await engine.exec("x", ["true"], terminal=terminal)
        output = b""
        while data := await stream.read():
            output += data
        assert output == b"first\nsecond\n"
        assert stream.errors == ("" if terminal else "e")
        assert await stream.exit_code() == 4
        await stream.close()

    run(flow)


@pytest.mark.parametrize(
    "body", [b"<html>", b"[1,", json.dumps({"Id": 3}).encode(), b"null", b"\xff\xfe", b"[]"]
)
def test_answers_that_are_no_docker_s_are_engine_errors(
    scripted: Callable[..., Scripted], body: bytes
) -> None:
    head = f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    scripted(lambda ask: head + body)

    async def flow(engine: DockerEngine) -> None:
        for call in (engine.image, engine.container, engine.logs):
            with pytest.raises(EngineError):
                await call("x")

    run(flow)


# What its words mean


def api_error(status: int, text: str) -> docker.errors.APIError:
    response = requests.Response()
    response.status_code = status
    return docker.errors.APIError("no", response=response, explanation=text)


@pytest.mark.parametrize(
    ("status", "text", "kind", "words"),
    [
        (500, "write /var/lib/docker/x: no space left on device", EngineError, "disk of the engine is full"),
        (500, 'could not select device driver "" with capabilities: [[gpu]]', EngineError, "GPUs"),
        (409, "Conflict. The name is already in use", ConflictError, "already in use"),
        (500, "the container name is already in use", ConflictError, "already in use"),
        (409, "Container x is paused, unpause first", EngineError, "paused"),
        (500, "something else", EngineError, "something else"),
    ],
)
def test_refusals(status: int, text: str, kind: type[EngineError], words: str) -> None:
    error = translated(api_error(status, text), "do it")
    assert type(error) is kind
    assert words in str(error)
    assert str(error).endswith(".")


def test_what_engines_say_about_themselves() -> None:
    def info(version: dict[str, object] | None = None, unix: bool = True, **more: object) -> EngineInfo:
        return engine_info({"NCPU": 4, "MemTotal": 9, "CgroupVersion": "2", **more}, version or VERSION, unix)

    assert info().local is (sys.platform == "linux")
    assert not info(unix=False).local
    assert not info(OperatingSystem="Docker Desktop").local
    assert "gpus" in info().cannot
    assert "gpus" not in info(Runtimes={"nvidia": {}, "runc": {}}).cannot
    assert "gpus" not in info(DiscoveredDevices=[{"Source": "cdi", "ID": "nvidia.com/gpu=0"}]).cannot
    assert not info(Runtimes=None).rootless
    assert info(SecurityOptions=["name=seccomp", "name=rootless"]).rootless
    assert info(SecurityOptions=["name=userns"]).rootless
    assert set(info(MemoryLimit=False, CpuCfsQuota=False, PidsLimit=False).cannot) == {
        "memory",
        "cpus",
        "pids",
        "gpus",
    }
    assert "memory" in info(SecurityOptions=["name=rootless"], CgroupVersion="1", MemoryLimit=True).cannot
    podman = info({"Components": [{"Name": "Podman Engine"}], "Version": "4.3"}, Runtimes={"nvidia": {}})
    assert podman.name == "podman"
    assert "Podman" in podman.cannot["gpus"]


def test_podman_s_states_and_ids() -> None:
    answer = {
        "Id": "c",
        "Name": "x",
        "Image": "abc",
        "Config": {"Labels": None},
        "Created": "2024-05-06T07:08:09.123456789+02:00",
        "State": {"Status": "configured", "StartedAt": "0001-01-01T00:00:00Z", "ExitCode": 0},
    }
    found = container_info(answer)
    assert (found.state, found.image_id, found.started, found.exit_code) == (
        "created",
        "sha256:abc",
        None,
        None,
    )
    assert found.created.isoformat() == "2024-05-06T07:08:09.123456+02:00"


@given(st.lists(st.tuples(st.sampled_from([0, 1, 2]), st.binary(max_size=50))), st.lists(st.integers(1, 40)))
def test_frames_in_any_pieces(sent: list[tuple[int, bytes]], sizes: list[int]) -> None:
    stream = b"".join(frame(kind, data) for kind, data in sent)
    frames, output = Frames(), b""
    for size in [*sizes, len(stream) + 1]:
        output += frames.feed(stream[:size])
        stream = stream[size:]
    assert output == b"".join(data for kind, data in sent if kind < 2)
    errors = b"".join(data for kind, data in sent if kind == 2)
    assert frames.errors == errors.decode("utf-8", "replace")


@pytest.mark.parametrize("header", [b"\x04\0\0\0\0\0\0\1", b"HTTP/1.1", b"\1\0\1\0\0\0\0\1"])
def test_what_are_no_frames(header: bytes) -> None:
    with pytest.raises(EngineError, match="not Docker's format"):
        Frames().feed(header)


# Building


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("FROM a\nRUN b", [(1, "FROM"), (2, "RUN")]),
        ("# c\n\n  from a\r\nRUN b \\\r\n  c\r\nENV x=1\r\n", [(3, "FROM"), (4, "RUN"), (6, "ENV")]),
        ("FROM a\nRUN b \\\n# c \\\n\n  d\nCMD x", [(1, "FROM"), (2, "RUN"), (6, "CMD")]),
        (
            "# escape=`\nFROM a\nRUN b `\n c\nRUN d \\\nRUN e",
            [(2, "FROM"), (3, "RUN"), (5, "RUN"), (6, "RUN")],
        ),
        ("#syntax=x\n# Escape = `\nFROM a\nRUN b `\n c", [(3, "FROM"), (4, "RUN")]),
        ("# no directive\n# escape=`\nFROM a\nRUN b `\nRUN c", [(3, "FROM"), (4, "RUN"), (5, "RUN")]),
        ("\ufeffFROM a\nRUN b \\  \n c", [(1, "FROM"), (2, "RUN")]),
        ("FROM a\nRUN b \\", [(1, "FROM"), (2, "RUN")]),
    ],
)
def test_lines_of_instructions(text: str, expected: list[tuple[int, str]]) -> None:
    assert list(instructions(text)) == expected


@pytest.mark.engine
@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (
            "ARG X=latest\n# c\nFROM ds01/base:$X\nARG Y\nRUN echo \\\n# in\n hi\nRUN exit 42\n",
            8,
            "exit code 42",
        ),
        ("FROM ds01/base AS a\nRUN true\nFROM ds01/base\nCOPY --from=a /no /b\n", 4, "COPY failed"),
        ("# escape=`\nFROM ds01/base\nRUN echo `\n hi\nRUN false", 5, "RUN false"),
        ("FROM ds01/base\n\nFOO bar\n", 3, "unknown instruction"),
        ("FROM ds01/base\nRUN --mount=type=cache,target=/x true\n", 2, "BuildKit"),
        ("FROM ds01/base\nRUN printf 'Step 3/3 : RUN x\\nStep 9/9 : y\\n'; false\n", 2, "RUN printf"),
        ("FROM ds01/base\nENV a\n", None, "ENV must have two arguments"),
        ("", None, "empty"),
    ],
)
def test_what_fails_in_a_build(lab: Lab, tmp_path: Path, text: str, line: int | None, words: str) -> None:
    async def flow(engine: DockerEngine) -> None:
        with pytest.raises(BuildFailedError, match=words) as failure:
            await built(engine, BuildRequest(tmp_path, text, lab.reference, labels={LABEL: lab.mark}))
        assert failure.value.line == line

    run(flow, builder="classic")


@pytest.mark.engine
@pytest.mark.parametrize("builder", ["classic", "buildkit"])
def test_a_bad_tag_is_refused(tmp_path: Path, builder: BuilderName) -> None:
    async def flow(engine: DockerEngine) -> None:
        with pytest.raises(EngineError, match="invalid"):
            await built(engine, BuildRequest(tmp_path, f"FROM {BASE_IMAGE}\n", "Not/Valid:x y"))

    run(flow, builder=builder)


@pytest.mark.engine
@pytest.mark.parametrize("builder", ["classic", "buildkit"])
def test_the_context_and_its_cache(lab: Lab, tmp_path: Path, builder: BuilderName) -> None:
    (tmp_path / "Dockerfile").write_text("FROM what-is-on-disk-is-not-built\n")
    (tmp_path / ".dockerignore").write_text("# comment\n*.log\n!keep.log\nprivate\n")
    (tmp_path / "keep.log").write_text("kept")
    (tmp_path / "drop.log").write_text("dropped")
    (tmp_path / "private").mkdir()
    (tmp_path / "private/key").write_text("secret")
    (tmp_path / "big").write_bytes(b"x" * 1_000_001)
    (tmp_path / "outside").symlink_to("/etc/shadow")
    (tmp_path / "ä b").mkdir()
    (tmp_path / "ä b" / "c").write_text("")
    os.mkfifo(tmp_path / "pipe")
    look = "RUN echo word $WORD && find . -type f | sort && wc -c big"
    text = f"FROM {BASE_IMAGE}\nARG WORD=no\nWORKDIR /x\nCOPY . .\n{look}"
    request = BuildRequest(tmp_path, text, lab.reference, args={"WORD": lab.mark}, labels={LABEL: lab.mark})

    async def flow(engine: DockerEngine) -> None:
        progress = await built(engine, request)
        output = "".join(one.log for one in progress if one.name.startswith("RUN"))
        assert f"word {lab.mark}\n" in output
        assert "./.dockerignore\n./Dockerfile\n./big\n./keep.log\n./ä b/c\n1000001 big\n" in output
        again = await built(engine, request)
        assert {one.line for one in again if one.cached} >= {3, 4, 5}
        assert again[-1].image_id == progress[-1].image_id

    run(flow, builder=builder)


def members(directory: Path, text: str = "FROM x\n") -> dict[str, tarfile.TarInfo]:
    packed = io.BytesIO(b"".join(Context.of(directory, text).tar()))
    with tarfile.open(fileobj=packed) as tar:
        return {member.name: member for member in tar.getmembers()}


def test_links_stay_links(tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "real").mkdir(parents=True)
    (project / "real/file").write_text("x")
    (tmp_path / "secret").write_text("s")
    (project / "file").symlink_to("../secret")
    (project / "folder").symlink_to("..")
    (project / "loop").symlink_to(".")
    found = members(project)
    assert set(found) == {"Dockerfile", "real", "real/file", "file", "folder", "loop"}
    assert {name for name, member in found.items() if member.issym()} == {"file", "folder", "loop"}


def test_a_folder_swapped_for_a_link_leads_nowhere(tmp_path: Path) -> None:
    project, secrets_of_others = tmp_path / "project", tmp_path / "secrets"
    secrets_of_others.mkdir()
    (secrets_of_others / "key").write_text("what is in it")
    (project / "sub").mkdir(parents=True)
    (project / "sub/key").write_text("mine")
    pieces = Context.of(project, "FROM x\n").tar()
    # What there is to send is known by now.
    received = [next(pieces)]
    shutil.rmtree(project / "sub")
    (project / "sub").symlink_to(secrets_of_others)
    received += pieces
    assert b"what is in it" not in b"".join(received)


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_dockerignore_that_is_no_file(tmp_path: Path, kind: str) -> None:
    (tmp_path / "real").write_text("x")
    if kind == "link":
        (tmp_path / ".dockerignore").symlink_to("real")
    else:
        os.mkfifo(tmp_path / ".dockerignore")
    with pytest.raises(BadInputError, match="dockerignore"):
        members(tmp_path)


def test_a_project_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="cannot be read"):
        members(tmp_path / "missing")


@pytest.mark.engine
def test_a_cancelled_build_leaves_no_process(lab: Lab, tmp_path: Path) -> None:
    text = f"FROM {BASE_IMAGE}\nLABEL {LABEL}={lab.mark}\nRUN sleep 1000\n"
    client = APIClient(ADDRESS)

    def running() -> list[object]:
        found: list[object] = client.containers(filters={"label": f"{LABEL}={lab.mark}"})
        return found

    async def flow(engine: DockerEngine) -> None:
        build = engine.build(BuildRequest(tmp_path, text, lab.reference))
        async for progress in build:
            if progress.line == 3:
                break
        while not running():
            await asyncio.sleep(0.05)
        await build.aclose()  # type: ignore[attr-defined]
        while running():
            await asyncio.sleep(0.05)

    run(flow, builder="classic")


@pytest.mark.engine
@pytest.mark.parametrize("builder", ["classic", "buildkit"])
def test_a_build_cancelled_while_it_sends_its_context(lab: Lab, tmp_path: Path, builder: BuilderName) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(2**40)

    async def flow(engine: DockerEngine) -> None:
        build = engine.build(BuildRequest(tmp_path, f"FROM {BASE_IMAGE}\nCOPY . .\n", lab.reference))
        assert "1099.5 GB" in (await anext(build)).log
        task = asyncio.ensure_future(anext(build))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while [one for one in threading.enumerate() if one.name.startswith("ds01-build")]:
            await asyncio.sleep(0.05)

    run(flow, builder=builder)


@pytest.mark.engine
def test_import_image(lab: Lab, tmp_path: Path) -> None:
    archive = tmp_path / "root.tar"
    with tarfile.open(archive, "w") as tar:
        entry = tarfile.TarInfo("etc/hello")
        entry.size = 5
        tar.addfile(entry, io.BytesIO(b"hello"))

    async def flow(engine: DockerEngine) -> None:
        changes = ["ENV A=b", f"LABEL {LABEL}={lab.mark}"]
        image = await engine.import_image(archive, lab.reference, changes)
        assert image.tags == (lab.reference,)
        assert image.env["A"] == "b"
        assert image.labels == {LABEL: lab.mark}
        made = await engine.create(ContainerSpec(lab.name, lab.reference, ("x",), labels={LABEL: lab.mark}))
        assert await engine.read_file(made.name, PurePosixPath("/etc/hello")) == b"hello"
        with pytest.raises(BadInputError, match="cannot be read"):
            await engine.import_image(tmp_path / "missing.tar", lab.reference)
        (tmp_path / "bad.tar").write_bytes(b"x" * 5000)
        with pytest.raises(EngineError):
            await engine.import_image(tmp_path / "bad.tar", f"ds01-test-{lab.mark}/bad:latest")

    run(flow)


@pytest.mark.engine
def test_an_import_can_be_cancelled(lab: Lab, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "endless")
    writing = os.open(tmp_path / "endless", os.O_RDWR)
    os.write(writing, bytes(1024))

    async def flow(engine: DockerEngine) -> None:
        task = asyncio.create_task(engine.import_image(tmp_path / "endless", lab.reference))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 60)

    try:
        run(flow)
    finally:
        os.write(writing, bytes(1024))
        os.close(writing)


def test_made_without_any_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent")

    async def flow() -> None:
        await DockerEngine().close()

    asyncio.run(flow())
