"""What a case is: several ways to do one thing, each done once a round, and what is expected of them."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from .stage import Stage

#: What one measurement gave, by the figures' names: seconds, or bytes where the case counts memory.
Sample = Mapping[str, float]

#: The figure that ratios are made of; a sample may have more of them.
MAIN = "main"

#: In place of a way, for an expectation: the peer in whose container the kernel was fastest in this run.
BEST_PEER = "best peer"

Unit = Literal["ms", "MB"]

#: Seconds before each measurement, so that one does not pay for the end of the last one.
QUIET = 0.3


class WrongAnswerError(Exception):
    """What was measured did something else than it was asked."""


class UnavailableError(Exception):
    """Something cannot be measured here; its text says why and what to do."""


@dataclass(frozen=True)
class Way:
    """One way to do what a case measures; `once` does it once.

    `is_peer`: somebody else's kernel in a container. When that fails, it is left out and the rest goes on.
    """

    key: str
    title: str
    once: Callable[[], Awaitable[Sample]]
    is_peer: bool = False


@dataclass(frozen=True)
class Expected:
    """At most so much of a way: as a ratio to the median of another, or itself where `of` is empty."""

    way: str
    at_most: float
    of: str = "local"
    figure: str = MAIN


@dataclass(frozen=True)
class Case:
    """`prepare` has the ways while its ``async with`` lasts; ratios are to the way `yardstick`.

    One with `settings` of `Workbench` is measured only when asked for: they hold for the whole run.
    """

    key: str
    title: str
    prepare: Callable[[Stage], AbstractAsyncContextManager[Sequence[Way]]]
    expected: tuple[Expected, ...] = ()
    yardstick: str = "local"
    unit: Unit = "ms"
    settings: Mapping[str, Any] = field(default_factory=dict)


async def settle() -> None:
    """To be awaited right before the clock starts."""
    await asyncio.sleep(QUIET)
    gc.collect()
