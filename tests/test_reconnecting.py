"""Jupyter's paths to a kernel: what clients that wait there get."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import zmq
import zmq.asyncio

from ds01_kernels.connection import PORTS, Channels
from ds01_kernels.reconnecting import RECONNECT, lead_back

LIMIT = 30.0


def test_clients_that_wait_for_a_restart_hear_all_that_their_requests_cause() -> None:
    asyncio.run(asks_and_listens())


async def asks_and_listens() -> None:
    channels = Channels()
    try:
        with sockets() as (requests, heard, shell, iopub):
            # The order that loses the output: the request's socket is back long before the listener's.
            requests.reconnect_ivl, heard.reconnect_ivl = 1, RECONNECT
            heard.subscribe(b"")
            requests.connect(f"ipc://{channels.ip}-{PORTS['shell_port']}")
            heard.connect(f"ipc://{channels.ip}-{PORTS['iopub_port']}")
            await requests.send(b"1 + 1")
            prefix = channels.own_prefix()
            shell.bind(f"ipc://{prefix}-{PORTS['shell_port']}")
            iopub.bind(f"ipc://{prefix}-{PORTS['iopub_port']}")
            opening = asyncio.create_task(lead_back(channels, prefix, heard.context))
            assert (await asyncio.wait_for(shell.recv_multipart(), LIMIT))[-1] == b"1 + 1"
            await iopub.send(b"2")
            assert await asyncio.wait_for(heard.recv(), LIMIT) == b"2"
            await opening
    finally:
        channels.remove()


@contextmanager
def sockets() -> Iterator[tuple[zmq.asyncio.Socket, ...]]:
    """A client's two, and a kernel's two."""
    with zmq.asyncio.Context() as context:
        kinds = (zmq.DEALER, zmq.SUB, zmq.ROUTER, zmq.PUB)
        made = tuple(context.socket(kind) for kind in kinds)
        try:
            yield made
        finally:
            for one in made:
                one.close(linger=0)
