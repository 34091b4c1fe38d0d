"""Waits for room on a machine: tries again and again, and holds nothing in between."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

from .errors import NoRoomError

T = TypeVar("T")

#: Seconds between two attempts.
PAUSE = 3.0


async def for_room(
    attempt: Callable[[], Awaitable[T]],
    say: Callable[[str], None],
    *,
    stop: str = "Cancel this to wait no longer.",
    limit: float = math.inf,
) -> T:
    """What `attempt` gives once there is room for it.

    `say` gets the reason in lines of their own, and again when it has changed; first with how to `stop`.
    Raises the last `NoRoomError` after `limit` seconds.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit
    told = ""
    while True:
        try:
            return await attempt()
        except NoRoomError as error:
            if loop.time() + PAUSE > deadline:
                raise
            if str(error) != told:
                say(f"{error}\n" if told else f"{error}\nIt starts as soon as there is room. {stop}\n")
                told = str(error)
        await asyncio.sleep(PAUSE)
