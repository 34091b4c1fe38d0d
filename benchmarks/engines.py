"""Kernels on other engines, and those whose channels are byte streams: ``python -m benchmarks.engines``.

Channels are byte streams wherever the engine runs on another machine. Podman is measured where there is one,
Docker Swarm where the Docker that is used manages one.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from .case import MAIN, Case, Expected, Sample, Way
from .contenders import Contender, contenders
from .kernel import Client, connected, running
from .kernel_life import LINES, round_trip, stream
from .kernel_start import restart, start
from .other_engines import ENGINES
from .stage import Stage

IPC, STREAMS = "ds01", "ds01-streams"
ALL = (IPC, STREAMS, *ENGINES)

Prepare = Callable[[Stage], AbstractAsyncContextManager[Sequence[Way]]]

#: By how much a round trip takes longer, in seconds.
MORE = "more than by ipc"


async def _round_trip(client: Client, beside: Client) -> Sample:
    less, sample = await round_trip(beside), await round_trip(client)
    return {**sample, MORE: sample[MAIN] - less[MAIN]}


@asynccontextmanager
async def _starting(
    keys: Sequence[str], once: Callable[[Stage, Contender], Awaitable[Sample]], stage: Stage
) -> AsyncIterator[Sequence[Way]]:
    async with contenders(stage, *keys) as found:
        yield [Way(one.key, one.title, partial(once, stage, one)) for one in found]


@asynccontextmanager
async def _conversing(keys: Sequence[str], stage: Stage) -> AsyncIterator[Sequence[Way]]:
    async with _clients(stage, keys) as found:
        (ipc, by_ipc), *others = found
        yield [
            Way(ipc.key, ipc.title, partial(round_trip, by_ipc)),
            *(Way(one.key, one.title, partial(_round_trip, client, by_ipc)) for one, client in others),
        ]


@asynccontextmanager
async def _streaming(keys: Sequence[str], stage: Stage) -> AsyncIterator[Sequence[Way]]:
    async with _clients(stage, keys) as found:
        yield [Way(one.key, one.title, partial(stream, client)) for one, client in found]


@asynccontextmanager
async def _clients(stage: Stage, keys: Sequence[str]) -> AsyncIterator[list[tuple[Contender, Client]]]:
    """A kernel of each kind, and a client that hears what it prints."""
    async with contenders(stage, *keys) as found, AsyncExitStack() as stack:
        made = []
        for one in found:
            manager = await stack.enter_async_context(running(stage, one))
            made.append((one, await stack.enter_async_context(connected(manager, iopub=True))))
        yield made


def _cases(kind: str, title: str, keys: Sequence[str], settings: Mapping[str, Any]) -> tuple[Case, ...]:
    def case(what: str, name: str, prepare: Prepare, at_most: float, **more: str) -> Case:
        expected = tuple(Expected(key, at_most, **({"of": IPC} | more)) for key in keys if key != IPC)
        return Case(f"{kind}-{what}", f"{name}, {title}", prepare, expected, yardstick=IPC, settings=settings)

    return (
        case("start", "Start, container running", partial(_starting, keys, start), 2.0),
        case("restart", "Restart", partial(_starting, keys, restart), 2.0),
        case("round-trip", "Round trip of `1+1`", partial(_conversing, keys), 0.002, of="", figure=MORE),
        # Half the throughput.
        case("output", f"Output of {LINES} MiB", partial(_streaming, keys), 2.0),
    )


CASES: tuple[Case, ...] = (
    *_cases("streams", "by ipc and by streams", (IPC, STREAMS), {}),
    *_cases("engines", "on each engine", ALL, {"engines_allowed": sorted(ENGINES.values())}),
)

if __name__ == "__main__":
    from .suite import main

    sys.exit(main(["--only", *(case.key for case in CASES if case.settings), *sys.argv[1:]]))
