"""What is free on the machine that containers run on."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from ds01_kernels import commands
from ds01_kernels.containers import LABEL_PROJECT
from ds01_kernels.engine import ContainerSpec, EngineInfo, GpuRequest
from ds01_kernels.nodes import Node, counted, nodes
from ds01_kernels.testing import FakeEngine
from ds01_kernels.workbench import Workbench

GIB = 1 << 30
ELSEWHERE = EngineInfo("docker", "26", local=False, cpus=8, memory=64 * GIB, machine="gpu-1", why="Because.")


async def made(engine: FakeEngine, *given: dict[str, object], start: bool = True) -> None:
    for number, settings in enumerate(given):
        labels = {LABEL_PROJECT: "p"}
        spec = ContainerSpec(f"c{number}", "ds01/base:latest", ("sleep", "1000"), labels=labels, **settings)  # type: ignore[arg-type]
        await engine.create(spec)
        if start:
            await engine.start(spec.name)


def seen(info: EngineInfo, *given: dict[str, object], start: bool = True) -> Node:
    async def flow() -> Node:
        engine = FakeEngine(info=info)
        await made(engine, *given, start=start)
        try:
            (node,) = await nodes(engine)
        finally:
            for number in range(len(given)):
                await engine.remove(f"c{number}")
        return node

    return asyncio.run(flow())


def test_what_running_containers_were_given_is_not_free() -> None:
    given = [{"cpus": 1.5, "memory": 8 * GIB}, {"cpus": 2.0}, {"memory": GIB}]
    node = seen(ELSEWHERE, *given)
    assert (node.name, node.engine, node.why, node.containers) == ("gpu-1", "docker", "Because.", 3)
    assert (node.cpus, node.free_cpus) == (8, 4.5)
    assert (node.memory, node.free_memory) == (64 * GIB, 55 * GIB)
    # An engine that runs elsewhere does not say what GPUs it has.
    assert (node.gpus, node.free_gpus) == (None, None)
    idle = seen(ELSEWHERE, *given, start=False)
    assert (idle.containers, idle.free_cpus, idle.free_memory) == (0, 8.0, 64 * GIB)


def test_more_than_there_is_leaves_nothing() -> None:
    node = seen(ELSEWHERE, {"cpus": 7.0, "memory": 60 * GIB}, {"cpus": 7.0, "memory": 60 * GIB})
    assert (node.free_cpus, node.free_memory) == (0.0, 0)


def test_memory_here_is_what_this_machine_has_available() -> None:
    node = seen(EngineInfo("docker", "26", local=True, cpus=2, memory=1 << 60))
    assert 0 < node.free_memory < 1 << 60


@pytest.mark.parametrize(
    ("given", "free"),
    [
        ([], 4),
        ([GpuRequest(1)], 3),
        # Both begin with the first GPU.
        ([GpuRequest(1), GpuRequest(2)], 2),
        ([GpuRequest(ids=("0", "GPU-1"))], 2),
        ([GpuRequest(2), GpuRequest(ids=("1", "3"))], 1),
        ([GpuRequest(-1)], 0),
        ([None], 4),
    ],
)
def test_free_gpus(given: Sequence[GpuRequest | None], free: int) -> None:
    async def flow() -> Node:
        engine = FakeEngine(info=ELSEWHERE)
        await made(engine, *({"gpus": gpus} for gpus in given), start=False)
        return counted(ELSEWHERE, await engine.containers({}), None, 4)

    node = asyncio.run(flow())
    assert (node.gpus, node.free_gpus) == (4, free)


def test_the_command_line_lists_them(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workbench = Workbench(engine=FakeEngine(info=ELSEWHERE))
    try:
        commands.list_nodes(workbench, argparse.Namespace(json=True))
        (told,) = json.loads(capsys.readouterr().out)
        assert (told["name"], told["free_cpus"], told["gpus"]) == ("gpu-1", 8.0, None)
        commands.list_nodes(workbench, argparse.Namespace(json=False))
        said = capsys.readouterr()
        assert [line.split()[0] for line in said.out.splitlines()] == ["NODE", "gpu-1"]
        assert "8 of 8" in said.out
        assert "not known" in said.out
        assert said.err == "Because.\n"
    finally:
        workbench.close()
