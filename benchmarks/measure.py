"""One measurement: a kernel started or restarted through jupyter_client, and when two replies came."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Literal

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager

#: Seconds for one reply.
REPLY_LIMIT = 60.0

#: Seconds before each measurement, so that one case does not pay for the end of the last one.
QUIET = 0.3

#: What a kernel says of itself, asked in the warm-up round after the measured replies.
ABOUT = {
    "executable": "__import__('sys').executable",
    "python": "__import__('platform').python_version()",
    "ipykernel": "__import__('ipykernel').__version__",
}


class WrongAnswerError(Exception):
    """The kernel answered something else than was asked."""


@dataclass(frozen=True)
class Sample:
    """Seconds from the call of start_kernel or restart_kernel to two replies on the shell channel."""

    kernel_info: float
    first_result: float


async def nothing() -> None:
    return None


@dataclass(frozen=True)
class Case:
    """One way to start a kernel.

    `key` names it on the command line. `manager` makes a fresh KernelManager; `arguments` go to start_kernel.
    `before` and `after` run outside the measured time. `peer`: somebody else's; when it cannot be measured
    here, it is left out and the rest goes on.
    """

    key: str
    title: str
    manager: Callable[[], AsyncKernelManager]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    before: Callable[[], Awaitable[None]] = nothing
    after: Callable[[], Awaitable[None]] = nothing
    what: Literal["start", "restart"] = "start"
    peer: bool = False


async def measure(case: Case) -> tuple[Sample, dict[str, str]]:
    """Start one kernel, measure, shut it down; also returns what the kernel says of itself."""
    await case.before()
    manager = case.manager()
    try:
        if case.what == "restart":
            await manager.start_kernel(**case.arguments)
            await _replies(manager, 0.0)
        await asyncio.sleep(QUIET)
        gc.collect()
        began = perf_counter()
        if case.what == "restart":
            await manager.restart_kernel()
        else:
            await manager.start_kernel(**case.arguments)
        return await _replies(manager, began)
    finally:
        if manager.has_kernel:
            await manager.shutdown_kernel()
        await case.after()


async def _replies(manager: AsyncKernelManager, began: float) -> tuple[Sample, dict[str, str]]:
    client: AsyncKernelClient = manager.client()
    # `wait_for_ready` would also flush iopub: it reads until nothing has come for 0.2 s.
    # https://github.com/jupyter/jupyter_client/blob/main/jupyter_client/client.py
    client.start_channels(iopub=False, stdin=False, hb=False, control=False)
    try:
        await _reply(client, client.kernel_info())
        kernel_info = perf_counter() - began
        reply = await _reply(client, client.execute("1+1", user_expressions={"result": "1+1"}))
        first_result = perf_counter() - began
        if _texts(reply) != {"result": "2"}:
            raise WrongAnswerError(f"The kernel answered 1+1 with {reply['content']}.")
        about = _texts(await _reply(client, client.execute("", user_expressions=ABOUT, store_history=False)))
        return Sample(kernel_info, first_result), {name: text.strip("'") for name, text in about.items()}
    finally:
        client.stop_channels()


async def _reply(client: AsyncKernelClient, request: str) -> dict[str, Any]:
    async with asyncio.timeout(REPLY_LIMIT):
        while True:
            message: dict[str, Any] = await client.get_shell_msg(timeout=REPLY_LIMIT)
            if message["parent_header"].get("msg_id") == request:
                return message


def _texts(reply: Mapping[str, Any]) -> dict[str, str]:
    expressions = reply["content"].get("user_expressions", {})
    return {name: value.get("data", {}).get("text/plain", "?") for name, value in expressions.items()}
