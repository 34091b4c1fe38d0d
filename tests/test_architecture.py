"""Holds the shape of the package, by reading its source and running none of it."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ds01_kernels"

# Imports go up this table, or sideways where that makes no circle; never down.
LAYERS = (
    {"errors", "agent", "text"},
    {
        *("names", "packages", "requirement", "records", "projects", "project_files"),
        *("connection", "variables", "background", "locks", "machine", "printing"),
    },
    {"events", "request_body"},
    {"dockerfile"},
    {"engine"},
    {
        "settings",
        "setting_values",
        "configuration",
        "options",
        "agent_client",
        "agent_listener",
        "agent_stream",
        "agent_calls",
        "channel_streams",
        "agent_requests",
        "agent_return",
        "exits",
        "account",
        "unreachable",
        "containers",
        "ds01_host",
        "ipykernel_store",
        "base_image",
        "testing",
        "testing_stream",
        "testing_container",
    },
    {"images", "build_text"},
    {"creating"},
    {"station"},
    {"elsewhere", "former"},
    {"preparing"},
    {"launch", "idling", "jobs", "explaining", "predecessor", "reconnecting", "vanishing", "waiting"},
    {"successor"},
    {"drifts", "installing", "housekeeping", "nodes"},
    {"rebuild"},
    {"flows"},
    {"workbench"},
    {"status", "doctor", "terminal", "container_jobs", "package_jobs"},
    {
        "provisioner",
        "job_handlers",
        "package_handlers",
        "package_commands",
        "server_kernels",
        "container_provisioner",
        "kernel_arguments",
        "kernel_connection",
        "kernelspecs",
        "handlers",
        "openapi",
        "commands",
        "app",
    },
    {"extension"},
    {"__init__"},
)
RANKS = {module: rank for rank, layer in enumerate(LAYERS) for module in layer}

PURE = {"packages", "requirement", "dockerfile", "projects", "connection"}
NOT_PURE = {"docker", "tornado", "traitlets", "asyncio"}

# The agent runs on whatever Python an image has.
AGENT_PYTHON = (3, 8)
NEWER_THAN_THE_AGENT = {"graphlib", "tomllib", "zoneinfo"}
GONE_IN_LATER_PYTHONS = {
    *(
        "aifc",
        "asynchat",
        "asyncore",
        "audioop",
        "binhex",
        "cgi",
        "cgitb",
        "chunk",
        "crypt",
        "distutils",
        "imghdr",
    ),
    *(
        "imp",
        "lib2to3",
        "mailcap",
        "msilib",
        "nis",
        "nntplib",
        "ossaudiodev",
        "pipes",
        "smtpd",
        "sndhdr",
        "spwd",
    ),
    *("sunau", "telnetlib", "uu", "xdrlib"),
}
AGENT_STANDARD_LIBRARY = sys.stdlib_module_names - NEWER_THAN_THE_AGENT - GONE_IN_LATER_PYTHONS
# What the zygote, and the kernel that it forks, load when they run and not when they are imported.
ZYGOTE = {"zygote", "kernel"}
ZYGOTE_LOADS = {
    *("IPython", "comm", "debugpy", "ipykernel", "jupyter_client", "jupyter_core", "matplotlib_inline"),
    *("psutil", "tornado", "traitlets", "zmq"),
}

MOST_LINES_OF_A_FILE = 400
MOST_LINES_OF_A_FUNCTION = 80

# Words that say nothing about what a thing is. "Base image" is the field's own term.
EMPTY_WORDS = {"manager", "base", "mixin", "helper", "helpers", "util", "utils"}
OWN_TERMS = ("BaseImage", "base_image")


@dataclass(frozen=True)
class Import:
    """One import as it would read if it were absolute; `inside` is true within a function."""

    name: str
    line: int
    inside: bool

    @property
    def top(self) -> str:
        return self.name.split(".")[0]

    @property
    def own_module(self) -> str | None:
        """The module of this package that is imported, without what lies below it: ``engine``, ``errors``."""
        if self.top != PACKAGE.name:
            return None
        return [*self.name.split("."), "__init__"][1]


SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if "node_modules" not in path.parts)
every_source = pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))


@every_source
def test_imports_go_one_way(path: Path) -> None:
    module = module_of(path)
    assert module in RANKS, f"{module} has no place yet: add it to LAYERS in {Path(__file__).name}."
    for found in imports(path):
        if (target := found.own_module) is None or target == module:
            continue
        assert target in RANKS, f"{where(path, found)}: {target} has no place yet: add it to LAYERS."
        assert RANKS[target] <= RANKS[module], f"{where(path, found)}: {module} must not know {target}."


def test_imports_make_no_circle() -> None:
    graph: dict[str, set[str]] = {}
    for path in SOURCES:
        targets = {found.own_module for found in imports(path)} - {None, module_of(path)}
        graph.setdefault(module_of(path), set()).update(target for target in targets if target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"These modules import each other in a circle: {' <- '.join(error.args[1])}.")


@every_source
def test_the_core_is_pure(path: Path) -> None:
    if module_of(path) in PURE:
        for found in imports(path):
            assert found.top not in NOT_PURE, f"{where(path, found)}: {module_of(path)} imports {found.top}."


@every_source
def test_only_the_docker_engine_knows_docker(path: Path) -> None:
    if path.parent == PACKAGE / "engine" and path.name.startswith(("docker", "podman", "swarm")):
        return
    for found in imports(path):
        assert found.top != "docker", (
            f"{where(path, found)}: only engine/docker*.py, podman*.py and swarm*.py may import docker."
        )


AGENT_SOURCES = sorted((PACKAGE / "agent").rglob("*.py"))
every_agent_source = pytest.mark.parametrize("path", AGENT_SOURCES, ids=lambda path: path.name)


@every_agent_source
def test_the_agent_needs_nothing_but_python(path: Path) -> None:
    own = {source.stem for source in AGENT_SOURCES}
    for found in imports(path):
        if found.own_module == "agent" or found.top in AGENT_STANDARD_LIBRARY | own:
            continue
        loaded = found.inside and path.stem in ZYGOTE and found.top in ZYGOTE_LOADS
        assert loaded, f"{where(path, found)}: the agent imports {found.name}, which an image may lack."


@every_agent_source
def test_the_agent_speaks_old_python(path: Path) -> None:
    ast.parse(path.read_text(encoding="utf-8"), filename=str(path), feature_version=AGENT_PYTHON)


@every_source
def test_files_and_functions_have_one_job(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES_OF_A_FILE, f"{shown(path)} has {lines} lines: it has two jobs, split it."
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= MOST_LINES_OF_A_FUNCTION, (
                f"{shown(path)}:{node.lineno}: {node.name} has {lines} lines."
            )


@every_source
def test_names_say_what_a_thing_is(path: Path) -> None:
    classes = [node.name for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef)]
    for name in [*path.relative_to(PACKAGE).with_suffix("").parts, *classes]:
        empty = words(name) & EMPTY_WORDS
        assert not empty, (
            f"{shown(path)}: {name} says {', '.join(empty)}, which says nothing: name what it is."
        )


def module_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@cache
def imports(path: Path) -> tuple[Import, ...]:
    """Every import of a file, those for type checkers included: they too are knowledge of another module."""
    package = (PACKAGE.name, *path.parent.relative_to(PACKAGE).parts)
    return tuple(
        found for node, inside in statements(tree(path)) for found in read_import(node, package, inside)
    )


def statements(node: ast.AST, inside: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        yield child, inside
        function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from statements(child, inside or function)


def read_import(node: ast.AST, package: tuple[str, ...], inside: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(alias.name, node.lineno, inside)
    elif isinstance(node, ast.ImportFrom):
        above = package[: len(package) - node.level + 1] if node.level else ()
        module = ".".join([*above, *filter(None, [node.module])])
        for alias in node.names:
            # `from . import engine` names modules, `from .engine import Engine` what lies below one.
            yield Import(f"{module}.{alias.name}" if module == PACKAGE.name else module, node.lineno, inside)


def words(name: str) -> set[str]:
    for term in OWN_TERMS:
        name = name.replace(term, "")
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def shown(path: Path) -> str:
    return str(path.relative_to(PACKAGE.parent))


def where(path: Path, found: Import) -> str:
    return f"{shown(path)}:{found.line}"


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import docker.errors", ["docker.errors"]),
        ("from . import protocol", ["ds01_kernels.agent"]),
        ("from ..engine import Engine", ["ds01_kernels.engine"]),
        ("from .. import engine, errors", ["ds01_kernels.engine", "ds01_kernels.errors"]),
        ("from ds01_kernels import errors", ["ds01_kernels.errors"]),
        ("if TYPE_CHECKING:\n    import tornado", ["tornado"]),
        ("try:\n    import zmq\nexcept ImportError:\n    pass", ["zmq"]),
    ],
)
def test_every_way_to_import_is_seen(source: str, names: list[str]) -> None:
    package = (PACKAGE.name, "agent")
    found = [
        one for node, inside in statements(ast.parse(source)) for one in read_import(node, package, inside)
    ]
    assert [one.name for one in found] == names
    assert not any(one.inside for one in found)


def test_an_import_within_a_function_is_told_apart() -> None:
    source = "class A:\n    def f(self):\n        if x:\n            import zmq\n    import os\n"
    found = [one for node, inside in statements(ast.parse(source)) for one in read_import(node, (), inside)]
    assert [(one.name, one.inside) for one in found] == [("zmq", True), ("os", False)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("KernelSpecManager", {"kernel", "spec", "manager"}),
        ("HTTPBase", {"http", "base"}),
        ("BaseImageBuild", {"build"}),
        ("base_image", set()),
        ("Database", {"database"}),
        ("path_utils", {"path", "utils"}),
    ],
)
def test_words_of_a_name(name: str, expected: set[str]) -> None:
    assert words(name) == expected
