"""A project's file is written whole or not at all, whatever stands there and whoever writes meanwhile."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ds01_kernels.errors import BadInputError, ConflictError
from ds01_kernels.project_files import LIMIT, replace_text
from ds01_kernels.projects import Project

ROOT = os.geteuid() == 0


@pytest.fixture
def project(tmp_path: Path) -> Project:
    folder = tmp_path.resolve() / "workspace" / "p"
    folder.mkdir(parents=True)
    (folder / "Dockerfile").write_text("old")
    return Project("p", folder, folder.parent)


def tree(folder: Path) -> dict[str, str]:
    """All files, their temporary ones too, by name."""
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_text()
        for path in folder.rglob("*")
        if not path.is_dir()
    }


def test_it_is_written_with_its_mode(project: Project) -> None:
    file = project.path / "Dockerfile"
    for mode in (0o600, 0o664, 0o755, 0o4711):
        file.write_text("old")
        file.chmod(mode)
        replace_text(project, "Dockerfile", "old", "new")
        assert tree(project.path) == {"Dockerfile": "new"}
        assert file.stat().st_mode & 0o7777 == mode


def test_what_is_there_already_is_not_written_again(project: Project) -> None:
    before = (project.path / "Dockerfile").stat()
    replace_text(project, "Dockerfile", "anything", "old")
    after = (project.path / "Dockerfile").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.skipif(not ROOT, reason="only root may give files away")
def test_its_owner_stays(project: Project) -> None:
    os.chown(project.path / "Dockerfile", 12345, 23456)
    (project.path / "Dockerfile").chmod(0o640)
    replace_text(project, "Dockerfile", "old", "new")
    status = (project.path / "Dockerfile").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (12345, 23456, 0o640)


def test_a_new_file_is_as_the_umask_says(project: Project) -> None:
    previous = os.umask(0o027)
    try:
        replace_text(project, "requirements.txt", "", "six\n")
    finally:
        os.umask(previous)
    assert tree(project.path) == {"Dockerfile": "old", "requirements.txt": "six\n"}
    assert (project.path / "requirements.txt").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("target", ["docker/file", "./docker/../docker/file", "{p}/docker/file", "other"])
def test_a_link_stays_and_what_it_leads_to_is_written(project: Project, target: str) -> None:
    (project.path / "docker").mkdir()
    (project.path / "docker" / "file").write_text("old")
    (project.path / "docker" / "file").chmod(0o640)
    (project.path / "other").symlink_to("docker/file")
    (project.path / "Dockerfile").unlink()
    target = target.format(p=project.path)
    (project.path / "Dockerfile").symlink_to(target)
    replace_text(project, "Dockerfile", "old", "new")
    assert tree(project.path) == {"Dockerfile": target, "other": "docker/file", "docker/file": "new"}
    assert (project.path / "docker" / "file").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("target", ["../../outside", "/{}/outside", "through/../outside", "up"])
def test_a_link_that_leads_out_is_refused(project: Project, target: str) -> None:
    root = project.path.parents[1]
    (root / "outside").write_text("old")
    (project.path / "up").symlink_to("../../outside")
    (project.path / "through").symlink_to("../../workspace")
    (project.path / "Dockerfile").unlink()
    (project.path / "Dockerfile").symlink_to(target.format(root))
    before = tree(root)
    with pytest.raises(BadInputError, match="leads out of the project") as refused:
        replace_text(project, "Dockerfile", "old", "new")
    assert refused.value.remedy
    assert tree(root) == before


def test_another_text_is_somebodys(project: Project) -> None:
    for before in ("other", "", "old\n"):
        with pytest.raises(ConflictError, match="was changed meanwhile") as conflict:
            replace_text(project, "Dockerfile", before, "new")
        assert conflict.value.remedy
    (project.path / "Dockerfile").unlink()
    with pytest.raises(ConflictError):
        replace_text(project, "Dockerfile", "old", "new")
    assert tree(project.path) == {}


def test_a_text_that_comes_while_it_is_written_is_somebodys(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = project.path / "Dockerfile"
    fsync = os.fsync

    def slow(descriptor: int) -> None:
        file.write_text("theirs")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    with pytest.raises(ConflictError, match="was changed meanwhile"):
        replace_text(project, "Dockerfile", "old", "new")
    assert tree(project.path) == {"Dockerfile": "theirs"}


def test_a_read_only_file_stays_as_it_is(project: Project) -> None:
    (project.path / "Dockerfile").chmod(0o444)
    with pytest.raises(BadInputError, match="cannot be written") as refused:
        replace_text(project, "Dockerfile", "old", "new")
    assert "read-only" in str(refused.value)
    assert "permissions" in refused.value.remedy
    assert tree(project.path) == {"Dockerfile": "old"}


@pytest.mark.skipif(ROOT, reason="root may write everywhere")
def test_a_read_only_folder_stays_as_it_is(project: Project) -> None:
    project.path.chmod(0o555)
    try:
        with pytest.raises(BadInputError, match="cannot be written: Permission denied"):
            replace_text(project, "Dockerfile", "old", "new")
        assert tree(project.path) == {"Dockerfile": "old"}
    finally:
        project.path.chmod(0o755)


@pytest.mark.parametrize("thing", ["folder", "pipe", "bytes", "large"])
def test_what_is_no_text_is_not_written_over(project: Project, thing: str) -> None:
    file = project.path / "Dockerfile"
    file.unlink()
    match thing:
        case "folder":
            file.mkdir()
        case "pipe":
            os.mkfifo(file)
        case "bytes":
            file.write_bytes(b"\xff\0")
        case "large":
            file.write_bytes(b"x" * (LIMIT + 1))
    before = file.lstat()
    with pytest.raises(BadInputError):
        replace_text(project, "Dockerfile", "", "new")
    assert file.lstat() == before
    assert [path.name for path in project.path.iterdir()] == ["Dockerfile"]


#: In a namespace of its own, where a small file system takes the folder's place.
FULL = """\
import errno, os, subprocess, sys
from pathlib import Path
from ds01_kernels.errors import BadInputError
from ds01_kernels.project_files import replace_text
from ds01_kernels.projects import Project

folder = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "ds01-test", folder], check=True)
(folder / "Dockerfile").write_text("old")
try:
    with (folder / "ballast").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
except OSError as error:
    assert error.errno == errno.ENOSPC, error
try:
    replace_text(Project("p", folder, folder.parent), "Dockerfile", "old", "new" * 10_000)
except BadInputError as error:
    print(error.sentence)
assert sorted(os.listdir(folder)) == ["Dockerfile", "ballast"], os.listdir(folder)
assert (folder / "Dockerfile").read_text() == "old"
(folder / "ballast").unlink()
replace_text(Project("p", folder, folder.parent), "Dockerfile", "old", "new")
assert os.listdir(folder) == ["Dockerfile"]
"""


@pytest.mark.skipif(not ROOT or not shutil.which("unshare"), reason="only root may mount")
def test_on_a_full_disk_all_stays_as_it_is(project: Project) -> None:
    enter = ["unshare", "--mount", "--propagation", "private", "--"]
    if subprocess.run([*enter, "mount", "-t", "tmpfs", "x", str(project.path)], check=False).returncode:
        pytest.skip("nothing can be mounted here")
    done = subprocess.run(
        [*enter, sys.executable, "-c", FULL, str(project.path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Dockerfile cannot be written: No space left on device." in done.stdout
    assert "free some space" in done.stdout
