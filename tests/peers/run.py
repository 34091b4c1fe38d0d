"""Runs other projects' suites against project containers, prints a table, and writes docs/peers.md."""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import tomllib
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CACHE = ROOT / ".cache" / "peers"

sys.path.insert(0, str(ROOT / "tests"))

import page  # noqa: E402

#: Seconds for one suite: a test that hangs with a pool of processes cannot be given up alone.
LIMIT = 600.0

#: What the suites' authors use to look after their own code.
NOT_NEEDED = {"mypy", "pre-commit", "coverage", "pytest-cov", "paramiko"}


@dataclass(frozen=True)
class Suite:
    """`installs` are pip's arguments for what the suite's kernels need inside the container."""

    name: str
    package: str
    installs: tuple[str, ...]

    @property
    def settings(self) -> Path:
        return HERE / f"{self.name}.toml"


SUITES = {
    suite.name: suite
    for suite in (
        Suite("client", "jupyter_client", ("ipykernel pytest-jupyter",)),
        Suite("nbclient", "nbclient", ("ipykernel ipywidgets",)),
    )
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/peers", description=__doc__)
    parser.add_argument("suite", nargs="?", choices=SUITES, help="one of them only; docs/peers.md then stays")
    parser.add_argument("pytest", nargs="*", help="after --, arguments for pytest; docs/peers.md then stays")
    arguments = parser.parse_args()
    # So that what the run has made is removed then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    chosen = [SUITES[arguments.suite]] if arguments.suite else list(SUITES.values())
    results = [run(suite, arguments.pytest) for suite in chosen]
    print(page.table(results))
    for result in results:
        print(page.failures(result), end="")
    if len(chosen) == len(SUITES) and not arguments.pytest:
        (ROOT / "docs").mkdir(exist_ok=True)
        (ROOT / "docs" / "peers.md").write_text(page.page(results), encoding="utf-8")
    return int(any(result.status for result in results))


# --- one suite ---


def run(suite: Suite, pytest_arguments: list[str]) -> page.Result:
    """Run the suite in a project of its own, which is gone afterwards."""
    source = unpack(suite)
    install_requirements(source)
    folder = CACHE / f"run-{secrets.token_hex(4)}"
    project = f"peers-{suite.name}-{secrets.token_hex(4)}"
    variables = prepare(suite, source, folder, project)
    try:
        jupyter_ds01("image-update", project, env=variables)
        start = time.monotonic()
        options = tomllib.loads(suite.settings.read_text(encoding="utf-8"))["options"]
        status = pytest(folder / "workspace" / project, [*options, *pytest_arguments], variables)
        seconds = time.monotonic() - start
    finally:
        remove(folder)
    report = CACHE / f"{suite.name}.json"
    if not report.exists():
        sys.exit(f"pytest ended with {status} before any test of {suite.package} ran.")
    came_of_it = json.loads(report.read_text(encoding="utf-8"))
    return page.Result(suite.package, version(suite.package), seconds, status, came_of_it)


def unpack(suite: Suite) -> Path:
    """The source distribution of the installed version. Only what the tests need of it is unpacked."""
    release = f"{suite.package}-{version(suite.package)}"
    archive = CACHE / f"{release}.tar.gz"
    if not archive.exists():
        pip("download", "--no-deps", "--no-binary", ":all:", "--dest", str(CACHE), release.replace("-", "=="))
    folder = CACHE / "sources" / release
    shutil.rmtree(folder, ignore_errors=True)
    with tarfile.open(archive) as tar:
        wanted = (f"{release}/tests/", f"{release}/pyproject.toml")
        tar.extractall(
            folder.parent, [m for m in tar.getmembers() if m.name.startswith(wanted)], filter="data"
        )
    return folder


def install_requirements(source: Path) -> None:
    """What the suite says that its tests need, where it is not installed already."""
    declared = tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [
        requirement
        for requirement in declared["project"]["optional-dependencies"]["test"]
        if re.split(r"[^\w-]", requirement, maxsplit=1)[0] not in NOT_NEEDED
    ]
    pip("install", *wanted)


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True)


def prepare(suite: Suite, source: Path, folder: Path, project: str) -> dict[str, str]:
    """Make the project in a workspace of its own; the variables with which everything here runs."""
    path = folder / "workspace" / project
    shutil.copytree(source, path)
    shutil.copy(HERE / "container_kernels.py", path)
    (path / "Dockerfile").write_text(dockerfile(suite), encoding="utf-8")
    (folder / "tmp").mkdir(mode=0o700)
    (folder / "launches").touch()
    (folder / "config").mkdir()
    (folder / "config" / "jupyter_ds01_config.py").write_text(configuration(folder), encoding="utf-8")
    spec = folder / "share" / "kernels" / "python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(json.dumps(python3(project)), encoding="utf-8")
    (CACHE / f"{suite.name}.json").unlink(missing_ok=True)
    return {
        **os.environ,
        "DS01_WORKSPACE": str(folder / "workspace"),
        "JUPYTER_DEFAULT_PROVISIONER_NAME": "ds01-provisioner",
        "JUPYTER_PATH": str(folder / "share"),
        "JUPYTER_CONFIG_PATH": str(folder / "config"),
        "PYTHONPATH": str(HERE),
        "PEERS_SETTINGS": str(suite.settings),
        "PEERS_REPORT": str(CACHE / f"{suite.name}.json"),
        "PEERS_PROJECT": project,
        "PEERS_LAUNCHES": str(folder / "launches"),
        "PEERS_TMP": str(folder / "tmp"),
    }


def dockerfile(suite: Suite) -> str:
    lines = ["FROM ds01/base:latest"]
    lines += [f"RUN pip install --no-cache-dir --break-system-packages {what}" for what in suite.installs]
    # The suites' own kernel classes are found as their tests find them: from the folder above.
    site = "python3 -c 'import site; print(site.getsitepackages()[0])'"
    lines.append(f"RUN echo /workspace > $({site})/peers.pth")
    return "\n".join(lines) + "\n"


def configuration(folder: Path) -> str:
    return "\n".join(
        (
            "import launches",
            "c = get_config()",
            # What the suites set for their kernels, and a folder in which test and kernel meet.
            "c.Workbench.pass_variables = "
            "['IPYKERNEL_CELL_NAME', 'NBEXECUTE_*', 'COLUMNS', 'LINES', 'PYDEVD_*']",
            f"c.Workbench.mounts = ['{folder}/tmp:{folder}/tmp']",
            "",
        )
    )


def python3(project: str) -> dict[str, Any]:
    """The spec that `jupyter ds01 kernelspec install` makes, under the name that the suites use."""
    return {
        "argv": ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "metadata": {
            "debugger": True,
            "supported_encryption": "curve",
            "kernel_provisioner": {"provisioner_name": "ds01-provisioner", "config": {"project": project}},
        },
    }


def pytest(project: Path, arguments: list[str], variables: dict[str, str]) -> int:
    command = [sys.executable, "-m", "pytest", "tests", "-p", "plugin", "-p", "no:cacheprovider"]
    # As it is set there ("thread"), one test that hangs would end the whole run.
    command += ["--timeout=100", "-o", "timeout_method=signal", f"--basetemp={variables['PEERS_TMP']}/t"]
    with subprocess.Popen([*command, *arguments], cwd=project, env=variables, start_new_session=True) as run:
        try:
            return run.wait(LIMIT)
        except subprocess.TimeoutExpired:
            return -signal.SIGKILL
        finally:
            # With the processes that it has forked: one of them may be what it waits for.
            with suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGKILL)


def jupyter_ds01(*arguments: str, env: dict[str, str]) -> None:
    command = [sys.executable, "-m", "ds01_kernels.app", *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}")


def remove(folder: Path) -> None:
    """The run's containers and images, found by their label, and its files."""
    from conftest import remove_projects_below

    remove_projects_below(folder)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
