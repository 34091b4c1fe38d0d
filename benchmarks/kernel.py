"""A kernel that is asked: by a manager's own client, or through a server's websocket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any, Protocol

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager

from .case import MAIN, Sample, WrongAnswerError
from .contenders import Contender
from .stage import Stage

#: Seconds for one reply.
REPLY_LIMIT = 60.0

#: What a kernel says of itself, asked after the measured replies.
ABOUT = {
    "executable": "__import__('sys').executable",
    "python": "__import__('platform').python_version()",
    "ipykernel": "__import__('ipykernel').__version__",
}


class Asked(Protocol):
    """Somebody who asks a kernel and awaits the replies on its shell channel."""

    async def kernel_info(self) -> None: ...

    async def execute(self, code: str, expressions: Mapping[str, str]) -> Mapping[str, Any]:
        """The content of the reply, which holds the values of these expressions."""
        ...


class Client:
    """By ZMQ. `channels` is started with the shell channel at least."""

    def __init__(self, channels: AsyncKernelClient) -> None:
        self.channels = channels

    async def kernel_info(self) -> None:
        await self.reply(self.channels.kernel_info())

    async def execute(self, code: str, expressions: Mapping[str, str]) -> Mapping[str, Any]:
        request = self.channels.execute(code, user_expressions=dict(expressions))
        content: Mapping[str, Any] = (await self.reply(request))["content"]
        return content

    async def reply(self, request: str) -> dict[str, Any]:
        async with asyncio.timeout(REPLY_LIMIT):
            while True:
                message: dict[str, Any] = await self.channels.get_shell_msg(timeout=REPLY_LIMIT)
                if message["parent_header"].get("msg_id") == request:
                    return message


@asynccontextmanager
async def connected(manager: AsyncKernelManager, *, iopub: bool = False) -> AsyncIterator[Client]:
    """A new client of that kernel."""
    channels: AsyncKernelClient = manager.client()
    # `wait_for_ready` would also flush iopub: it reads until nothing has come for 0.2 s.
    # https://github.com/jupyter/jupyter_client/blob/main/jupyter_client/client.py
    channels.start_channels(iopub=iopub, stdin=False, hb=False, control=False)
    try:
        yield Client(channels)
    finally:
        channels.stop_channels()


@asynccontextmanager
async def ending(manager: AsyncKernelManager, contender: Contender) -> AsyncIterator[AsyncKernelManager]:
    """Whatever that manager has started has ended afterwards."""
    await contender.before()
    try:
        yield manager
    finally:
        if manager.has_kernel:
            await manager.shutdown_kernel()
        await contender.rest()
        await contender.after()


@asynccontextmanager
async def running(stage: Stage, contender: Contender) -> AsyncIterator[AsyncKernelManager]:
    """A kernel that answers."""
    async with ending(stage.manager(contender.spec), contender) as manager:
        await manager.start_kernel(**contender.arguments)
        async with connected(manager) as client:
            await first_result(stage, contender, client, 0.0)
        yield manager


async def first_result(stage: Stage, contender: Contender, asked: Asked, began: float) -> Sample:
    """Seconds since `began` until the kernel has answered, and until it has computed."""
    await asked.kernel_info()
    kernel_info = perf_counter() - began
    reply = await asked.execute("1+1", {"result": "1+1"})
    first = perf_counter() - began
    if texts(reply) != {"result": "2"}:
        raise WrongAnswerError(f"The kernel answered 1+1 with {reply}.")
    if contender.key not in stage.kernels:
        about = texts(await asked.execute("", ABOUT))
        stage.kernels[contender.key] = {name: text.strip("'") for name, text in about.items()}
    return {MAIN: first, "reply to kernel_info": kernel_info}


def texts(reply: Mapping[str, Any]) -> dict[str, str]:
    """The expressions' values, as Python shows them."""
    expressions = reply.get("user_expressions", {})
    return {name: value.get("data", {}).get("text/plain", "?") for name, value in expressions.items()}
