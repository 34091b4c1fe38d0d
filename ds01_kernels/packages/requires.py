"""Which packages a package requires, in one interpreter and with the extras that are in use there."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache

from packaging.markers import Marker
from packaging.utils import canonicalize_name

from .fields import is_name

#: The variables of https://packaging.python.org/en/latest/specifications/dependency-specifiers/
VARIABLES = (
    *("implementation_name", "implementation_version", "os_name", "platform_machine"),
    *("platform_python_implementation", "platform_release", "platform_system", "platform_version"),
    *("python_full_version", "python_version", "sys_platform"),
)
#: So many different markers of one list are read; there are some thousands in the largest installations.
MOST_MARKERS = 20_000

# Of a Requires-Dist only the name, the extras and the marker matter here, and there are thousands of them.
REQUIRES = re.compile(
    r"\s*(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*+)\s*+(?:\[(?P<extras>[^\]]*+)\])?+"
    r"(?:\s*+@\s*+[^\s]*+(?=\s|\Z)|[^;@]*+)(?:\s*+;(?P<marker>.*))?",
    re.DOTALL,
)
QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")


@dataclass(frozen=True)
class Edge:
    """``extras`` are those that it asks of the other package, normalised; the marker is empty for always."""

    name: str
    extras: tuple[str, ...]
    marker: str


def applying(
    texts: Mapping[str, Collection[str]],
    extras: Mapping[str, Collection[str]],
    variables: Mapping[str, str],
) -> dict[str, tuple[str, ...]]:
    """The names that each package requires, sorted, without itself.

    `texts` are the Requires-Dist of each package by its normalised name, `extras` those that were asked for;
    further ones are in use where a package asks them of another. `variables` are the interpreter's. Markers
    that cannot be read or evaluated do not apply."""
    evaluate = Evaluation({name: variables.get(name, "") for name in VARIABLES})
    edges: dict[str, dict[str, list[Edge]]] = {name: by_extra(of) for name, of in texts.items()}
    required: dict[str, set[str]] = {name: set() for name in texts}
    todo = [(name, extra) for name in texts for extra in ("", *map(canonicalize_name, extras.get(name, ())))]
    done = set(todo)
    while todo:
        name, extra = todo.pop()
        for edge in edges[name].get(extra, ()):
            if not evaluate(edge.marker, extra):
                continue
            required[name].add(edge.name)
            new = {(edge.name, one) for one in edge.extras if edge.name in edges} - done
            done |= new
            todo += new
    return {name: tuple(sorted(names - {name})) for name, names in required.items()}


def by_extra(texts: Collection[str]) -> dict[str, list[Edge]]:
    """Each edge under every extra that could make it apply, and under none (an empty text)."""
    found: dict[str, list[Edge]] = defaultdict(list)
    for edge in filter(None, map(edge_of, texts)):
        quoted = QUOTED.findall(edge.marker) if "extra" in edge.marker else []
        for extra in {"", *(canonicalize_name(one or other) for one, other in quoted)}:
            found[extra].append(edge)
    return found


@lru_cache(1 << 15)
def edge_of(text: str) -> Edge | None:
    match = REQUIRES.fullmatch(text)
    if match is None or not is_name(match["name"]):
        return None
    extras = [one.strip() for one in (match["extras"] or "").split(",")]
    return Edge(
        canonicalize_name(match["name"]),
        tuple(canonicalize_name(one) for one in extras if one),
        (match["marker"] or "").strip(),
    )


class Evaluation:
    """Whether markers apply in an interpreter; each is read once."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = dict(variables)
        self._markers: dict[str, Marker | None] = {}
        self._known: dict[tuple[str, str], bool] = {}

    def __call__(self, marker: str, extra: str) -> bool:
        key = marker, extra
        if not marker:
            return True
        if key not in self._known:
            self._known[key] = self._evaluate(self._read(marker), extra)
        return self._known[key]

    def _read(self, text: str) -> Marker | None:
        if text not in self._markers and len(self._markers) < MOST_MARKERS:
            try:
                self._markers[text] = Marker(text)
            # The parser calls itself for each bracket.
            except (ValueError, RecursionError):
                self._markers[text] = None
        return self._markers.get(text)

    def _evaluate(self, marker: Marker | None, extra: str) -> bool:
        try:
            return marker is not None and marker.evaluate({**self._variables, "extra": extra})
        # Variables that only lock files have, versions that are none, brackets in brackets.
        except (ValueError, KeyError, RecursionError):
            return False
