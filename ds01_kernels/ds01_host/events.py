"""What DS01 tells of the containers that it ends: it writes that into a log that its users can read.

https://github.com/hertie-data-science-lab/ds01-infra/blob/main/scripts/lib/ds01_events.py
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from ds01_kernels.agent import files
from ds01_kernels.exits import Cause, Exit
from ds01_kernels.text import shown

#: Bytes of the log's end that are looked through.
TAIL = 256 << 10
#: An event may be written some time after the container has ended, and it is of no use when it is older.
LOOKS, PAUSE = 4, 0.5
RECENT = timedelta(minutes=10)

_CAUSES = {
    "maintenance.idle_kill": (Cause.IDLE, "idle_duration"),
    "maintenance.runtime_kill": (Cause.AGE, "runtime"),
}


async def why_ended(log: str, container: str, exit_: Exit) -> Exit:
    """How the kernels of `container`, a name, ended, where DS01's log knows more than `exit_` does.

    Waits a moment for the log where DS01 may have ended it. Raises nothing.
    """
    if exit_.cause not in (Cause.STOPPED, Cause.REMOVED) or not log:
        return exit_
    for look in range(LOOKS):
        if look:
            await asyncio.sleep(PAUSE)
        found = await asyncio.to_thread(_ended, log, container)
        if found is not None:
            return replace(exit_, cause=found[0], detail=found[1])
        if not await asyncio.to_thread(os.path.exists, log):
            break
    return exit_


def _ended(log: str, container: str) -> tuple[Cause, str] | None:
    for event in _events(log):
        kind, details = event.get("event_type"), event.get("details")
        if kind not in _CAUSES or not isinstance(details, dict) or details.get("container") != container:
            continue
        when = event.get("timestamp")
        with suppress(ValueError, TypeError):
            if isinstance(when, str) and datetime.now(UTC) - datetime.fromisoformat(when) < RECENT:
                cause, length = _CAUSES[kind]
                return cause, shown(str(details.get(length, "")), 20)
    return None


def _events(log: str) -> Iterator[dict[str, Any]]:
    """The newest first."""
    for line in reversed(_tail(log).splitlines()):
        with suppress(ValueError, RecursionError):
            event = json.loads(line)
            if isinstance(event, dict):
                yield event


def _tail(log: str) -> str:
    try:
        return files.read(log, TAIL, end=True).decode("utf-8", "replace")
    except (OSError, ValueError):
        return ""
