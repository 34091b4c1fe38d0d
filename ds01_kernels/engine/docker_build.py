"""Building with the engine's classic builder, the one that every engine has.

https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Image/operation/ImageBuild
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import docker.errors
import requests
from docker import APIClient

from ds01_kernels.engine import BuildProgress, BuildRequest
from ds01_kernels.engine.docker_connection import RAISED, disk_full, translated
from ds01_kernels.engine.docker_context import context_tar
from ds01_kernels.engine.docker_steps import instructions
from ds01_kernels.errors import BuildFailedError, Ds01Error, EngineError

Message = Mapping[str, Any]


async def classic_build(
    connect: Callable[[], APIClient], request: BuildRequest
) -> AsyncIterator[BuildProgress]:
    """Build `request` on a connection of its own. Leaving early ends the build in the engine too.

    Raises `BuildFailedError`, `BadInputError` for an unreadable context, and the `EngineError` family.
    """
    conversation = _Conversation(connect, request)
    report = BuildReport(request.dockerfile)
    thread = ThreadPoolExecutor(1, thread_name_prefix="ds01-build")
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Message | None] = loop.run_in_executor(thread, conversation.next)
    try:
        while True:
            # Unlike `await answer`, this leaves the future whole when it is cancelled.
            await asyncio.wait({answer})
            message = answer.result()
            if message is None:
                break
            for progress in report.read(message):
                yield progress
            answer = loop.run_in_executor(thread, conversation.next)
        yield report.finished()
    except RAISED as error:
        raise report.refused(error) from error
    finally:
        conversation.end()
        await asyncio.wait({answer}, timeout=5)
        answer.add_done_callback(_looked_at)
        thread.shutdown(wait=False)


def _looked_at(answer: asyncio.Future[Message | None]) -> None:
    if not answer.cancelled():
        answer.exception()


class _EndedError(Exception):
    """The build was left: says so to the thread that runs it."""


class _Conversation:
    """One request to build: `next` belongs to one thread, `end` may come from any."""

    def __init__(self, connect: Callable[[], APIClient], request: BuildRequest) -> None:
        self._connect = connect
        self._request = request
        self._messages: Iterator[Message] | None = None
        self._response: requests.Response | None = None
        self._ended = False

    def next(self) -> Message | None:
        """The engine's next message; None when there are no more."""
        if self._messages is None:
            self._messages = self._begin()
        return next(self._messages, None)

    def end(self) -> None:
        self._ended = True
        if self._response is not None:
            _hang_up(self._response)

    def _begin(self) -> Iterator[Message]:
        client = self._connect()
        # docker-py keeps the response to itself, and without it a build cannot be ended.
        client.hooks["response"].append(self._opened)
        wanted = self._request
        messages: Iterator[Message] = client.build(
            fileobj=self._context(),  # type: ignore[arg-type] # requests sends any iterable of bytes
            custom_context=True,
            decode=True,
            tag=wanted.tag,
            buildargs=dict(wanted.args),
            labels=dict(wanted.labels),
            pull=wanted.pull,
            nocache=wanted.no_cache,
            rm=True,
            forcerm=True,
        )
        return messages

    def _context(self) -> Iterator[bytes]:
        for piece in context_tar(self._request.directory, self._request.dockerfile):
            if self._ended:
                raise _EndedError
            # requests sends an empty piece as the end of the body.
            if piece:
                yield piece

    def _opened(self, response: requests.Response, *_: object, **__: object) -> None:
        self._response = response
        if self._ended:
            raise _EndedError


def _hang_up(response: requests.Response) -> None:
    """End a response that another thread may be waiting on: closing alone would wait for that thread."""
    connection = response.raw.connection
    waiting = getattr(connection, "sock", None)
    if waiting is not None:
        with suppress(OSError):
            waiting.shutdown(socket.SHUT_RDWR)


class BuildReport:
    """Reads what the classic builder (or Podman's) says about a build of the Dockerfile `text`."""

    def __init__(self, text: str) -> None:
        self._instructions = list(instructions(text))
        self._step = BuildProgress()
        self._instruction = ""
        self._image_id = ""
        self._last: deque[str] = deque(maxlen=20)

    def read(self, message: Message) -> Iterator[BuildProgress]:
        """Raises `BuildFailedError` when the message is the end of a failed build."""
        if error := message.get("error"):
            raise self._failed(str(error))
        if "ID" in (message.get("aux") or {}):
            # One for each stage: the last is the image.
            self._image_id = str(message["aux"]["ID"])
        text = message.get("stream") or _pull_status(message)
        if not text:
            return
        self._last += text.splitlines()
        if step := _STEP.match(text):
            self._enter(int(step[1]), int(step[2]), step[3].strip())
        here = self._step
        cached = bool(_CACHED.match(text))
        yield BuildProgress(here.step, here.steps, here.name, here.line, cached, text)

    def finished(self) -> BuildProgress:
        if not self._image_id:
            raise EngineError(
                "Docker ended the build without an image.", remedy="Was it restarted? Try again."
            )
        here = self._step
        return BuildProgress(here.step, here.steps, here.name, here.line, image_id=self._image_id)

    def refused(self, error: Exception) -> Ds01Error:
        """Our error for what docker-py raised: an unusable Dockerfile is refused before the first step."""
        if isinstance(error, docker.errors.APIError):
            text = str(error.explanation or error)
            named = re.search(r"parse error (?:on )?line (\d+)", text, re.IGNORECASE)
            if named or error.is_client_error():
                return BuildFailedError(
                    f"The Dockerfile cannot be built: {text}.",
                    line=int(named[1]) if named else None,
                    log=text,
                )
        return translated(error, "build the image")

    def _enter(self, step: int, steps: int, instruction: str) -> None:
        # The builder adds a step for the labels of the request, which stands in no line.
        line, keyword = self._instructions[step - 1] if step <= len(self._instructions) else (None, "LABEL")
        follows = step == self._step.step + 1 and self._step.steps in (0, steps)
        # A command's own output may look like a step.
        if follows and instruction.upper().startswith(keyword):
            self._instruction = instruction
            self._step = BuildProgress(step, steps, instruction, line)

    def _failed(self, text: str) -> BuildFailedError:
        line, log = self._step.line, "\n".join(self._last)
        where = f"line {line} of the Dockerfile" if line else "a step of the build"
        short = self._instruction if len(self._instruction) <= 100 else self._instruction[:99] + "…"
        remedy = ""
        if "no space left on device" in text.lower():
            message, remedy = disk_full(f"build {where}")
        elif code := re.search(r"returned a non-zero code: (\d+)", text):
            message = f"The build failed at {where}: `{short}` ended with exit code {code[1]}."
        elif short:
            message = f"The build failed at {where}, `{short}`: {text.rstrip('.')}."
        else:
            message = f"The build failed: {text.rstrip('.')}."
        if self._instruction.upper().startswith("FROM") and not remedy:
            remedy = (
                "Is the name of the base image right? Where no image registry can be reached, "
                "`jupyter ds01 base-image` builds one here."
            )
        return BuildFailedError(message, remedy=remedy, line=line, log=log)


_STEP = re.compile(r"step (\d+)/(\d+) ?: (.*)", re.IGNORECASE)
_CACHED = re.compile(r"\s*-{2,3}> Using cache")


def _pull_status(message: Message) -> str:
    # Progress bars are many and say nothing in a log.
    if "status" not in message or message.get("progressDetail"):
        return ""
    return ": ".join(str(message[key]) for key in ("id", "status") if message.get(key)) + "\n"
