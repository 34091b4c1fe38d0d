"""Run an example project's notebook in its container, print what it prints, and check where it ran.

    python scripts/execute_example.py examples/workspace/numbers

The kernelspec ``ds01-<project>`` must be installed and the image built. The notebook on disk is not changed,
and a container that was made for the run is removed after it. Exit code 1, and a sentence for each thing that
is not as the Dockerfile says.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from ds01_kernels.engine.docker import DockerEngine

# Asked in a cell of our own, after the notebook's: what the notebook prints is for people.
QUESTION = """
import importlib.metadata, json, os, sys
print(json.dumps({
    "executable": sys.executable,
    "project": os.environ.get("DS01_PROJECT"),
    "container": os.environ.get("DS01_CONTAINER"),
    "cwd": os.getcwd(),
    "versions": {name: importlib.metadata.version(name) for name in PINNED},
}))
"""


def main(folder: Path) -> int:
    project = folder.name
    container = f"{project}._.{os.getuid()}"
    was_there = asyncio.run(container_state(container)) is not None
    say(f"\n== {project} ==")
    try:
        pinned = pins(folder / "Dockerfile")
        answer = execute(folder / f"{project}.ipynb", f"ds01-{project}", pinned)
        state = asyncio.run(container_state(container))
        wrong = differences(answer, project, container, state, pinned)
    except (CellExecutionError, CellTimeoutError, DeadKernelError, RuntimeError) as error:
        wrong = [f"the notebook did not run to its end: {error}"]
    finally:
        if not was_there:
            subprocess.run(["jupyter", "ds01", "container-retire", project, "--force"], check=False)
    for sentence in wrong:
        say(f"{project}: {sentence}")
    return 1 if wrong else 0


def execute(notebook: Path, kernel: str, pinned: dict[str, str]) -> dict[str, Any]:
    """Run a copy of the notebook, print its text outputs, and return the answer to `QUESTION`."""
    copy = nbformat.read(notebook, as_version=4)
    copy.cells.append(nbformat.v4.new_code_cell(f"PINNED = {list(pinned)!r}" + QUESTION))
    client = NotebookClient(
        copy,
        kernel_name=kernel,
        timeout=300,
        startup_timeout=300,
        resources={"metadata": {"path": notebook.parent}},
    )
    client.execute()
    *shown, asked = copy.cells
    for cell in shown:
        say(text_of(cell), end="")
    answer: dict[str, Any] = json.loads(text_of(asked))
    return answer


def text_of(cell: Any) -> str:
    outputs = cell.get("outputs", ())
    return "".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)


def pins(dockerfile: Path) -> dict[str, str]:
    return dict(re.findall(r'"([\w.-]+)==([^"]+)"', dockerfile.read_text(encoding="utf-8")))


def differences(
    answer: dict[str, Any], project: str, container: str, state: str | None, pinned: dict[str, str]
) -> list[str]:
    """One sentence for each thing that is not as it should be."""
    expected = {
        "executable": "/usr/bin/python",
        "project": project,
        "container": container,
        "cwd": "/workspace",
    }
    wrong = [
        f"{what} is {answer[what]!r}, not {value!r}"
        for what, value in expected.items()
        if answer[what] != value
    ]
    if state != "running":
        wrong.append(f"the engine says that the container {container} is {state or 'not there'}, not running")
    if not pinned:
        wrong.append("the Dockerfile pins nothing")
    for name, version in pinned.items():
        found = answer["versions"].get(name)
        if found != version:
            wrong.append(f"{name} is {found}, and the Dockerfile pins {version}")
    return wrong


async def container_state(name: str) -> str | None:
    engine = DockerEngine()
    try:
        container = await engine.container(name)
        return container.state if container else None
    finally:
        await engine.close()


def say(text: str, end: str = "\n") -> None:
    sys.stdout.write(text + end)
    sys.stdout.flush()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python scripts/execute_example.py PROJECT_FOLDER")
    sys.exit(main(Path(sys.argv[1]).resolve()))
