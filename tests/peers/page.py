"""What came of the runs: the table, and docs/peers.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

PLACES = {
    "container": "in a container",
    "explained": "none: the explaining kernel stood in",
    "host": "on the host",
    "none": "no kernel started",
}
COLUMNS = ("tests", "passed", "failed", "skipped by the suite", "left out")

INTRODUCTION = """\
# The suites of `jupyter_client` and `nbclient`

`scripts/peers` wrote this page: it runs these two packages' own tests with `ds01-provisioner`, and their
kernels in containers wherever that makes sense.
"""

METHOD = """\
## How they are run

- The tests come from the source distribution of the installed version, and lie in a project's folder, which
  the container has at `/workspace`. Their own configuration of pytest applies: warnings are errors.
- `ds01-provisioner` is the default provisioner (`JUPYTER_DEFAULT_PROVISIONER_NAME`). The name `python3` is a
  static kernelspec of the project (on `JUPYTER_PATH`, so that it also holds for programs which a test
  starts), as `jupyter ds01 kernelspec install` makes it. Nothing of `jupyter_client` is changed for it.
- `jupyter_client`'s tests bring kernels of their own, started with `python -m`. What runs in a container is
  always `ipykernel`, so a plugin of pytest reads their specs as `ipykernel` with the suite's kernel class
  (`--IPKernelApp.kernel_class`); the pauses that two of them make before they start fall away. One differs:
  the kernel that fails while it starts (`FAIL_ON_START`) fails right after it has started, because here
  a start waits until the kernel can be reached, and one that fails is not left to the restarter.
- Variables that the suites set for their kernels are passed on by name (`Workbench.pass_variables`), and the
  temporary folder in which two notebooks of `nbclient` meet is mounted (`Workbench.mounts`).
- A launch is recorded after `KernelManager` has done it, in every process: so the table says where the
  kernels of a test really ran. A test with kernels in several places counts where one ran that the table
  names first.
- Tests that start no kernel run all the same, `ds01-provisioner` being the default.
- Kernels of specs that belong to no project go through our provisioner to `LocalProvisioner`; of the tests
  that bring provisioners of their own, what runs is those.
"""


@dataclass(frozen=True)
class Result:
    """One suite's run: pytest's exit status, and what the plugin wrote as `report`."""

    package: str
    version: str
    seconds: float
    status: int
    report: dict[str, Any]


def table(results: Iterable[Result]) -> str:
    """In Markdown, one row for each suite and place."""
    rows = [
        "| suite | where its kernels ran | " + " | ".join(COLUMNS) + " |",
        "| --- | --- |" + " ---: |" * len(COLUMNS),
    ]
    for result in results:
        rows += _rows(result)
    return "\n".join(rows) + "\n"


def _rows(result: Result) -> Iterable[str]:
    counted = Counter((_place(o), o["outcome"]) for o in result.report["outcomes"].values())
    left_out = len(result.report["left_out"])
    for place, words in PLACES.items():
        outcomes = [counted[place, name] for name in ("passed", "failed", "skipped")]
        if any(outcomes):
            yield _row(result.package, words, [sum(outcomes), *outcomes, ""])
    outcomes = [sum(counted[p, name] for p in PLACES) for name in ("passed", "failed", "skipped")]
    yield _row(f"**{result.package}**", "**all**", [sum(outcomes) + left_out, *outcomes, left_out])


def _row(*cells: Any) -> str:
    *words, numbers = cells
    return f"| {' | '.join(map(str, [*words, *numbers]))} |"


def _place(outcome: dict[str, Any]) -> str:
    return next((place for place in PLACES if place in outcome["places"]), "none")


def failures(result: Result) -> str:
    failed = _with(result, "failed")
    return "".join(f"FAILED {result.package}: {test}\n    {o['reason']}\n" for test, o in failed.items())


def page(results: list[Result]) -> str:
    seconds = sum(result.seconds for result in results)
    versions = ", ".join(f"{result.package} {result.version}" for result in results)
    about = (
        f"This run: {versions}, ds01-kernels {version('ds01-kernels')}, "
        f"{seconds / 60:.1f} minutes for the tests.\n"
    )
    parts = [INTRODUCTION, about, table(results), METHOD]
    parts += [_details(result) for result in results]
    return "\n".join(parts)


def _details(result: Result) -> str:
    left_out: dict[str, list[str]] = {}
    for test, reason in result.report["left_out"].items():
        left_out.setdefault(reason, []).append(test)
    failed = {test: [o["reason"]] for test, o in _with(result, "failed").items()}
    skipped: dict[str, list[str]] = {}
    for test, outcome in _with(result, "skipped").items():
        skipped.setdefault(outcome["reason"], []).append(test)
    on_host = [t for t, o in result.report["outcomes"].items() if _place(o) == "host"]
    parts = [f"## {result.package}\n"]
    parts += _section("Failed", {f"`{test}`": reasons for test, reasons in failed.items()}, code=False)
    parts += _section("Left out", left_out)
    parts += _section("Skipped by the suite itself", skipped)
    if on_host:
        parts += ["### On the host\n", *(f"- `{test}`" for test in on_host), ""]
    return "\n".join(parts)


def _section(title: str, groups: dict[str, list[str]], *, code: bool = True) -> Iterable[str]:
    if not groups:
        return
    yield f"### {title}\n"
    for heading, lines in groups.items():
        yield f"- {heading}"
        yield from (f"    - `{line}`" if code else f"    - {line}" for line in lines)
    yield ""


def _with(result: Result, outcome: str) -> dict[str, dict[str, Any]]:
    return {test: o for test, o in result.report["outcomes"].items() if o["outcome"] == outcome}
