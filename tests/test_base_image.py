"""The local base image: what goes into it, what happens when it cannot be built, and the real thing."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import ssl
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from conftest import BASE_IMAGE, with_engine
from live import docker

from ds01_kernels import base_image
from ds01_kernels.engine import BuildProgress, BuildRequest, ContainerSpec, Engine
from ds01_kernels.errors import BadInputError, BuildFailedError, Ds01Error


class NoRegistry:
    """An engine that builds nothing: what a machine without an image registry answers."""

    def __init__(self) -> None:
        self.imported: list[str] = []
        self.requests: list[BuildRequest] = []

    async def build(self, request: BuildRequest) -> AsyncIterator[BuildProgress]:
        self.requests.append(request)
        yield BuildProgress(log="FROM debian\n")
        raise BuildFailedError("pull access denied")

    async def import_image(self, archive: Path, reference: str) -> None:
        self.imported.append(reference)

    async def remove_image(self, reference: str) -> None: ...


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that comes first on the PATH, with apt-get failing: the host's own sources play no part."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    program(folder / "apt-get", "exit 1")
    return folder


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == [], "temporary files were left"


def program(file: Path, script: str) -> None:
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def build(engine: object, lines: list[str] | None = None, **options: str) -> None:
    report = (lines if lines is not None else []).append
    asyncio.run(base_image.build_base_image(engine, "ds01/base-test:unit", report=report, **options))


def test_mmdebstrap_that_fails_says_why(path: Path, temporary: Path) -> None:
    said = "I: running\\nE: mirror is \\033[31mon fire\\nI: removing\\nE: mmdebstrap failed to run\\n"
    program(path / "mmdebstrap", f"printf '{said}' >&2; exit 25")
    engine = NoRegistry()
    with pytest.raises(Ds01Error, match=r"failed with exit code 25: mirror is on fire$"):
        build(engine)
    program(path / "mmdebstrap", "printf 'no disk\n\n' >&2; exit 1")
    with pytest.raises(Ds01Error, match=r"failed with exit code 1: no disk$"):
        build(engine)
    assert engine.imported == []
    assert engine.requests == []


def test_the_hosts_sources_come_first_and_debians_own_second(path: Path, temporary: Path) -> None:
    row = "http://deb.example/debian/|bookworm|main|/etc/apt/sources.list:1|Debian"
    program(path / "apt-get", f"echo '{row}'")
    program(path / "mmdebstrap", 'for last; do :; done; echo "last=$last" >&2; exit 1')
    lines: list[str] = []
    with pytest.raises(Ds01Error):
        build(NoRegistry(), lines, suite="bookworm")
    tried = [line for line in lines if line.startswith("last=")]
    assert tried[0] == "last=deb http://deb.example/debian/ bookworm main"
    assert tried[1].endswith("/root.tar")


def test_cancelling_ends_mmdebstrap_and_its_children(path: Path, temporary: Path, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    program(path / "mmdebstrap", f"sleep 600 & echo $! $$ > {pids}; echo started >&2; wait")

    async def cancelled() -> None:
        started = asyncio.Event()
        task = asyncio.create_task(
            base_image.build_base_image(
                NoRegistry(), report=lambda line: started.set() if line == "started" else None
            )
        )
        await asyncio.wait_for(started.wait(), 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 60)

    asyncio.run(cancelled())
    assert not [pid for pid in pids.read_text().split() if is_alive(pid)]


def is_alive(pid: str) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_mmdebstrap_that_hangs_is_ended(path: Path) -> None:
    program(path / "mmdebstrap", "exec sleep 600")
    with pytest.raises(Ds01Error, match="longer than 0 s"):
        asyncio.run(base_image._run_mmdebstrap([], print, limit=0.2))


def test_without_mmdebstrap_and_registry_it_names_what_to_install(
    path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(path))
    engine = NoRegistry()
    with pytest.raises(Ds01Error, match="pull access denied") as caught:
        build(engine, suite="bookworm")
    assert "apt-get install mmdebstrap" in caught.value.sentence
    (request,) = engine.requests
    assert request.pull
    assert request.dockerfile.startswith("FROM debian:bookworm-slim\n")


@pytest.mark.parametrize("suite", ["--help", "book worm", "../x", "bookworm\nRUN id"])
def test_a_suite_is_a_name(suite: str) -> None:
    with pytest.raises(BadInputError, match="no name of a Debian release"):
        build(NoRegistry(), suite=suite)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (
            "http://user:secret@deb.example/debian/|bookworm|main|/etc/apt/sources.list:1|Debian",
            "credentials",
        ),
        ("http://deb.example/debian/?key=secret|bookworm|main|/etc/apt/sources.list:1|Debian", "credentials"),
        (
            "http://127.0.0.1:3142/debian/|bookworm|main|/etc/apt/sources.list:1|Debian",
            "not seen from a container",
        ),
        ("file:/srv/mirror/|bookworm|main|/etc/apt/sources.list:1|Debian", "not seen from a container"),
        ("https://else.example/debian/|bookworm|main|/etc/apt/sources.list:1|Else", "somebody else's"),
        (
            "https://else.example/debian/|bookworm|main|/etc/apt/sources.list.d/else.list:1|",
            "somebody else's",
        ),
        ("http://deb.example/debian/|trixie|main|/etc/apt/sources.list:1|Debian", "another release"),
        ("http://deb.example/debian/|bookworm|contrib|/etc/apt/sources.list:1|Debian", "not main"),
        ("http://deb.example/debian/|bookworm-updates|main|/etc/apt/sources.list:1|Debian", "updates alone"),
        ("nonsense", "not a row"),
    ],
)
def test_sources_of_the_host_that_stay_out(path: Path, row: str, why: str) -> None:
    program(path / "apt-get", f"echo '{row}'")
    assert base_image.host_sources("bookworm") == [], why


def test_sources_of_the_host(path: Path) -> None:
    rows = [
        "https://deb.example/debian/|bookworm|main|/etc/apt/sources.list.d/debian.sources:1|$(ORIGIN)",
        "https://deb.example/debian/|bookworm|contrib|/etc/apt/sources.list.d/debian.sources:1|$(ORIGIN)",
        "https://deb.example/security/|bookworm-security|main|/etc/apt/sources.list.d/debian.sources:2|Debian",
    ]
    program(path / "apt-get", "\n".join(f"echo '{row}'" for row in rows))
    assert base_image.host_sources("bookworm") == [
        "deb https://deb.example/debian/ bookworm main",
        "deb https://deb.example/security/ bookworm-security main",
    ]


def test_only_certificates_are_taken_from_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = b"first certificate", b"second certificate"
    key = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"
    torn = "-----BEGIN CERTIFICATE-----\nabcde\n-----END CERTIFICATE-----\n"
    bundle = tmp_path / "bundle.pem"
    bundle.write_text(f"# a name\n{pem(one)}{key}{torn}{pem(two)}{pem(one)}-----BEGIN CERTIFICATE-----\nAA")
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    assert base_image.host_certificates() == {one, two}


def test_a_named_bundle_that_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent/bundle.pem")
    with pytest.raises(BadInputError, match="SSL_CERT_FILE names /nonexistent/bundle"):
        base_image.host_certificates()


def pem(der: bytes) -> str:
    return ssl.DER_cert_to_PEM_cert(der)


@pytest.mark.engine
@pytest.mark.timeout(900)
def test_the_real_thing(run_id: str, temporary: Path) -> None:
    """That is the image here, when it was made since the recipe has changed; else a new one."""
    if shutil.which("mmdebstrap") is None and not os.environ.get("CI"):
        pytest.skip("mmdebstrap is not installed")
    reference = f"ds01/base-test:{run_id}"

    async def check(engine: Engine) -> None:
        image = await engine.image(BASE_IMAGE)
        assert image is not None
        if image.created.timestamp() < Path(base_image.__file__).stat().st_mtime:
            image = await base_image.build_base_image(engine, reference, report=print)
        try:
            assert image.labels[base_image.LABEL] == "1"
            assert image.env["PIP_CERT"] == "/etc/ssl/certs/ca-certificates.crt"
            await run_in(engine, image.id, run_id, SCRIPT)
        finally:
            await engine.remove_image(reference)

    with_engine(check)


@pytest.mark.engine
def test_certificates_of_the_host_are_trusted_in_the_image(
    run_id: str, path: Path, temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, root = tmp_path / "bundle.pem", tmp_path / "root.tar"
    bundle.write_text("".join(pem(der) for der in base_image.host_certificates()) + CERTIFICATE)
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    # What mmdebstrap has made once.
    export(BASE_IMAGE, run_id, root)
    program(path / "mmdebstrap", f'for word; do case $word in /*.tar) mv {root} "$word" ;; esac; done')
    reference = f"ds01/base-test:{run_id}"

    async def check(engine: Engine) -> None:
        try:
            await base_image.build_base_image(engine, reference, report=print)
            # What an upgrade of ca-certificates does.
            script = "update-ca-certificates --fresh && cat /etc/ssl/certs/ca-certificates.crt"
            assert CERTIFICATE in await run_in(engine, reference, run_id, script)
        finally:
            await engine.remove_image(reference)

    with_engine(check)


def export(image: str, run_id: str, archive: Path) -> None:
    with docker() as client:
        container = client.create_container(image, ["true"], labels={"ds01-kernels.test": run_id})
        try:
            with archive.open("wb") as file:
                for chunk in client.export(container["Id"]):
                    file.write(chunk)
        finally:
            client.remove_container(container["Id"])


# Self-signed, its key thrown away: "CN=ds01-kernels test certificate".
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBqDCCAU2gAwIBAgIUXcXJdmBt7crRFQJHCumzjZfW/4YwCgYIKoZIzj0EAwIw
KDEmMCQGA1UEAwwdZHMwMS1rZXJuZWxzIHRlc3QgY2VydGlmaWNhdGUwIBcNMjYx
MTIyMTMwNTI4WhgPMjEyNjEwMjkxMzA1MjhaMCgxJjAkBgNVBAMMHWRzMDEta2Vy
bmVscyB0ZXN0IGNlcnRpZmljYXRlMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE
X5JNTIiipNykbrW/tuIR9vbEHUZ3L34J7JOXJJfCR6NRvVqieQBk1fE8Acfr0+V1
Sm7Q7FY945/MLQcvoLIqBaNTMFEwHQYDVR0OBBYEFP8jaNdPsVIPxc35SCReAp/v
xxacMB8GA1UdIwQYMBaAFP8jaNdPsVIPxc35SCReAp/vxxacMA8GA1UdEwEB/wQF
MAMBAf8wCgYIKoZIzj0EAwIDSQAwRgIhANMdu9amUiyc5nfEFz/PwbcNl+V0iKxZ
xXETyf5WQtayAiEAjmc9Sg0t9QZcWxu3Ycyo0OLxYa5Gc4ooSonmighPUPc=
-----END CERTIFICATE-----
"""

SCRIPT = """
set -e
test "$(readlink -f "$(command -v python)")" = "$(readlink -f /usr/bin/python)"
/usr/bin/python -c 'import sys; assert sys.version_info >= (3, 9)'
python -m pip download --quiet --no-deps --dest /tmp/wheels packaging
apt-get update
apt-get install -y --no-install-recommends jq
echo '{"a": 1}' | jq -e '.a == 1'
"""


async def run_in(engine: Engine, image: str, run_id: str, script: str) -> str:
    """Run a shell script in a container of the image; its output. Fails when the script does."""
    spec = ContainerSpec(
        name=f"ds01-test-{secrets.token_hex(6)}",
        image=image,
        entrypoint=("sleep", "600"),
        labels={"ds01-kernels.test": run_id},
    )
    container = await engine.create(spec)
    try:
        await engine.start(container.id)
        stream = await engine.exec(container.id, ["sh", "-c", script])
        output = b""
        while data := await stream.read():
            output += data
        assert await stream.exit_code() == 0, output.decode() + stream.errors
        await stream.close()
        return output.decode()
    finally:
        await engine.remove(container.id)
