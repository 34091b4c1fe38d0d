"""The benchmark runs, prints what it promises, and leaves nothing behind, also when it is interrupted."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import packages
from benchmarks.measure import Sample
from benchmarks.report import Row, summarise, table
from ds01_kernels.connection import run_root
from ds01_kernels.containers import LABEL_SOCKETS
from ds01_kernels.engine.docker_connection import connect

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-m", "benchmarks.kernel_start"]
PACKAGES = [sys.executable, "-m", "benchmarks.packages"]
LIMIT = 150.0


def row(key: str, *results: float, what: str = "start") -> Row:
    return Row(key, f"title of {key}", what, tuple(Sample(result / 2, result) for result in results), {})


def test_medians_are_compared_with_the_local_kernel_of_their_own_kind() -> None:
    rows = [
        row("warm", 0.1, 0.9, 0.2),
        row("restart", 0.6, what="restart"),
        row("local", 0.4, 0.5, 0.3),
        row("local-restart", 1.2, what="restart"),
    ]
    summaries = summarise(rows)
    warm = summaries["warm"]["first_result"]
    assert (warm.median, warm.least, warm.most) == pytest.approx((200, 100, 900))
    assert warm.ratio == pytest.approx(0.5)
    assert summaries["restart"]["first_result"].ratio == pytest.approx(0.5)
    assert summaries["warm"]["kernel_info"].median == pytest.approx(100)


def test_without_a_local_kernel_there_is_no_ratio() -> None:
    assert summarise([row("warm", 0.1)])["warm"]["first_result"].ratio is None
    assert table([row("warm", 0.1)]).splitlines()[-1].endswith("-")


def test_the_table_is_aligned() -> None:
    lines = table([row("warm", 0.1), row("local", 12.5)]).splitlines()
    assert len({line.index("|") for line in lines if "|" in line}) == 1
    assert len({len(line) for line in lines[-2:]}) == 1
    assert "12500" in lines[-1]


@pytest.mark.parametrize("rounds", ["0", "-1", "many", ""])
def test_a_number_of_rounds_that_is_none_is_refused(rounds: str) -> None:
    done = subprocess.run([*COMMAND, f"--rounds={rounds}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "is not a number of rounds" in done.stderr


@pytest.mark.engine
def test_one_round_of_two_cases(ipykernel_image: str, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = subprocess.run(
        [
            *COMMAND,
            "--rounds=1",
            "--cases",
            "warm",
            "local",
            "--image",
            ipykernel_image,
            "--json",
            str(report),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text())
    warm, local = found["cases"]
    assert (warm["key"], local["key"]) == ("warm", "local")
    for case in (warm, local):
        assert len(case["samples"]) == 1
        assert 0 < case["samples"][0]["kernel_info"] < case["samples"][0]["first_result"]
    # They ran where they say that they ran.
    assert warm["kernel"]["executable"] == "/usr/bin/python"
    assert local["kernel"]["executable"] == sys.executable
    assert "ds01-kernels, container running" in done.stdout
    assert "load:" in done.stdout
    assert left_of(found["run"]) == set()


@pytest.mark.engine
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_an_interrupted_run_leaves_nothing(ipykernel_image: str, signum: int) -> None:
    run = subprocess.Popen(
        [*COMMAND, "--rounds=500", "--cases", "warm", "local", "--image", ipykernel_image],
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
            if line.startswith("Round 1 "):
                break
        label = lines[0].split()[1].rstrip(":")
        made = left_of(label)
        assert Path(f"/tmp/ds01-bench-{label}") in made, lines
        assert run_root() / "c" in {thing.parent for thing in made if isinstance(thing, Path)}
        run.send_signal(signum)
        run.communicate(timeout=LIMIT)
    finally:
        run.kill()
    assert run.returncode == 130
    assert left_of(label) == set()
    assert not [thing for thing in made if isinstance(thing, Path) and thing.exists()]


def test_the_lists_are_compared_by_their_medians() -> None:
    pair = packages.Pair(50, (0.01, 0.02, 9.0), (0.4, 0.1, 0.2))
    assert pair.ratio == pytest.approx(0.1)
    lines = packages.table([pair]).splitlines()
    assert lines[2].split() == ["50,", "ds01-kernels", "20.0", "10.0", "9000.0", "0.100"]
    assert lines[3].split()[-4:] == ["200.0", "100.0", "400.0", "1"]
    assert len({len(line) for line in lines}) == 1


@pytest.mark.engine
def test_one_round_of_listing_packages(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = subprocess.run(
        [*PACKAGES, "--rounds=1", "--json", str(report)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text())
    assert [(case["packages"], len(case["ours"]), len(case["pip"])) for case in found["cases"]] == [
        (50, 1, 1),
        (500, 1, 1),
    ]
    for case in found["cases"]:
        assert case["ratio"] == pytest.approx(case["ours"][0] / case["pip"][0])
    assert "500, pip list --format=json" in done.stdout
    assert left_of(found["run"]) == set()


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
    directories = {Path(f"/tmp/ds01-bench-{run}"), *sockets}
    return found | {directory for directory in directories if directory.exists()}
