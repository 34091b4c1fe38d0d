"""Kernels that run: their memory while idle, a round trip, and a flood of output."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from statistics import median
from time import perf_counter

from jupyter_client.manager import AsyncKernelManager

from .case import MAIN, Case, Expected, Sample, Way, WrongAnswerError, settle
from .contenders import Contender, contenders
from .inside import output
from .kernel import REPLY_LIMIT, Client, connected, running, texts
from .peers import PEERS
from .stage import Stage

EVERYBODY = ("ds01", "local", "docker-exec", *PEERS)

#: Idle kernels whose memory is measured together, and the seconds that they have to become idle.
IDLE = 5
IDLE_SECONDS = 2.0

#: Round trips that make one sample, which is their median.
TRIPS = 20

#: What is streamed: lines of one mebibyte each.
LINES = 100
STREAM = f"line = 'x' * (2**20 - 1)\nfor _ in range({LINES}): print(line)"
STREAM_BYTES = LINES << 20
STREAM_LIMIT = 120.0

# Bytes; a page that n processes share counts as one n-th: https://docs.kernel.org/filesystems/proc.html
_PSS = "sum(int(line.split()[1]) << 10 for line in open({path}) if line.startswith('Pss:'))"
_PSS_OF_ALL = f"""
import os
total = 0
for pid in os.listdir("/proc"):
    if pid.isdigit() and int(pid) != os.getpid():
        try:
            total += {_PSS.format(path="'/proc/%s/smaps_rollup' % pid")}
        except OSError:
            pass  # it has ended
print(total)
"""


async def idle_memory(stage: Stage, contender: Contender) -> Sample:
    """Proportional memory of a kernel process: the mean of several that are idle."""
    async with AsyncExitStack() as stack:
        kernels = [await stack.enter_async_context(running(stage, contender)) for _ in range(IDLE)]
        await asyncio.sleep(IDLE_SECONDS)
        sample = {MAIN: sum([await _pss(kernel) for kernel in kernels]) / IDLE}
        if contender.project is not None:
            container = await stage.container(contender.project)
            said = await output(stage.engine, container, ["/usr/bin/python", "-c", _PSS_OF_ALL])
            sample["with all that the container runs, shared out"] = int(said) / IDLE
        return sample


async def _pss(manager: AsyncKernelManager) -> float:
    """Bytes of that kernel's process: asked of itself, which needs no rights on the host."""
    async with connected(manager) as client:
        return float(
            texts(await client.execute("", {"pss": _PSS.format(path="'/proc/self/smaps_rollup'")}))["pss"]
        )


async def round_trip(client: Client) -> Sample:
    """From the request to the reply of `1+1`."""
    await settle()
    trips = []
    for _ in range(TRIPS):
        began = perf_counter()
        reply = await client.execute("1+1", {})
        trips.append(perf_counter() - began)
        if reply["status"] != "ok":
            raise WrongAnswerError(f"The kernel answered 1+1 with {reply}.")
    return {MAIN: median(trips)}


async def stream(client: Client) -> Sample:
    """From the request until all that it prints, and then `idle`, has come."""
    await settle()
    began = perf_counter()
    request, size = client.channels.execute(STREAM), 0
    async with asyncio.timeout(STREAM_LIMIT):
        while True:
            message = await client.channels.get_iopub_msg(timeout=REPLY_LIMIT)
            if message["parent_header"].get("msg_id") != request:
                continue
            content = message["content"]
            if message["msg_type"] == "stream":
                size += len(content["text"])
            elif content.get("execution_state") == "idle":
                break
        seconds = perf_counter() - began
        await client.reply(request)
    if size != STREAM_BYTES:
        raise WrongAnswerError(f"{size} bytes of {STREAM_BYTES} came.")
    return {MAIN: seconds}


@asynccontextmanager
async def _idle(stage: Stage) -> AsyncIterator[Sequence[Way]]:
    async with contenders(stage, "ds01", "local", "docker-exec") as found:
        yield [Way(one.key, one.title, partial(idle_memory, stage, one)) for one in found]


@asynccontextmanager
async def _conversing(stage: Stage) -> AsyncIterator[Sequence[Way]]:
    async with _clients(stage) as found:
        yield [Way(one.key, one.title, partial(round_trip, client), one.is_peer) for one, client in found]


@asynccontextmanager
async def _streaming(stage: Stage) -> AsyncIterator[Sequence[Way]]:
    async with _clients(stage) as found:
        yield [Way(one.key, one.title, partial(stream, client), one.is_peer) for one, client in found]


@asynccontextmanager
async def _clients(stage: Stage) -> AsyncIterator[list[tuple[Contender, Client]]]:
    """A kernel of each kind, and a client that hears what it prints."""
    async with contenders(stage, *EVERYBODY) as found, AsyncExitStack() as stack:
        made = []
        for one in found:
            try:
                manager = await stack.enter_async_context(running(stage, one))
            except Exception as error:
                if not one.is_peer:
                    raise
                stage.leave_out(one.key, f"{type(error).__name__}: {error}")
                continue
            # With a container for each kernel: nobody's is in the way of the next one's.
            await stage.keep()
            await one.rest()
            made.append((one, await stack.enter_async_context(connected(manager, iopub=True))))
        yield made


CASES: tuple[Case, ...] = (
    Case(
        "memory",
        f"Proportional memory (PSS) of an idle kernel, {IDLE} of them running",
        _idle,
        (Expected("ds01", 0.5),),
        unit="MB",
    ),
    Case("round-trip", "Round trip of `1+1`", _conversing, (Expected("ds01", 1.15),)),
    Case("stream", f"Output of {LINES} MiB", _streaming, (Expected("ds01", 1.15),)),
)
