"""What keeps the output of a restarted kernel for the clients that wait for it."""

from __future__ import annotations

import asyncio

import zmq

from .connection import PORTS, REQUESTS, Channels

#: Milliseconds until ZMQ connects again to a kernel that was restarted; at random up to twice as many.
RECONNECT = 10


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
    await asyncio.sleep(3 * RECONNECT / 1000)
    channels.point_at(prefix, REQUESTS)
