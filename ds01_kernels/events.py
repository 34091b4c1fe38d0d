"""What changes in a project, told to whoever listens, and the schemas by which it goes out on Jupyter's event
bus.

An event is a hint: none is kept or sent again, and others may send the same. Who gets one reads what it is
about.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

logger = logging.getLogger("ds01_kernels")

#: One file for each schema: https://jupyter-events.readthedocs.io/en/latest/user_guide/defining-schema.html
SCHEMA_FILES = tuple(
    Path(__file__).parent / "event_schemas" / f"{name}.yaml" for name in ("drift", "job", "container")
)


@dataclass(frozen=True)
class _Event:
    schema: ClassVar[str]

    #: The project's name.
    project: str

    def as_json(self) -> dict[str, Any]:
        """The data of the event, as its schema says."""
        return dict(vars(self))


@dataclass(frozen=True)
class DriftChanged(_Event):
    """The container's packages differ from its image's in another way than before: how many of them."""

    schema = "https://events.ds01-kernels.org/drift/v1"

    added: int
    changed: int
    removed: int


@dataclass(frozen=True)
class JobChanged(_Event):
    """A job is in another phase, has got on within it, or has written to its log."""

    schema = "https://events.ds01-kernels.org/job/v1"

    id: str
    kind: str
    phase: str


@dataclass(frozen=True)
class ContainerChanged(_Event):
    """The project's container, by its name, is ``running``, ``stopped`` or ``removed``."""

    schema = "https://events.ds01-kernels.org/container/v1"

    container: str
    state: str


Event = DriftChanged | JobChanged | ContainerChanged


class Listeners:
    """Who is told of events, in the thread in which they happen. May be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: tuple[Callable[[Event], None], ...] = ()

    def add(self, callback: Callable[[Event], None]) -> None:
        with self._lock:
            self._callbacks = (*self._callbacks, callback)

    def tell(self, event: Event) -> None:
        """Never raises: what happened has happened."""
        for callback in self._callbacks:
            try:
                callback(event)
            except Exception:
                logger.exception("An event could not be told: %s", event)
