"""Building through the engine's API, with either of its builders.

https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Image/operation/ImageBuild
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import replace

import docker.errors
from docker import APIClient
from docker.utils import parse_repository_tag

from ds01_kernels.engine import BuildProgress, BuildRequest
from ds01_kernels.engine.docker_buildkit import TraceReport, ended_early, is_lost
from ds01_kernels.engine.docker_classic import ClassicReport, pull_status
from ds01_kernels.engine.docker_connection import RAISED, translated
from ds01_kernels.engine.docker_context import Context
from ds01_kernels.engine.docker_conversation import Connect, Conversation, EndedError, Message, messages
from ds01_kernels.engine.docker_failure import build_failed, is_unusable, unusable
from ds01_kernels.engine.docker_steps import StepLines
from ds01_kernels.engine.docker_trace import from_aux
from ds01_kernels.errors import BuildFailedError, Ds01Error


class RefusedError(Exception):
    """The builder cannot be used here, and nothing has been built: another one may do it."""


async def classic_build(
    connect: Connect,
    request: BuildRequest,
    context: Context,
    read_by: Callable[[BuildRequest], ClassicReport] = ClassicReport,
) -> AsyncGenerator[BuildProgress, None]:
    """With the classic builder. Leaving early ends the build in the engine too. `read_by` reads what it says.

    Raises `BuildFailedError`, `BadInputError` for an unreadable context, and the `EngineError` family.
    """
    report = read_by(request)
    conversation = Conversation(connect, lambda call, client: _posted(call, client, request, context.tar()))
    try:
        async with aclosing(messages(conversation)) as received:
            async for message in received:
                for progress in report.read(message):
                    yield progress
        for progress in report.finished():
            yield progress
    except BuildFailedError as error:
        # An engine that is being stopped kills what it builds, and has closed its door before.
        if report.was_killed and not await asyncio.to_thread(_answers, connect):
            raise ended_early() from error
        raise
    except RAISED as error:
        raise _refused(error) from error


async def buildkit_build(
    connect: Connect, request: BuildRequest, context: Context
) -> AsyncGenerator[BuildProgress, None]:
    """With BuildKit, as `classic_build`; `request.pull` is for the caller to do. Raises `RefusedError` too.

    No session goes with it, through which BuildKit would ask for secrets and for accounts of registries:
    https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Session
    """
    identity = secrets.token_hex(16)

    def begin(call: Conversation, client: APIClient) -> Iterator[Message]:
        # docker-py does not know these two; the session's parameters go with each request.
        client.params = {"version": "2", "buildid": identity}
        # What is no archive is the Dockerfile itself, and BuildKit has nothing to unpack and to copy first:
        # https://github.com/moby/buildkit/blob/v0.8.3/frontend/dockerfile/builder/build.go
        body = context.tar() if context.is_needed else iter((context.text,))
        return _posted(call, client, replace(request, pull=False), body)

    def cancel(client: APIClient) -> None:
        client.params = {"id": identity}
        client.post(f"{client.base_url}/v{client.api_version}/build/cancel", timeout=5)

    report, image_id = TraceReport(request), ""
    try:
        async with aclosing(messages(Conversation(connect, begin, cancel))) as received:
            async for message in received:
                if message.get("id") == "moby.buildkit.trace":
                    for progress in report.read(from_aux(message.get("aux"))):
                        yield progress
                elif message.get("id") == "moby.image.id":
                    image_id = str(message["aux"]["ID"])
                elif error := message.get("error"):
                    raise ended_early() if is_lost(str(error)) else report.failure(str(error))
        yield report.finished(image_id)
    except RAISED as error:
        if not report.has_begun and _knows_no_buildkit(error):
            raise RefusedError(str(error)) from error
        raise _refused(error) from error


async def pulled(
    connect: Connect, reference: str, request: BuildRequest
) -> AsyncGenerator[BuildProgress, None]:
    """Pull an image that the Dockerfile names. Raises `BuildFailedError` with the line that names it."""
    line = StepLines(request.dockerfile, request.args).of_image(reference)

    def begin(call: Conversation, client: APIClient) -> Iterator[Message]:
        repository, tag = parse_repository_tag(reference)
        found: Iterator[Message] = client.pull(repository, tag or "latest", stream=True, decode=True)
        return found

    try:
        async with aclosing(messages(Conversation(connect, begin))) as received:
            async for message in received:
                if error := message.get("error"):
                    raise build_failed(str(error), instruction=f"FROM {reference}", line=line)
                if text := pull_status(message):
                    yield BuildProgress(name=f"FROM {reference}", line=line, log=text)
    except RAISED as error:
        if isinstance(error, docker.errors.APIError):
            text = str(error.explanation or error)
            raise build_failed(text, instruction=f"FROM {reference}", line=line) from error
        raise translated(error, f"pull {reference}") from error


def _posted(
    call: Conversation, client: APIClient, request: BuildRequest, body: Iterator[bytes]
) -> Iterator[Message]:
    def pieces() -> Iterator[bytes]:
        for piece in body:
            if call.is_ended:
                raise EndedError
            # requests sends an empty piece as the end of the body.
            if piece:
                yield piece

    received: Iterator[Message] = client.build(
        fileobj=pieces(),  # type: ignore[arg-type] # requests sends any iterable of bytes
        custom_context=True,
        decode=True,
        tag=request.tag,
        buildargs=dict(request.args),
        labels=dict(request.labels),
        pull=request.pull,
        nocache=request.no_cache,
        rm=True,
        forcerm=True,
    )
    return received


def _answers(connect: Connect) -> bool:
    try:
        connect().close()
    except (*RAISED, Ds01Error):
        return False
    return True


def _refused(error: Exception) -> Ds01Error:
    """Our error for what docker-py raised: the classic builder refuses a Dockerfile before the first step."""
    if isinstance(error, docker.errors.APIError):
        text = str(error.explanation or error)
        if is_unusable(text) or error.is_client_error():
            return unusable(text)
    return translated(error, "build the image")


def _knows_no_buildkit(error: Exception) -> bool:
    return isinstance(error, docker.errors.APIError) and bool(
        re.search(r"buildkit|builder version|unknown version", str(error.explanation or error), re.IGNORECASE)
    )
