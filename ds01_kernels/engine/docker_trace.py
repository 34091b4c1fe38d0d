"""What BuildKit reports of a build, from each of the forms in which it does: pure.

A build is a graph: a vertex is one step of it, reported again whenever something about it changes. The fields
are those of https://github.com/moby/buildkit/blob/master/api/services/control/control.proto (StatusResponse)
and, as JSON, of https://github.com/moby/buildkit/blob/master/client/graph.go (SolveStatus).
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ds01_kernels.engine.protobuf import fields


@dataclass(frozen=True)
class Vertex:
    """`started` and `completed` are seconds since 1970, None while they have not come; `error` is empty
    unless it failed."""

    digest: str
    name: str
    started: float | None = None
    completed: float | None = None
    cached: bool = False
    error: str = ""


@dataclass(frozen=True)
class Output:
    """A piece of what the vertex with that digest printed; it may begin and end within a line."""

    digest: str
    data: bytes


@dataclass(frozen=True)
class Trace:
    """One message of BuildKit's."""

    vertices: tuple[Vertex, ...] = ()
    outputs: tuple[Output, ...] = ()


def from_aux(text: object) -> Trace:
    """From the engine's API: base64 of protobuf. Raises ValueError for anything else."""
    if not isinstance(text, str):
        raise ValueError("a trace is no text")  # noqa: TRY004 - what came from outside, not from a caller
    found = tuple(fields(base64.b64decode(text, validate=True)))
    return Trace(
        tuple(_vertex(_message(value)) for number, value in found if number == 1),
        tuple(_output(_message(value)) for number, value in found if number == 3),
    )


def from_json(value: object) -> Trace:
    """From ``--progress=rawjson``. Raises ValueError for anything else."""
    status = _object(value)
    return Trace(
        tuple(_vertex_of(_object(one)) for one in _list(status, "vertexes")),
        tuple(
            Output(_text(_object(one), "vertex"), base64.b64decode(_text(_object(one), "data")))
            for one in _list(status, "logs")
        ),
    )


def _vertex(found: Iterable[tuple[int, int | bytes]]) -> Vertex:
    last = dict(found)
    return Vertex(
        digest=_string(last, 1),
        name=_string(last, 3),
        cached=bool(last.get(4, 0)),
        started=_moment(last, 5),
        completed=_moment(last, 6),
        error=_string(last, 7),
    )


def _output(found: Iterable[tuple[int, int | bytes]]) -> Output:
    last = dict(found)
    data = last.get(4, b"")
    return Output(_string(last, 1), data if isinstance(data, bytes) else b"")


def _message(value: int | bytes) -> Iterable[tuple[int, int | bytes]]:
    if isinstance(value, int):
        raise ValueError("a number stands where a message should")  # noqa: TRY004
    return fields(value)


def _string(found: Mapping[int, int | bytes], number: int) -> str:
    value = found.get(number, b"")
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""


def _moment(found: Mapping[int, int | bytes], number: int) -> float | None:
    if number not in found:
        return None
    seconds = dict(_message(found[number]))
    whole, nanos = seconds.get(1, 0), seconds.get(2, 0)
    if isinstance(whole, bytes) or isinstance(nanos, bytes):
        raise ValueError("a time is no number")  # noqa: TRY004
    return whole + nanos / 1e9


def _vertex_of(found: Mapping[str, Any]) -> Vertex:
    return Vertex(
        digest=_text(found, "digest"),
        name=_text(found, "name"),
        started=_timestamp(found, "started"),
        completed=_timestamp(found, "completed"),
        cached=found.get("cached") is True,
        error=_text(found, "error"),
    )


def _object(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("a trace is no object")  # noqa: TRY004
    return value


def _list(found: Mapping[str, Any], key: str) -> list[object]:
    value = found.get(key) or []
    if not isinstance(value, list):
        raise ValueError(f"{key} is no list")  # noqa: TRY004
    return value


def _text(found: Mapping[str, Any], key: str) -> str:
    value = found.get(key, "")
    if not isinstance(value, str):
        raise ValueError(f"{key} is no text")  # noqa: TRY004
    return value


def _timestamp(found: Mapping[str, Any], key: str) -> float | None:
    text = _text(found, key) if found.get(key) is not None else ""
    return datetime.fromisoformat(text).timestamp() if text else None
