"""A Docker daemon of a test's own, which it may stop, kill and start again, or give another PATH.

It lives in a network and a mount namespace of its own: a second daemon in the machine's would remove the
first one's bridge. Its containers have no network but their loopback.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import docker
import psutil
import pytest
from conftest import BASE_IMAGE

from ds01_kernels.engine.docker_connection import connect

#: Seconds for what takes one or two on an idle machine.
LIMIT = 60.0

PROGRAMS = ("dockerd", "unshare", "nsenter", "setpriv")
PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


class PrivateDaemon:
    """A daemon whose files are all in `folder`. As text or path it is its socket's path.

    `enter` begins the command that leads it into namespaces of its own, and is to lead into another network.
    """

    def __init__(
        self,
        folder: Path,
        env: Mapping[str, str],
        options: Sequence[str] = (),
        enter: Sequence[str] = ("unshare", "--net", "--mount", "--propagation", "private", "--"),
    ) -> None:
        self.socket = folder / "docker.sock"
        self._folder = folder
        self._env = env
        self._options = options
        self._into = enter
        self._process: subprocess.Popen[bytes] | None = None

    def __fspath__(self) -> str:
        return str(self.socket)

    __str__ = __fspath__

    @property
    def address(self) -> str:
        """What DOCKER_HOST has to be."""
        return f"unix://{self.socket}"

    @property
    def enter(self) -> tuple[str, ...]:
        """What a command has to begin with to see the file systems that this daemon sees."""
        assert self._process is not None
        return ("nsenter", f"--mount=/proc/{self._process.pid}/ns/mnt", "--")

    def seen(self, path: Path) -> Path:
        """How a process outside reaches what this daemon sees at that path."""
        assert self._process is not None
        return Path(f"/proc/{self._process.pid}/root") / path.relative_to("/")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, again perhaps, and wait until it answers."""
        assert not self.is_running
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                # It ends with this process, whatever becomes of that.
                [
                    *("setpriv", "--pdeathsig", "TERM", "--"),
                    *self._into,
                    *("dockerd", "--host", self.address, "--bridge", "none", "--iptables=false"),
                    *("--ip6tables=false", "--data-root", str(self._folder / "data")),
                    *("--exec-root", str(self._folder / "run"), "--pidfile", str(self._folder / "pid")),
                    *("--config-file", str(self._folder / "daemon.json"), *self._options),
                ],
                env=dict(self._env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + LIMIT
        while not self._answers():
            assert self.is_running, f"the private daemon ended:\n{self.said()}"
            assert time.monotonic() < deadline, f"the private daemon does not answer:\n{self.said()}"
            time.sleep(0.05)

    def stop(self) -> None:
        """As an administrator does it: the daemon stops its containers first."""
        if self._process is not None and self.is_running:
            self._process.terminate()
            self._process.wait(LIMIT)

    def kill(self) -> None:
        """As the kernel does it when memory is short: its containers run on, until it is started again."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(LIMIT)
        # Its containerd ends with it (prctl(2), PR_SET_PDEATHSIG), but where process 1 reaps no orphans their
        # pids would count as running for the next daemon.
        for file in ("pid", "run/containerd/containerd.pid"):
            (self._folder / file).unlink(missing_ok=True)

    def end_remains(self) -> None:
        """End what a killed daemon's containers still run, where none has been started again to do so."""
        for shim in psutil.process_iter():
            with suppress(psutil.Error):
                if str(self._folder) in " ".join(shim.cmdline()):
                    for process in [*shim.children(recursive=True), shim]:
                        process.kill()

    def load(self, *references: str) -> None:
        """Copy these images from the engine that the tests use."""
        with closing(connect(LIMIT)) as source:
            copy_images(source, self.address, references)

    def said(self) -> str:
        """The end of its log."""
        return (self._folder / "log").read_text(errors="replace")[-4000:]

    def _answers(self) -> bool:
        if not self.socket.exists():
            return False
        try:
            docker.APIClient(self.address, timeout=int(LIMIT)).close()
        except (docker.errors.DockerException, OSError):
            return False
        return True


@contextmanager
def a_daemon(
    path_prefix: str | os.PathLike[str] | None = None,
    *,
    images: Sequence[str] = (BASE_IMAGE,),
    options: Sequence[str] = (),
) -> Iterator[PrivateDaemon]:
    """A daemon that runs and has these images; at the end nothing of it is left.

    `path_prefix` is a folder in which it, and what it starts, looks for programs first; `options` are further
    ones of dockerd. Skips the test where there cannot be one. Nothing in this process uses it by itself: that
    takes DOCKER_HOST.
    """
    if os.getuid() != 0:
        pytest.skip("only root can start a Docker daemon of its own")
    if missing := [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]:
        pytest.skip(f"a Docker daemon of its own needs {', '.join(missing)}")
    path = PATH if path_prefix is None else f"{os.fspath(path_prefix)}{os.pathsep}{PATH}"
    # Short, as sockets want it.
    folder = Path(tempfile.mkdtemp(prefix="ds01-daemon-")).resolve()
    (folder / "daemon.json").write_text("{}")
    daemon = PrivateDaemon(folder, {**os.environ, "PATH": path}, options)
    try:
        daemon.start()
        daemon.load(*images)
        yield daemon
    finally:
        end(daemon)
        shutil.rmtree(folder)


def copy_images(source: docker.APIClient, address: str, references: Sequence[str]) -> None:
    """From one engine to another, which is at that address."""
    # In one archive, so that layers which they share are copied once; docker-py has no method for it.
    answer = source._get(  # type: ignore[attr-defined]
        source._url("/images/get"),  # type: ignore[attr-defined]
        params={"names": references},
        stream=True,
    )
    source._raise_for_status(answer)  # type: ignore[attr-defined]
    with tempfile.TemporaryFile() as archive, closing(docker.APIClient(address, timeout=int(LIMIT))) as here:
        for chunk in answer.iter_content(1 << 20):
            archive.write(chunk)
        archive.seek(0)
        for _ in here.load_image(archive):
            pass


def end(daemon: PrivateDaemon) -> None:
    """Stop it with all that it runs."""
    try:
        with suppress(AssertionError, docker.errors.DockerException, OSError):
            if not daemon.is_running:
                # What a killed one left can only be ended by the next.
                daemon.start()
            client = docker.APIClient(daemon.address, timeout=int(LIMIT))
            for container in client.containers(all=True):
                client.remove_container(container["Id"], force=True)
            client.close()
    finally:
        daemon.stop()
        daemon.end_remains()
