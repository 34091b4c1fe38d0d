"""Reads what a docker client's ``--progress=plain`` prints, back into what BuildKit said: pure.

https://github.com/moby/buildkit/blob/master/util/progress/progressui/printer.go
"""

from __future__ import annotations

import re

from ds01_kernels.engine.docker_trace import Output, Trace, Vertex

# Each line begins with the vertex's number; what a command prints has the time in front too, so nothing that
# it prints can be taken for something else.
_LINE = re.compile(r"#(?P<vertex>[0-9]{1,9}) (?P<rest>.*)", re.DOTALL)
_PRINTED = re.compile(r"[0-9]+\.[0-9]+ (?P<text>.*)", re.DOTALL)
_DONE = re.compile(r"DONE (?P<seconds>[0-9]+(?:\.[0-9]+)?)s")


class PlainReader:
    """One build; `read` takes it line by line, without line ends."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def read(self, line: str) -> Trace:
        found = _LINE.fullmatch(line)
        if found is None:
            return Trace()
        number, rest = found["vertex"], found["rest"]
        if printed := _PRINTED.fullmatch(rest):
            return Trace(outputs=(Output(number, printed["text"].encode() + b"\n"),))
        if number not in self._names:
            self._names[number] = rest
            return Trace((Vertex(number, rest, started=0.0),))
        name = self._names[number]
        if done := _DONE.fullmatch(rest):
            return Trace((Vertex(number, name, 0.0, float(done["seconds"])),))
        if rest == "CACHED":
            return Trace((Vertex(number, name, 0.0, 0.0, cached=True),))
        if rest.startswith("ERROR: "):
            return Trace((Vertex(number, name, 0.0, 0.0, error=rest.removeprefix("ERROR: ")),))
        return Trace()
