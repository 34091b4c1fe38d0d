"""The whole suite: ``python -m benchmarks``.

Each case is measured against its peers in the same run: every way once a round, in rotated order, after a
first round that warms up and is not counted. Progress goes to standard error, the results to standard output.
"""

from __future__ import annotations

import argparse
import json
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

from . import engines, kernel_life, kernel_start, machine, packages, rebuild, report
from .case import Case, UnavailableError, WrongAnswerError
from .compare import compare
from .conduct import conduct, say
from .results import Run
from .rounds import measure
from .stage import Stage

CASES: tuple[Case, ...] = (
    *kernel_start.CASES,
    *kernel_life.CASES,
    *engines.CASES,
    *packages.CASES,
    *rebuild.CASES,
)

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"
PICTURE = ROOT / "docs" / "images" / "benchmarks.png"


def main(words: Sequence[str] | None = None) -> int:
    arguments = _arguments(words)
    if arguments.from_file:
        _finish(arguments.from_file, arguments)
        return 0
    return conduct(lambda stage: _run(stage, arguments), arguments.image)


async def _run(stage: Stage, arguments: argparse.Namespace) -> None:
    say(f"Run {stage.run}.")
    before = machine.load()
    results, failed = [], []
    cases = [case for case in CASES if case.key in arguments.only]
    stage.configure({name: value for case in cases for name, value in case.settings.items()})
    for case in cases:
        try:
            results.append(await measure(stage, case, arguments.rounds))
        except UnavailableError as error:
            stage.leave_out(case.key, str(error))
        except Exception as error:
            # The others have taken their time, and are worth having.
            traceback.print_exc()
            stage.leave_out(case.key, f"{type(error).__name__}: {error}")
            failed.append(case.key)
    info = await stage.engine.info()
    run = Run(
        id=stage.run,
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        rounds=arguments.rounds,
        machine=machine.description(f"{info.name} {info.version}"),
        load=(before, machine.load()),
        cases=tuple(results),
        left_out=stage.left_out,
        kernels=stage.kernels,
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(run.as_json(), indent=1) + "\n", encoding="utf-8")
    _finish(run, arguments)
    if failed:
        raise WrongAnswerError(f"These could not be measured: {', '.join(failed)}.")


def _finish(run: Run, arguments: argparse.Namespace) -> None:
    """What is done with a run, whether it was just made or read."""
    print(report.text(run))
    if arguments.compare:
        print(compare(arguments.compare, run))
    if arguments.docs:
        from . import plot

        plot.draw(run, PICTURE)
        PAGE.write_text(report.page(run, PICTURE.relative_to(PAGE.parent).as_posix()), encoding="utf-8")
        say(f"Written: {PAGE} and {PICTURE}.")


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    keys = [case.key for case in CASES]
    usual = [case.key for case in CASES if not case.settings]
    parser.add_argument("--only", nargs="+", choices=keys, default=usual, metavar="CASE", help=" ".join(keys))
    parser.add_argument("--rounds", type=_rounds, default=10, help="how many count (default 10)")
    parser.add_argument("--image", default="", help="one with ipykernel; else one is built with the host's")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    parser.add_argument("--compare", type=_read, metavar="OLD.json", help="say what is slower or faster now")
    parser.add_argument("--docs", action="store_true", help="write docs/benchmarks.md and its picture")
    parser.add_argument(
        "--from", dest="from_file", type=_read, metavar="FILE", help="take this run, and measure nothing"
    )
    arguments = parser.parse_args(words)
    # Better known before all is measured.
    if arguments.docs and find_spec("matplotlib") is None:
        parser.error("--docs draws with matplotlib: pip install -e '.[benchmarks]'")
    return arguments


def _rounds(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of rounds: give 1 or more.")
    return int(text)


def _read(name: str) -> Run:
    try:
        return Run.from_json(json.loads(Path(name).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{name} cannot be used: {error}.") from error
