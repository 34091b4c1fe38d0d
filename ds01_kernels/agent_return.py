"""The way back to an agent whose stream broke, or the news that there is none."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

from .agent_stream import AgentStream
from .errors import EngineError
from .exits import Exit


async def reached_or_over(
    reach: Callable[[], Coroutine[Any, Any, AgentStream]],
    look: Callable[[], Awaitable[Exit | None]],
    pause: float,
) -> AgentStream | Exit:
    """What `reach` gives, or how the kernels ended, whichever is known first.

    `look` asks the engine for that, before the attempt and every `pause` seconds of it: a machine that is
    lost lets an attempt wait for very long, and meanwhile the engine may learn of it. Raises what they raise.
    """
    if over := await look():
        return over
    reaching = asyncio.create_task(reach())
    try:
        while not (await asyncio.wait([reaching], timeout=pause))[0]:
            # It has answered before, and the attempt has its own limit.
            with suppress(EngineError):
                if over := await look():
                    await _given_up(reaching)
                    return over
    except BaseException:
        await _given_up(reaching)
        raise
    return reaching.result()


async def _given_up(reaching: asyncio.Task[AgentStream]) -> None:
    reaching.cancel()
    (outcome,) = await asyncio.gather(reaching, return_exceptions=True)
    if isinstance(outcome, AgentStream):
        await outcome.close()
