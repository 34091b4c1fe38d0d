"""A pytest plugin for another project's suite: leaves tests out, moves its kernels, reports as JSON."""

from __future__ import annotations

import json
import os
import sys
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.kernelspec import KernelSpec
from launches import places

from ds01_kernels.workbench import Workbench

SETTINGS = Path(os.environ["PEERS_SETTINGS"])
REPORT = Path(os.environ["PEERS_REPORT"])
PROJECT = os.environ["PEERS_PROJECT"]

settings = tomllib.loads(SETTINGS.read_text(encoding="utf-8"))
left_out: dict[str, str] = {}
outcomes: dict[str, dict[str, Any]] = {}


# --- which tests ---


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    used: set[str] = set()
    kept, dropped = [], []
    for item in items:
        matching = [
            (pattern, entry["reason"])
            for entry in settings["left_out"]
            for pattern in entry["tests"]
            if _matches(item.nodeid, pattern)
        ]
        used.update(pattern for pattern, _ in matching)
        if matching:
            left_out[item.nodeid] = matching[0][1]
        (dropped if matching else kept).append(item)
    listed = {pattern for entry in settings["left_out"] for pattern in entry["tests"]}
    # When only some tests were asked for, the others' patterns match nothing.
    if config.args == ["tests"] and not config.option.keyword and (stale := sorted(listed - used)):
        raise pytest.UsageError(f"{SETTINGS.name} leaves out tests that do not exist: {', '.join(stale)}")
    config.hook.pytest_deselected(items=dropped)
    items[:] = kept


def _matches(test: str, pattern: str) -> bool:
    # Brackets are parameters here, not sets of characters.
    return fnmatchcase(test, pattern.replace("[", "[[]"))


# --- their kernels ---

_read_spec = KernelSpec.from_resource_dir


def _moved_spec(resource_dir: str) -> KernelSpec:
    """The suite's own kernels are modules that are run; in a container, kernel classes of ipykernel's."""
    spec = _read_spec(resource_dir)
    module = spec.argv[2] if spec.argv[1:2] == ["-m"] and len(spec.argv) > 2 else ""
    kernel_class = settings.get("kernels", {}).get(module)
    # A spec that names a provisioner is about that one.
    if kernel_class and "kernel_provisioner" not in spec.metadata:
        spec.argv = [
            sys.executable,
            "-m",
            "ipykernel_launcher",
            "-f",
            "{connection_file}",
            f"--IPKernelApp.kernel_class={kernel_class}",
        ]
        spec.language = "python"
        spec.metadata["kernel_provisioner"] = {
            "provisioner_name": "ds01-provisioner",
            "config": {"project": PROJECT},
        }
    return spec


KernelSpec.from_resource_dir = staticmethod(_moved_spec)  # type: ignore[method-assign,assignment]


# --- what came of it ---


def pytest_runtest_logstart(nodeid: str) -> None:
    # What stays when the test hangs until the run is given up.
    outcomes[nodeid] = {"outcome": "failed", "reason": "it did not end", "seconds": 0.0, "places": []}
    _write()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    known = outcomes[report.nodeid]
    if report.when == "setup":
        known.update(outcome="passed", reason="")
    known["seconds"] += report.duration
    if report.failed:
        known.update(outcome="failed", reason=_first_line(report))
    elif report.skipped:
        known.update(outcome="skipped", reason=_why_skipped(report))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if Workbench.initialized():
        # Ends the kernels that tests left; at exit their log would be closed.
        Workbench.instance().close()
    _write()


def _write() -> None:
    where = places(os.environ["PEERS_LAUNCHES"])
    for test, outcome in outcomes.items():
        outcome["places"] = sorted(where.get(test, ()))
    REPORT.write_text(json.dumps({"outcomes": outcomes, "left_out": left_out}), encoding="utf-8")


def _first_line(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    text = (crash.message if crash else str(report.longrepr)).strip()
    return f"{report.when}: {text.splitlines()[0] if text else ''}"


def _why_skipped(report: pytest.TestReport) -> str:
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    return str(getattr(report, "wasxfail", "")) or "no reason given"
