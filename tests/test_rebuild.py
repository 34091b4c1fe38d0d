"""Rebuilds on the real engine: from a notebook, by REST and by the command line, and back."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import FROM_BASE, ProjectFolder
from live import Site, a_site, containers_of, docker, inspect, until
from live import a_kernel as a_kernel_here
from rebuilding import (
    OFFLINE,
    Rebuilt,
    a_kernel,
    a_project,
    await_drift,
    begin,
    drift,
    ended,
    log,
    order,
    preview,
    rebuild,
)
from servers import LIMIT, House, Server, check, wait_for

from ds01_kernels.errors import CheckFailedError, ConflictError
from ds01_kernels.projects import Project
from ds01_kernels.rebuild import Journals, Order, Rebuilds, Step
from ds01_kernels.workbench import Workbench

pytestmark = pytest.mark.engine

EXAMPLES = Path(__file__).parent.parent / "examples" / "workspace"
#: What a kernel prints of the container that it is in.
HERE = "import os; print(os.stat('/proc/1/ns/pid').st_ino)"


@pytest.fixture(scope="module")
def server(house: House) -> Iterator[Server]:
    with house.server() as server:
        yield server


def test_from_a_notebook_by_the_command_line(house: House, server: Server) -> None:
    project = a_project(house, "thesis", FROM_BASE)
    with a_kernel(server, project) as kernel:
        before = kernel.run(HERE)
        kernel.run("kept = 1\n%pip install -q six")
        await_drift(server, project, {"added": ["six"]})
        said = project.cli("rebuild", "--yes")
        assert '+    "six==' in said
        assert "Restarting the kernels." in said
        assert re.search(r'^    "six==[0-9.]+"$', project.dockerfile.read_text(), re.MULTILINE)
        wait_for(lambda: kernel.state() == "idle", "the kernel is not back")
        assert kernel.run("import six; print('kept' in globals())") == "False\n"
        assert kernel.run(HERE) != before
        assert drift(server, project) == {}
        assert list(project.containers()) == [""]
        project.agree()


def test_by_rest_only_kernels_that_agreed_are_restarted(house: House, server: Server) -> None:
    project = a_project(house)
    with a_kernel(server, project, "a.ipynb") as willing, a_kernel(server, project, "b.ipynb") as busy:
        before = busy.run(HERE)
        assert willing.run(HERE) == before
        busy.run("kept = 1")
        willing.run("kept = 1\n%pip install -q tiny==1.0")
        await_drift(server, project, {"added": ["tiny"]})
        seen = preview(server, project)
        check("Preview", seen)
        assert [(one["path"], one["state"]) for one in seen["kernels"]] == [
            (f"{project.name}/{name}", "idle") for name in ("a.ipynb", "b.ipynb")
        ]
        assert seen["packages"] == ["tiny==1.0"]
        assert '+    "tiny==1.0"' in seen["diff"]
        assert preview(server, project) == seen
        id_ = begin(server, project, kernels=[willing.id])
        done = ended(server, project, id_)
        assert (done["phase"], done["error"]) == ("done", None)
        assert "Building the image." in log(server, project, id_)
        assert willing.run("import tiny; print('kept' in globals())") == "False\n"
        assert busy.run("print(kept)") == "1\n"
        assert busy.run(HERE) == before != willing.run(HERE)
        assert [end[:5] for end in project.containers()] == ["", ".old-"]
        assert drift(server, project) == {}
        # Whoever comes now is in the new one.
        with a_kernel(server, project, "c.ipynb") as late:
            assert late.run(HERE) == willing.run(HERE)
        busy.delete()
        wait_for(lambda: list(project.containers()) == [""], lambda: str(project.containers()))
        assert willing.run("print(1)") == "1\n"
        project.agree()


def test_a_kernel_that_starts_meanwhile(house: House, server: Server) -> None:
    """Wherever it came up, it runs, and the old container goes with the last of its kernels."""
    project = a_project(house)
    project.cli("container-deploy")
    kernels = []
    started = threading.Event()

    def start() -> None:
        number = 0
        while not started.is_set():
            number += 1
            kernels.append(server.start_session(f"{project.name}/{number}.ipynb", project.kernel))

    with ThreadPoolExecutor(1) as thread:
        starting = thread.submit(start)
        done = rebuild(server, project, packages=["tiny==2.0"])
        started.set()
        starting.result()
    assert done["phase"] == "done"
    assert len(kernels) > 1
    for kernel in kernels:
        assert kernel.run("print('alive')") == "alive\n"
    assert kernels[-1].run("import tiny") == ""
    for kernel in kernels:
        kernel.delete()
    wait_for(lambda: list(project.containers()) == [""], lambda: str(project.containers()))
    project.agree()


def test_two_browsers_join_one_rebuild(house: House, server: Server) -> None:
    project = a_project(house)
    with ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(lambda _: order(server, project, packages=["tiny==1.0"]), range(2)))
    assert [answer.status_code for answer in answers] == [202, 202], [answer.text for answer in answers]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert ended(server, project, answers[0].json()["id"])["phase"] == "done"
    assert sorted(state["kind"] for state in project.jobs()) == ["build", "rebuild"]
    project.agree()


def test_a_preview_that_no_longer_holds_is_a_conflict(house: House, server: Server) -> None:
    project = a_project(house)
    with a_kernel(server, project) as kernel:
        kernel.run("%pip install -q tiny==1.0")
        await_drift(server, project, {"added": ["tiny"]})
        before = project.state()

        def refused(seen: dict[str, object]) -> str:
            sums = {name: seen[name] for name in ("sha256", "result_sha256")}
            for call, more in (("rebuild", {"kernels": []}), ("save", {})):
                answer = server.request("POST", f"{project.url}/{call}", {**sums, **more})
                assert answer.status_code == 409, answer.text
                assert answer.json()["reason"] == "conflict"
            return str(answer.json()["message"])

        seen = preview(server, project)
        project.dockerfile.write_text(OFFLINE + "# mine\n")
        assert "Dockerfile was changed since the preview" in refused(seen)
        assert project.dockerfile.read_text() == OFFLINE + "# mine\n"
        project.dockerfile.write_text(OFFLINE)
        kernel.run("%pip install -q tiny==2.0")
        wait_for(lambda: preview(server, project)["packages"] == ["tiny==2.0"], "the drift is not seen")
        assert "installed in the container was changed" in refused(seen)
        assert project.state() == before
        project.nothing_is_left()


def test_rollback_goes_back_and_forth(house: House, server: Server) -> None:
    project = a_project(house)
    assert "nothing to go back to" in project.refused("rollback", "--yes")
    first = project.state()
    with a_kernel(server, project) as kernel:
        assert rebuild(server, project, packages=["tiny==1.0"])["phase"] == "done"
        assert project.image("previous") == first[1]
        second = project.dockerfile.read_bytes(), project.image()
        answer = server.request("POST", f"{project.url}/rollback")
        assert answer.status_code == 202
        assert ended(server, project, answer.json()["id"])["phase"] == "rolled-back"
        assert (project.dockerfile.read_bytes(), project.image()) == first[:2]
        assert kernel.execute("import tiny").error == "ModuleNotFoundError"
        project.agree()
        project.cli("rollback", "--yes")
        assert (project.dockerfile.read_bytes(), project.image()) == second
        assert kernel.run("import tiny; print(tiny.__version__)") == "1.0\n"
        project.agree()


def test_an_uninstalled_package_leaves_the_dockerfile(house: House, server: Server) -> None:
    block = "RUN pip install --no-cache-dir --break-system-packages"
    kept = f'{OFFLINE}\n# Custom additional packages\n{block} \\\n    "needy==1.0"'
    project = a_project(house, dockerfile=f'{kept} \\\n    "tiny==1.0"\n')
    with a_kernel(server, project) as kernel:
        kernel.run("%pip uninstall -q -y tiny needy\n%pip install -q --no-deps needy")
        await_drift(server, project, {"removed": ["tiny"]})
        # To leave it would break another one, which comes with what it needs: it is there again.
        assert rebuild(server, project)["phase"] == "done"
        assert project.dockerfile.read_text() == f"{kept}\n"
        assert kernel.run("import tiny; print(tiny.__version__)") == "1.0\n"
        assert drift(server, project) == {}


# The three commands that people know


def shell(house: House, line: str) -> subprocess.CompletedProcess[str]:
    """A line of shell in which ``jupyter ds01`` is the one that is tested."""
    ours = f'jupyter() {{ shift; "{sys.executable}" -m ds01_kernels.app "$@"; }}; {line}'
    return subprocess.run(
        ["/bin/sh", "-c", ours],
        env=dict(house.env),
        cwd=house.root,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )


def test_the_classic_three_commands(house: House, server: Server) -> None:
    project = Rebuilt(house, house.folder("text", None))
    shutil.copytree(EXAMPLES / "text", project.folder.path, dirs_exist_ok=True)
    name = project.name
    done = shell(
        house,
        f"jupyter ds01 image-update {name} && jupyter ds01 container-retire {name} "
        f"&& jupyter ds01 container-deploy {name}",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{project.folder.container} is running."
    project.agree()
    with a_kernel(server, project) as kernel:
        assert kernel.run("import slugify; print(slugify.__name__)") == "slugify\n"


def test_an_update_keeps_the_previous_image_and_the_container(house: House, server: Server) -> None:
    project = a_project(house)
    before = project.image()
    with a_kernel(server, project) as kernel:
        container = project.container()
        said = project.cli("image-update", "--add", "tiny==1.0", "needy")
        assert f"Built {project.folder.image}." in said
        assert project.dockerfile.read_text().endswith('    "tiny==1.0" \\\n    "needy"\n')
        assert project.image("previous") == before != project.image()
        assert project.container() == container
        assert kernel.execute("import tiny").error == "ModuleNotFoundError"
        project.nothing_is_left()
        assert "1 kernel of project" in project.refused("container-retire")
        kernel.run("%pip install -q tiny==2.0")
        await_drift(server, project, {"added": ["tiny"]})
    retired = house.ds01("container-retire", project.name)
    assert retired.returncode == 0
    assert "Not in the Dockerfile: tiny 2.0." in retired.stderr
    project.cli("container-deploy")
    project.agree()
    changed = project.dockerfile.read_bytes()
    sentence = project.refused("image-update", "--add", "no-such-package")
    assert "line 6" in sentence
    assert "No matching distribution found for no-such-package" in sentence
    assert project.dockerfile.read_bytes() == changed
    assert project.image("previous") == before
    project.agree()


# Where there is no room for two containers


@dataclass(frozen=True)
class Tight:
    """A project on a machine that says it has a MiB of memory left."""

    site: Site
    folder: ProjectFolder
    workbench: Workbench
    rebuilds: Rebuilds

    @property
    def project(self) -> Project:
        return self.workbench.projects().get(self.folder.name)

    def rebuild(self, kernels: frozenset[str] | None = None) -> list[str]:
        """The phases."""
        steps: list[Step] = []
        order = Order((), kernels=kernels)
        self.workbench.call(self.rebuilds.rebuild(self.project, order, steps.append))
        return list(dict.fromkeys(step.phase for step in steps))


@pytest.fixture
def tight(engine_available: None) -> Iterator[Tight]:
    with a_site() as site:
        workbench = Workbench.open()
        rebuilds = Rebuilds(
            workbench.launcher,
            workbench.drifts,
            Journals(workbench.records),
            workbench.settings,
            build_limit=LIMIT,
            memory=lambda: 1 << 20,
        )
        yield Tight(site, site.project("tight"), workbench, rebuilds)


def happened(tight: Tight, since: float) -> list[tuple[str, str]]:
    """Starts and ends of the project's containers, by the ends of their names."""
    with docker() as client:
        events = client.events(
            since=f"{since:.6f}",
            until=int(time.time()) + 1,
            decode=True,
            filters={"label": f"ds01-kernels.path={tight.folder.path}", "event": ["start", "die"]},
        )
        found = [(one["Action"], one["Actor"]["Attributes"]["name"]) for one in events]
    return [
        (action, re.sub("[0-9a-f]{8}$", "", name[len(tight.folder.container) :])) for action, name in found
    ]


def test_the_old_container_is_stopped_first_where_memory_is_scarce(tight: Tight) -> None:
    with a_kernel_here(f"ds01-{tight.folder.name}") as kernel:
        kernel.run("kept = 1")
        assert "not enough memory" in tight.workbench.call(tight.rebuilds.stops_first(tight.project))
        before = inspect(tight.folder)["Id"]
        with pytest.raises(ConflictError, match="1 more kernel would end"):
            tight.rebuild(kernels=frozenset())
        assert kernel.run("print(kept)") == "1\n"
        (tight.folder.path / "Dockerfile").write_text(FROM_BASE + "RUN touch /new\n")
        since = time.time()
        assert tight.rebuild() == ["edit", "build", "check", "swap", "restart"]
        assert happened(tight, since) == [("die", ""), ("start", ".next-")]
        until(lambda: kernel.code is not None)
        assert inspect(tight.folder)["Id"] != before
        kernel.restart()
        assert kernel.run("import os; print(os.path.exists('/new'))") == "True\n"


def test_the_old_container_runs_again_when_the_new_one_is_of_no_use(tight: Tight) -> None:
    tight.workbench.call(tight.workbench.launcher.deploy(tight.project))
    before = inspect(tight.folder)["Id"]
    broken = "RUN d=$(/usr/bin/python -c 'import site; print(site.getsitepackages()[0])')/ipykernel"
    broken += " && mkdir -p $d && echo 'raise ImportError(\"of no use\")' > $d/__init__.py\n"
    (tight.folder.path / "Dockerfile").write_text(FROM_BASE + broken)
    with pytest.raises(CheckFailedError, match="No kernel can run"):
        tight.rebuild()
    found = inspect(tight.folder)
    assert (found["Id"], found["State"]["Status"]) == (before, "running")
    assert len(containers_of(tight.site)) == 1
