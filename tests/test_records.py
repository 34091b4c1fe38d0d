"""What is kept of a project: real files, crashes, other processes, and files that somebody else wrote."""

from __future__ import annotations

import json
import logging
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jupyter_core.paths import jupyter_data_dir

from ds01_kernels.errors import ConflictError, Ds01Error
from ds01_kernels.locks import hold_briefly
from ds01_kernels.packages import Broken, Drift, Installed, Item, Origin, Package
from ds01_kernels.projects import Project
from ds01_kernels.records import (
    LEFTOVER,
    MOST_BYTES,
    MOST_IMAGE_SETS,
    MOST_LOST,
    RecordedDrift,
    Records,
    read,
    write_atomically,
)

INDEX = Origin("index")
IMAGE = f"sha256:{'0' * 64}"


def item(name: str, version: str = "1.0", **changes: Any) -> Item:
    return replace(Item(name, version, True, (), INDEX, ""), **changes)


def package(name: str, version: str = "1.0") -> Package:
    return Package(name, version, "/lib", True, "pip", INDEX, ())


def added(*names: str) -> Drift:
    return Drift(added=tuple(map(item, names)))


INSTALLED = Installed("/usr/bin/python", (package("numpy"), package("six")), (Broken("/lib/x", "why"),))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data" / "ds01"


@pytest.fixture
def records(root: Path) -> Records:
    return Records(root)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    path = tmp_path / "workspace" / "thesis"
    path.mkdir(parents=True)
    return Project("thesis", path, path.parent)


@pytest.fixture
def file(records: Records, project: Project) -> Path:
    """That of a drift which was recorded."""
    records.keep_drift(project, "c1", IMAGE, added("six"))
    (found,) = records.folder(project).glob("drift-*.json")
    return found


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# --- folders and files ----------------------------------------------------------------------------------


def test_records_lie_in_the_users_data_directory_and_are_private(project: Project, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
        records = Records()
        records.keep_image_set(project, IMAGE, INSTALLED)
        records.keep_drift(project, "c1", IMAGE, added("attrs"))
        folder = records.folder(project)
        assert folder.parent == Path(jupyter_data_dir()) / "ds01" / "projects"
    assert folder.name.startswith("thesis-")
    assert len(folder.name) == len("thesis-") + 16
    for path in (folder, folder.parent, folder.parent.parent, folder / "images"):
        assert mode(path) == 0o700
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) == 2
    assert {mode(path) for path in files} == {0o600}
    assert not list(project.path.iterdir())


def test_folders_of_the_same_name_elsewhere_are_others(records: Records, project: Project) -> None:
    elsewhere = replace(project, path=project.path.parent.parent / "other" / "thesis")
    records.keep_drift(project, "c1", IMAGE, added("six"))
    assert records.drift(elsewhere) is None
    assert records.folder(elsewhere) != records.folder(project)


def test_a_folder_that_others_could_enter_is_closed(records: Records, project: Project) -> None:
    records.folder(project).chmod(0o755)
    assert mode(records.folder(project)) == 0o700


def test_a_folder_that_is_a_link_is_refused(records: Records, project: Project, tmp_path: Path) -> None:
    folder = records.folder(project)
    records.keep_drift(project, "c1", IMAGE, added("six"))
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Ds01Error, match="not a private directory of yours"):
        records.keep_drift(project, "c1", IMAGE, added("six"))
    assert records.drift(project) is None
    folder.unlink()
    folder.symlink_to(tmp_path / "nowhere")
    with pytest.raises(Ds01Error, match="Nothing can be kept in"):
        records.folder(project)


def test_nothing_is_made_by_reading(records: Records, project: Project, root: Path) -> None:
    assert records.drift(project) is None
    assert records.image_set(project, IMAGE) is None
    records.forget_lost(project)
    assert not root.exists()


# --- the sets of images ---------------------------------------------------------------------------------


def test_an_images_set_is_kept(records: Records, project: Project) -> None:
    records.keep_image_set(project, IMAGE, INSTALLED)
    assert records.image_set(project, IMAGE) == INSTALLED
    assert records.image_set(project, "sha256:other") is None
    records.keep_image_set(project, IMAGE, Installed("/p"))
    assert records.image_set(project, IMAGE) == Installed("/p")


def test_a_set_under_another_images_name_is_not_used(
    records: Records, project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    records.keep_image_set(project, IMAGE, INSTALLED)
    records.keep_image_set(project, "../../other", Installed("/p"))
    one, other = sorted((records.folder(project) / "images").iterdir())
    one.replace(other)
    assert [records.image_set(project, IMAGE), records.image_set(project, "../../other")].count(None) == 2
    assert "it is another image's" in caplog.text


def test_the_sets_that_were_used_last_are_kept(records: Records, project: Project) -> None:
    images = [f"sha256:{number}" for number in range(MOST_IMAGE_SETS + 2)]
    for number, image in enumerate(images[:-1]):
        records.keep_image_set(project, image, INSTALLED)
        for path in (records.folder(project) / "images").iterdir():
            # An hour ago, and each younger than the one before.
            if path.stat().st_mtime > time.time() - 600:
                os.utime(path, (time.time() - 3600 + number,) * 2)
    assert records.image_set(project, images[0]) is None
    # The oldest one that is left, but in use.
    assert records.image_set(project, images[1]) == INSTALLED
    records.keep_image_set(project, images[-1], INSTALLED)
    kept = [image for image in images if records.image_set(project, image)]
    assert kept == [images[1], *images[3:]]
    assert len(kept) == MOST_IMAGE_SETS


# --- drifts ---------------------------------------------------------------------------------------------


def test_a_drift_is_kept(records: Records, project: Project) -> None:
    before = time.time()
    drift = Drift(
        added=(item("six", extras=("x",), spec="six[x]"),),
        changed=(item("numpy", "2", from_="1"),),
        removed=(item("rich"),),
        unpinnable=(item("mine", reason="it is here"),),
    )
    records.keep_drift(project, "c1", IMAGE, drift)
    found = records.drift(project)
    assert found is not None
    assert before <= found.when <= time.time()
    assert found == RecordedDrift("c1", IMAGE, found.when, drift, Drift())
    records.keep_drift(project, "c1", IMAGE, Drift())
    found = records.drift(project)
    assert found is not None
    assert (found.drift, found.lost) == (Drift(), Drift())


def lost(records: Records, project: Project) -> list[str]:
    found = records.drift(project)
    assert found is not None
    return sorted(one.name for one in found.lost.items)


def test_what_a_container_took_along_is_lost(records: Records, project: Project) -> None:
    records.keep_drift(project, "c1", IMAGE, added("attrs", "six"))
    records.keep_drift(project, "c2", IMAGE, Drift())
    assert lost(records, project) == ["attrs", "six"]
    # It stays so, until it is there again in some container.
    records.keep_drift(project, "c2", IMAGE, added("rich"))
    records.keep_drift(project, "c3", IMAGE, added("attrs"))
    assert lost(records, project) == ["rich", "six"]
    records.keep_drift(project, "c3", IMAGE, Drift())
    assert lost(records, project) == ["rich", "six"]


def test_what_was_saved_and_built_is_not_lost(records: Records, project: Project) -> None:
    records.keep_drift(
        project, "c1", IMAGE, Drift(added=(item("attrs"), item("six")), removed=(item("rich"),))
    )
    records.keep_image_set(project, "sha256:new", Installed("/p", (package("six", "1.1"), package("numpy"))))
    records.keep_drift(project, "c2", "sha256:new", Drift())
    assert lost(records, project) == ["attrs"]


def test_what_was_lost_is_forgotten_on_request(records: Records, project: Project) -> None:
    records.keep_drift(project, "c1", IMAGE, added("attrs", "rich", "six"))
    records.keep_drift(project, "c2", IMAGE, added("numpy"))
    records.forget_lost(project, ["six", "numpy", "nothing"])
    assert lost(records, project) == ["attrs", "rich"]
    records.forget_lost(project)
    found = records.drift(project)
    assert found is not None
    assert (found.lost, found.drift, found.container) == (Drift(), added("numpy"), "c2")


def test_what_was_lost_last_is_kept_where_it_is_too_much(records: Records, project: Project) -> None:
    records.keep_drift(project, "c1", IMAGE, added(*(f"a{number:05}" for number in range(MOST_LOST))))
    records.keep_drift(project, "c2", IMAGE, added("zz-last"))
    records.keep_drift(project, "c3", IMAGE, Drift())
    found = lost(records, project)
    assert len(found) == MOST_LOST
    assert (found[0], found[-1]) == ("a00000", "zz-last")


def test_another_hosts_drift_is_left_alone(records: Records, project: Project, file: Path) -> None:
    assert file.name == f"drift-{socket.gethostname()}.json"
    other = file.with_name("drift-other-host.json")
    file.rename(other)
    assert records.drift(project) is None
    records.keep_drift(project, "c9", IMAGE, Drift())
    assert lost(records, project) == []
    assert "six" in other.read_text()


# --- files that are not as we wrote them ----------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"{}",
        b'{"format": 2}',
        b'{"format": 1}',
        b'{"format": 1, "container": "c", "image": "i", "when": "now", "drift": {}, "lost": {}}',
        b'{"format": 1, "container": "c", "image": "i", "when": 1, "drift": {}, "lost": {}}',
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b"1" * 100_000,
    ],
)
def test_a_file_that_cannot_be_used_counts_as_absent(
    records: Records, project: Project, file: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    file.write_bytes(content)
    assert records.drift(project) is None
    assert f"The record {file} cannot be used" in caplog.text
    assert {one.levelno for one in caplog.records} == {logging.WARNING}
    records.keep_drift(project, "c2", IMAGE, added("rich"))
    assert lost(records, project) == []


def test_every_cut_of_a_file_counts_as_absent(records: Records, project: Project, file: Path) -> None:
    content = file.read_bytes()
    for length in range(len(content)):
        file.write_bytes(content[:length])
        assert records.drift(project) is None
    file.write_bytes(content)
    assert records.drift(project) is not None


anything = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["added", "removed", "name", "version", "origin"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.dictionaries(st.sampled_from(["container", "image", "when", "drift", "lost", "installed"]), anything)
)
def test_any_json_is_a_record_or_absent(records: Records, project: Project, value: dict[str, Any]) -> None:
    records.keep_drift(project, "c1", IMAGE, added("six"))
    records.keep_image_set(project, IMAGE, INSTALLED)
    for path in records.folder(project).rglob("*.json"):
        good = json.loads(path.read_text())
        path.write_text(json.dumps({**good, **value}))
    assert isinstance(records.drift(project), RecordedDrift | None)
    assert isinstance(records.image_set(project, IMAGE), Installed | None)


def make_link(path: Path) -> None:
    target = path.with_name("elsewhere")
    path.rename(target)
    path.symlink_to(target)


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def make_huge(path: Path) -> None:
    os.truncate(path, MOST_BYTES + 1)


@pytest.mark.parametrize("make", [make_link, make_folder, make_pipe, make_huge])
def test_what_is_no_file_of_ours_counts_as_absent(
    records: Records,
    project: Project,
    file: Path,
    make: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    make(file)
    assert records.drift(project) is None
    assert "cannot be used" in caplog.text
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_planted_link_is_replaced_not_followed(records: Records, project: Project, file: Path) -> None:
    victim = project.path / "precious"
    victim.write_text("mine")
    file.unlink()
    file.symlink_to(victim)
    records.keep_drift(project, "c1", IMAGE, added("rich"))
    assert victim.read_text() == "mine"
    assert not file.is_symlink()
    assert records.drift(project) is not None


# --- writing --------------------------------------------------------------------------------------------


def test_a_crash_leaves_the_old_file_and_its_rest_is_swept(
    records: Records, project: Project, file: Path
) -> None:
    old = file.with_name(f".{file.name}.0123456789abcdef.tmp")
    young = file.with_name(f".{file.name}.fedcba9876543210.tmp")
    foreign = file.with_name(".something.tmp")
    for path in (old, young, foreign):
        path.write_bytes(b'{"form')
    for path in (old, foreign):
        os.utime(path, (time.time() - LEFTOVER - 60,) * 2)
    found = records.drift(project)
    assert found is not None
    assert found.drift == added("six")
    records.keep_drift(project, "c1", IMAGE, added("rich"))
    assert not old.exists()
    assert young.exists()
    assert foreign.exists()


def test_writing_needs_no_more_than_one_name(tmp_path: Path) -> None:
    path = tmp_path / "[x]*.json"
    write_atomically(path, b"one")
    path.chmod(0o644)
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert mode(path) == 0o600
    assert os.listdir(tmp_path) == [path.name]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "full").write_text("")
    with pytest.raises(OSError, match="there"):
        write_atomically(tmp_path / "there", b"one")
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "missing" / "file", b"one")
    assert os.listdir(tmp_path) == ["there"]


def test_a_folder_that_cannot_be_made_is_said_in_a_sentence(tmp_path: Path, project: Project) -> None:
    (tmp_path / "taken").write_text("a file")
    records = Records(tmp_path / "taken" / "ds01")
    for keep in (
        lambda: records.keep_drift(project, "c1", IMAGE, Drift()),
        lambda: records.keep_image_set(project, IMAGE, INSTALLED),
    ):
        with pytest.raises(Ds01Error, match="Nothing can be kept in") as caught:
            keep()
        assert caught.value.remedy
    assert records.drift(project) is None
    assert records.image_set(project, IMAGE) is None
    records.forget_lost(project)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_said_in_a_sentence(
    records: Records, project: Project, file: Path
) -> None:
    before = file.read_bytes()
    file.parent.chmod(0o500)
    try:
        for keep in (
            lambda: records.keep_drift(project, "c2", IMAGE, Drift()),
            lambda: records.keep_image_set(project, IMAGE, INSTALLED),
        ):
            with pytest.raises(Ds01Error, match="Nothing can be kept in"):
                keep()
        assert records.drift(project) is not None
    finally:
        file.parent.chmod(0o700)
    assert file.read_bytes() == before


# Stands for a full disk, which a test cannot make: the kernel stops the write in the middle.
FULL = """
import resource, sys
from pathlib import Path
from ds01_kernels.errors import Ds01Error
from ds01_kernels.packages import Drift, Item, Origin
from ds01_kernels.projects import Project
from ds01_kernels.records import Records

root, path = map(Path, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
drift = Drift(added=tuple(Item(f"p{n}", "1", True, (), Origin("index"), "") for n in range(50)))
try:
    Records(root).keep_drift(Project("thesis", path, path.parent), "c2", "sha256:1", drift)
except Ds01Error as error:
    sys.exit(error.sentence)
"""


def test_a_write_that_is_cut_off_keeps_the_old_file(
    records: Records, root: Path, project: Project, file: Path
) -> None:
    before = file.read_bytes()
    ran = subprocess.run([sys.executable, "-c", FULL, root, project.path], capture_output=True, text=True)
    assert ran.returncode == 1, ran.stderr
    assert ran.stderr.startswith("Nothing can be kept in ")
    assert "Traceback" not in ran.stderr
    assert file.read_bytes() == before
    assert os.listdir(file.parent) == [file.name]


# Each container that is recorded is a new one: all that was ever recorded is lost, but for the last.
WRITER = """
import sys
from pathlib import Path
from ds01_kernels.packages import Drift, Item, Origin
from ds01_kernels.projects import Project
from ds01_kernels.records import Records

root, path, who = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
records, project = Records(root), Project("thesis", path, path.parent)
for number in range(int(sys.argv[4])):
    name = f"{who}-{number}"
    records.keep_drift(project, name, "i", Drift(added=(Item(name, "1", True, (), Origin("index"), ""),)))
    assert records.drift(project) is not None
"""


def test_two_processes_that_write_at_once_lose_nothing(
    records: Records, root: Path, project: Project
) -> None:
    rounds = 25
    running = [
        subprocess.Popen([sys.executable, "-c", WRITER, root, project.path, who, str(rounds)])
        for who in ("a", "b")
    ]
    assert [process.wait(120) for process in running] == [0, 0]
    found = records.drift(project)
    assert found is not None
    names = {one.name for one in (*found.lost.added, *found.drift.added)}
    assert names == {f"{who}-{number}" for who in "ab" for number in range(rounds)}
    assert [path.name for path in records.folder(project).iterdir() if path.name.startswith(".")] == []


def test_a_lock_that_is_not_free_is_a_conflict(tmp_path: Path) -> None:
    with (
        hold_briefly(tmp_path / "drift.json"),
        pytest.raises(ConflictError, match=r"Another process has been writing drift\.json"),
        hold_briefly(tmp_path / "drift.json", limit=0.05),
    ):
        pytest.fail("it was taken twice")
    with hold_briefly(tmp_path / "drift.json", limit=0):
        pass


def test_a_parser_that_fails_is_no_crash(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", b"{}")

    def parse(value: Any) -> int:
        raise ValueError("no")

    assert read(tmp_path / "file", parse) is None
