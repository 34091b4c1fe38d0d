"""Building through a docker client on the PATH: with its buildx plugin, or in whatever way it has BuildKit.

Unlike the API alone, a client gives BuildKit what it asks for on the way: secrets, and the user's accounts at
image registries.
"""

from __future__ import annotations

import asyncio
import codecs
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from docker.context import ContextAPI

from ds01_kernels.engine import BuildProgress, BuildRequest
from ds01_kernels.engine.docker_build import RefusedError
from ds01_kernels.engine.docker_buildkit import TraceReport, ended_early, is_lost
from ds01_kernels.engine.docker_context import Context
from ds01_kernels.engine.docker_plain import PlainReader
from ds01_kernels.engine.docker_trace import Trace, from_json
from ds01_kernels.errors import BadInputError, Ds01Error, EngineDeniedError, EngineError

ClientKind = Literal["buildx", "client"]

# The first buildx that prints rawjson: https://github.com/docker/buildx/releases/tag/v0.13.0
_RAWJSON_SINCE = (0, 13)
# From this one on a client has no BuildKit of its own: https://docs.docker.com/engine/release-notes/23.0/
_NO_BUILDKIT_SINCE = 23
_PROBE_LIMIT = 20.0
# Seconds between the polite signal and the other one.
_GRACE = 2.0
_LONGEST_LINE = 8 * 1024 * 1024
# What the client says in place of building when it cannot do it.
_REFUSED = re.compile(
    r"unknown (?:shorthand )?flag|unknown command|is not a docker command|buildx component is missing"
    r'|no builder ".*" found|buildkit not supported|invalid progress|does not support',
    re.IGNORECASE,
)


def client_kind() -> ClientKind | None:
    """Which way of building with BuildKit the first `docker` on the PATH has; None: none. Blocks."""
    if shutil.which("docker") is None:
        return None
    plugin = re.search(r"buildx v?(\d+)\.(\d+)", _said("buildx", "version"))
    if plugin:
        return "buildx" if (int(plugin[1]), int(plugin[2])) >= _RAWJSON_SINCE else "client"
    own = re.match(r"(\d+)\.", _said("version", "--format", "{{.Client.Version}}"))
    return "client" if own and 18 < int(own[1]) < _NO_BUILDKIT_SINCE else None


def _said(*arguments: str) -> str:
    try:
        return subprocess.run(
            ["docker", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_PROBE_LIMIT,
            check=False,
        ).stdout.decode("utf-8", "replace")
    except (OSError, subprocess.TimeoutExpired):
        return ""


async def client_build(
    kind: ClientKind, request: BuildRequest, context: Context
) -> AsyncGenerator[BuildProgress, None]:
    """Leaving early ends the client, and with it the build.

    Raises `BuildFailedError`, `BadInputError`, `RefusedError`, and the `EngineError` family.
    """
    with tempfile.TemporaryDirectory(prefix="ds01-build-") as folder:
        identity = Path(folder) / "id"
        process = await _started(kind, request, identity)
        feeding = asyncio.create_task(fed(process, context))
        report = TraceReport(request, is_announced=kind == "buildx")
        reader = _TraceLines() if kind == "buildx" else _PlainLines()
        try:
            async for line in lines(process):
                for progress in report.read(reader.read(line)):
                    yield progress
            code = await process.wait()
            await feeding
            if code != 0:
                raise _failure(report, reader.said)
            yield report.finished(identity.read_text(encoding="utf-8") if identity.exists() else "")
        finally:
            feeding.cancel()
            await _ended(process)


async def _started(kind: ClientKind, request: BuildRequest, identity: Path) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            *_command(kind, request, identity),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "DOCKER_BUILDKIT": "1"},
            start_new_session=True,
        )
    except OSError as error:
        raise RefusedError(f"docker cannot be started: {error.strerror}") from error


def _command(kind: ClientKind, request: BuildRequest, identity: Path) -> Sequence[str]:
    # The builder that is the engine itself: another one would not see its images.
    start = (
        ["docker", "buildx", "build", "--builder", _context(), "--progress=rawjson", "--provenance=false"]
        if kind == "buildx"
        else ["docker", "build", "--progress=plain"]
    )
    return [
        *start,
        *(f"--build-arg={name}={value}" for name, value in request.args.items()),
        *(f"--label={name}={value}" for name, value in request.labels.items()),
        *(f"--secret={secret_option(name, path)}" for name, path in request.secrets.items()),
        *(["--pull"] if request.pull else []),
        *(["--no-cache"] if request.no_cache else []),
        f"--iidfile={identity}",
        f"--tag={request.tag}",
        "-",
    ]


def _context() -> str:
    """The name of the docker context, which is that of its builder too."""
    if os.environ.get("DOCKER_HOST"):
        return "default"
    return os.environ.get("DOCKER_CONTEXT") or str(getattr(ContextAPI.get_context(), "Name", "default"))


def secret_option(name: str, path: Path) -> str:
    if not re.fullmatch(r"[\w.-]+", name) or any(one in str(path) for one in ('"', "\n", "\r")):
        raise BadInputError(f"The build secret {name!r} from {str(path)!r} cannot be given to docker.")
    # A line of CSV.
    return f'id={name},"src={path}"' if "," in str(path) else f"id={name},src={path}"


async def fed(process: asyncio.subprocess.Process, context: Context) -> None:
    """Send the context; an early end of the client shows in its exit code."""
    assert process.stdin is not None
    pieces = context.tar()
    try:
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            process.stdin.write(piece)
            await process.stdin.drain()
    except (BrokenPipeError, ConnectionResetError):
        return
    except Ds01Error:
        # Half a context must not become an image.
        process.kill()
        raise
    finally:
        with suppress(OSError):
            process.stdin.close()


async def lines(process: asyncio.subprocess.Process) -> AsyncGenerator[str, None]:
    """What the client prints, line by line; a line of unusual length comes in pieces."""
    assert process.stderr is not None
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    waiting = ""
    while data := await process.stderr.read(64 * 1024):
        *whole, waiting = (waiting + decoder.decode(data)).split("\n")
        for line in whole:
            yield line
        if len(waiting) > _LONGEST_LINE:
            yield waiting
            waiting = ""
    if waiting:
        yield waiting


class _PlainLines:
    def __init__(self) -> None:
        self._reader = PlainReader()
        #: The last lines that were no progress.
        self.said: deque[str] = deque(maxlen=20)

    def read(self, line: str) -> Trace:
        if not line.startswith("#"):
            self.said.append(line)
        return self._reader.read(line)


class _TraceLines:
    """JSON objects one after the other, each on one line or laid out over several."""

    def __init__(self) -> None:
        self._object: list[str] = []
        self.said: deque[str] = deque(maxlen=20)

    def read(self, line: str) -> Trace:
        if not self._object and not line.startswith("{"):
            self.said.append(line)
            return Trace()
        self._object.append(line)
        if not line.rstrip().endswith("}") or (len(self._object) > 1 and line.rstrip() != "}"):
            return Trace()
        text, self._object = "\n".join(self._object), []
        try:
            return from_json(json.loads(text))
        except ValueError as error:
            raise EngineError(f"docker buildx said what cannot be understood ({error}).") from error


def _failure(report: TraceReport, said: Sequence[str]) -> Exception:
    text = "\n".join(line for line in said if line.strip())
    if not report.has_begun and _REFUSED.search(text):
        return RefusedError(text.splitlines()[0])
    if is_lost(text):
        return ended_early()
    if "permission denied while trying to connect" in text:
        return EngineDeniedError(
            "You may not use Docker.",
            remedy="Ask the administrator to add you to the `docker` group, then log in again.",
        )
    last = [line for line in said if line.strip()][-1:] or ["docker ended without a word"]
    reason = re.sub(r"^ERROR: (?:failed to solve: )?(?:rpc error: code = \w+ desc = )?", "", last[0])
    return report.failure(reason)


async def _ended(process: asyncio.subprocess.Process) -> None:
    """End the client and what it started; it tells the engine to stop building."""
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    try:
        await asyncio.wait_for(asyncio.shield(process.wait()), _GRACE)
    except TimeoutError:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
