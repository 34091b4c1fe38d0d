"""Building with the podman program, which prints what its service would say, and can be ended."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from docker import APIClient

from ds01_kernels.engine import BuildProgress, BuildRequest
from ds01_kernels.engine.docker_build import classic_build
from ds01_kernels.engine.docker_builders import BuilderName, Builders
from ds01_kernels.engine.docker_classic import ClassicReport, Message
from ds01_kernels.engine.docker_client import fed, secret_option
from ds01_kernels.engine.docker_client import lines as chunks
from ds01_kernels.engine.docker_connection import RAISED, translated
from ds01_kernels.engine.docker_context import Context
from ds01_kernels.engine.docker_steps import instructions
from ds01_kernels.engine.podman_service import command, has_program, variables
from ds01_kernels.errors import EngineError

_PROBE_LIMIT = 30.0
# Seconds that a build which is left has to clear up behind itself.
_GRACE = 8.0
_PAUSE = 0.1

# What runs the command of a step: it ends that when it is told to end, and podman then removes the container
# of the step. https://github.com/containers/buildah/blob/v1.28.2/run_linux.go
_STEP_RUNNER = b"buildah-oci-runtime"

_STEP = re.compile(r"(?:\[(\d+)/\d+\] )?STEP (\d+)/\d+: (.*)", re.DOTALL)
_ERROR = "Error: "
# Where it failed is known, and of the rest no more than the reason is for a reader.
_ABOUT_ERROR = re.compile(
    r'^building at STEP ".*?": |checking on sources under "[^"]*": | &imagebuilder\.Step\{.*$'
)


class PodmanBuilders(Builders):
    """The podman program, where it has the images that the service has, else the service.

    That one takes no secrets, and goes on with a step that nobody waits for any more.
    """

    def _found(self) -> list[BuilderName]:
        try:
            client = self._connect()
            try:
                has_program = _shares_storage(client)
            finally:
                client.close()
        except RAISED as error:
            raise translated(error, "say how it builds") from error
        return ["client", "classic"] if has_program else ["classic"]

    def _built(
        self, builder: BuilderName, request: BuildRequest, context: Context, missing: Sequence[str]
    ) -> AsyncGenerator[BuildProgress, None]:
        if builder == "client":
            return command_build(request, context)
        return classic_build(self._connect, request, context, StagesReport)


def _shares_storage(client: APIClient) -> bool:
    """Whether the podman program keeps its images where the service at that socket of this machine does."""
    if not hasattr(client.get_adapter(client.base_url), "socket_path"):
        return False
    root = _storage_root()
    return bool(root) and root == client.info().get("DockerRootDir")


def _storage_root() -> str:
    """The folder in which the podman program keeps images; empty where it does not work. Blocks."""
    if not has_program():
        return ""
    try:
        told = subprocess.run(
            [*command(), "info", "--format={{.Store.GraphRoot}}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=variables(),
            cwd="/",
            timeout=_PROBE_LIMIT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return told.stdout.decode("utf-8", "replace").strip()


async def command_build(request: BuildRequest, context: Context) -> AsyncGenerator[BuildProgress, None]:
    """Leaving early ends the build.

    Raises `BuildFailedError`, `BadInputError` for what cannot be read, and `EngineError`.
    """
    with tempfile.TemporaryDirectory(prefix="ds01-build-") as folder:
        identity = Path(folder) / "id"
        process = await _started(request, identity)
        feeding = asyncio.create_task(fed(process, context))
        report, last, is_over = StagesReport(request), "", False
        try:
            async for line in chunks(process):
                # The last line is what podman says of a failure, any other what a command printed.
                waiting, last = last, line if line.startswith(_ERROR) else ""
                for text in ([waiting] if waiting else []) + ([] if last else [line]):
                    for progress in report.read({"stream": f"{text}\n"}):
                        yield progress
            code = await process.wait()
            is_over = True
            await feeding
            if code != 0:
                reason = last.removeprefix(_ERROR) or "podman ended without a word"
                for progress in report.read({"error": reason}):
                    yield progress
            made = await asyncio.to_thread(identity.read_text, encoding="utf-8")
            for progress in (*report.read({"aux": {"ID": made.strip()}}), *report.finished()):
                yield progress
        finally:
            feeding.cancel()
            if not is_over:
                await _ended(process)


class StagesReport(ClassicReport):
    """Podman counts the steps of each stage from one, and leaves out stages that nothing needs."""

    def __init__(self, request: BuildRequest) -> None:
        super().__init__(request)
        keywords = [keyword for _, keyword in instructions(request.dockerfile)]
        self._total = len(keywords) + (1 if request.labels else 0)
        self._starts = [index for index, keyword in enumerate(keywords) if keyword == "FROM"] or [0]

    def read(self, message: Message) -> Iterator[BuildProgress]:
        if error := message.get("error"):
            message = {"error": _ABOUT_ERROR.sub("", str(error))}
        found = _STEP.match(str(message.get("stream") or ""))
        stage = int(found[1] or 1) if found else 0
        if found and stage <= len(self._starts):
            number = self._starts[stage - 1] + int(found[2])
            message = {"stream": f"STEP {number}/{self._total}: {found[3]}"}
        yield from super().read(message)
        if found:
            # Nothing may follow for a long time.
            yield from self._announce()

    def _is_next(self, step: int) -> bool:
        return step > self._number


async def _started(request: BuildRequest, identity: Path) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            *_command(request, identity),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=variables(),
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise EngineError(f"Podman cannot be started: {error.strerror}.") from error


def _command(request: BuildRequest, identity: Path) -> Sequence[str]:
    return [
        # What comes on standard output and on the other keeps its order only in one stream.
        *("/bin/sh", "-c", 'exec "$@" 1>&2', "podman", *command(), "--log-level=error", "build"),
        # Only what was asked for reaches a build.
        "--http-proxy=false",
        *(f"--build-arg={name}={value}" for name, value in request.args.items()),
        *(f"--label={name}={value}" for name, value in request.labels.items()),
        *(f"--secret={secret_option(name, path)}" for name, path in request.secrets.items()),
        f"--pull={'always' if request.pull else 'missing'}",
        *(["--no-cache"] if request.no_cache else []),
        f"--iidfile={identity}",
        f"--tag={request.tag}",
        "-",
    ]


async def _ended(process: asyncio.subprocess.Process) -> None:
    """End the command that a step runs: podman then clears up and ends too. What else it does is cut off."""
    deadline = asyncio.get_running_loop().time() + _GRACE
    while process.returncode is None and asyncio.get_running_loop().time() < deadline:
        for runner in await asyncio.to_thread(_step_runners, process.pid):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(runner, signal.SIGTERM)
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(process.wait()), _PAUSE)
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def _step_runners(pid: int) -> list[int]:
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        with suppress(OSError):
            if Path(f"/proc/{one}/cmdline").read_bytes().startswith(_STEP_RUNNER):
                found.append(one)
                continue
        for children in Path(f"/proc/{one}/task").glob("*/children"):
            with suppress(OSError):
                waiting += map(int, children.read_text().split())
    return found
