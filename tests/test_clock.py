"""The clock of the machine is set, by hours, while kernels run: nothing of ours waits by it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from servers import a_house, host_processes, wait_for

import ds01_kernels

PACKAGE = Path(ds01_kernels.__file__).parent

#: Where the machine's clock is read, and why. Whatever waits takes `time.monotonic` or its loop's time.
WALL_CLOCK = {
    "agent/changes.py": "compared with the times of files",
    "agent/spare.py": "compared with the times of files",
    "agent/watch.py": "compared with the times of files; ages below zero count as old",
    "agent/zygote.py": "compared with the times of files",
    "ds01_host/events.py": "compared with what DS01 has written by that clock",
    "engine/docker_files.py": "the time that files in a container get",
    "housekeeping.py": "the age of an image, by the engine's clock",
    "ipykernel_store/__init__.py": "the age of a draft, which its lock keeps while it is in use",
    "jobs/__init__.py": "how long ago a job ended, which is on disk by that clock",
    "jobs/files.py": "the age of what is kept on disk, and of jobs of another machine",
    "jobs/job.py": "shown to people",
    "jobs/state.py": "shown to people",
    "records.py": "shown to people, and the age of leftover files",
    "testing.py": "an image's and a container's date",
    "testing_container.py": "when a container started",
}

_CLOCKS = {("time", "time"), ("time", "time_ns"), ("datetime", "now"), ("datetime", "utcnow")}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.name)
def test_the_machines_clock_is_read_only_where_it_is_meant(path: Path) -> None:
    lines = [node.lineno for node in ast.walk(ast.parse(path.read_text())) if _is_wall_clock(node)]
    name = str(path.relative_to(PACKAGE))
    assert bool(lines) == (name in WALL_CLOCK), (
        f"{name}, lines {lines}: what waits takes time.monotonic; else give the reason in WALL_CLOCK."
    )


def _is_wall_clock(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom) and node.module == "time":
        return any(alias.name in ("time", "time_ns") for alias in node.names)
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and (node.value.id, node.attr) in _CLOCKS
    )


#: Read by every Python that starts where it is found: its clock is ten hours ahead, behind and right in turn,
#: for a quarter of a second each.
_JUMPING = """\
import time

def jumping(read, unit):
    return lambda: read() + (0, 36000, -36000)[int(time.monotonic() * 4) % 3] * unit

time.time, time.time_ns = jumping(time.time, 1), jumping(time.time_ns, 10**9)
"""

_IN_IMAGE = """\
FROM {image}
COPY sitecustomize.py /tmp/
RUN cp --remove-destination /tmp/sitecustomize.py \\
    "$(/usr/bin/python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')/sitecustomize.py"
"""

_JUMPS = """\
import time
seen, until = set(), time.monotonic() + 2
while time.monotonic() < until:
    seen.add(round((time.time() - time.clock_gettime(time.CLOCK_REALTIME)) / 36000))
print(sorted(seen))
"""


@pytest.mark.engine
def test_kernels_live_through_jumps_of_the_clock(ipykernel_image: str, tmp_path: Path) -> None:
    """In the server, the agent, the zygote and the kernels: Python's view of the clock, not the machine's."""
    (tmp_path / "sitecustomize.py").write_text(_JUMPING)
    with a_house(env={"PYTHONPATH": str(tmp_path)}) as house:
        house.configure("jupyter_ds01", "c.Workbench.orphan_grace = 5")
        project = house.folder("jumps", _IN_IMAGE.format(image=ipykernel_image))
        (project.path / "sitecustomize.py").write_text(_JUMPING)
        done = house.ds01("image-update", project.name)
        assert done.returncode == 0, done
        assert house.run("-c", _JUMPS).stdout == "[-1, 0, 1]\n"
        with house.server() as server:
            kernels = [server.start_session(f"{project.name}/{number}.ipynb", "python3") for number in (1, 2)]
            for kernel in kernels:
                assert kernel.run(_JUMPS) == "[-1, 0, 1]\n"
            one, other = kernels
            with one.connected():
                request = one.send(
                    "execute_request",
                    code="import time\nprint(1, flush=True)\nwhile True: time.sleep(0.01)",
                    silent=False,
                )
                one.receive_until(lambda message: message["msg_type"] == "stream")
                one.interrupt()
                assert one.outcome(request).error == "KeyboardInterrupt"
                one.restart()
                assert one.run("print(2)") == "2\n"
                one.send("execute_request", code="import os; os._exit(3)", silent=False)
                one.receive_until(
                    lambda message: (
                        message["msg_type"] == "status"
                        and message["content"]["execution_state"] == "restarting"
                    )
                )
                assert one.run("print(3)") == "3\n"
            assert other.run("print('never ended')") == "never ended\n"
            for kernel in kernels:
                kernel.delete()
            mine = "# ds01 zygote"
            wait_for(
                lambda: sum(mine in line for line in host_processes(project.container).values()) == 1,
                lambda: f"a kernel lives on: {host_processes(project.container)}",
            )
            assert "Traceback" not in server.said()
