"""Reads what BuildKit reports, in whatever form it came, as progress of a build: pure."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from ds01_kernels.engine import BuildProgress, BuildRequest
from ds01_kernels.engine.docker_failure import build_failed, is_unusable, unusable
from ds01_kernels.engine.docker_steps import Place, StepLines, StepName
from ds01_kernels.engine.docker_trace import Output, Trace, Vertex
from ds01_kernels.errors import Ds01Error, EngineUnreachableError

_KEPT_OUTPUT = 16 * 1024
_LOADS_METADATA = "[internal] load metadata for "
# Worth showing though it stands in no Dockerfile: layers of several GB take their time.
_EXPORTS = "exporting to image"


class TraceReport:
    """One build. `is_announced`: all steps are named before the first one begins."""

    def __init__(self, request: BuildRequest, *, is_announced: bool = True) -> None:
        self._lines = StepLines(request.dockerfile, request.args)
        self._known: dict[str, _Known] = {}
        self._order: list[Place] = [] if is_announced else self._lines.expected()
        self._last = BuildProgress()
        self._failed: _Known | None = None

    @property
    def has_begun(self) -> bool:
        return bool(self._known)

    def read(self, trace: Trace) -> Iterator[BuildProgress]:
        for vertex in trace.vertices:
            self._learn(vertex)
        for vertex in trace.vertices:
            yield from self._changed(vertex)
        for output in trace.outputs:
            yield from self._printed(output)

    def finished(self, image_id: str) -> BuildProgress:
        """The last value. Raises `EngineUnreachableError` when there is no image."""
        if not image_id:
            raise ended_early()
        steps = len(self._order)
        return BuildProgress(steps, steps, image_id=image_id)

    def failure(self, text: str) -> Ds01Error:
        """What went wrong when the engine ends the build with `text`."""
        failed = self._failed
        if failed is None:
            return unusable(text) if is_unusable(text) else build_failed(text)
        name = failed.vertex.name
        if name.startswith(_LOADS_METADATA):
            image = name.removeprefix(_LOADS_METADATA)
            line = self._lines.of_image(image)
            return build_failed(failed.vertex.error, instruction=f"FROM {image}", line=line)
        return build_failed(
            failed.vertex.error,
            instruction=failed.step.instruction if failed.step else name,
            line=failed.line,
            log=failed.output,
        )

    def _learn(self, vertex: Vertex) -> None:
        known = self._known.get(vertex.digest)
        if known is None:
            step = StepName.of(vertex.name)
            known = _Known(vertex, step)
            if step:
                known.line, known.place = self._lines.of_step(step), self._lines.place(step)
            self._known[vertex.digest] = known
        known.vertex = vertex
        if vertex.error and self._failed is None:
            # Those that are stopped along with it come later, "context canceled".
            self._failed = known

    def _changed(self, vertex: Vertex) -> Iterator[BuildProgress]:
        known = self._known[vertex.digest]
        if known.step is None and vertex.name != _EXPORTS:
            return
        if vertex.started is None or known.ended:
            return
        here = self._at(known)
        if not known.begun and (vertex.completed is None or vertex.error):
            yield here
        known.begun = True
        if vertex.completed is None or vertex.error:
            return
        known.ended = True
        seconds = 0.0 if vertex.cached else max(0.0, vertex.completed - vertex.started)
        yield BuildProgress(
            here.step, here.steps, here.name, here.line, cached=vertex.cached, seconds=seconds
        )

    def _printed(self, output: Output) -> Iterator[BuildProgress]:
        known = self._known.get(output.digest)
        if known is None:
            return
        text = known.decoder.decode(output.data)
        known.output = (known.output + text)[-_KEPT_OUTPUT:]
        if text:
            here = self._at(known)
            yield BuildProgress(here.step, here.steps, here.name, here.line, log=text)

    def _at(self, known: _Known) -> BuildProgress:
        self._number()
        steps = len(self._order)
        if known.step is None:
            if known.vertex.name == _EXPORTS:
                return BuildProgress(steps, steps, _EXPORTS)
            return self._last
        step = self._order.index(known.place) + 1
        self._last = BuildProgress(step, steps, known.step.instruction, known.line)
        return self._last

    def _number(self) -> None:
        """Steps count in the order of the Dockerfile; BuildKit names them in any, before the first begins."""
        places = {known.place for known in self._known.values() if known.step}
        self._order += sorted(places - set(self._order))


@dataclass
class _Known:
    """What has been heard of one vertex."""

    vertex: Vertex
    step: StepName | None
    line: int | None = None
    place: Place = (0, 0)
    begun: bool = False
    ended: bool = False
    output: str = ""
    decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace")
    )


def ended_early() -> EngineUnreachableError:
    return EngineUnreachableError(
        "Docker ended the build without an image.", remedy="Was it restarted? Try again."
    )


def is_lost(text: str) -> bool:
    """Whether what ended a build was the engine's own end."""
    return bool(
        re.search(
            r"cannot connect to the docker daemon|code = unavailable|error reading from server: eof"
            r"|transport is closing|connection reset by peer|server did not provide an image id",
            text,
            re.IGNORECASE,
        )
    )
