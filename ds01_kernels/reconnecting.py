"""What keeps the output of a restarted kernel for the clients that wait for it."""

from __future__ import annotations

import asyncio

import zmq

from .connection import PORTS, REQUESTS, Channels

#: Milliseconds until ZMQ connects again to a kernel that was restarted; at random up to twice as many.
RECONNECT = 10

#: Seconds for which clients are waited for at most, on a machine that gives this process no core in time.
PATIENCE = 1.0


def hasten(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    """For the sockets that clients will open: let them come back soon.

    With ZMQ's default, 100 ms, our kernels are back before their clients.
    """
    context.setsockopt(zmq.RECONNECT_IVL, RECONNECT)


async def lead_back(channels: Channels, prefix: str) -> None:
    """Point the paths at a restarted kernel's sockets, IOPub before those by which it is asked for something.

    A request that waited could else be answered before its client listens, and the output lost: a PUB
    socket keeps nothing for those who come later. Raises `OSError` or `Ds01Error`.
    """
    channels.point_at(prefix, set(PORTS.values()) - REQUESTS)
    await _let_them_come()
    channels.point_at(prefix, REQUESTS)


async def _let_them_come() -> None:
    """Wait for three times `RECONNECT` in a row in which this thread got a core in time.

    Where it does not, ZMQ's threads, which connect again, come too late as well.
    """
    loop = asyncio.get_running_loop()
    step, patience = RECONNECT / 1000, loop.time() + PATIENCE
    in_time = 0
    while in_time < 3 and loop.time() < patience:
        began = loop.time()
        await asyncio.sleep(step)
        in_time = in_time + 1 if loop.time() - began < 1.5 * step else 0
