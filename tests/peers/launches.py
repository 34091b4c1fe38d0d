"""Records where kernels are started, in every process that imports it, with the test that pytest is running.

The configuration file of a run imports it wherever a `Workbench` is opened, so processes that a test starts
are seen as well.
"""

from __future__ import annotations

import os
from typing import Any

from jupyter_client.manager import KernelManager

#: Set in every process of a run: the file to which the lines ``<test> <tab> <place>`` are added.
RECORD = "PEERS_LAUNCHES"

CONTAINER = "container"
EXPLAINED = "explained"
HOST = "host"

_launch = KernelManager._async_launch_kernel


async def _recorded(self: Any, *arguments: Any, **kwargs: Any) -> None:
    await _launch(self, *arguments, **kwargs)
    info = await self.provisioner.get_provisioner_info()
    # "<file>::<test> (call)"
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
    with open(os.environ[RECORD], "a", encoding="utf-8") as file:
        file.write(f"{test}\t{_place(info)}\n")


def _place(info: dict[str, Any]) -> str:
    """From what the provisioner tells: a project's kernel without a process there is one that explains."""
    if info.get("process"):
        return CONTAINER
    return EXPLAINED if info.get("project") else HOST


if RECORD in os.environ:
    KernelManager._async_launch_kernel = _recorded


def places(record: str | os.PathLike[str]) -> dict[str, set[str]]:
    """The places of each test's kernels."""
    found: dict[str, set[str]] = {}
    with open(record, encoding="utf-8") as file:
        for line in file:
            test, _, place = line.rstrip("\n").partition("\t")
            found.setdefault(test, set()).add(place)
    return found
