"""An ordinary user of this machine, for tests that only root can run, and a Python that the user may run."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import site
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from servers import wait_for

import ds01_kernels

PACKAGE = Path(ds01_kernels.__file__).parent


def why_no_user() -> str:
    """Why no user can be made; empty: one can."""
    if os.getuid() != 0:
        return "only root may make a user"
    for tool in ("useradd", "userdel", "setpriv"):
        if shutil.which(tool) is None:
            return f"there is no {tool} here"
    return ""


@contextmanager
def a_user(groups: Sequence[int] = ()) -> Iterator[pwd.struct_passwd]:
    """A new user in these groups; gone afterwards, with the home."""
    name = f"ds01test{secrets.token_hex(4)}"
    # Not the next free one: directories of another test's user would have waited for it.
    uid = str(20_000 + secrets.randbelow(30_000))
    member = ["-G", ",".join(map(str, groups))] if groups else []
    subprocess.run(["useradd", "-m", "-u", uid, *member, "-s", "/bin/bash", name], check=True)
    try:
        yield pwd.getpwnam(name)
    finally:
        shutil.rmtree(f"/tmp/ds01-kernels-{uid}", ignore_errors=True)
        wait_for(
            lambda: subprocess.run(["userdel", "-r", name], capture_output=True).returncode in (0, 6, 12),
            f"the user {name} cannot be removed",
        )
        shutil.rmtree(f"/home/{name}", ignore_errors=True)


@contextmanager
def a_python(user: pwd.struct_passwd) -> Iterator[list[str]]:
    """A command that the user may run: an interpreter like this one with its packages.

    What lies in folders that only root may enter is shown, or copied, outside of them.
    """
    place = Path(tempfile.mkdtemp(prefix="ds01-python-")).resolve()
    place.chmod(0o755)
    try:
        yield _install(user, place)
    finally:
        for shown in (*place.iterdir(), *place.glob("ours/*")):
            subprocess.run(["umount", "--lazy", shown], capture_output=True)
        # What is still shown here would be this machine's own. (`Path.is_mount` does not know of binds.)
        assert str(place) not in Path("/proc/self/mountinfo").read_text(), f"{place} could not be taken down"
        shutil.rmtree(place)


def _install(user: pwd.struct_passwd, place: Path) -> list[str]:
    base, command = Path(sys.base_prefix), [str(place / "venv" / "bin" / "python")]
    if not _is_readable(user, Path(os.path.realpath(sys.executable)), Path(os.__file__)):
        base = _outside(base, place / "python")
        # Its own libpython, if it has one, is looked for where it was installed.
        command = ["env", f"LD_LIBRARY_PATH={base / 'lib'}", *command]
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    subprocess.run([base / "bin" / version, "-m", "venv", "--without-pip", place / "venv"], check=True)
    packages = [Path(sysconfig.get_path("purelib")), *map(Path, site.getsitepackages())]
    packages = [path for path in dict.fromkeys(packages) if path.is_dir()]
    if not _is_readable(user, *packages):
        packages = [_outside(path, place / f"packages-{number}") for number, path in enumerate(packages)]
    ours = PACKAGE.parent
    if not _is_readable(user, PACKAGE):
        ours = _outside(PACKAGE, place / "ours" / PACKAGE.name).parent
    # addsitedir, unlike a plain line in a .pth file, reads the .pth files there.
    lines = [f"import site; site.addsitedir({str(path)!r})\n" for path in packages]
    inside = place / "venv" / "lib" / version / "site-packages"
    (inside / "tests.pth").write_text("".join([f"{ours}\n", *lines]))
    return command


def _is_readable(user: pwd.struct_passwd, *paths: Path) -> bool:
    command = 'for path; do [ -r "$path" ] && { [ ! -d "$path" ] || [ -x "$path" ]; } || exit 1; done'
    done = subprocess.run([*as_user(user), "/bin/sh", "-c", command, "sh", *map(str, paths)])
    return done.returncode == 0


def _outside(source: Path, target: Path) -> Path:
    """What is in `source`, in `target`: the same files, not to be written to, or a copy that all may read."""
    target.mkdir(parents=True)
    closed = ["find", source, "!", "-type", "l", "!", "-perm", "-o+r", "-print", "-quit"]
    if (
        not subprocess.run(closed, capture_output=True, check=True).stdout
        and subprocess.run(["mount", "--bind", source, target], capture_output=True).returncode == 0
    ):
        subprocess.run(["mount", "-o", "remount,bind,ro", target], check=True)
        return target
    # With what is compiled: the user could not keep that, and would compile it in every process.
    shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
    subprocess.run(["chmod", "-R", "a+rX", target], check=True)
    return target


def as_user(user: pwd.struct_passwd) -> list[str]:
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--init-groups"]
