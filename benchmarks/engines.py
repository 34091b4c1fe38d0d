"""Kernels whose channels are byte streams, beside those by ipc: ``python -m benchmarks.engines``.

Channels are byte streams wherever the engine runs on another machine.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from .case import MAIN, Case, Expected, Sample, Way
from .contenders import Contender, contenders
from .kernel import Client, connected, running
from .kernel_life import LINES, round_trip, stream
from .kernel_start import restart, start
from .stage import Stage

IPC, STREAMS = "ds01", "ds01-streams"

#: By how much a round trip takes longer, in seconds.
MORE = "more than by ipc"


async def _round_trip(client: Client, beside: Client) -> Sample:
    less, sample = await round_trip(beside), await round_trip(client)
    return {**sample, MORE: sample[MAIN] - less[MAIN]}


@asynccontextmanager
async def _starting(stage: Stage) -> AsyncIterator[Sequence[Way]]:
    async with contenders(stage, IPC, STREAMS) as found:
        yield [Way(one.key, one.title, partial(start, stage, one)) for one in found]


@asynccontextmanager
async def _restarting(stage: Stage) -> AsyncIterator[Sequence[Way]]:
    async with contenders(stage, IPC, STREAMS) as found:
        yield [Way(one.key, one.title, partial(restart, stage, one)) for one in found]


@asynccontextmanager
async def _conversing(stage: Stage) -> AsyncIterator[Sequence[Way]]:
    async with _clients(stage) as ((ipc, by_ipc), (streams, by_streams)):
        yield [
            Way(ipc.key, ipc.title, partial(round_trip, by_ipc)),
            Way(streams.key, streams.title, partial(_round_trip, by_streams, by_ipc)),
        ]


@asynccontextmanager
async def _streaming(stage: Stage) -> AsyncIterator[Sequence[Way]]:
    async with _clients(stage) as found:
        yield [Way(one.key, one.title, partial(stream, client)) for one, client in found]


@asynccontextmanager
async def _clients(stage: Stage) -> AsyncIterator[list[tuple[Contender, Client]]]:
    """A kernel of each kind, and a client that hears what it prints."""
    async with contenders(stage, IPC, STREAMS) as found, AsyncExitStack() as stack:
        made = []
        for one in found:
            manager = await stack.enter_async_context(running(stage, one))
            made.append((one, await stack.enter_async_context(connected(manager, iopub=True))))
        yield made


CASES: tuple[Case, ...] = (
    Case(
        "streams-start",
        "Start, container running, by ipc and by streams",
        _starting,
        (Expected(STREAMS, 2.0, of=IPC),),
        yardstick=IPC,
    ),
    Case(
        "streams-restart",
        "Restart, by ipc and by streams",
        _restarting,
        (Expected(STREAMS, 2.0, of=IPC),),
        yardstick=IPC,
    ),
    Case(
        "streams-round-trip",
        "Round trip of `1+1`, by ipc and by streams",
        _conversing,
        (Expected(STREAMS, 0.002, of="", figure=MORE),),
        yardstick=IPC,
    ),
    # Half the throughput.
    Case(
        "streams-output",
        f"Output of {LINES} MiB, by ipc and by streams",
        _streaming,
        (Expected(STREAMS, 2.0, of=IPC),),
        yardstick=IPC,
    ),
)

if __name__ == "__main__":
    from .suite import main

    sys.exit(main(["--only", *(case.key for case in CASES), *sys.argv[1:]]))
