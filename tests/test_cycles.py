"""A hundred lives of a kernel in one server: nothing grows."""

from __future__ import annotations

import json
import os
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from statistics import median

import psutil
import pytest
from conftest import ProjectFolder
from servers import Server, a_house, host_processes

from ds01_kernels.connection import run_root

pytestmark = pytest.mark.engine

CYCLES = 100

#: How much more the median of the last ten may be than that of the first ten.
GROWTH = 1.2

#: Seconds that Jupyter keeps what belonged to a websocket after it was closed; by default more than all of
#: this takes.
SETTINGS = "c.MappingKernelManager.kernel_info_timeout = 3\n"

#: Cycles before the first that counts: imports, caches and pools of the server fill.
WARM = 10


@dataclass(frozen=True)
class Sizes:
    """What is there between two lives. Memory is in bytes and one process's own, without what it shares."""

    server_descriptors: int
    server_memory: int
    server_threads: int
    agent_descriptors: int
    agent_memory: int
    processes_in_container: int
    files_of_ours: int
    files_of_jupyter: int


def test_nothing_grows_over_a_hundred_lives(ipykernel_image: str) -> None:
    with a_house() as house:
        project = house.project("cycles", ipykernel_image)
        with house.server(settings=SETTINGS) as server:
            seen = [_life(server, project, house.root) for _ in range(WARM + CYCLES)][WARM:]
    first, last = (
        {
            field.name: median(column)
            for field, column in zip(fields(Sizes), zip(*map(astuple, part), strict=True), strict=True)
        }
        for part in (seen[:10], seen[-10:])
    )
    print(json.dumps({name: [first[name], last[name]] for name in first}))
    assert {name: (first[name], last[name]) for name in first if last[name] > GROWTH * first[name]} == {}


def _life(server: Server, project: ProjectFolder, root: Path) -> Sizes:
    """Start a kernel, run a cell, end it; what is there then."""
    kernel = server.start_session(f"{project.name}/a.ipynb", "python3")
    with kernel.connected():
        kernel.run("print(1)")
    kernel.delete()
    return _look(server, project, root)


def _look(server: Server, project: ProjectFolder, root: Path) -> Sizes:
    inside = host_processes(project.container)
    (agent,) = [psutil.Process(pid) for pid, line in inside.items() if "# ds01 agent" in line]
    process = psutil.Process(server.process.pid)
    return Sizes(
        server_descriptors=process.num_fds(),
        server_memory=process.memory_full_info().uss,
        server_threads=process.num_threads(),
        agent_descriptors=agent.num_fds(),
        agent_memory=agent.memory_full_info().uss,
        processes_in_container=len(inside),
        files_of_ours=_count(run_root() / "k", f"{process.pid}-*"),
        files_of_jupyter=sum(len(files) for _, _, files in os.walk(root / "runtime")),
    )


def _count(folder: Path, pattern: str) -> int:
    return sum(1 + sum(1 for _ in place.rglob("*")) for place in folder.glob(pattern))
