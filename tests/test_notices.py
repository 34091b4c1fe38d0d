"""What a kernel does about packages and says under its cells: its parts, and on the real engine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest
from conftest import ProjectFolder
from IPython.core.inputtransformer2 import TransformerManager
from live import LIMIT, LiveKernel, Site, a_kernel, a_site, in_container
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from ds01_kernels.agent import asked, installs, interpreters, missing, notices
from ds01_kernels.agent.changes import Change, Distribution, Installed, replaced
from ds01_kernels.agent.import_names import PACKAGES

SOURCES = Path(__file__).parent / "import_names.tsv"


# Which installs a cell asks for


def in_cell(cell: str) -> list[installs.Command]:
    transform = TransformerManager().transform_cell
    return installs.in_cell(transform(cell), transform)


@pytest.mark.parametrize(
    ("line", "specs"),
    [
        ("pip install six", ["six"]),
        ("pip3.11 install 'a[b,c]>=1,<2' \"d @ https://e/f.whl\"", ["a[b,c]>=1,<2", "d @ https://e/f.whl"]),
        ("/opt/conda/bin/pip install pandas>=2.0", ["pandas>=2.0"]),
        ("python -m pip install -qU a --pre b", ["a", "b"]),
        ("python3 -W ignore -Im pip install a", ["a"]),
        ("pip -q --proxy http://p install a", ["a"]),
        ("pip install -i https://i/ -c c.txt -r r.txt -e . --target=/t --index-url https://i a", ["a"]),
        ("pip install -rr.txt -ihttps://i --extra-index https://i a", ["a"]),
        ("pip install -- a", ["a"]),
        ("pip install --report - a > log.txt 2>&1 | tail -1", ["a"]),
        ("pip install a 2>/dev/null # not b", ["a"]),
        ("pip install git+https://h/r#egg=a", ["git+https://h/r#egg=a"]),
        ("cd /x && FOO=1 pip install a; (pip install b)", ["a", "b"]),
        ("if ! pip install a; then sudo pip install b; fi", ["a", "b"]),
        ("pip install a \\\n  b", ["a", "b"]),
        ("uv pip install -p 3.12 --index-url https://i a", ["a"]),
        ("{sys.executable} -m pip install a", ["a"]),
        ("pip install {name} $NAME `cat names` a", ["a"]),
        ("pip install " + "a" * 501, []),
        ("pip install 'a", []),
        ("echo pip install a", []),
        (
            "pip download a; pip wheel install; pip uninstall a; uv add a; uv install a; python install a",
            None,
        ),
        ("python -c 'import pip' install a; python -m venv install", None),
        ("# pip install a", None),
        ("pip-compile install a", None),
    ],
)
def test_requirements_are_told_from_what_else_stands_in_a_command(line: str, specs: list[str] | None) -> None:
    commands = [command for command in installs.in_shell(line) if command.action == "install"]
    assert [spec for command in commands for spec in command.specs] == (specs or [])
    assert commands or not specs


@pytest.mark.parametrize(
    ("cell", "specs"),
    [
        ("!pip install a", ["a"]),
        ("%pip install a", ["a"]),
        ("%uv pip install a", ["a"]),
        ("x = !pip install a", ["a"]),
        ("%sx pip install a", ["a"]),
        ("import os\nif os.name:\n    !pip install a\n    %pip install b", ["a", "b"]),
        ("%%bash\nset -e\npip install a\nuv pip install b", ["a", "b"]),
        ("%%bash --no-raise-error\npip install 'it\nis' broken\npip install b\n", ["b"]),
        ("%%capture\n!pip install a", ["a"]),
        ("%%capture out\n%%time\n%pip install a", ["a"]),
        ("%time !pip install a", ["a"]),
        ("text = '''\n!pip install a\n'''", []),
        ("%%writefile install.sh\npip install a", []),
        ("# !pip install a", []),
        ("print('pip install a')", []),
        ("!pip install a\nthis is no Python", []),
    ],
)
def test_what_only_looks_like_a_command_is_none(cell: str, specs: list[str]) -> None:
    assert [spec for command in in_cell(cell) for spec in command.specs] == specs


def test_credentials_are_blotted_out() -> None:
    (command,) = installs.in_shell("pip install 'a @ git+https://me:secret@h/r'")
    assert command.specs == ["a @ git+https://***@h/r"]
    # The agent sees by that that there were some.
    spec = asked.parse(command.specs[0])
    assert spec
    assert (spec.text, spec.private) == ("a @ git+https://h/r", True)


@pytest.mark.parametrize(
    "text",
    ["source v/bin/activate\npip install a", "export PATH=/x:$PATH; pip install a", "sudo pip install a"],
)
def test_where_the_shell_may_find_another_program_nothing_is_certain(text: str) -> None:
    assert [command.sure for command in installs.in_shell(text)] == [False]
    assert [interpreters.other_target(command) for command in installs.in_shell(text)] == [None]


def test_options_of_pip_that_take_a_value_are_known() -> None:
    from pip._internal.commands import create_command

    options = create_command("install").parser.option_list_all
    valued = {
        name for option in options if option.takes_value() for name in option._short_opts + option._long_opts
    }
    unknown = {name for name in valued if installs.in_shell(f"pip install {name} value")[0].specs}
    assert not unknown


# To which interpreter


def test_an_interpreter_of_its_own_prefix_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    venv = a_venv(tmp_path / "v", "demo-1.0.dist-info")
    (target,) = targets(f"{venv}/bin/pip install demo==1.0")
    assert target == interpreters.Target(f"{venv}/bin/python", str(venv))
    assert (target.has("Demo"), target.has("other")) == ("1.0", None)
    assert targets(f"{venv}/bin/python -m pip install a") == [target]
    assert targets(f"pip --python {venv} install a") == [target]
    assert targets(f"uv pip install -p {venv}/bin/python a") == [target]
    assert targets(f"conda install -p {venv} a") == [target]
    monkeypatch.setenv("PATH", f"{venv}/bin")
    assert targets("pip install a") == [target]
    monkeypatch.setenv("VIRTUAL_ENV", str(venv))
    assert targets("uv pip install a") == [target]


def test_this_interpreter_is_no_other() -> None:
    assert targets(f"{sys.executable} -m pip install a") == []
    assert targets("{sys.executable} -m pip install a") == []


def test_what_cannot_be_known_is_not_told(tmp_path: Path) -> None:
    venv = a_venv(tmp_path / "v")
    for options in ("--target /x", "--dry-run", "--prefix=/x", "--root /x"):
        assert targets(f"{venv}/bin/pip install {options} a") == []
    shim = tmp_path / "pip"
    shim.write_text("#!/usr/bin/env bash\nexec pyenv\n")
    shim.chmod(0o755)
    assert targets(f"{shim} install a") == []
    assert targets("/nowhere/pip install a") == []
    assert targets("uv pip install -p 3.12 a") == []
    assert targets("conda install a") == []


def test_a_script_whose_interpreter_stands_in_its_second_line(tmp_path: Path) -> None:
    venv = a_venv(tmp_path / "a b")
    script = venv / "bin" / "pip"
    script.write_text(f"#!/bin/sh\n'''exec' \"{venv}/bin/python\" \"$0\" \"$@\"\n' '''\nimport pip\n")
    assert [target.prefix for target in targets(f"'{script}' install a")] == [str(venv)]


def a_venv(path: Path, *metadata: str) -> Path:
    """Its shape alone; the interpreter is this one's."""
    (path / "bin").mkdir(parents=True)
    (path / "pyvenv.cfg").touch()
    (path / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    pip = path / "bin" / "pip"
    pip.write_text(f"#!{path}/bin/python\nimport pip\n")
    pip.chmod(0o755)
    name = Path(sys.executable).resolve().name
    for entry in metadata:
        (path / "lib" / name / "site-packages" / entry).mkdir(parents=True)
    return path


def targets(line: str) -> list[interpreters.Target]:
    found = [interpreters.other_target(command) for command in installs.in_shell(line)]
    return [target for target in found if target is not None]


# What was changed


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "own-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


def test_nothing_new_is_none(packages: Path) -> None:
    assert Installed().look() is None


def test_what_came_is_no_change(packages: Path) -> None:
    installed = Installed()
    a_distribution(packages, "tidal", "1.0")
    assert installed.look() == []
    assert installed.distributions["tidal"].version == "1.0"


def test_another_version_is_a_change(packages: Path) -> None:
    a_distribution(packages, "tidal", "1.0")
    installed = Installed()
    shutil.rmtree(packages / "tidal-1.0.dist-info")
    a_distribution(packages, "tidal", "2.0")
    (change,) = installed.look() or []
    assert (change.before.version, change.after.version) == ("1.0", "2.0")
    assert installed.look() is None


def test_the_same_version_installed_again_is_a_change(packages: Path) -> None:
    a_distribution(packages, "tidal", "1.0")
    os.utime(a_distribution(packages, "calm", "1.0"), (1, 1))
    installed = Installed()
    shutil.rmtree(packages / "tidal-1.0.dist-info")
    a_distribution(packages, "tidal", "1.0")
    (change,) = installed.look() or []
    assert change.before == change.after
    assert change.after.name == "tidal"


def test_names_that_are_none_are_passed_over(packages: Path) -> None:
    for entry in (
        "a\nb-1.0.dist-info",
        "-.dist-info",
        "a-1 0.dist-info",
        "\x1b[31m-1.dist-info",
        "x.egg-info",
    ):
        (packages / entry).mkdir()
    known = Installed().distributions
    assert not [one for one in known.values() if one.folder == str(packages)]


@pytest.mark.parametrize(
    ("loaded", "had_before", "now", "expected"),
    [
        ("1.0", True, "2.0", True),
        ("2.0", False, "2.0", False),
        ("1.0", False, "2.0", True),
        ("2.0", True, "2.0", False),
        ("1.0", True, "1.0", True),
        ("1.0", False, "1.0", False),
    ],
)
def test_only_what_was_imported_before_counts(
    packages: Path, monkeypatch: pytest.MonkeyPatch, loaded: str, had_before: bool, now: str, expected: bool
) -> None:
    entry = a_distribution(packages, "tidal", now).name
    monkeypatch.setitem(sys.modules, "tidal", a_module(packages / "tidal.py", loaded))
    folder = str(packages)
    change = Change(Distribution("tidal", "1.0", folder, entry), Distribution("tidal", now, folder, entry))
    assert replaced(change, {"tidal"} if had_before else set()) is expected


def test_a_module_of_that_name_from_elsewhere_does_not_count(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = a_distribution(packages, "tidal", "2.0").name
    monkeypatch.setitem(sys.modules, "tidal", a_module(tmp_path / "tidal.py", "1.0"))
    folder = str(packages)
    change = Change(Distribution("tidal", "1.0", folder, entry), Distribution("tidal", "2.0", folder, entry))
    assert not replaced(change, {"tidal"})


def test_modules_of_a_distribution(packages: Path) -> None:
    info = a_distribution(packages, "tidal", "1.0")
    (info / "RECORD").write_text(
        "tidal/__init__.py,sha256=x,1\ntidal/sub/deep.py,,\ntidal/_fast.cpython-311-x86_64-linux-gnu.so,,\n"
        '"tidal/odd,name.py",,\n../../bin/tidal,,\ntidal-1.0.dist-info/RECORD,,\n'
    )
    tidal = Installed().distributions["tidal"]
    assert tidal.modules() == {"tidal", "tidal.sub.deep", "tidal._fast"}
    (info / "RECORD").unlink()
    (info / "top_level.txt").write_text("tidal\n")
    assert tidal.modules() == {"tidal"}


def test_what_an_editable_install_adds_to_the_path_is_added_behind_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import site

    folder, later, source = (
        tmp_path / "a" / "site-packages",
        tmp_path / "b" / "site-packages",
        tmp_path / "source",
    )
    for each in (later, source):
        each.mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [*sys.path, str(later), "/opt/stand-in"])
    monkeypatch.setattr(site, "getsitepackages", lambda: [str(folder), str(later)])
    monkeypatch.setattr(site, "ENABLE_USER_SITE", False)
    installed = Installed()
    folder.mkdir(parents=True)
    (folder / "source.pth").write_text(f"{source}\n")
    seem_changed(folder)
    assert installed.look() == []
    assert sys.path[-4:] == [str(folder), str(source), str(later), "/opt/stand-in"]


def a_distribution(folder: Path, name: str, version: str) -> Path:
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "RECORD").write_text(f"{name}.py,,\n")
    seem_changed(info, folder)
    return info


def seem_changed(*paths: Path) -> None:
    # File systems round the time: what is made at once would seem not to have changed.
    for path in paths:
        later = max(path.stat().st_mtime_ns, time.time_ns()) + 1_000_000_000
        os.utime(path, ns=(later, later))


def a_module(path: Path, version: str) -> Any:
    from types import ModuleType

    module = ModuleType(path.stem)
    module.__file__ = str(path)
    vars(module)["__version__"] = version
    return module


# Which package a module is in


def test_every_fact_has_its_source() -> None:
    lines = [line.split("\t") for line in SOURCES.read_text().splitlines() if not line.startswith("#")]
    seen = {module: package for module, package, sources in lines if sources}
    assert seen == PACKAGES
    assert len([module for module, package in PACKAGES.items() if module.lower() != package.lower()]) >= 150
    assert not set(PACKAGES) & set(sys.stdlib_module_names)


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("import cv2", "cv2 is in the package opencv-python: %pip install opencv-python"),
        ("import sklearn.linear_model", "sklearn is in the package scikit-learn: %pip install scikit-learn"),
        ("from PIL import Image", "PIL is in the package pillow: %pip install pillow"),
        ("import seaborn as sns", "seaborn is not installed: %pip install seaborn"),
        (
            "import google.cloud.storage.blob",
            "google.cloud.storage is in the package google-cloud-storage: %pip install google-cloud-storage",
        ),
        (
            "from google.cloud import nothing, vision",
            "google.cloud.vision is in the package google-cloud-vision: %pip install google-cloud-vision",
        ),
        (
            "import importlib; importlib.import_module('fitz')",
            "fitz is in the package PyMuPDF: %pip install PyMuPDF",
        ),
        ("import no_such_module_at_all", None),
        ("import google.nothing_known", None),
        ("import json.nothing", None),
        ("raise ModuleNotFoundError('cv2')", None),
    ],
)
def test_a_hint_is_given_when_the_package_is_known(statement: str, sentence: str | None) -> None:
    found = missing.hint(failure(statement), (), {})
    assert (found.sentence if found else None) == sentence


def test_no_hint_when_it_is_there_but_broken() -> None:
    assert missing.hint(failure("import cv2"), {"opencv-python"}, {}) is None


def test_no_hint_for_a_file_of_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "project" / "notebooks").mkdir(parents=True)
    (tmp_path / "project" / "cv2.py").touch()
    monkeypatch.chdir(tmp_path / "project" / "notebooks")
    assert missing.hint(failure("import cv2"), (), {})
    monkeypatch.setattr(missing, "WORKSPACE", str(tmp_path / "project"))
    assert missing.hint(failure("import cv2"), (), {}) is None


def test_a_hint_for_what_was_uninstalled() -> None:
    found = missing.hint(failure("import own_module"), (), {"own_module": "own-package"})
    assert found
    assert found.sentence == "own_module was uninstalled: %pip install own-package"


def failure(statement: str) -> ModuleNotFoundError:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("cv2", "sklearn", "PIL", "seaborn", "fitz", "google"):
            # As if it were not here: https://docs.python.org/3/reference/import.html#the-module-cache
            for known in [module for module in sys.modules if module.partition(".")[0] == name]:
                patch.delitem(sys.modules, known)
        patch.setattr(sys, "path", [])
        try:
            exec(statement, {})
        except ModuleNotFoundError as error:
            return error
    raise AssertionError(f"{statement} did not fail")


# The hooks


def test_nothing_that_fails_in_a_hook_reaches_the_cell() -> None:
    class Shell:
        """It has nothing that the hooks ask for."""

    notices.attach(None)
    notices.attach(Shell())
    hooks = notices.Notices(Shell())
    hooks.before(Shell())
    broken = Shell()
    vars(broken)["raw_cell"] = "%pip install a"
    hooks.before(broken)
    vars(broken)["error_in_exec"] = failure("import cv2")
    hooks.after(broken)
    hooks.after(None)


def test_what_needs_no_parsing_is_loaded_only_when_it_is_asked_for() -> None:
    code = (
        "import sys\n"
        "from ds01_kernels.agent import notices\n"
        "late = {'installs', 'interpreters', 'missing', 'import_names'}\n"
        "print(sorted(name for name in late if 'ds01_kernels.agent.' + name in sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


# In a kernel


@dataclass(frozen=True)
class Cell:
    """What one cell led to: what it printed, what was shown, its traceback, and the kinds in their order."""

    printed: str
    shown: tuple[dict[str, Any], ...]
    error: str
    order: tuple[str, ...]

    @property
    def lines(self) -> list[str]:
        return [data["text/plain"] for data in self.shown]


def run(kernel: LiveKernel, code: str) -> Cell:
    request, deadline = kernel.client.execute(code), time.monotonic() + LIMIT
    printed, error, shown, order = "", "", [], []
    while True:
        message = kernel.client.get_iopub_msg(timeout=deadline - time.monotonic())
        if message["parent_header"].get("msg_id") != request:
            continue
        kind, content = message["msg_type"], message["content"]
        order.append(kind)
        if kind == "stream":
            printed += content["text"]
        elif kind == "display_data":
            shown.append(content["data"])
        elif kind == "error":
            error = "\n".join(content["traceback"])
        elif kind == "status" and content["execution_state"] == "idle":
            return Cell(printed, tuple(shown), error, tuple(order))


@pytest.fixture(scope="module")
def site(engine_available: None) -> Iterator[Site]:
    with a_site() as site:
        yield site


@pytest.fixture(scope="module")
def project(site: Site) -> ProjectFolder:
    """A project with wheels in its folder ``wheels``, so that no index is asked."""
    project = site.project("notices")
    wheels = project.path / "wheels"
    wheels.mkdir()
    for name in ("tidal", "calm", "swell", "surge"):
        for version in ("1.0", "2.0"):
            a_wheel(wheels, name, version)
    return project


@pytest.fixture(scope="module")
def kernel(project: ProjectFolder) -> Iterator[LiveKernel]:
    with a_kernel(f"ds01-{project.name}") as kernel:
        run(
            kernel,
            "import os\nos.environ['PIP_NO_INDEX'] = '1'\nos.environ['PIP_FIND_LINKS'] = '/workspace/wheels'",
        )
        yield kernel


def a_wheel(folder: Path, name: str, version: str) -> None:
    # https://packaging.python.org/en/latest/specifications/binary-distribution-format/
    info = f"{name}-{version}.dist-info"
    content = {
        f"{name}.py": f"__version__ = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    content[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*content, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in content.items():
            wheel.writestr(path, text)


@pytest.mark.engine
def test_what_is_installed_is_importable_at_once_and_nothing_is_said(
    kernel: LiveKernel, project: ProjectFolder
) -> None:
    failed = run(kernel, "import tidal")
    assert (bool(failed.error), failed.lines) == (True, [])
    name = run(
        kernel, "name = 'tidal'\n%pip install {name}==1.0\nimport tidal; print('at', tidal.__version__)"
    )
    assert "at 1.0" in name.printed
    # IPython's own %pip says so after every call.
    assert "you may need to restart" not in name.printed
    shell = run(kernel, "!pip install 'calm<2'")
    later = run(kernel, "import calm; print(calm.__version__)")
    assert later.printed == "1.0\n"
    assert [cell.lines for cell in (name, shell, later)] == [[], [], []]
    # The agent keeps what pip reports there as well.
    kept = [json.loads(line) for line in in_container(project, READ_ASKED).splitlines()]
    assert [line["specs"] for line in kept if "specs" in line] == [["tidal==1.0"], ["calm<2"]]


READ_ASKED = "print(open('/opt/ds01/pip/asked.jsonl').read(), end='')"


@pytest.mark.engine
def test_one_line_says_which_imported_packages_were_changed(kernel: LiveKernel) -> None:
    run(kernel, "%pip install tidal==1.0 calm==1.0\nimport tidal, calm")
    one = run(kernel, "!pip install tidal==2.0")
    assert one.lines == [
        "tidal was changed from 1.0 to 2.0 after it was imported: restart the kernel to use the new one."
    ]
    assert run(kernel, "1").lines == []
    several = run(kernel, "%pip install -q --force-reinstall tidal==2.0 calm==2.0")
    assert several.lines == [
        "calm (1.0 to 2.0) and tidal (1.0 to 2.0) were changed after they were imported:"
        " restart the kernel to use the new ones."
    ]
    assert run(kernel, "%pip install -q tidal==1.0 calm==1.0").lines == []


@pytest.mark.engine
def test_what_was_imported_after_its_change_is_not_named(kernel: LiveKernel) -> None:
    run(kernel, "%pip install swell==1.0")
    same_cell = run(kernel, "%pip install swell==2.0\nimport swell; print('at', swell.__version__)")
    assert "at 2.0" in same_cell.printed
    assert same_cell.lines == []
    again = run(kernel, "%pip install --force-reinstall swell==2.0")
    assert again.lines == [
        "swell was installed again after it was imported: restart the kernel to use the new one."
    ]


@pytest.mark.engine
def test_an_install_for_another_interpreter_is_told(kernel: LiveKernel, project: ProjectFolder) -> None:
    # It stands for conda's.
    made = run(kernel, "!python3 -m venv --without-pip --system-site-packages /tmp/other && echo made")
    assert "made" in made.printed
    there = run(kernel, "!/tmp/other/bin/python -m pip install 'surge>=1'")
    assert there.lines == [
        "surge was installed for /tmp/other/bin/python, not for this kernel's /usr/bin/python:"
        " use %pip install 'surge>=1'."
    ]
    failed = run(kernel, "!/tmp/other/bin/python -m pip install no-such-package")
    assert "No matching distribution" in failed.printed
    assert failed.lines == []
    assert run(kernel, "!/usr/bin/python3 -m pip install surge").lines == []


@pytest.mark.engine
def test_a_missing_module_is_hinted_at_below_the_traceback(
    kernel: LiveKernel, project: ProjectFolder
) -> None:
    cell = run(kernel, "import cv2")
    assert "No module named 'cv2'" in cell.error
    assert cell.order.index("error") < cell.order.index("display_data")
    assert cell.shown == (
        {
            "text/plain": "cv2 is in the package opencv-python: %pip install opencv-python",
            "application/vnd.ds01-kernels.missing+json": {
                "module": "cv2",
                "package": "opencv-python",
                "project": project.name,
            },
        },
    )
    nested = run(kernel, "def load():\n    from google.cloud import storage\nload()")
    assert [data["text/plain"] for data in nested.shown] == [
        "google.cloud.storage is in the package google-cloud-storage: %pip install google-cloud-storage"
    ]
    for harmless in ("import no_such_module", "try:\n    import cv2\nexcept ImportError:\n    pass", "1 / 0"):
        assert run(kernel, harmless).lines == []


@pytest.mark.engine
def test_what_was_uninstalled_is_hinted_at(kernel: LiveKernel) -> None:
    run(kernel, "%pip install calm")
    run(kernel, "%pip uninstall -y calm\nimport sys; sys.modules.pop('calm', None)")
    assert run(kernel, "import calm").lines == ["calm was uninstalled: %pip install calm"]


@pytest.mark.engine
def test_a_failing_notebook_still_fails_without_a_server(site: Site, project: ProjectFolder) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import cv2")])
    with pytest.raises(CellExecutionError, match="No module named 'cv2'"):
        NotebookClient(notebook, kernel_name=f"ds01-{project.name}", timeout=LIMIT).execute()
    assert [output["output_type"] for output in notebook.cells[0].outputs] == ["error", "display_data"]
    nbformat.validate(notebook)
    source, target = site.root / "in.ipynb", site.root / "out.ipynb"
    nbformat.write(notebook, source)
    with pytest.raises(papermill.PapermillExecutionError, match="No module named 'cv2'"):
        papermill.execute_notebook(source, target, kernel_name=f"ds01-{project.name}", progress_bar=False)
