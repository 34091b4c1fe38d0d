"""A copy that pip fetches, pinned by the hashes of a lock file."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import re
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from importlib.resources import as_file, files
from importlib.resources.abc import Traversable
from pathlib import Path

from ds01_kernels.errors import NoIpykernelError
from ds01_kernels.ipykernel_store.target import Target

REMEDY = "Add `ipykernel` to the project's Dockerfile, or give the server access to a package index."

# Where and for whom the user's pip usually installs must not decide over the copy. The rest of pip's
# configuration (index, certificates, proxy, cache) stays in force.
_NOT_OURS = frozenset(
    f"PIP_{option}"
    for option in (
        *("USER", "TARGET", "PREFIX", "ROOT", "REQUIREMENT", "CONSTRAINT", "DRY_RUN", "REPORT", "QUIET"),
        *("REQUIRE_VIRTUALENV", "ONLY_BINARY", "NO_BINARY", "PLATFORM", "ABI", "IMPLEMENTATION"),
        *("PYTHON", "PYTHON_VERSION"),
    )
)

# What pip puts into a target directory beside the packages.
_NO_PACKAGES = ("bin", "share", "etc", "include")


def digest(target: Target) -> str:
    """The beginning of the lock file's hash: another lock file makes another copy."""
    return _digest(target.python)


@lru_cache
def _digest(python: str) -> str:
    return hashlib.sha256(_lock_file(python).read_bytes()).hexdigest()[:12]


def _lock_file(python: str) -> Traversable:
    return files("ds01_kernels.ipykernel_store") / "locks" / f"py{python}.txt"


async def fetch(target: Target, folder: Path) -> None:
    """Install what the lock file lists into `folder`, whose parent must be private.

    Nothing that was fetched is run: only wheels, and only those whose hashes are in the lock file. Raises
    `NoIpykernelError` with what pip said last.
    """
    with as_file(_lock_file(target.python)) as lock:
        code, errors = await run(pip_command(target, folder, lock), cwd=folder.parent, env=pip_variables())
    if code != 0 and os.strerror(errno.ENOSPC) in errors:
        # `provide` has the sentence for that.
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if code != 0:
        raise NoIpykernelError(
            f"The image has no usable ipykernel, and it could not be fetched: {_why(errors)}",
            remedy=REMEDY,
        )
    for name in _NO_PACKAGES:
        await asyncio.to_thread(shutil.rmtree, folder / name, ignore_errors=True)


def pip_command(target: Target, folder: Path, lock: Path) -> list[str]:
    """The command that installs for another interpreter than the one that runs pip.

    pip evaluates environment markers for the latter (https://github.com/pypa/pip/issues/11664), so
    dependencies are not resolved here: the lock file has them all, and no markers.
    """
    # -P: the current directory must not be a place to import pip from.
    command = [sys.executable, "-P", "-m", "pip", "install", "--no-deps", "--require-hashes"]
    command += ["--only-binary", ":all:", "--target", str(folder), "--no-user", "--no-compile"]
    command += ["--no-input", "--quiet", "--disable-pip-version-check", "--no-color", "--progress-bar", "off"]
    command += ["--python-version", target.python, "--implementation", "cp", "--abi", target.abi]
    for platform in target.platforms:
        command += ["--platform", platform]
    return [*command, "--requirement", str(lock)]


def pip_variables() -> dict[str, str]:
    """The server's variables, without what would send the copy elsewhere."""
    variables = {name: value for name, value in os.environ.items() if name not in _NOT_OURS}
    return {**variables, "PIP_REQUIRE_VIRTUALENV": "0"}


async def run(argv: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run a command without input; return its exit code and standard error.

    Cancelling kills it with its children.
    """
    process = await asyncio.create_subprocess_exec(
        *argv,
        cwd=cwd,
        env=env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        _, errors = await process.communicate()
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    return process.returncode or 0, errors.decode(errors="replace")


def _why(errors: str) -> str:
    """The last error that pip printed, fit to be shown: one line, no control characters, no passwords."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    last = next(
        (line for line in reversed(lines) if line.startswith("ERROR:")), lines[-1] if lines else "pip failed"
    )
    last = re.sub(r"://[^/@\s]+@", "://", re.sub(r"[^ -~]", "?", last.removeprefix("ERROR:").strip()))[:300]
    unreached = "the package index did not answer. " if "Retrying" in errors else ""
    return f"{unreached}pip says: {last.rstrip('.')}."
