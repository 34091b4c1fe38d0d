"""Starts and restarts of kernels, to the first result: ``python -m benchmarks.kernel_start``.

The clock starts when the kernel is asked for, and stops when the reply to the first `1+1` of a new client is
here: by jupyter_client's AsyncKernelManager, or through the REST interface and websocket of a server.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from time import perf_counter

from ds01_kernels.workbench import Workbench

from .case import BEST_PEER, MAIN, Case, Expected, Sample, Way, settle
from .contenders import Contender, contenders, retire
from .kernel import connected, ending, first_result, running
from .peers import PEERS
from .server import Server, serving
from .stage import Stage

#: Kernels that are started at once.
TOGETHER = 10

EVERYBODY = ("ds01", "ds01-no-spare", "local", "docker-exec", *PEERS)
THROUGH_SERVERS = ("ds01", "local", "docker-exec", *PEERS)

Before = Callable[[Contender], Awaitable[None]]
Once = Callable[[Stage, Contender], Awaitable[Sample]]


# By KernelManager


async def start(stage: Stage, contender: Contender, before: Before | None = None) -> Sample:
    if before is not None:
        await before(contender)
    async with ending(stage.manager(contender.spec), contender) as manager:
        await settle()
        began = perf_counter()
        await manager.start_kernel(**contender.arguments)
        async with connected(manager) as client:
            return await first_result(stage, contender, client, began)


async def restart(stage: Stage, contender: Contender) -> Sample:
    async with running(stage, contender) as manager:
        await settle()
        began = perf_counter()
        await manager.restart_kernel()
        async with connected(manager) as client:
            return await first_result(stage, contender, client, began)


async def start_together(stage: Stage, contender: Contender) -> Sample:
    """Until the last of them has its result."""
    async with AsyncExitStack() as stack:
        managers = [
            await stack.enter_async_context(ending(stage.manager(contender.spec), contender))
            for _ in range(TOGETHER)
        ]

        async def one(number: int) -> None:
            await managers[number].start_kernel(**contender.arguments)
            async with connected(managers[number]) as client:
                await first_result(stage, contender, client, began)

        await settle()
        began = perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for number in range(TOGETHER):
                tasks.create_task(one(number))
        return {MAIN: perf_counter() - began}


async def stop_container(contender: Contender) -> None:
    assert contender.project is not None
    engine = Workbench.open().chosen_engine
    await Workbench.open().run(engine.stop(contender.project.container_name(os.getuid()), grace=0))


async def remove_container(contender: Contender) -> None:
    assert contender.project is not None
    await retire(contender.project)


# Through a server


async def start_session(stage: Stage, server: Server, contender: Contender) -> Sample:
    await settle()
    began = perf_counter()
    kernel = await server.begin(_notebook(contender), contender.spec)
    try:
        async with server.connected(kernel) as asked:
            return await first_result(stage, contender, asked, began)
    finally:
        await server.end(kernel)
        await contender.after()


async def restart_session(stage: Stage, server: Server, contender: Contender) -> Sample:
    kernel = await server.begin(_notebook(contender), contender.spec)
    try:
        async with server.connected(kernel) as asked:
            await first_result(stage, contender, asked, 0.0)
            await settle()
            began = perf_counter()
            await server.restart(kernel)
            return await first_result(stage, contender, asked, began)
    finally:
        await server.end(kernel)
        await contender.after()


def _notebook(contender: Contender) -> str:
    return f"{contender.project.name}/a.ipynb" if contender.project else "a.ipynb"


# The cases


@asynccontextmanager
async def _by_manager(once: Once, keys: Sequence[str], stage: Stage) -> AsyncIterator[Sequence[Way]]:
    async with contenders(stage, *keys) as found:
        yield [Way(one.key, one.title, partial(once, stage, one), one.is_peer) for one in found]


@asynccontextmanager
async def _against_local(before: Before, state: str, stage: Stage) -> AsyncIterator[Sequence[Way]]:
    async with contenders(stage, "ds01", "local") as (ours, local):
        yield [
            Way(ours.key, f"{ours.title}, container {state}", partial(start, stage, ours, before)),
            Way(local.key, local.title, partial(start, stage, local)),
        ]


@asynccontextmanager
async def _through_servers(
    once: Callable[[Stage, Server, Contender], Awaitable[Sample]], keys: Sequence[str], stage: Stage
) -> AsyncIterator[Sequence[Way]]:
    """Ours by a server that has ds01-kernels; the others by one that has not, or by one of their own."""
    async with contenders(stage, *keys) as found, AsyncExitStack() as opened:
        with_us = await opened.enter_async_context(serving(stage, ours=True))
        plain = await opened.enter_async_context(serving(stage, ours=False))
        ways = []
        for one in found:
            server = with_us if one.project else plain
            if one.is_apart:
                server = await opened.enter_async_context(serving(stage, ours=False))
            ways.append(Way(one.key, one.title, partial(once, stage, server, one), one.is_peer))
        yield ways


CASES: tuple[Case, ...] = (
    Case(
        "start",
        "Start, container running, by KernelManager",
        partial(_by_manager, start, EVERYBODY),
        (
            Expected("ds01", 0.15),
            Expected("ds01-no-spare", 0.35),
            Expected("ds01", 0.1, of=BEST_PEER),
        ),
    ),
    Case(
        "start-server",
        "Start, container running, through /api/sessions",
        partial(_through_servers, start_session, THROUGH_SERVERS),
        (Expected("ds01", 0.2),),
    ),
    Case(
        "restart",
        "Restart by KernelManager",
        partial(_by_manager, restart, ("ds01", "local", *PEERS)),
        (Expected("ds01", 0.2),),
    ),
    Case(
        "restart-server",
        "Restart through /api/kernels",
        partial(_through_servers, restart_session, ("ds01", "local")),
        (Expected("ds01", 0.2),),
    ),
    Case(
        "stopped",
        "Start, container stopped",
        partial(_against_local, stop_container, "stopped"),
        (Expected("ds01", 1.3),),
    ),
    Case(
        "missing",
        "Start, container missing, image built",
        partial(_against_local, remove_container, "missing"),
        (Expected("ds01", 2.0),),
    ),
    Case(
        "together",
        f"{TOGETHER} kernels at once, to the last one's first result",
        partial(_by_manager, start_together, ("ds01", "local", "docker-exec")),
        (Expected("ds01", 0.4),),
    ),
)

if __name__ == "__main__":
    from .suite import main

    sys.exit(main(["--only", *(case.key for case in CASES), *sys.argv[1:]]))
