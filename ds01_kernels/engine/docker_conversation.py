"""A long call to the engine's API, whose answer is a stream of messages, on a connection of its own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import requests
from docker import APIClient

Message = Mapping[str, Any]
Connect = Callable[[], APIClient]


class EndedError(Exception):
    """The call was left: says so to the thread that makes it."""


class Conversation:
    """One call: `next` belongs to one thread, `end` may come from any.

    `begin` makes the call and returns its messages; it may look at `is_ended`, and raises `EndedError` then.
    `cancel` tells the engine, on another connection, that nobody waits any more.
    """

    def __init__(
        self,
        connect: Connect,
        begin: Callable[[Conversation, APIClient], Iterator[Message]],
        cancel: Callable[[APIClient], None] | None = None,
    ) -> None:
        self._connect = connect
        self._begin = begin
        self._cancel = cancel
        self._messages: Iterator[Message] | None = None
        self._response: requests.Response | None = None
        self._is_over = False
        self.is_ended = False

    def next(self) -> Message | None:
        """The engine's next message; None when there are no more."""
        message = None
        try:
            if self._messages is None:
                client = self._connect()
                # docker-py keeps the response to itself, and without it the call cannot be ended.
                client.hooks["response"].append(self._opened)
                self._messages = self._begin(self, client)
            message = next(self._messages, None)
        finally:
            self._is_over = message is None
        return message

    def end(self) -> None:
        """Blocks for the time of one short call. No error when it is over already."""
        self.is_ended = True
        response = self._response
        if response is None:
            return
        if self._cancel and not self._is_over:
            # Hanging up is the cancelling too, should this one fail.
            with suppress(Exception):
                client = self._connect()
                try:
                    self._cancel(client)
                finally:
                    client.close()
        _hang_up(response)

    def _opened(self, response: requests.Response, *_: object, **__: object) -> None:
        self._response = response
        if self.is_ended:
            raise EndedError


async def messages(conversation: Conversation) -> AsyncGenerator[Message, None]:
    """The messages of a call; leaving early ends it. Raises what docker-py and the layers below it raise."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="ds01-build")
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Message | None] = loop.run_in_executor(thread, conversation.next)
    try:
        while True:
            # Unlike `await answer`, this leaves the future whole when it is cancelled.
            await asyncio.wait({answer})
            message = answer.result()
            if message is None:
                return
            yield message
            answer = loop.run_in_executor(thread, conversation.next)
    finally:
        ending = asyncio.ensure_future(asyncio.to_thread(conversation.end))
        ending.add_done_callback(_looked_at)
        answer.add_done_callback(_looked_at)
        await asyncio.wait({ending}, timeout=5)
        await asyncio.wait({answer}, timeout=5)
        thread.shutdown(wait=False)


def _looked_at(answer: asyncio.Future[Any]) -> None:
    if not answer.cancelled():
        answer.exception()


def _hang_up(response: requests.Response) -> None:
    """End a response that another thread may be waiting on: closing alone would wait for that thread."""
    connection = response.raw.connection
    waiting = getattr(connection, "sock", None)
    if waiting is not None:
        with suppress(OSError):
            waiting.shutdown(socket.SHUT_RDWR)
