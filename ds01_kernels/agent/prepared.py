"""What the last zygote here was started with, kept in the agent's folder for the next one."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import Optional

from . import files
from .kernel import Preparation

#: In the agent's folder. Bytes of it that are read.
NAME = "prepared"
LIMIT = 1 << 16


def remember(folder: str, preparation: Preparation) -> None:
    """Keep it for the next agent in this container; a full disk only costs that one its head start."""
    path = os.path.join(folder, NAME)
    fresh = "%s-%d" % (path, os.getpid())
    with suppress(OSError):
        files.write_private(fresh, preparation.encode())
        os.rename(fresh, path)


def recall(folder: str, guess: str = "") -> Optional[Preparation]:
    """What the last agent here was told, or else what `guess` says, likewise in JSON; None: nothing."""
    try:
        descriptor = os.open(os.path.join(folder, NAME), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as kept:
            known = _understood(kept.read(LIMIT).decode("ascii"))
    except (OSError, ValueError):
        known = None
    return known or _understood(guess)


def _understood(text: str) -> Optional[Preparation]:
    try:
        told = json.loads(text)
        path, env = told["path"], told["env"]
        if not isinstance(path, list) or not isinstance(env, dict):
            return None
        if not all(isinstance(text, str) for text in [*path, *env, *env.values()]):
            return None
        return Preparation(path, bool(told["first"]), env)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
