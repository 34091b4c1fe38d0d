"""Podman of a test's own: images, containers and a service that nobody else has, gone afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from private_daemon import LIMIT, PATH, copy_images

from ds01_kernels.engine import podman_service
from ds01_kernels.engine.docker_connection import RAISED, connect
from ds01_kernels.errors import Ds01Error

#: Holds the address of a podman that runs, for tests that another test starts.
GIVEN = "DS01_TEST_PODMAN"


@dataclass(frozen=True)
class Podman:
    """`variables` lead every podman and every process of ours to it; `address` is that of its service."""

    address: str
    variables: Mapping[str, str]

    @property
    def env(self) -> dict[str, str]:
        """All variables of a podman that is no client of its service."""
        return {
            name: value
            for name, value in {**os.environ, **self.variables}.items()
            if name != "CONTAINER_HOST"
        }

    def run(self, *words: str) -> str:
        """What podman prints."""
        return subprocess.run(
            [*podman_service.command(), *words],
            env=self.env,
            cwd="/",
            check=True,
            stdout=subprocess.PIPE,
            timeout=2 * LIMIT,
        ).stdout.decode()


def why_not() -> str:
    """Why there can be no podman of a test's own; empty: there can."""
    if os.getuid() != 0:
        return "only root can make a podman of its own without touching the user's"
    for tool in ("podman", "conmon", "runc"):
        if shutil.which(tool, path=PATH) is None:
            return f"there is no {tool} here"
    if not any((Path(folder) / "catatonit").exists() for folder in ("/usr/bin", "/usr/libexec/podman")):
        return "podman has no init here: catatonit is missing"
    return ""


@contextmanager
def a_podman(images: Sequence[str]) -> Iterator[Podman]:
    """Root's podman, with a service that runs and has these images. Skips where there cannot be one.

    Where the variable `GIVEN` is set: the one that it names.
    """
    if address := os.environ.get(GIVEN):
        yield Podman(address, {})
        return
    if missing := why_not():
        pytest.skip(missing)
    # Short, as sockets want it.
    folder = Path(tempfile.mkdtemp(prefix="ds01-podman-")).resolve()
    (folder / "storage.conf").write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/data"\nrunroot = "{folder}/run"\n'
    )
    variables = {
        "PATH": PATH,
        "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        "CONTAINER_HOST": f"unix://{folder}/s.sock",
    }
    podman = Podman(variables["CONTAINER_HOST"], variables)
    try:
        with a_service(podman, folder / "log"):
            load(podman.address, images)
            try:
                yield podman
            finally:
                podman.run("rm", "--all", "--force", "--time=0")
    finally:
        take_down(folder)


def take_down(folder: Path) -> None:
    """Remove the storage in that folder, with what podman keeps running and mounted for it."""
    # Minutes after the end of a command conmon starts a podman to clear up, which would make it all again.
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if f"{folder}/" in " ".join(process.cmdline()):
                process.kill()
    subprocess.run(["umount", "--lazy", folder / "data" / "overlay"], capture_output=True)
    shutil.rmtree(folder)


@contextmanager
def a_service(podman: Podman, log_file: Path) -> Iterator[None]:
    """Its service, while this lasts."""
    with log_file.open("ab") as log:
        process = subprocess.Popen(
            [*podman_service.command(), "system", "service", "--time=0", podman.address],
            env=podman.env,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + LIMIT
        while podman_service.refusal(podman.address):
            said = log_file.read_text(errors="replace")[-4000:]
            assert process.poll() is None, f"the service ended:\n{said}"
            assert time.monotonic() < deadline, f"the service does not answer:\n{said}"
            time.sleep(0.02)
        yield
    finally:
        # Asked to end it would wait for its clients; of what it runs nothing is left.
        process.kill()
        process.wait()


def load(address: str, images: Sequence[str]) -> None:
    """Copy these images from the engine that the tests use to the podman there."""
    try:
        source = connect(LIMIT)
    except (*RAISED, Ds01Error) as error:
        pytest.skip(f"there is no engine to copy {' and '.join(images)} from: {error}")
    with closing(source):
        copy_images(source, address, images)


def services(path: Path) -> list[psutil.Process]:
    """The services at that socket."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = process.cmdline()
            # Rootless there are two: podman starts itself again as root of a user namespace.
            if (
                "service" in words
                and words[-1] == f"unix://{path}"
                and process.ppid() not in {one.pid for one in found}
            ):
                found.append(process)
    return found
