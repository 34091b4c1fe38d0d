"""A machine of DS01: stand-ins of its commands on the PATH, which behave as the real ones are documented.

``tests/ds01_standin`` has the commands. What they do is written into ``log``; files beside them tell them
what to refuse. Each container that they make carries the label ``ds01-kernels.test=<mark>``, which nothing
else gives it.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from conftest import ProjectFolder
from live import docker

STAND_INS = Path(__file__).parent / "ds01_standin"


@dataclass(frozen=True)
class Machine:
    """`folder` is on the PATH."""

    folder: Path
    mark: str
    since: float

    @property
    def events(self) -> Path:
        return self.folder / "events.jsonl"

    @property
    def commands(self) -> list[str]:
        """What was run of DS01's commands, oldest first, without what only looks."""
        lines = [line.strip() for line in (self.folder / "log").read_text().splitlines()]
        return [line for line in lines if line.split()[1] not in ("ps", "images", "version", "buildx")]

    @property
    def settings(self) -> str:
        return f"c.Workbench.deploy_events = {str(self.events)!r}\n"

    def tell(self, name: str, text: str = "") -> None:
        (self.folder / name).write_text(text)

    def forget(self) -> None:
        """All is allowed again, and the log is empty."""
        for name in ("ask", "hang", "fail-once", "no-memory", "no-retire"):
            (self.folder / name).unlink(missing_ok=True)
        self.tell("most-containers", "3")
        self.tell("free-gpus", "2")
        self.tell("log")

    def containers(self) -> list[dict[str, Any]]:
        with docker() as client:
            found = client.containers(all=True, filters={"label": f"ds01-kernels.test={self.mark}"})
            return [client.inspect_container(one["Id"]) for one in found]

    def has(self, container: str) -> bool:
        return any(one["Name"] == f"/{container}" for one in self.containers())

    def has_made_all(self, project: ProjectFolder) -> None:
        """Every container of the project was made by DS01's commands, those that are gone included."""
        made = [one for one in self.made() if one["name"].startswith(project.name)]
        assert made
        for labels in made:
            assert labels.get("ds01-kernels.test") == self.mark, labels
            assert labels["ds01.managed"] == "true"
            assert ("ds01.interface" in labels) == (labels["name"] == project.container)

    def made(self) -> list[dict[str, str]]:
        """The labels and names of all containers that the engine has made since, of whomever."""
        with docker() as client:
            events = client.events(
                since=int(self.since),
                until=int(time.time()) + 1,
                filters={"type": "container", "event": "create"},
                decode=True,
            )
            return [event["Actor"]["Attributes"] for event in events]

    def end_for(self, kind: str, container: str, **details: str) -> None:
        """What DS01's enforcement does: stop the container, log it, remove it."""
        with docker() as client:
            client.stop(container, timeout=0)
            event = {
                "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
                "event_type": kind,
                "schema_version": "1",
                "user": "someone",
                "details": {"container": container, **details},
            }
            with self.events.open("a") as file:
                file.write(json.dumps(event) + "\n")
            client.remove_container(container)


@contextmanager
def a_machine(folder: Path, mark: str) -> Iterator[Machine]:
    """Its commands come first on the PATH of this process; at the end what they have made is removed."""
    real = shutil.which("docker")
    if real is None:
        pytest.skip("there is no docker client, which DS01's commands are made of")
    shutil.copytree(STAND_INS, folder)
    machine = Machine(folder, mark, time.time())
    machine.tell("real-docker", real)
    machine.tell("mark", mark)
    machine.forget()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        # What DS01 sets on the host.
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setenv("DS01_CONTEXT", "orchestration")
        try:
            yield machine
        finally:
            with docker() as client:
                for one in machine.containers():
                    client.remove_container(one["Id"], v=True, force=True)
