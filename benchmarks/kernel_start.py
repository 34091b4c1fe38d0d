"""How long a kernel takes to start, ours beside others, in one run: ``python -m benchmarks.kernel_start``.

Each round runs every case once, in rotated order, so that what else the machine does falls on all of them
alike. The first round warms up and is not counted. Progress goes to standard error, the table to
standard output.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from . import cases, peers, report
from .conduct import conduct, rounds, say
from .measure import Case, Sample, measure
from .peers import PIP_INSTALL
from .stage import BASE_IMAGE, Stage, installed

NOTES = """\
Time from the call of start_kernel (or restart_kernel) of jupyter_client's AsyncKernelManager to the reply on
the shell channel of a new client; not by `wait_for_ready`, whose flush of iopub adds a fixed 0.2 s.
Ratios: starts to the local kernel's start, restarts to the local kernel's restart."""


def main() -> int:
    arguments = _arguments()
    return conduct(lambda stage: _run(stage, arguments))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernel_start", description=__doc__)
    keys = (*cases.OWN_KEYS, *peers.PEER_KEYS)
    parser.add_argument("--rounds", type=rounds, default=10, help="how many count (default 10)")
    parser.add_argument("--cases", nargs="+", choices=keys, default=keys, metavar="CASE", help=" ".join(keys))
    parser.add_argument("--image", help="one with ipykernel; else one is built with the host's version")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    return parser.parse_args()


async def _run(stage: Stage, arguments: argparse.Namespace) -> None:
    facts = {"run": stage.run, "rounds": arguments.rounds, "load at start": report.load()}
    say(f"Run {stage.run}: preparing images.")
    await _prepare_image(stage, arguments.image)
    chosen, left_out = await _make_cases(stage, arguments.cases)
    await stage.keep()
    rows = await _measure_rounds(chosen, arguments.rounds, left_out)
    engine = await stage.engine.info()
    facts["machine"] = report.machine(f"{engine.name} {engine.version}")
    facts["load at end"] = report.load()
    facts["left out"] = left_out
    _print(rows, facts)
    if arguments.json:
        arguments.json.write_text(json.dumps(report.as_json(rows, facts), indent=1) + "\n", encoding="utf-8")


async def _prepare_image(stage: Stage, given: str | None) -> None:
    if given:
        await stage.build("ipykernel", given)
    else:
        await stage.build("ipykernel", BASE_IMAGE, f"RUN {PIP_INSTALL} ipykernel=={installed('ipykernel')}")


async def _make_cases(stage: Stage, keys: Sequence[str]) -> tuple[list[Case], dict[str, str]]:
    made: list[Case] = []
    left_out: dict[str, str] = {}
    for key in keys:
        try:
            made.append(await (peers if key in peers.PEER_KEYS else cases).make(stage, key))
        except cases.UnavailableError as error:
            left_out[key] = str(error)
            say(f"{key} is left out: {error}")
    return made, left_out


async def _measure_rounds(chosen: list[Case], count: int, left_out: dict[str, str]) -> list[report.Row]:
    samples: dict[str, list[Sample]] = {case.key: [] for case in chosen}
    about: dict[str, dict[str, str]] = {}
    for number in range(count + 1):
        say("Round 0, to warm up." if number == 0 else f"Round {number} of {count}.")
        start = number % len(chosen)
        for case in [*chosen[start:], *chosen[:start]]:
            if case.key in left_out:
                continue
            try:
                sample, about[case.key] = await measure(case)
            except Exception as error:
                if not case.peer:
                    raise
                left_out[case.key] = f"{type(error).__name__} in round {number}: {error}"
                say(f"{case.key} is left out: {left_out[case.key]}")
                continue
            if number > 0:
                samples[case.key].append(sample)
    return [
        report.Row(case.key, case.title, case.what, tuple(samples[case.key]), about[case.key])
        for case in chosen
        if case.key not in left_out
    ]


def _print(rows: Sequence[report.Row], facts: dict[str, object]) -> None:
    print(report.table(rows))
    for key, why in dict(facts["left out"]).items():  # type: ignore[call-overload]
        print(f"{key}: left out, {why}")
    print(f"\nRounds: {facts['rounds']} after one to warm up; every case once a round, in rotated order.")
    print(f"{NOTES}\n")
    for name, text in dict(facts["machine"]).items():  # type: ignore[call-overload]
        print(f"{name + ':':<10}{text}")
    for kernel, keys in report.kernels(rows).items():
        print(f"{'kernels:':<10}{kernel}: {', '.join(keys)}")
    print(f"{'load:':<10}{facts['load at start']} at first, {facts['load at end']} at last (1, 5, 15 min)")


if __name__ == "__main__":
    sys.exit(main())
