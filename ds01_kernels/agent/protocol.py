"""The messages between a client and the agent, shared by both sides.

A frame is a four-byte big-endian length, one byte for its kind, and that many bytes less one of body. Kind
``J`` holds one JSON object in UTF-8: a message, whose ``kind`` names it. Kind ``D`` holds eight bytes of
stream id and raw bytes. Nothing else is legal; a reader that meets something else raises `FramingError` and
closes, since there is no way to find the next frame.

=================  ========  ==============================================================================
message            from      fields
=================  ========  ==============================================================================
hello              client    protocol, client, owner, grace (s), nonce, streams (`streams.Streams.offsets`)
welcome            agent     protocol, pid, survey, nonce, kernels {id: pid or null}, ready [id],
                             exits {id: exit}, ended [id], streams: those of hello that go on, likewise
prepare            client    path, first, env: what the zygote is to be started with; spares: how many kernels
                             are to be begun before anybody wants them
spawn              client    call, kernel, cwd, env, files, connection, arguments, notice: what its first
                             cell is to say of the process before it; after: the one that has to be over
                             before it serves anybody
spawned            agent     call, kernel, pid, how ("spare", "fork", "start"), note
ready              agent     kernel: its five sockets are bound
closed             agent     kernel: they are closed again; what is left of its end is the interpreter's own
signal             client    kernel, signum
end                client    kernel: SIGKILL to all that is left of it
exited             agent     kernel, code (as `subprocess.Popen.returncode`), detail, cause (see `memory`),
                             limit (bytes), heard: whether the notice was said
adopt              client    call, kernel, client: the one that has it now
adopted            agent     call, pid
goodbye            client    its kernels are to end now
count              client    call
counted            agent     call, kernels: of all clients, ids: theirs, memory: bytes in use, or null
replace            client    kernels [id], or null for all: they are to be restarted in another container
replaced           agent     kernels [id]: those of them that are this client's
packages           client    call
listed             agent     call, python, markers {name: value}, packages [see `packages`], broken [{path,
                             reason}], pip, externally_managed (see `survey.installing`)
packages-changed   agent     to every client: the packages differ from those of the last time
asked              client    specs: requirements that it is about to install, as the user typed them
look               client    call, path: of a file by which both sides see whether they share a folder
seen               agent     call, text: its first 100 bytes, or nothing
open               client    stream (a number), kernel, port: a byte stream to that socket of the kernel
ack                both      stream, bytes: how many of it were taken, from the beginning on
close              both      stream: all was sent, and the socket at this end is closed; answered likewise
error              agent     call, message: that call failed, the stream goes on
=================  ========  ==============================================================================
"""

from __future__ import annotations

import json
import struct
from typing import Any, Dict, List, Union

VERSION = 1

#: Longer frames are refused: no message comes near it, and a peer must not make us reserve memory.
MAX_FRAME = 16 * 1024 * 1024

#: A number in a message with more digits is refused: reading it takes time that grows with their square.
MAX_DIGITS = 40

_HEADER = struct.Struct(">I")
_STREAM = struct.Struct(">Q")
_DATA = ord("D")


class FramingError(Exception):
    """The bytes are not frames of this protocol."""


class Data:
    """Raw bytes of one byte stream."""

    __slots__ = ("content", "stream")

    def __init__(self, stream: int, content: bytes) -> None:
        self.stream = stream
        self.content = content

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Data) and (self.stream, self.content) == (other.stream, other.content)

    def __hash__(self) -> int:
        return hash((self.stream, self.content))


Message = Dict[str, Any]


def encode(message: Union[Message, Data]) -> bytes:
    """The frame of a message (which has a ``kind``) or a `Data`. Raises `FramingError` if it is too long."""
    if isinstance(message, Data):
        parts = (b"D", _STREAM.pack(message.stream), message.content)
    else:
        parts = (b"J", b"", json.dumps(message, separators=(",", ":")).encode("ascii"))
    length = sum(map(len, parts))
    if length > MAX_FRAME:
        raise FramingError("a frame of %d bytes is over the limit of %d" % (length, MAX_FRAME))
    return b"".join((_HEADER.pack(length), *parts))


class Decoder:
    """Turns bytes, in pieces of any size, into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._failed = False

    def feed(self, data: bytes) -> List[Union[Message, Data]]:
        """The messages that `data` completes, in order. Raises `FramingError`, then takes no more."""
        if self._failed:
            raise FramingError("this stream has failed before")
        self._buffer += data
        messages: List[Union[Message, Data]] = []
        begin = 0
        try:
            with memoryview(self._buffer) as buffer:
                while begin + _HEADER.size <= len(buffer):
                    (length,) = _HEADER.unpack_from(buffer, begin)
                    if not 0 < length <= MAX_FRAME:
                        raise FramingError("a frame of %d bytes is not legal" % length)
                    end = begin + _HEADER.size + length
                    if len(buffer) < end:
                        break
                    with buffer[begin + _HEADER.size : end] as body:
                        messages.append(_decode(body))
                    begin = end
        except FramingError:
            self._failed = True
            self._buffer.clear()
            raise
        del self._buffer[:begin]
        return messages


def _decode(body: memoryview) -> Union[Message, Data]:
    if body[0] == _DATA:
        if len(body) < 1 + _STREAM.size:
            raise FramingError("a data frame without its stream")
        return Data(_STREAM.unpack_from(body, 1)[0], bytes(body[1 + _STREAM.size :]))
    kind, content = bytes(body[:1]), bytes(body[1:])
    if kind != b"J":
        raise FramingError("a frame of kind %r is not known" % kind)
    try:
        message = json.loads(content.decode("utf-8"), parse_int=_integer)
    # Deep nesting exhausts the parser's stack.
    except (ValueError, RecursionError) as error:
        raise FramingError("a message is not JSON") from error
    if not isinstance(message, dict) or not isinstance(message.get("kind"), str):
        raise FramingError("a message has no kind")
    return message


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError("a number of %d digits" % len(digits))
    return int(digits)
