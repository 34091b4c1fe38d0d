"""What it takes to list the packages of a container: ``python -m benchmarks.packages``.

Ours, by `Agent.packages` on the stream that is open anyway, beside ``pip list --format=json`` in the same
container, as one exec call of the engine with no docker command in between. The container has nothing but
distributions that are made up, of the usual length. Both must name the same packages.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from time import perf_counter

from ds01_kernels.agent_client import Agent
from ds01_kernels.agent_requests import Identity
from ds01_kernels.engine import ContainerSpec

from .case import MAIN, Case, Expected, Sample, Way, WrongAnswerError, settle
from .inside import output
from .stage import BASE_IMAGE, LABEL, Stage

SIZES = (50, 500)

#: Seconds for one list.
LIMIT = 120.0

#: Run in a container: makes it have $1 distributions, with metadata of the usual length.
FILL = """
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


List = Callable[[], Awaitable[set[str]]]


@asynccontextmanager
async def listing(size: int, stage: Stage) -> AsyncIterator[Sequence[Way]]:
    """A container with that many packages, and the two ways to list them."""
    engine = stage.engine
    spec = ContainerSpec(
        name=f"ds01-benchmark-{stage.run}-{size}",
        image=await stage.build("packages", stage.given_image or BASE_IMAGE),
        entrypoint=("sleep", "infinity"),
        labels={LABEL: stage.run},
    )
    container = (await engine.create(spec)).id
    await engine.start(container)
    await output(engine, container, ["/usr/bin/python", "-c", FILL, str(size)])
    agent = Agent(engine, container, Identity(f"benchmark-{stage.run}", "", 0.0), ("", ""), "/usr/bin/python")
    await agent.connect()

    async def ours() -> set[str]:
        return {_normalised(package["name"]) for package in (await agent.packages())["packages"]}

    async def pips() -> set[str]:
        listed = json.loads(await output(engine, container, ["pip", "list", "--format=json"]))
        return {_normalised(package["name"]) for package in listed}

    expected = await pips()
    if len(expected) != size:
        raise WrongAnswerError(f"The container has {len(expected)} packages, not {size}.")
    try:
        yield [
            Way("ds01", "ds01-kernels", partial(_timed, ours, expected)),
            Way("pip-list", "pip list --format=json", partial(_timed, pips, expected)),
        ]
    finally:
        await agent.close()
        await engine.remove(container)


async def _timed(list_: List, expected: set[str]) -> Sample:
    await settle()
    async with asyncio.timeout(LIMIT):
        began = perf_counter()
        names = await list_()
        seconds = perf_counter() - began
    if names != expected:
        raise WrongAnswerError(f"The list of packages differs by {sorted(names ^ expected)}.")
    return {MAIN: seconds}


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


CASES: tuple[Case, ...] = tuple(
    Case(
        f"listing-{size}",
        f"List of {size} packages",
        partial(listing, size),
        (Expected("ds01", 0.15, of="pip-list"),),
        yardstick="pip-list",
    )
    for size in SIZES
)

if __name__ == "__main__":
    from .suite import main

    sys.exit(main(["--only", *(case.key for case in CASES), *sys.argv[1:]]))
