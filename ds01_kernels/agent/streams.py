"""Byte streams between unix sockets of the container and of a client's machine, shared by both sides.

All of one client's streams go through its one connection to the agent, in frames and by turns. Each end of a
stream keeps what the other has not acknowledged, so that it can be sent again when the connection was lost;
what may be under way is limited, so neither end keeps more than `WINDOW` bytes of a direction, and a socket
that nobody reads from holds up its own stream alone.

A stream is over when each end has said ``close``, or when one of them has forgotten it, which shows when the
connection is made anew (`Streams.offsets`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Callable, Deque, Dict, List, Mapping, Optional, Union

from .protocol import Data, Message, encode

#: Bytes of one direction of a stream that may be unacknowledged.
WINDOW = 1 << 20
#: Bytes of a stream that are sent at a turn.
TURN = 1 << 16
#: Bytes that are taken until that is acknowledged.
ACKNOWLEDGED_AFTER = WINDOW >> 3
#: Streams of one client.
MOST = 4096


class StreamError(Exception):
    """The other side does not keep to the rules of streams."""


class Streams:
    """The streams of one client. `wake` is called when there is something to be sent."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self.wake = wake
        self._streams: Dict[int, Stream] = {}
        self._turns: Deque[Stream] = deque()
        self._answers: Deque[bytes] = deque()

    def __len__(self) -> int:
        return len(self._streams)

    def has(self, number: int) -> bool:
        return number in self._streams

    def add(self, stream: Stream) -> None:
        self._streams[stream.number] = stream

    def frames(self) -> bytes:
        """What is to be sent next: of the stream whose turn it is; nothing when nothing waits."""
        if self._answers:
            return self._answers.popleft()
        while self._turns:
            stream = self._turns.popleft()
            stream.has_turn = False
            frames = stream.frames() if self._streams.get(stream.number) is stream else b""
            if frames:
                # Behind the others, if it has more to send.
                self.wants(stream)
                return frames
        return b""

    def wants(self, stream: Stream) -> None:
        """That stream has something to be sent, perhaps."""
        if not stream.has_turn and self._streams.get(stream.number) is stream:
            stream.has_turn = True
            self._turns.append(stream)
            self.wake()

    def answer(self, message: Message) -> None:
        self._answers.append(encode(message))
        self.wake()

    def receive(self, message: Union[Message, Data]) -> None:
        """`Data`, ``ack`` or ``close`` from the other side. Raises `StreamError`."""
        number = message.stream if isinstance(message, Data) else message.get("stream")
        stream = self._streams.get(number) if isinstance(number, int) else None
        if stream is None:
            return  # it was closed here, which the other side will hear
        if isinstance(message, Data):
            stream.receive(message.content)
        elif message["kind"] == "ack":
            stream.acknowledge(_count(message.get("bytes")))
        elif message["kind"] == "close":
            stream.other_side_closed()

    def forget(self, stream: Stream) -> None:
        if self._streams.get(stream.number) is stream:
            del self._streams[stream.number]

    def offsets(self) -> Dict[str, List[int]]:
        """For the other side, when the connection is made anew.

        How many bytes of each stream have come here, and how many of those its socket has taken.
        """
        return {str(stream.number): stream.offsets() for stream in self._streams.values()}

    def resume(self, offsets: Mapping[str, Any]) -> None:
        """Go on from the other side's offsets, and end the streams that it does not have.

        Raises `StreamError`.
        """
        self._answers.clear()
        for stream in list(self._streams.values()):
            found = offsets.get(str(stream.number))
            if found is not None:
                stream.resume(found)
            elif not stream.is_unknown:
                stream.drop()
            self.wants(stream)

    def close(self) -> None:
        """End them all; nothing is said to the other side."""
        for stream in list(self._streams.values()):
            stream.drop()


class Stream(asyncio.Protocol):
    """One end: a connection to a local socket. `opening` is what the other side is to be told first."""

    def __init__(self, streams: Streams, number: int, opening: Optional[Message] = None) -> None:
        self.number = number
        #: Stands in the queue of `Streams`.
        self.has_turn = False
        self._streams = streams
        self._opening = opening
        self._transport: Optional[asyncio.Transport] = None
        # From the socket: what the other side has not acknowledged, the offsets of its beginning and of what
        # is to be sent next, and whether more will come.
        self._kept = bytearray()
        self._acknowledged = 0
        self._sent = 0
        self._is_paused = False
        self._is_at_end = False
        self._has_said_close = False
        # To the socket: how much has come, what waits for a connection, and what was acknowledged of it.
        self._received = 0
        self._waiting = bytearray()
        self._told = 0
        self._is_closed_there = False
        streams.add(self)

    @property
    def is_unknown(self) -> bool:
        """Whether the other side cannot know of it yet."""
        return self._opening is not None

    # The socket

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        # Every drain is told: what was acknowledged last depends on it.
        transport.set_write_buffer_limits(high=0)
        if self._waiting:
            transport.write(bytes(self._waiting))
            self._waiting.clear()
        if self._is_closed_there:
            transport.close()
        self._streams.wants(self)

    def data_received(self, data: bytes) -> None:
        if self._is_closed_there:
            return
        self._kept += data
        self._pause_or_resume()
        self._streams.wants(self)

    def resume_writing(self) -> None:
        self._streams.wants(self)

    def connection_lost(self, error: Optional[Exception]) -> None:
        self._transport = None
        self.end()

    def end(self) -> None:
        """Nothing more comes from the socket, and nothing more goes there."""
        self._is_at_end = True
        self._waiting.clear()
        self._streams.wants(self)

    def drop(self) -> None:
        """End it at once; the other side is not told."""
        self._streams.forget(self)
        self._is_closed_there = True
        self._kept.clear()
        if self._transport is not None:
            self._transport.close()

    def _pause_or_resume(self) -> None:
        is_full = len(self._kept) >= WINDOW
        if self._transport is None or is_full == self._is_paused or self._transport.is_closing():
            return
        self._is_paused = is_full
        if is_full:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    # The other side

    def frames(self) -> bytes:
        """What is to be sent at one turn."""
        found = []
        if self._opening is not None:
            found.append(encode(self._opening))
            self._opening = None
        taken = self._taken()
        if taken - self._told >= ACKNOWLEDGED_AFTER:
            self._told = taken
            found.append(encode({"kind": "ack", "stream": self.number, "bytes": taken}))
        begin = self._sent - self._acknowledged
        end = min(begin + TURN, len(self._kept), WINDOW)
        if end > begin:
            self._sent += end - begin
            with memoryview(self._kept) as kept:
                found.append(encode(Data(self.number, bytes(kept[begin:end]))))
        if self._is_at_end and not self._has_said_close and end >= len(self._kept):
            self._has_said_close = True
            found.append(encode({"kind": "close", "stream": self.number}))
        return b"".join(found)

    def receive(self, content: bytes) -> None:
        """Raises `StreamError` for more than may be under way."""
        self._received += len(content)
        if self._received - self._told > WINDOW:
            raise StreamError("more of stream %d came than was allowed" % self.number)
        if self._transport is not None:
            self._transport.write(content)
        elif not self._is_at_end:
            self._waiting += content
        self._streams.wants(self)

    def acknowledge(self, count: int) -> None:
        """Raises `StreamError` for what was never sent."""
        if count > self._sent:
            raise StreamError("of stream %d more was acknowledged than was sent" % self.number)
        if count > self._acknowledged:
            del self._kept[: count - self._acknowledged]
            self._acknowledged = count
            self._pause_or_resume()
            self._streams.wants(self)

    def other_side_closed(self) -> None:
        if not self._has_said_close:
            self._streams.answer({"kind": "close", "stream": self.number})
        # What has come still goes to the socket.
        self.drop()

    def offsets(self) -> List[int]:
        self._told = self._taken()
        return [self._received, self._told]

    def resume(self, offsets: Any) -> None:
        """Raises `StreamError` for offsets that cannot be."""
        if not isinstance(offsets, list) or len(offsets) != 2:
            raise StreamError("the offsets of stream %d are none" % self.number)
        received, taken = _count(offsets[0]), _count(offsets[1])
        if not self._acknowledged <= taken <= received <= self._acknowledged + len(self._kept):
            raise StreamError("stream %d cannot go on where the other side is" % self.number)
        self._sent = received
        self._opening = None
        self._has_said_close = False
        self.acknowledge(taken)

    def _taken(self) -> int:
        unwritten = self._transport.get_write_buffer_size() if self._transport is not None else 0
        return self._received - unwritten - len(self._waiting)


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise StreamError("a number of bytes that is none")
    return value
