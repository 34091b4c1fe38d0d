"""Reads what the classic builder (or Podman's) says, as progress of a build: pure."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from ds01_kernels.engine import BuildProgress, BuildRequest
from ds01_kernels.engine.docker_buildkit import ended_early
from ds01_kernels.engine.docker_failure import KEPT_LINES, build_failed, is_unusable, unusable
from ds01_kernels.engine.docker_steps import instructions
from ds01_kernels.errors import BuildFailedError

Message = Mapping[str, Any]

_STEP = re.compile(r"step (\d+)/(\d+) ?: (.*)", re.IGNORECASE | re.DOTALL)
_CACHED = re.compile(r"\s*-{2,3}> Using cache")
# What the builder says of its own doings between the lines that commands print.
_NOISE = re.compile(
    r" ---> (?:Running in )?[0-9a-f]{12}\n?|Removing intermediate container [0-9a-f]{12}\n?"
    r"|Successfully (?:built|tagged) \S+\n?|-{2,3}> [0-9a-f]{10,64}\n?"
)


class ClassicReport:
    """One build. `clock` counts seconds: that builder does not say how long a step took."""

    def __init__(self, request: BuildRequest, clock: Callable[[], float] = time.monotonic) -> None:
        self._instructions = list(instructions(request.dockerfile))
        self._has_labels = bool(request.labels)
        self._clock = clock
        self._step = BuildProgress()
        self._entered = 0.0
        self._is_announced = True
        self._is_over = True
        self._is_hidden = False
        self._image_id = ""
        self._last: deque[str] = deque(maxlen=KEPT_LINES)
        #: Whether the build failed since its command was killed.
        self.was_killed = False

    def read(self, message: Message) -> Iterator[BuildProgress]:
        """Raises `BuildFailedError` when the message is the end of a failed build."""
        if error := message.get("error"):
            raise self._failed(str(error))
        if "ID" in (message.get("aux") or {}):
            # One for each stage: the last is the image.
            self._image_id = str(message["aux"]["ID"])
        text = message.get("stream") or pull_status(message)
        if not text:
            return
        step = _STEP.match(text)
        if step and self._follows(int(step[1]), int(step[2]), step[3].strip()):
            yield from self._end()
            self._enter(int(step[1]), int(step[2]), step[3].strip())
        elif _CACHED.match(text):
            self._is_announced = True
            yield from self._end(cached=True)
        elif not self._is_hidden and (self._is_announced or text != "\n"):
            yield from self._announce()
            if not _NOISE.fullmatch(text):
                self._last += text.splitlines()
                yield replace(self._step, log=text)

    def finished(self) -> Iterator[BuildProgress]:
        """The last values. Raises `EngineUnreachableError` when there is no image."""
        if not self._image_id:
            raise ended_early()
        yield from self._end()
        yield replace(self._step, image_id=self._image_id)

    def _follows(self, step: int, steps: int, instruction: str) -> bool:
        """Whether that is the next step: a command's own output may look like one."""
        keyword = self._instruction(step)[1]
        is_next = self._is_next(step) and self._step.steps in (0, self._counted(steps))
        return is_next and instruction.upper().startswith(keyword)

    def _is_next(self, step: int) -> bool:
        return step == self._number + 1

    def _instruction(self, step: int) -> tuple[int | None, str]:
        # The builder adds a step for the labels of the request, which stands in no line.
        return self._instructions[step - 1] if step <= len(self._instructions) else (None, "LABEL")

    def _counted(self, steps: int) -> int:
        return steps - 1 if self._has_labels and steps == len(self._instructions) + 1 else steps

    @property
    def _number(self) -> int:
        return self._step.step + (1 if self._is_hidden else 0)

    def _enter(self, step: int, steps: int, instruction: str) -> None:
        if step > self._counted(steps):
            self._is_hidden = True
            return
        self._step = BuildProgress(step, self._counted(steps), instruction, self._instruction(step)[0])
        self._entered = self._clock()
        # Whether it is cached comes with the next message.
        self._is_announced = self._is_over = False
        self._last.clear()

    def _announce(self) -> Iterator[BuildProgress]:
        if not self._is_announced:
            self._is_announced = True
            yield self._step

    def _end(self, *, cached: bool = False) -> Iterator[BuildProgress]:
        yield from self._announce()
        if not self._is_over:
            self._is_over = True
            seconds = 0.0 if cached else self._clock() - self._entered
            yield replace(self._step, cached=cached, seconds=seconds)

    def _failed(self, text: str) -> BuildFailedError:
        if not self._step.step and is_unusable(text):
            return unusable(text)
        self.was_killed = text.rstrip().endswith("non-zero code: 137")
        log = "\n".join(self._last)
        return build_failed(text, instruction=self._step.name, line=self._step.line, log=log)


def pull_status(message: Message) -> str:
    """A line of what is said of an image's download."""
    # Progress bars are many and say nothing in a log.
    if "status" not in message or message.get("progressDetail"):
        return ""
    return ": ".join(str(message[key]) for key in ("id", "status") if message.get(key)) + "\n"
