"""The benchmarks run, print what they promise, and leave nothing behind, also when they are interrupted."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks import compare, report, suite
from benchmarks.case import BEST_PEER, MAIN, Case, Expected, Sample, Way
from benchmarks.results import CaseResult, Run, WayResult
from benchmarks.rounds import measure
from ds01_kernels.connection import run_root
from ds01_kernels.containers import LABEL_SOCKETS
from ds01_kernels.engine.docker_connection import connect

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-m", "benchmarks"]
LIMIT = 150.0


def way(key: str, *seconds: float, is_peer: bool = False, **more: float) -> WayResult:
    return WayResult(key, f"title of {key}", is_peer, tuple({MAIN: value, **more} for value in seconds))


def case(*ways: WayResult, expected: tuple[Expected, ...] = (), key: str = "start") -> CaseResult:
    return CaseResult(key, f"The case {key}", "ms", "local", ways, expected)


def run_of(*cases: CaseResult, **more: Any) -> Run:
    return Run(when="today", rounds=3, machine={"CPU": "a slow one"}, load=("0", "1"), cases=cases, **more)


RUN = run_of(
    case(
        way("ds01", 0.1, 0.9, 0.2, silence=0.4),
        way("local", 2.0, 1.0, 3.0),
        way("slow-peer", 9.0, is_peer=True),
        way("fast-peer", 1.0, is_peer=True),
        expected=(
            Expected("ds01", 0.1),
            Expected("ds01", 0.05, of=BEST_PEER),
            Expected("ds01", 0.5, of="", figure="silence"),
            Expected("ds01-other", 0.5),
        ),
    ),
    left_out={"envkernel": "it is not installed here"},
    kernels={"local": {"python": "3.11.2", "ipykernel": "7.0", "executable": "/usr/bin/python"}},
    id="abc",
)


# What follows from the samples


def test_ratios_are_of_medians() -> None:
    found = RUN.cases[0]
    assert found.median("ds01") == pytest.approx(0.2)
    assert found.ratio("ds01") == pytest.approx(0.1)
    assert found.ratio("ds01", "fast-peer") == pytest.approx(0.2)
    assert found.ratio("nobody") is None


def test_each_expectation_has_its_verdict() -> None:
    verdicts = RUN.cases[0].verdicts()
    assert [one.value for one in verdicts] == [
        pytest.approx(0.1),
        pytest.approx(0.2),
        pytest.approx(0.4),
        None,
    ]
    assert [one.is_reached for one in verdicts] == [True, False, True, False]
    assert verdicts[1].of == "fast-peer"


def test_without_the_yardstick_there_is_no_ratio() -> None:
    assert case(way("ds01", 1.0)).ratio("ds01") is None
    lines = report.table(run_of(case(way("ds01", 1.0)))).splitlines()
    assert cells(lines[-1])[:6] == ["The case start", "title of ds01", "1000 ms", "1000 ms", "1000 ms", ""]


# What is printed and written


def test_what_is_expected_stands_beside_each_ratio() -> None:
    heading, _, *rows = map(cells, report.table(RUN).splitlines())
    assert heading == ["case", "way", "median", "min", "max", "ratio", "expected", "reached"]
    assert rows[0][1:] == ["title of ds01", "200 ms", "100 ms", "900 ms", "0.10", "at most 0.10", "yes"]
    assert rows[1][1:2] + rows[1][5:] == [
        "- beside the best peer, fast-peer",
        "0.20",
        "at most 0.05",
        "**no**",
    ]
    assert rows[2][1:3] + rows[2][6:] == ["- silence", "400 ms", "at most 500 ms", "yes"]
    assert rows[3][1:] == ["title of local", "2000 ms", "1000 ms", "3000 ms", "1.00", "", ""]


def test_the_table_is_aligned() -> None:
    assert len({len(line) for line in report.table(RUN).splitlines()}) == 1


def test_the_page_says_what_it_was_made_on() -> None:
    page = report.page(RUN, "images/benchmarks.png")
    assert "not to be edited by hand" in page
    assert "](images/benchmarks.png)" in page
    assert "- CPU: a slow one" in page
    assert "- kernels: Python 3.11.2, ipykernel 7.0: local" in page
    assert "- Left out: envkernel: it is not installed here" in page
    assert "2 of 4 expectations are reached." in page


def test_memory_is_not_given_in_milliseconds() -> None:
    assert report.quantity(23_600_000, "MB") == "23.6 MB"
    assert report.quantity(0.0123, "ms") == "12.3 ms"


def test_the_picture_has_a_bar_for_each_ratio(tmp_path: Path) -> None:
    plot = pytest.importorskip("benchmarks.plot")
    drawn = tmp_path / "new" / "benchmarks.png"
    plot.draw(RUN, drawn)
    assert drawn.read_bytes().startswith(b"\x89PNG")


# What is kept, and compared


def test_json_brings_the_run_back() -> None:
    value = json.loads(json.dumps(RUN.as_json()))
    assert Run.from_json(value) == RUN
    (found,) = value["cases"]
    assert (found["ways"][0]["median"], found["ways"][0]["ratio"]) == (
        pytest.approx(0.2),
        pytest.approx(0.1),
    )
    assert [verdict["is_reached"] for verdict in found["verdicts"]] == [True, False, True, False]


@pytest.mark.parametrize("value", [None, [], {}, {"format": 0}, {"format": 1, "cases": [{}]}])
def test_what_no_run_has_written_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"no result of this suite|has the format"):
        Run.from_json(value)


def test_slower_and_faster_are_told_from_noise() -> None:
    old = run_of(
        *(case(way("ds01", value), way("local", 1.0), key=key) for key, value in (("a", 0.2), ("b", 0.2))),
        case(way("ds01", 0.2), way("local", 1.0), key="c"),
        case(way("ds01", 0.2), way("local", 1.0), key="gone"),
    )
    new = run_of(
        # The machine was twice as fast: the ratio is what counts.
        case(way("ds01", 0.2), way("local", 0.5), key="a"),
        case(way("ds01", 0.1), way("local", 1.0), key="b"),
        case(way("ds01", 0.21), way("local", 1.0), key="c"),
    )
    said = compare.compare(old, new)
    assert "slower: The case a, ds01: 0.20 of local -> 0.40 (2.00 times)" in said
    assert "faster: The case b, ds01: 0.20 of local -> 0.10 (0.50 times)" in said
    assert "1 others are within 10%" in said
    assert "not measured this time: gone" in said


# How it is measured


class Silent:
    """Stands in for a stage where nothing is made."""

    def __init__(self) -> None:
        self.left_out: dict[str, str] = {}

    def leave_out(self, what: str, why: str) -> None:
        self.left_out[what] = why


def measured(stage: Any, case: Case, rounds: int) -> CaseResult:
    return asyncio.run(measure(stage, case, rounds))


def test_every_way_is_done_once_a_round_and_each_begins_one() -> None:
    done: list[str] = []
    found = measured(Silent(), made_case(done), 2)
    assert done == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert [len(one.samples) for one in found.ways] == [2, 2, 2]


def test_a_peer_that_fails_is_left_out_and_the_rest_goes_on() -> None:
    stage = Silent()
    found = measured(stage, made_case([], failing="b"), 2)
    assert [one.key for one in found.ways] == ["a", "c"]
    assert stage.left_out == {"b, made": "OSError: it is broken"}


def test_what_is_no_peer_must_not_fail() -> None:
    with pytest.raises(OSError, match="broken"):
        measured(Silent(), made_case([], failing="a"), 1)


def made_case(done: list[str], failing: str = "") -> Case:
    def made(key: str) -> Way:
        async def once() -> Sample:
            done.append(key)
            if key == failing:
                raise OSError("it is broken")
            return {MAIN: 1.0}

        return Way(key, key, once, is_peer=key == "b")

    @asynccontextmanager
    async def prepare(stage: object) -> AsyncIterator[Sequence[Way]]:
        yield [made("a"), made("b"), made("c")]

    return Case("made", "made", prepare)


# The command


def test_each_case_has_a_name_of_its_own_and_expectations_of_its_ways() -> None:
    keys = [one.key for one in suite.CASES]
    assert len(set(keys)) == len(keys)
    assert all(one.expected for one in suite.CASES)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--rounds=0"], "is not a number of rounds"),
        (["--rounds=many"], "is not a number of rounds"),
        (["--only", "nothing"], "invalid choice"),
        (["--compare", "/there/is/no/such.json"], "cannot be used"),
    ],
)
def test_what_cannot_be_done_is_refused_before_it_begins(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        suite.main(words)
    assert stopped.value.code == 2
    assert sentence in capsys.readouterr().err


def test_a_run_that_was_kept_is_told_and_compared_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.json"
    file.write_text(json.dumps(RUN.as_json()))
    assert suite.main(["--from", str(file), "--compare", str(file)]) == 0
    said = capsys.readouterr().out
    assert "title of fast-peer" in said
    assert "4 others are within 10%" in said


@pytest.mark.engine
def test_one_round_of_two_cases(ipykernel_image: str, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    cases = ["stopped", "listing-50"]
    done = subprocess.run(
        [*COMMAND, "--rounds=1", "--only", *cases, "--image", ipykernel_image, "--json", str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stderr
    run = Run.from_json(json.loads(file.read_text()))
    assert {one.key for one in run.cases} == set(cases)
    for found in run.cases:
        assert {"ds01", found.yardstick} <= {one.key for one in found.ways}
        assert all(len(one.samples) == 1 and one.samples[0][MAIN] > 0 for one in found.ways)
    # They ran where they say that they ran.
    assert run.kernels["ds01"]["executable"] == "/usr/bin/python"
    assert run.kernels["local"]["executable"] == sys.executable
    assert "ds01-kernels, container stopped" in done.stdout
    assert left_of(run.id) == set()


@pytest.mark.engine
@pytest.mark.parametrize(
    ("signum", "case"),
    [(signal.SIGINT, "stopped"), (signal.SIGTERM, "restart-server")],
    ids=["SIGINT", "SIGTERM"],
)
def test_an_interrupted_run_leaves_nothing(ipykernel_image: str, signum: int, case: str) -> None:
    run = subprocess.Popen(
        [*COMMAND, "--rounds=500", "--only", case, "--image", ipykernel_image],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert run.stderr is not None
        lines = []
        for line in run.stderr:
            lines.append(line)
            if "round 1 of" in line:
                break
        label = lines[0].split()[1].rstrip(".")
        made = left_of(label)
        assert Path(f"/tmp/ds01-bench-{label}") in made, lines
        run.send_signal(signum)
        run.communicate(timeout=LIMIT)
    finally:
        run.kill()
    assert run.returncode == 130
    assert left_of(label) == set()
    assert not [thing for thing in made if isinstance(thing, Path) and thing.exists()]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def left_of(run: str) -> set[str | Path]:
    """What there is of that run: ids of the engine, and directories."""
    client = connect(60.0)
    try:
        filters = {"label": f"ds01-kernels.benchmark={run}"}
        containers = client.containers(all=True, filters=filters)
        found = {str(thing["Id"]) for thing in [*containers, *client.images(all=True, filters=filters)]}
        sockets = {
            Path(thing["Labels"][LABEL_SOCKETS]) for thing in containers if LABEL_SOCKETS in thing["Labels"]
        }
    finally:
        client.close()
    assert all(place.parent == run_root() / "c" for place in sockets)
    directories = {Path(f"/tmp/ds01-bench-{run}"), *sockets}
    return found | {directory for directory in directories if directory.exists()}
