"""Whether kernels can live in a container, looked at before it takes the place of another."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.session import new_id_bytes

from ..agent.protocol import Message
from ..agent_client import Agent
from ..agent_requests import KernelRequest
from ..connection import PORTS, inside
from ..engine import Engine
from ..errors import AgentError, CheckFailedError, KernelFailedError
from ..installing import run
from ..packages import Installed, UnclearError, breakages
from ..requirement import read_requirement
from ..station import Station
from ..text import clean
from ..variables import WORKSPACE, Variables

log = logging.getLogger("ds01_kernels")

#: Seconds for a new kernel to answer.
ANSWER_LIMIT = 60.0

#: Seconds for ``pip check``, and what it says where there is no pip.
PIP_LIMIT = 120.0
NO_PIP = "No module named pip"

#: The agent of a running container with the packages that kernels have now; None where there is no image yet.
Before = Callable[[], AbstractAsyncContextManager[Agent | None]]
#: Keeps what is installed.
Keep = Callable[[Installed], Coroutine[Any, Any, None]]


async def check(engine: Engine, station: Station, wanted: Sequence[str], before: Before, keep: Keep) -> None:
    """See that a kernel answers in a new container, and that all that is wanted is installed.

    `wanted` are requirements. What does not fit together `before` need not in the new one. Raises
    `CheckFailedError` with what is wrong.
    """
    looks = [asyncio.create_task(_check_kernel(station))]
    try:
        message = await station.agent.packages()
        # In a thread: a hostile list takes seconds to read.
        installed = await asyncio.to_thread(Installed.from_message, message)
        _check_packages(installed, wanted)
        looks.append(asyncio.create_task(check_dependencies(engine, station.agent, message, before)))
        looks.append(asyncio.create_task(keep(installed)))
        await asyncio.gather(*looks)
    finally:
        for look in looks:
            look.cancel()
        await asyncio.gather(*looks, return_exceptions=True)


def _check_packages(installed: Installed, wanted: Sequence[str]) -> None:
    found = {package.name: package for package in installed.packages}
    for spec in wanted:
        one = read_requirement(spec)
        if one.parsed.marker is not None:
            continue
        package = found.get(one.name)
        if package is None:
            raise CheckFailedError(f"{one.name} is not installed in the new image, though it was built.")
        if not one.parsed.specifier.contains(package.version, prereleases=True):
            raise CheckFailedError(
                f"The new image has {one.name} {package.version}, not {one.parsed.specifier}.",
                remedy="Another line of the Dockerfile, or another package, asks for that version.",
            )


async def check_dependencies(engine: Engine, agent: Agent, message: Message, before: Before) -> None:
    async def read(one: Agent) -> frozenset[str]:
        return await asyncio.to_thread(breakages, message if one is agent else await one.packages())

    try:
        problems = await _new_problems(read, agent, before)
    except UnclearError as error:
        log.info("Whether packages fit together is left to pip: %s", error)
        problems = await _new_problems(lambda one: _asked_of_pip(engine, one), agent, before)
    if problems:
        first, *more = sorted(problems)
        rest = f" (and {len(more)} more)" if more else ""
        raise CheckFailedError(
            f"The packages of the new image do not fit together: {first}{rest}",
            remedy="Choose other versions, or leave one of the packages out.",
        )


async def _new_problems(
    problems: Callable[[Agent], Awaitable[frozenset[str]]], agent: Agent, before: Before
) -> frozenset[str]:
    """Those with the packages there that are not with those `before`, told in the same way."""
    found = await problems(agent)
    if not found:
        return found
    try:
        async with before() as old:
            return found - await problems(old) if old is not None else found
    except AgentError as error:
        log.info("How packages fitted together before is not known: %s", error)
        return found


async def _asked_of_pip(engine: Engine, agent: Agent) -> frozenset[str]:
    """The lines of ``pip check``; none where there is no pip."""
    said: list[str] = []
    argv = [agent.survey["executable"], "-m", "pip", "--disable-pip-version-check", "check"]
    try:
        async with asyncio.timeout(PIP_LIMIT):
            code = await run(engine, agent.container, argv, Variables({}, {}), said.append)
    except TimeoutError:
        raise CheckFailedError(f"`pip check` did not end within {PIP_LIMIT:.0f} s.") from None
    text = clean("".join(said), colours=False)
    lines = (line for line in text.splitlines() if line.strip())
    return frozenset() if code == 0 or NO_PIP in text else frozenset(lines)


async def _check_kernel(station: Station) -> None:
    """Start a kernel, have it answer, and end it. Raises `CheckFailedError`."""
    name = f"check-{os.urandom(6).hex()}"
    key = new_id_bytes()
    connection: dict[str, Any] = {"transport": "ipc", "ip": inside(name), "key": key.decode(), **PORTS}
    request = KernelRequest(
        process=name,
        cwd=str(WORKSPACE),
        env={},
        files={},
        connection={**connection, "signature_scheme": "hmac-sha256", "kernel_name": "check"},
    )
    try:
        started = await station.begin(request)
        try:
            await _await_answer({**connection, "ip": started.prefix, "key": key})
        finally:
            started.process.end()
    except (KernelFailedError, AgentError, RuntimeError) as error:
        raise CheckFailedError(f"No kernel can run in the new image. {error}") from None


async def _await_answer(connection: dict[str, Any]) -> None:
    client = AsyncKernelClient()
    client.load_connection_info(connection)  # type: ignore[arg-type]
    client.start_channels(iopub=False, stdin=False, hb=False, control=False)
    try:
        async with asyncio.timeout(ANSWER_LIMIT):
            client.kernel_info()
            await client.get_shell_msg()
    except TimeoutError:
        raise KernelFailedError("It does not answer.") from None
    finally:
        client.stop_channels()
