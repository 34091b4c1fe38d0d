"""Restarted kernels, and the clients that wait for them at the same paths.

A request that waited for the restart is answered at once, and what the kernel says of it on IOPub reaches
only clients whose other socket is back as well. Jupyter leaves ZMQ's 100 ms, which would lose the first
outputs.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

import zmq
import zmq.asyncio

from .connection import PORTS, REQUESTS, Channels

#: Milliseconds until ZMQ connects again to a kernel that was restarted; at random up to twice as many.
RECONNECT = 6

#: Seconds for a connection that takes less than one on a machine which gives its threads a core in time.
PATIENCE = 2.0

#: Of a new connection; to be refused, where it would have to be encrypted, shows as much.
_ANSWERED = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)


def hasten(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    """For the sockets that clients will open: let them come back soon.

    https://libzmq.readthedocs.io/en/latest/zmq_setsockopt.html (ZMQ_RECONNECT_IVL)
    """
    context.setsockopt(zmq.RECONNECT_IVL, RECONNECT)


async def lead_back(channels: Channels, prefix: str, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    """Let the paths lead to another process of the same kernel; to the end of its clients' output first.

    A request that waited is answered as soon as its path leads on. By then all have to hear it: a kernel's
    socket keeps nothing for those who come later. `context` is the clients'. Raises `OSError` or `Ds01Error`.
    """
    point_listeners(channels, prefix)
    await listeners_are_back(channels, context)
    point_requests(channels, prefix)


def point_listeners(channels: Channels, prefix: str) -> None:
    """All paths but those of requests. Raises `OSError` or `Ds01Error`."""
    channels.point_at(prefix, set(PORTS.values()) - REQUESTS)


def point_requests(channels: Channels, prefix: str) -> None:
    """Those of requests; to be done last. Raises `OSError` or `Ds01Error`."""
    channels.point_at(prefix, REQUESTS)


async def listeners_are_back(channels: Channels, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    """Wait until all who had lost a kernel by now have connected to where the paths lead."""
    address = f"ipc://{channels.ip}-{PORTS['iopub_port']}"
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            # The time within which all try again, from when ZMQ's thread and the kernel's are known to do
            # something; then another one, which comes after them.
            await _connected(context, address)
            await asyncio.sleep(2 * RECONNECT / 1000)
            await _connected(context, address)


async def _connected(context: zmq.Context[zmq.Socket[bytes]], address: str) -> None:
    """Come as one more client, by the thread that the others have, and go."""
    with zmq.asyncio.Context.shadow(context.underlying).socket(zmq.SUB) as client:
        client.linger = 0
        monitor = client.get_monitor_socket(_ANSWERED)
        try:
            client.connect(address)
            await monitor.recv_multipart()
        finally:
            client.disable_monitor()
            monitor.close(linger=0)
