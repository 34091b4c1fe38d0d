"""Reads the JSON body of a request, and says in a sentence what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import BadInputError

#: Bytes; a body names packages and kernels.
MOST = 1 << 20


@dataclass(frozen=True)
class Field:
    """What may stand in a field; `words` completes "must be ..."."""

    words: str
    fits: Callable[[Any], bool]


TEXT = Field("a text", lambda value: isinstance(value, str))
FLAG = Field("true or false", lambda value: isinstance(value, bool))
TEXTS = Field(
    "a list of texts", lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value)
)


def read_body(
    body: bytes, fields: Mapping[str, Field] | None = None, *, required: Collection[str] = ()
) -> dict[str, Any]:
    """The fields of a JSON object, all of them known; no body counts as an empty object.

    Raises `BadInputError`.
    """
    fields = fields or {}
    value = _parsed(body)
    if not isinstance(value, dict):
        raise BadInputError("The body must be a JSON object.", remedy=_known(fields))
    for name, given in value.items():
        if name not in fields:
            raise BadInputError(f"The field {name[:100]!r} is not known here.", remedy=_known(fields))
        if not fields[name].fits(given):
            raise BadInputError(f"The field {name!r} must be {fields[name].words}.")
    for name in required:
        if name not in value:
            raise BadInputError(f"The field {name!r} is missing.", remedy=_known(fields))
    return value


def _parsed(body: bytes) -> Any:
    if len(body) > MOST:
        raise BadInputError(f"The body is larger than {MOST >> 20} MiB.", remedy="Send less at once.")
    if not body.strip():
        return {}
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise BadInputError(
            "The body is not JSON.", remedy="Send a JSON object with the content type application/json."
        ) from None


def _known(fields: Mapping[str, Field]) -> str:
    return f"Fields are: {', '.join(fields)}." if fields else "No field is known here: leave it empty."
