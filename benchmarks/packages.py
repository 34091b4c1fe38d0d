"""What it takes to list the packages of a container: ``python -m benchmarks.packages``.

Ours, through the agent, beside ``pip list --format=json`` in the same container. Each round lists once each
way, in rotated order. The first round warms up and is not counted. Progress goes to standard error, the
table to standard output.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

from ds01_kernels.agent_client import Agent, Identity
from ds01_kernels.engine import ContainerSpec, Engine

from . import report
from .conduct import conduct, rounds, say
from .measure import QUIET, WrongAnswerError
from .stage import BASE_IMAGE, LABEL, Stage

SIZES = (50, 500)

#: Seconds for one list.
LIMIT = 120.0

NOTES = """\
Time from the request on the host to the whole answer there: ours by `Agent.packages` on a stream that is
open, pip's by one exec call of the engine, with no docker command in between. Both answers must name the
same packages. Ratios: of our median to that of `pip list` in the same container."""

#: Run in a container: makes it have $1 distributions, with metadata of the usual length.
_FILL = """
import importlib.metadata, os, sys, sysconfig
missing = int(sys.argv[1]) - len(list(importlib.metadata.distributions()))
for number in range(missing):
    name = "made-up-%d" % number
    info = os.path.join(sysconfig.get_path("purelib"), "made_up_%d-1.%d.dist-info" % (number, number))
    os.makedirs(info)
    lines = ["Metadata-Version: 2.1", "Name: " + name, "Version: 1.%d" % number, "Summary: Nothing at all"]
    lines += ["Classifier: Programming Language :: Python :: 3.%d" % minor for minor in range(20)]
    needed = range(number + 1, number + 11)
    lines += ["Requires-Dist: made-up-%d (>=1.0) ; python_version >= '3.8'" % one for one in needed]
    files = {
        "METADATA": "\\n".join([*lines, "", "A line of a description.\\n" * 200]),
        "INSTALLER": "pip\\n",
        "WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
        "RECORD": "".join("made_up_%d/module_%d.py,,\\n" % (number, file) for file in range(50)),
        "top_level.txt": "made_up_%d\\n" % number,
    }
    if number % 5 == 0:
        files["REQUESTED"] = ""
    for file, text in files.items():
        with open(os.path.join(info, file), "w") as output:
            output.write(text)
"""


@dataclass(frozen=True)
class Pair:
    """Seconds of each list of `size` packages, ours and pip's, one for each round."""

    size: int
    ours: tuple[float, ...]
    pips: tuple[float, ...]

    @property
    def ratio(self) -> float:
        return median(self.ours) / median(self.pips)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.packages", description=__doc__)
    parser.add_argument("--rounds", type=rounds, default=15, help="how many count (default 15)")
    parser.add_argument("--image", default=BASE_IMAGE, help=f"the image to list in (default {BASE_IMAGE})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    arguments = parser.parse_args()
    return conduct(lambda stage: _run(stage, arguments))


async def _run(stage: Stage, arguments: argparse.Namespace) -> None:
    before = report.load()
    say(f"Run {stage.run}: preparing {len(SIZES)} containers.")
    image = await stage.build("packages", arguments.image)
    async with AsyncExitStack() as opened:
        cases = [await _case(stage.engine, opened, stage.run, image, size) for size in SIZES]
        pairs = await _measure(cases, arguments.rounds)
    engine = await stage.engine.info()
    facts = {
        "run": stage.run,
        "rounds": arguments.rounds,
        "machine": report.machine(f"{engine.name} {engine.version}"),
        "load at start": before,
        "load at end": report.load(),
    }
    print(table(pairs))
    print(f"\nRounds: {arguments.rounds} after one to warm up; both ways once a round, in rotated order.")
    print(f"{NOTES}\n")
    for name, text in dict(facts["machine"]).items():
        print(f"{name + ':':<10}{text}")
    print(f"{'load:':<10}{before} at first, {facts['load at end']} at last (1, 5, 15 min)")
    if arguments.json:
        arguments.json.write_text(json.dumps(as_json(pairs, facts), indent=1) + "\n", encoding="utf-8")


Way = Callable[[], Awaitable[set[str]]]


@dataclass(frozen=True)
class _Case:
    size: int
    ways: tuple[Way, Way]


async def _case(engine: Engine, opened: AsyncExitStack, run: str, image: str, size: int) -> _Case:
    """A container with that many packages, and the two ways to list them."""
    spec = ContainerSpec(
        name=f"ds01-benchmark-{run}-{size}",
        image=image,
        entrypoint=("sleep", "infinity"),
        labels={LABEL: run},
    )
    container = (await engine.create(spec)).id
    await engine.start(container)
    await _output(engine, container, ["/usr/bin/python", "-c", _FILL, str(size)])
    agent = Agent(engine, container, Identity(f"benchmark-{run}", "", 0.0), ("", ""), "/usr/bin/python")
    await agent.connect()
    opened.push_async_callback(agent.close)

    async def ours() -> set[str]:
        return {_normalised(package["name"]) for package in (await agent.packages())["packages"]}

    async def pips() -> set[str]:
        listed = json.loads(await _output(engine, container, ["pip", "list", "--format=json"]))
        return {_normalised(package["name"]) for package in listed}

    return _Case(size, (ours, pips))


async def _output(engine: Engine, container: str, argv: Sequence[str]) -> bytes:
    stream = await engine.exec(container, argv)
    try:
        output = b""
        while data := await stream.read():
            output += data
        if await stream.exit_code() != 0:
            raise WrongAnswerError(f"{argv[0]} failed in the container: {stream.errors}")
        return output
    finally:
        await stream.close()


async def _measure(cases: Sequence[_Case], count: int) -> list[Pair]:
    samples: dict[tuple[int, int], list[float]] = {}
    order = [(case, way) for case in cases for way in (0, 1)]
    for number in range(count + 1):
        say("Round 0, to warm up." if number == 0 else f"Round {number} of {count}.")
        start = number % len(order)
        found: dict[int, list[set[str]]] = {}
        for case, way in [*order[start:], *order[:start]]:
            await asyncio.sleep(QUIET)
            async with asyncio.timeout(LIMIT):
                began = perf_counter()
                names = await case.ways[way]()
                took = perf_counter() - began
            found.setdefault(case.size, []).append(names)
            if number > 0:
                samples.setdefault((case.size, way), []).append(took)
        for size, (one, other) in found.items():
            if one != other or len(one) != size:
                raise WrongAnswerError(f"The two lists of {size} packages differ by {sorted(one ^ other)}.")
    return [Pair(case.size, *(tuple(samples[case.size, way]) for way in (0, 1))) for case in cases]


def table(pairs: Sequence[Pair]) -> str:
    """Aligned, two lines for each number of packages; milliseconds."""
    lines = [f"{'ms':<32}" + "".join(f"{name:>8}" for name in ("median", "min", "max", "ratio")), "-" * 64]
    for pair in pairs:
        for title, values, ratio in (
            ("ds01-kernels", pair.ours, f"{pair.ratio:.3f}"),
            ("pip list --format=json", pair.pips, "1"),
        ):
            numbers = (value * 1000 for value in (median(values), min(values), max(values)))
            lines.append(
                f"{f'{pair.size}, {title}':<32}" + "".join(f"{n:>8.1f}" for n in numbers) + f"{ratio:>8}"
            )
    return "\n".join(lines)


def as_json(pairs: Sequence[Pair], facts: dict[str, object]) -> dict[str, object]:
    cases = [
        {"packages": pair.size, "ours": pair.ours, "pip": pair.pips, "ratio": pair.ratio} for pair in pairs
    ]
    return {**facts, "cases": cases}


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.exit(main())
