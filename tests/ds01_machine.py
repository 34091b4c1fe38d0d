"""A machine of DS01: stand-ins of its commands on the PATH, which behave as the real ones are documented.

``tests/ds01_standin`` has the commands. What they do is written into ``log``; files beside them tell them
what to refuse. Each container that they make carries the label ``ds01-kernels.test=<mark>``, which nothing
else gives it.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from conftest import ProjectFolder
from live import docker, until

STAND_INS = Path(__file__).parent / "ds01_standin"


@dataclass(frozen=True)
class Machine:
    """`folder` is on the PATH."""

    folder: Path
    mark: str
    #: What has become of containers on the engine, of whomever: "create" or "destroy", and name and labels.
    happened: list[tuple[str, dict[str, str]]] = field(default_factory=list)

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
        for name in ("ask", "hang", "hanging", "fail-once", "no-memory", "no-retire"):
            (self.folder / name).unlink(missing_ok=True)
        self.tell("most-containers", "3")
        self.tell("free-gpus", "2")
        self.tell("log")

    def containers(self) -> list[dict[str, Any]]:
        with docker() as client:
            found = client.containers(all=True, filters={"label": f"ds01-kernels.test={self.mark}"})
            return [client.inspect_container(one["Id"]) for one in found]

    @property
    def hanging(self) -> int:
        """The process of a command that was told to hang; 0 while there is none."""
        file = self.folder / "hanging"
        text = file.read_text() if file.exists() else ""
        return int(text) if text.endswith("\n") else 0

    def has(self, container: str) -> bool:
        return any(one["Name"] == f"/{container}" for one in self.containers())

    def has_made_all(self, project: ProjectFolder) -> None:
        """Every container of the project was made by DS01's commands, those that are gone included."""

        def made() -> list[dict[str, str]]:
            happened = [
                (kind, one) for kind, one in list(self.happened) if one["name"].startswith(project.name)
            ]
            made = [one for kind, one in happened if kind == "create"]
            gone = [one for kind, one in happened if kind == "destroy"]
            return made if len(made) - len(gone) == len(self._there(project)) else []

        for labels in until(made):
            assert labels.get("ds01-kernels.test") == self.mark, labels
            assert labels["ds01.managed"] == "true"
            assert ("ds01.interface" in labels) == (labels["name"] == project.container)

    def _there(self, project: ProjectFolder) -> list[Any]:
        with docker() as client:
            return list(client.containers(all=True, filters={"name": project.name}))

    def end_for(self, kind: str, container: str, **details: str) -> None:
        """What DS01's enforcement does: stop the container, log it, remove it.

        In one step, or the server might start it again in between: then DS01 leaves it alone.
        """
        event = {
            "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            "event_type": kind,
            "schema_version": "1",
            "user": "someone",
            "details": {"container": container, **details},
        }
        with self.events.open("a") as file:
            file.write(json.dumps(event) + "\n")
        with docker() as client:
            client.remove_container(container, force=True)


@contextmanager
def a_machine(folder: Path, mark: str) -> Iterator[Machine]:
    """Its commands come first on the PATH of this process; at the end what they have made is removed."""
    real = shutil.which("docker")
    if real is None:
        pytest.skip("there is no docker client, which DS01's commands are made of")
    shutil.copytree(STAND_INS, folder)
    machine = Machine(folder, mark)
    machine.tell("real-docker", real)
    machine.tell("mark", mark)
    machine.forget()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        # What DS01 sets on the host.
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setenv("DS01_CONTEXT", "orchestration")
        try:
            with watching(machine.happened):
                yield machine
        finally:
            with docker() as client:
                for one in machine.containers():
                    client.remove_container(one["Id"], v=True, force=True)


@contextmanager
def watching(happened: list[tuple[str, dict[str, str]]]) -> Iterator[None]:
    """Have all containers that come and go added to `happened`. The engine itself forgets them soon."""
    with docker() as client:
        filters = {"type": "container", "event": ["create", "destroy"]}
        events = client.events(filters=filters, decode=True)

        def watch() -> None:
            for event in events:
                happened.append((event["Action"], event["Actor"]["Attributes"]))  # noqa: PERF401 - read meanwhile

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            events.close()
            thread.join()
