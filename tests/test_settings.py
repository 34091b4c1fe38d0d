"""The admin's settings, and what a project may change of them."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds01_kernels.engine import GpuRequest, Mount
from ds01_kernels.errors import SettingError
from ds01_kernels.settings import Ceiling, Settings, parse_gpus, parse_mount, parse_size, with_project

GIB = 1 << 30
FILE = "/w/p/pyproject.toml"


def project(body: str, admin: Settings | None = None, ceiling: Ceiling | None = None) -> Settings:
    return with_project(admin or Settings(), ceiling or Ceiling(), f"[tool.ds01]\n{body}\n", FILE)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512m", 512 << 20),
        ("1.5g", 3 * GIB // 2),
        ("16GiB", 16 * GIB),
        ("2gb", 2 * GIB),
        (4096, 4096),
        ("", None),
    ],
)
def test_sizes(text: object, size: int | None) -> None:
    assert parse_size("k", text) == size


@pytest.mark.parametrize(
    "text", ["x", "-1g", "0", "1e9", "b", "1.g", "1 000m", True, None, ["1g"], "9" * 40 + "t"]
)
def test_what_is_no_size_is_refused_with_its_key(text: object) -> None:
    with pytest.raises(SettingError, match=r"^Workbench\.memory is .* not a size"):
        parse_size("Workbench.memory", text)


@pytest.mark.parametrize(
    ("text", "gpus"),
    [
        ("", None),
        (0, None),
        ("all", GpuRequest(count=-1)),
        (2, GpuRequest(count=2)),
        ("GPU-3a4b,MIG-7f/1/0", GpuRequest(ids=("GPU-3a4b", "MIG-7f/1/0"))),
        ("0:1", GpuRequest(ids=("0:1",))),
    ],
)
def test_gpus(text: object, gpus: GpuRequest | None) -> None:
    assert parse_gpus("k", text) == gpus


@pytest.mark.parametrize("text", ["any", "GPU-x;rm", "1,,2", "-1", True, 1.5, "GPU-\n"])
def test_what_names_no_gpus_is_refused(text: object) -> None:
    with pytest.raises(SettingError, match="names no GPUs"):
        parse_gpus("k", text)


def test_mounts() -> None:
    assert parse_mount("k", "/data:/data:ro") == Mount(Path("/data"), PurePosixPath("/data"), read_only=True)
    for bad in ("data:/data", "/data", "/data:data", "/a:/b:rx", ""):
        with pytest.raises(SettingError):
            parse_mount("k", bad)


def test_a_project_changes_what_it_may() -> None:
    admin = Settings(memory=16 * GIB, cpus=8.0, network="lab")
    asked = 'memory = "8g"\ncpus = 2\nshm_size = "2g"\ngpus = 1\npackages = "requirements"\n'
    asked += 'python = "/opt/conda/bin/python"'
    assert project(asked, admin, Ceiling(memory=16 * GIB, cpus=8)) == Settings(
        memory=8 * GIB,
        cpus=2.0,
        shm_size=2 * GIB,
        gpus=GpuRequest(count=1),
        python="/opt/conda/bin/python",
        network="lab",
    )


@pytest.mark.parametrize(
    ("body", "ceiling"),
    [
        ('memory = "17g"', Ceiling(memory=16 * GIB)),
        ('memory = ""', Ceiling(memory=16 * GIB)),
        ("cpus = 9", Ceiling(cpus=8)),
        ("cpus = 0", Ceiling(cpus=8)),
        ('gpus = "all"', Ceiling(gpus=2)),
        ("gpus = 3", Ceiling(gpus=2)),
        ('gpus = "GPU-1,GPU-2"', Ceiling(gpus=1)),
        ('shm_size = "2g"', Ceiling(shm_size=GIB)),
    ],
)
def test_no_project_gets_more_than_the_ceiling(body: str, ceiling: Ceiling) -> None:
    with pytest.raises(SettingError, match=r"\[tool\.ds01\] \w+ in /w/p/pyproject\.toml is more than"):
        project(body, ceiling=ceiling)


@pytest.mark.parametrize(
    "body",
    [
        'network = "host"',
        'mounts = ["/:/host"]',
        "privileged = true",
        "memory = [1]",
        "cpus = nan",
        "cpus = -inf",
        "cpus = true",
        'python = "../../bin/sh"',
        'python = "/bin/sh -c id"',
        "python = 3",
        '"memory " = "1g"',
    ],
)
def test_hostile_settings_are_refused(body: str) -> None:
    with pytest.raises(SettingError, match=r"\[tool\.ds01\]"):
        project(body)


def test_the_admin_may_withdraw_a_key() -> None:
    with pytest.raises(SettingError, match="may not be set by a project"):
        project("cpus = 1", ceiling=Ceiling(keys=("memory",)))


@pytest.mark.parametrize("text", ["", "[tool]\n", "[tool.ruff]\nx = 1\n", "tool = 3\n"])
def test_files_without_our_table_change_nothing(text: str) -> None:
    assert with_project(Settings(cpus=1.0), Ceiling(), text, FILE) == Settings(cpus=1.0)


@given(st.text())
def test_any_text_gives_settings_or_a_sentence_with_the_file(text: str) -> None:
    try:
        with_project(Settings(), Ceiling(), text, FILE)
    except SettingError as error:
        assert FILE in str(error)  # noqa: PT017 - both ends are fine, this one has a condition
