"""Kernels on an engine of another machine, for which a private daemon stands: by TLS, and by ssh."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from conftest import ProjectFolder, with_engine
from live import (
    LiveKernel,
    Site,
    a_kernel,
    a_site,
    containers_of,
    forgetting_singletons,
    inspect,
    nothing_left,
    until,
)
from private_daemon import PrivateDaemon, a_daemon
from remote import SshServer, Way, by_ssh, by_tls, make_certificates, tls_options

from ds01_kernels.engine.docker_ssh import ssh_command
from ds01_kernels.errors import EngineUnreachableError

engine = pytest.mark.engine


def counting(lines: int) -> str:
    """Prints a line every 0.1 s; where it is stands in a file of the project."""
    return f"""
import time
for n in range({lines}):
    print(n, flush=True)
    open('at', 'w').write(str(n))
    time.sleep(0.1)
"""


def counted(lines: int) -> tuple[str, str]:
    """The outcome of that."""
    return "".join(f"{n}\n" for n in range(lines)), ""


@dataclass(frozen=True)
class Remote:
    """A daemon, a way to it, and a project on it."""

    daemon: PrivateDaemon
    way: Way
    site: Site
    project: ProjectFolder

    @property
    def kernel(self) -> str:
        return f"ds01-{self.project.name}"

    def at(self) -> int:
        """Where `counting` is."""
        at = self.project.path / "at"
        text = at.read_text() if at.exists() else ""
        return int(text) if text else -1


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ds01-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def remote(engine_available: None) -> Iterator[Remote]:
    with tempfile.TemporaryDirectory(prefix="ds01-tls-") as name:
        make_certificates(Path(name))
        with (
            a_daemon(options=tls_options(Path(name))) as daemon,
            by_tls(daemon, Path(name)) as way,
            a_site() as site,
        ):
            yield Remote(daemon, way, site, site.project("remote"))


@engine
def test_a_kernel_by_tls(remote: Remote) -> None:
    with a_kernel(remote.kernel, cwd=str(remote.project.path)) as kernel:
        assert (
            kernel.run("import sys, os; print(sys.executable, os.getcwd())") == "/usr/bin/python /workspace\n"
        )
        assert [mount["Destination"] for mount in inspect(remote.project)["Mounts"]] == ["/workspace"]
        assert [path.name for path in remote.project.path.glob(".*")] == []
        _loses_no_line(remote, kernel)
        # A second client, and much of everything.
        with a_kernel(remote.kernel) as other:
            request = kernel.client.execute("for _ in range(20): print('x' * (1 << 20))")
            assert other.run("print('meanwhile')") == "meanwhile\n"
            assert len(kernel.outcome(request)[0]) == 20 * ((1 << 20) + 1)
        kernel.run("import os; before = os.getpid()")
        kernel.restart()
        assert "NameError" in kernel.outcome(kernel.client.execute("before"))[1]
    nothing_left(remote.site, remote.project)


def _loses_no_line(remote: Remote, kernel: LiveKernel) -> None:
    """The way is cut while a cell prints 50 lines, in 5 s."""
    request = kernel.client.execute(counting(80))
    until(lambda: remote.at() >= 10)
    remote.way.cut()
    until(lambda: remote.at() >= 60)
    assert kernel.code is None
    remote.way.open()
    assert kernel.outcome(request) == counted(80)


@engine
def test_a_machine_that_has_other_files_at_that_path(remote: Remote) -> None:
    project = remote.site.project("other")
    enter = remote.daemon.enter
    before = containers_of(remote.site)
    subprocess.run([*enter, "mount", "-t", "tmpfs", "none", str(project.path)], check=True)
    with a_kernel(f"ds01-{project.name}") as kernel:
        said = kernel.explanation()
    assert f"is not {project.path} of this machine" in said
    assert "Have one file system at the same path on both machines" in said
    assert [path.name for path in project.path.iterdir()] == ["Dockerfile"]
    subprocess.run([*enter, "mount", "-t", "tmpfs", "none", str(project.path.parent)], check=True)
    with a_kernel(f"ds01-{project.name}") as kernel:
        said = kernel.explanation()
    assert f"the directory {project.path} does not exist where the engine runs" in said
    subprocess.run([*enter, "umount", str(project.path.parent)], check=True)
    subprocess.run([*enter, "umount", str(project.path)], check=True)
    assert containers_of(remote.site) == before


@engine
def test_a_kernel_by_ssh(remote: Remote, folder: Path) -> None:
    with by_ssh(remote.daemon, folder) as server, forgetting_singletons():
        (remote.project.path / "at").unlink(missing_ok=True)
        with a_kernel(remote.kernel, cwd=str(remote.project.path)) as kernel:
            request = kernel.client.execute(counting(40))
            until(lambda: remote.at() >= 10)
            server.cut()
            assert kernel.outcome(request) == counted(40)
            kernel.restart()
            assert kernel.run("print('again')") == "again\n"
        nothing_left(remote.site, remote.project)
        _by_context(server.address(remote.daemon), folder)
        _says_why_not(remote, server)
    until(lambda: not [child for child in psutil.Process().children() if child.name() == "ssh"])


def _by_context(address: str, folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_CONFIG", str(folder))
        patch.delenv("DOCKER_HOST")
        command = ["docker", "context", "create", "far", "--docker", f"host={address}"]
        subprocess.run(command, check=True, capture_output=True)
        patch.setenv("DOCKER_CONTEXT", "far")
        assert not with_engine(lambda engine: engine.info()).local


def _says_why_not(remote: Remote, server: SshServer) -> None:
    server.know("other")
    with forgetting_singletons(), a_kernel(remote.kernel) as kernel:
        said = kernel.explanation()
    assert f"cannot be reached at {server.address(remote.daemon)} (ssh: Host key verification failed)" in said
    assert "in a terminal" in said


@pytest.mark.parametrize(
    ("address", "end"),
    [
        ("ssh://host", "-- host docker system dial-stdio"),
        ("ssh://me@host:22022", "-l me -p 22022 -- host docker system dial-stdio"),
        ("ssh://host/", "-- host docker system dial-stdio"),
        ("ssh://host/run/a.sock", "-- host docker --host unix:///run/a.sock system dial-stdio"),
        ("ssh://host/a b;c", "-- host docker --host 'unix:///a b;c' system dial-stdio"),
        ("ssh://Host-A", "-- Host-A docker system dial-stdio"),
        ("ssh://me@[::1]:22", "-l me -p 22 -- ::1 docker system dial-stdio"),
        ("ssh://-oProxyCommand=x", "-- -oProxyCommand=x docker system dial-stdio"),
    ],
)
def test_what_ssh_is_told(address: str, end: str) -> None:
    command = ssh_command(address)
    assert command[0] == "ssh"
    assert "-oBatchMode=yes" in command
    assert " ".join(command).endswith(f" {end}")


@pytest.mark.parametrize(
    "address", ["ssh://", "ssh:///run/a.sock", "ssh://a:b", "ssh://me:word@host", "ssh://[a"]
)
def test_an_address_without_a_machine_is_refused(address: str) -> None:
    with pytest.raises(EngineUnreachableError) as caught:
        ssh_command(address)
    assert "Write it as ssh://USER@HOST" in caught.value.remedy
