"""What is to be sent to an agent and what it is to answer, whichever stream carries it."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from dataclasses import dataclass

from .agent import protocol
from .agent.streams import Streams
from .agent_stream import AgentStream
from .errors import AgentError, AgentLostError
from .text import clean


@dataclass(frozen=True)
class _Frame:
    """Something to be sent; `call` is its number when an answer is wanted."""

    content: bytes
    call: int | None = None


@dataclass(frozen=True)
class _Call:
    frame: _Frame
    answered: asyncio.Future[protocol.Message]


class Calls:
    """The messages to one agent, and between them `streams`. `limit` is for an answer, in seconds."""

    def __init__(self, limit: float, streams: Streams) -> None:
        #: None while it can be used; else why not.
        self.lost: str | None = None
        self._limit = limit
        self._numbers = itertools.count(1)
        self._unanswered: dict[int, _Call] = {}
        self._outgoing: deque[_Frame] = deque()
        self._streams = streams
        self._wanted = asyncio.Event()
        streams.wake = self._wanted.set

    def send(self, message: protocol.Message) -> None:
        """Send a message that has no answer. Raises `AgentError`."""
        self._send(_frame(message))

    async def call(self, message: protocol.Message) -> protocol.Message:
        """Send a message and wait for its answer. Raises `AgentError` with the agent's sentence."""
        number = next(self._numbers)
        frame = _frame(message, number)
        call = self._unanswered[number] = _Call(frame, asyncio.get_running_loop().create_future())
        try:
            self._send(frame)
            return await asyncio.wait_for(call.answered, self._limit)
        except TimeoutError:
            raise AgentError(
                f"The agent in the container did not answer within {self._limit:.0f} s."
            ) from None
        finally:
            del self._unanswered[number]

    def answered(self, message: protocol.Message) -> None:
        """An answer has come; one that nobody waits for is dropped."""
        number = message["call"]
        call = self._unanswered.get(number) if isinstance(number, int) else None
        if call is None or call.answered.done():
            return
        if message["kind"] == "error":
            call.answered.set_exception(AgentError(clean(str(message.get("message")), colours=False)))
        else:
            call.answered.set_result(message)

    async def write(self, stream: AgentStream) -> None:
        """Send on that stream until cancelled. Raises `EngineError` or `OSError` when it breaks."""
        while True:
            if self._outgoing:
                # Still there when the stream breaks amid it.
                await stream.write(self._outgoing[0].content)
                self._outgoing.popleft()
            elif frames := self._streams.frames():
                await stream.write(frames)
            else:
                self._wanted.clear()
                await self._wanted.wait()

    def resume(self, first: protocol.Message | None) -> None:
        """For a new stream: `first`, then every call that has no answer yet, then what was not sent."""
        prepared = [_frame(first)] if first is not None else []
        unanswered = [call.frame for call in self._unanswered.values() if not call.answered.done()]
        others = [frame for frame in self._outgoing if frame.call is None]
        self._outgoing = deque([*prepared, *unanswered, *others])

    def give_up(self, why: str) -> None:
        """Every call fails from now on."""
        if self.lost is None:
            self.lost = why
        for call in self._unanswered.values():
            if not call.answered.done():
                call.answered.set_exception(_loss(self.lost))

    def _send(self, frame: _Frame) -> None:
        if self.lost is not None:
            raise _loss(self.lost)
        self._outgoing.append(frame)
        self._wanted.set()


def _loss(why: str) -> AgentLostError:
    return AgentLostError(f"The agent in the container does not answer any more: {why.rstrip('.')}.")


def _frame(message: protocol.Message, call: int | None = None) -> _Frame:
    try:
        return _Frame(protocol.encode(message if call is None else {**message, "call": call}), call)
    except protocol.FramingError as error:
        raise AgentError(f"The agent in the container cannot be told that: {error}.") from error
