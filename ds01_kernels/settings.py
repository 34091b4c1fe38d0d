"""What a project's container is given: the admin's settings, and what a project may change of them.

A project's ``pyproject.toml`` may have a table ``[tool.ds01]``. It can be written from inside the container,
so it is checked like any input, and can only ever ask for less than the admin's ceiling.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .engine import EngineName, GpuRequest, Mount
from .errors import SettingError
from .setting_values import (
    parse_constraints,
    parse_cpus,
    parse_engine,
    parse_gpus,
    parse_memory,
    parse_mounts,
    parse_network,
    parse_node,
    parse_packages,
    parse_pids,
    parse_python,
    parse_size,
    parse_variables,
    shown,
)

#: Bytes of a ``pyproject.toml``, and dots in one line of it: the time that a key takes to read grows with the
#: square of its parts, and at these limits the worst file takes about two seconds.
MOST_BYTES = 1 << 18
MOST_DOTS = 250


@dataclass(frozen=True)
class Settings:
    """What applies to one container. Bytes for sizes; None: the engine's default.

    `packages` is the file that packages are written into: ``"dockerfile"`` or ``"requirements"``. `engine` is
    the only one that the project can do with; ``"auto"``: any. The container depends on none of these, nor on
    `build_secrets`. `node` and `constraints` say where the project's container has to run, where there are
    several machines; `swarm_constraints` where all of Docker Swarm's have to.
    """

    memory: int | None = None
    cpus: float | None = None
    shm_size: int | None = None
    pids_limit: int | None = None
    gpus: GpuRequest | None = None
    network: str = ""
    python: str = ""
    mounts: tuple[Mount, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    build_args: Mapping[str, str] = field(default_factory=dict)
    build_secrets: Mapping[str, Path] = field(default_factory=dict)
    packages: str = "dockerfile"
    engine: EngineName = "auto"
    node: str = ""
    constraints: tuple[str, ...] = ()
    swarm_constraints: tuple[str, ...] = ()


@dataclass(frozen=True)
class ProjectKey:
    """A key of ``[tool.ds01]``.

    `read` gets words for where the value stands and the value, and raises `SettingError`. `kind` is the type
    in words. `field` is the one of `Settings` that it changes. `open`: a project may set it unless the admin
    says otherwise; if false, only where the admin says so.
    """

    read: Callable[[str, object], Any]
    kind: str
    field: str
    help: str
    open: bool = True


KEYS: Mapping[str, ProjectKey] = {
    "memory": ProjectKey(parse_memory, "size", "memory", 'Memory of the container, for example `"8g"`.'),
    "cpus": ProjectKey(parse_cpus, "number", "cpus", "CPUs that it may use, for example `1.5`."),
    "shm_size": ProjectKey(parse_size, "size", "shm_size", "Size of `/dev/shm` in it."),
    "gpus": ProjectKey(
        parse_gpus, "text or count", "gpus", '`"all"`, a count (0: none), or UUIDs (MIG too).'
    ),
    "python": ProjectKey(parse_python, "path", "python", "The interpreter inside the image."),
    "packages": ProjectKey(
        parse_packages, "text", "packages", 'Where packages are saved: `"dockerfile"` or `"requirements"`.'
    ),
    "engine": ProjectKey(
        parse_engine,
        "text",
        "engine",
        'The only engine that will do: `"docker"`, `"podman"` or `"swarm"`. Without the administrator\'s '
        "`engines_allowed` it can only be the one that there is: where there is another one, nothing starts.",
    ),
    "node": ProjectKey(parse_node, "text", "node", "The node of Docker Swarm that it has to run on."),
    "constraints": ProjectKey(
        parse_constraints,
        "list of texts",
        "constraints",
        "What has to be true of that node beside what the administrator wants, as in "
        '`["node.labels.room==2"]`.',
    ),
    "pids_limit": ProjectKey(
        parse_pids, "whole number", "pids_limit", "Processes and threads that it may have.", open=False
    ),
    "network": ProjectKey(parse_network, "text", "network", "The Docker network that it is in.", open=False),
    "mounts": ProjectKey(
        parse_mounts,
        "list of texts",
        "mounts",
        'Folders of the host beside the administrator\'s, as in `["/data:/data:ro"]`.',
        open=False,
    ),
    "variables": ProjectKey(
        parse_variables,
        "table of texts",
        "env",
        "Variables in it; the administrator's come first.",
        open=False,
    ),
    "build_args": ProjectKey(
        parse_variables,
        "table of texts",
        "build_args",
        "Build arguments of the Dockerfile; the administrator's come first.",
        open=False,
    ),
}

#: Keys of ``[tool.ds01]`` that a project may set unless the admin says otherwise.
PROJECT_KEYS = tuple(name for name, key in KEYS.items() if key.open)


@dataclass(frozen=True)
class Ceiling:
    """The most that a project may ask for; None: as much as it likes. `keys`: what it may set at all."""

    memory: int | None = None
    cpus: float | None = None
    shm_size: int | None = None
    gpus: int | None = None
    pids_limit: int | None = None
    keys: tuple[str, ...] = PROJECT_KEYS


def with_project(admin: Settings, ceiling: Ceiling, text: str, file: str) -> Settings:
    """`admin` with what ``[tool.ds01]`` in that text of a ``pyproject.toml`` changes.

    Raises `SettingError` naming the key and `file`.
    """
    changed: dict[str, Any] = {}
    for name, value in _table(text, file).items():
        where = f"[tool.ds01] {name if name.isprintable() and len(name) < 100 else shown(name)} in {file}"
        if name not in KEYS:
            raise SettingError(f"{where} is not a setting.", remedy=f"There are: {', '.join(ceiling.keys)}.")
        if name not in ceiling.keys:
            raise SettingError(f"{where} may not be set by a project here.", remedy="Ask the administrator.")
        key = KEYS[name]
        asked = key.read(where, value)
        _check_ceiling(where, name, asked, ceiling)
        changed[key.field] = _added(getattr(admin, key.field), asked)
    return replace(admin, **changed)


def _added(own: Any, asked: Any) -> Any:
    """What a project asks for in the place of the admin's, but beside it where there can be several."""
    if isinstance(asked, Mapping):
        return {**asked, **own}
    if isinstance(asked, tuple) and all(isinstance(one, Mount) for one in asked):
        targets = {mount.target for mount in own}
        return (*own, *(mount for mount in asked if mount.target not in targets))
    return asked


def _table(text: str, file: str) -> dict[str, Any]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.count(".") > MOST_DOTS:
            raise SettingError(
                f"Line {number} of {file} has more than {MOST_DOTS} dots.",
                remedy="Write what it holds over several lines.",
            )
    try:
        tool = tomllib.loads(text).get("tool", {})
    # A ValueError beside TOML's own: a number of more digits than Python reads.
    except (ValueError, RecursionError) as error:
        raise SettingError(f"{file} is not TOML: {error}.", remedy="Correct it, or remove it.") from None
    table = tool.get("ds01", {}) if isinstance(tool, dict) else {}
    if not isinstance(table, dict):
        raise SettingError(
            f"[tool.ds01] in {file} is not a table.", remedy="Write its keys below [tool.ds01]."
        )
    return table


def _check_ceiling(where: str, key: str, value: Any, ceiling: Ceiling) -> None:
    most = getattr(ceiling, key, None)
    if most is None:
        return
    asked = value
    if isinstance(value, GpuRequest):
        asked = math.inf if value.count < 0 else max(value.count, len(value.ids))
    elif value is None:
        # Nothing asked for means as much as there is; of GPUs it means none.
        asked = 0 if key == "gpus" else math.inf
    if asked > most:
        raise SettingError(
            f"{where} is more than the {most:g} that the administrator allows.", remedy="Ask for less."
        )
