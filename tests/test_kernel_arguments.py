"""The arguments of a kernel process that need no parser, against what Jupyter's own makes of them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

_PROGRAM = """
import json, sys
from ds01_kernels.agent import kernel
app = kernel.application()
parse = app.parse_command_line
told = {}
def initialize(argv):
    (parse if sys.argv[1] == "parsed" else app.parse_command_line)(argv)
    told.update(
        argv=app.argv, extra=app.extra_args, own="parse_command_line" in vars(app),
        file=app.connection_file, parent=app.parent_handle, profile=app.profile, level=app.log_level,
        kept=[str(app.cli_config.IPKernelApp[name]) for name in ("connection_file", "parent_handle")],
        names=[sorted(app.cli_config), sorted(app.cli_config.IPKernelApp), sorted(app.config.IPKernelApp)],
    )
app.initialize = initialize
kernel.initialize(app, "/a b/k'.json", sys.argv[2:])
print(json.dumps(told))
"""


def told(way: str, *more: str) -> dict[str, object]:
    words = [sys.executable, "-c", _PROGRAM, way, *more]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_our_own_are_taken_as_the_parser_takes_them() -> None:
    parsed, taken = told("parsed"), told("taken")
    assert parsed.pop("own") is True
    assert taken.pop("own") is False
    assert taken == parsed
    assert taken["file"] == "/a b/k'.json"
    assert taken["parent"] == 1


@pytest.mark.parametrize("way", ["parsed", "taken"])
def test_others_go_to_the_parser(way: str) -> None:
    found = told(way, "--log-level=10", "--profile=other")
    assert (found["level"], found["profile"], found["own"]) == (10, "other", False)
