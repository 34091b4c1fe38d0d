"""The admin's settings, and what a project may change of them."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds01_kernels.containers import _digest
from ds01_kernels.engine import GpuRequest, Mount
from ds01_kernels.errors import SettingError
from ds01_kernels.setting_values import (
    parse_cpus,
    parse_gpus,
    parse_memory,
    parse_mount,
    parse_mounts,
    parse_network,
    parse_pids,
    parse_size,
    parse_variables,
    shown,
)
from ds01_kernels.settings import KEYS, Ceiling, Settings, with_project

GIB = 1 << 30

#: In TOML, what is no value of any key.
BAD_VALUES = (
    *("nan", "-inf", "-1", "1e400", "true", f"0x{'f' * 4000}"),
    *("[[]]", "[{}]", "{a = {}}"),
    *("2024-01-01", "12:00:00", "2024-01-01T00:00:00Z"),
    *(r'"\u0000"', r'"\u001b[31m"', r'"Ünï \u202e"', f'"{"9" * 100_000}"'),
)
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
    "text",
    [
        "x",
        "-1g",
        "0",
        "1e9",
        "b",
        "1.g",
        "1 000m",
        True,
        None,
        ["1g"],
        "9" * 40 + "t",
        "٣g",
        1 << 62,
        10**5000,
        -1,
    ],
    ids=shown,
)
def test_what_is_no_size_is_refused_with_its_key(text: object) -> None:
    with pytest.raises(SettingError, match=r"^Workbench\.memory is .* not a size"):
        parse_size("Workbench.memory", text)


@pytest.mark.parametrize(
    ("text", "gpus"),
    [
        ("", None),
        (0, GpuRequest()),
        ("all", GpuRequest(count=-1)),
        (2, GpuRequest(count=2)),
        ("GPU-3a4b,MIG-7f/1/0", GpuRequest(ids=("GPU-3a4b", "MIG-7f/1/0"))),
        ("0:1", GpuRequest(ids=("0:1",))),
        ("MIG-GPU-e86cb44c/1/0, 3", GpuRequest(ids=("MIG-GPU-e86cb44c/1/0", "3"))),
        ("GPU-1,GPU-1", GpuRequest(ids=("GPU-1",))),
    ],
)
def test_gpus(text: object, gpus: GpuRequest | None) -> None:
    assert parse_gpus("k", text) == gpus


@pytest.mark.parametrize(
    "text", ["any", "GPU-x;rm", "1,,2", "-1", True, 1.5, "GPU-\n", "٣", -1, 10**5000], ids=shown
)
def test_what_names_no_gpus_is_refused(text: object) -> None:
    with pytest.raises(SettingError, match="names no GPUs"):
        parse_gpus("k", text)


def test_mounts() -> None:
    assert parse_mount("k", "/data:/data:ro") == Mount(Path("/data"), PurePosixPath("/data"), read_only=True)
    for bad in (
        "data:/data",
        "/data",
        "/data:data",
        "/a:/b:rx",
        "",
        "/a:/b\n",
        "/a\x1b:/b",
        "/a:/../run/ds01",
        3,
    ):
        with pytest.raises(SettingError, match=r"^Workbench\.mounts has .* not a mount"):
            parse_mount("Workbench.mounts", bad)
    for taken in (
        "/a://",
        "/a:/workspace",
        "/a:/workspace/data",
        "/a:/run/ds01",
        "/a://opt//ds01/ipykernel/",
    ):
        with pytest.raises(SettingError, match="has its own"):
            parse_mount("k", taken)
    with pytest.raises(SettingError, match="two mounts at /b"):
        parse_mounts("k", ["/a:/b", "/c:/b/"])
    with pytest.raises(SettingError, match="is '/a:/b', which is not a list"):
        parse_mounts("k", "/a:/b")


@pytest.mark.parametrize("value", [5, 6291455, "5m"])
def test_memory_that_docker_refuses_is_refused_with_its_key(value: object) -> None:
    with pytest.raises(SettingError, match=r"^k is .* less than the 6 MiB"):
        parse_memory("k", value)
    assert parse_memory("k", "6m") == 6 << 20


@pytest.mark.parametrize(
    "value", [-1, 1e-9, 0.009, 1e300, 10**400, float("nan"), float("inf"), "2", None, True]
)
def test_what_is_no_number_of_cpus_is_refused(value: object) -> None:
    """Less than a hundredth would reach Docker as nothing at all: no limit."""
    with pytest.raises(SettingError, match=r"^k is .* not a number of CPUs"):
        parse_cpus("k", value)


def test_cpus_pids_and_networks() -> None:
    assert [parse_cpus("k", value) for value in (0, 0.01, 1, 1.5)] == [None, 0.01, 1.0, 1.5]
    assert [parse_pids("k", value) for value in (0, 1, 1 << 22)] == [None, 1, 1 << 22]
    for bad in (-1, (1 << 22) + 1, 10**5000, 1.0, True, "1"):
        with pytest.raises(SettingError, match=r"^k is .* not a number of processes"):
            parse_pids("k", bad)
    assert [parse_network("k", value) for value in ("", "host", "lab_1")] == ["", "host", "lab_1"]
    for name in ("container:other", "a b", "-x", "a\n", "Ünï", 3, ["lab"], "a" * 129):
        with pytest.raises(SettingError, match=r"^k is .* not the name of a network"):
            parse_network("k", name)


def test_variables() -> None:
    assert parse_variables("k", {"A_1": "x=y\n"}) == {"A_1": "x=y\n"}
    for bad in (
        {"A=B": "x"},
        {"": "x"},
        {"1A": "x"},
        {"Ü": "x"},
        {"A": 1},
        {"A": "\0"},
        {"A B": "x"},
        "A=B",
        [1],
    ):
        with pytest.raises(SettingError, match=r"^k (has|is) "):
            parse_variables("k", bad)


@pytest.mark.parametrize(
    "value",
    ["\x1b[31m\u202e", "x" * 1_000_000, 10**5000, [[]] * 10**6, {"a": 1}, None, 1e300, object(), b"\0"],
    ids=lambda value: type(value).__name__,
)
def test_any_value_can_be_shown_in_a_sentence(value: object) -> None:
    assert shown(value).isprintable()
    assert len(shown(value)) < 100


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
        packages="requirements",
    )


@pytest.mark.parametrize("value", ['"Dockerfile"', '""', "1", "true", '["requirements"]', '"../x"', "{}"])
def test_packages_are_saved_in_one_of_two_files(value: str) -> None:
    assert project("").packages == "dockerfile"
    assert project('packages = "dockerfile"', Settings(packages="requirements")).packages == "dockerfile"
    with pytest.raises(SettingError, match=r"\[tool\.ds01\] packages .* is not a place for packages"):
        project(f"packages = {value}")


def test_where_packages_are_saved_makes_no_container_out_of_date() -> None:
    assert _digest(Settings(packages="requirements")) == _digest(Settings())
    assert _digest(Settings(memory=GIB)) != _digest(Settings())


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


def test_what_the_admin_lists_a_project_may_set_too() -> None:
    admin = Settings(
        env={"TOKEN": "admin"},
        mounts=(parse_mount("k", "/data:/data:ro"),),
        build_args={"A": "1"},
        pids_limit=99,
    )
    asked = """\
        network = "lab"
        pids_limit = 50
        mounts = ["/data:/data", "/scratch:/scratch"]
        variables = {TOKEN = "mine", MORE = "x"}
        build_args = {A = "2", B = "3"}
    """
    ceiling = Ceiling(keys=tuple(KEYS), pids_limit=99)
    assert project(asked, admin, ceiling) == Settings(
        network="lab",
        pids_limit=50,
        mounts=(*admin.mounts, parse_mount("k", "/scratch:/scratch")),
        env={"TOKEN": "admin", "MORE": "x"},
        build_args={"A": "1", "B": "3"},
    )
    for too_much in (100, 0):
        with pytest.raises(SettingError, match="more than the 99"):
            project(f"pids_limit = {too_much}", admin, ceiling)


@pytest.mark.parametrize(
    "key", ["image_name", "container_name", "idle_stop", "workspaces", "allow_host_kernels"]
)
def test_nobody_can_let_a_project_set_these(key: str) -> None:
    with pytest.raises(SettingError, match="is not a setting"):
        project(f'{key} = "x"', ceiling=Ceiling(keys=(*KEYS, key)))


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", BAD_VALUES, ids=shown)
def test_a_bad_value_of_every_key_is_a_sentence_with_key_and_file(key: str, value: str) -> None:
    with pytest.raises(SettingError) as refused:
        project(f"{key} = {value}", ceiling=Ceiling(keys=tuple(KEYS)))
    assert str(refused.value).startswith(f"[tool.ds01] {key} in {FILE} ")
    assert refused.value.sentence.isprintable()
    assert len(refused.value.sentence) < 300
    assert refused.value.remedy


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a = " + "[" * 50_000, f"{FILE} is not TOML"),
        ("a = " + "{a=" * 50_000, f"{FILE} is not TOML"),
        ("[tool.ds01]\nmemory = " + "9" * 5000, f"{FILE} is not TOML"),
        ("[tool.ds01.memory]\nmost = 1", f"memory in {FILE} is a table"),
        ("[[tool.ds01]]\nmemory = '1g'", f"[tool.ds01] in {FILE} is not a table"),
        ("tool.ds01 = 3", f"[tool.ds01] in {FILE} is not a table"),
        ("tool.ds01.memory.a.b = 1", f"memory in {FILE} is a table"),
        ('[tool.ds01]\n"\\u001b[31m\\u202e" = 1', f"in {FILE} is not a setting"),
        ('[tool.ds01]\n"" = 1', f"in {FILE} is not a setting"),
        ("[tool.ds01]\n" + "x" * 100_000 + " = 1", f"in {FILE} is not a setting"),
        ("[tool.ds01]\nmemory = '1g'\nmemory = '2g'", f"{FILE} is not TOML"),
        ('[tool.ds01]\nmemory = "\x1b"', f"{FILE} is not TOML"),
        ("\ufeff[tool.ds01]\nmemory = 3", f"{FILE} is not TOML"),
    ],
    ids=lambda value: value[:24],
)
def test_hostile_toml_is_a_sentence(text: str, said: str) -> None:
    with pytest.raises(SettingError) as refused:
        with_project(Settings(), Ceiling(), text, FILE)
    assert said in str(refused.value)
    assert refused.value.sentence.isprintable()
    assert len(refused.value.sentence) < 400


@pytest.mark.parametrize("text", ["a" + ".a" * 130_000 + " = 1", "[" + "a." * 130_000 + "a]"])
def test_a_key_that_would_take_minutes_to_read_is_refused_at_once(text: str) -> None:
    with pytest.raises(SettingError, match=f"Line 2 of {FILE} has more than 250 dots"):
        with_project(Settings(), Ceiling(), f"# first\n{text}\n", FILE)


@pytest.mark.parametrize("text", ["", "[tool]\n", "[tool.ruff]\nx = 1\n", "tool = 3\n"])
def test_files_without_our_table_change_nothing(text: str) -> None:
    assert with_project(Settings(cpus=1.0), Ceiling(), text, FILE) == Settings(cpus=1.0)


@given(st.text())
def test_any_text_gives_settings_or_a_sentence_with_the_file(text: str) -> None:
    try:
        with_project(Settings(), Ceiling(), text, FILE)
    except SettingError as error:
        assert FILE in str(error)  # noqa: PT017 - both ends are fine, this one has a condition


def test_a_project_says_which_engine_will_do() -> None:
    assert project("engine = 'podman'").engine == "podman"
    assert project("memory = '1g'").engine == "auto"
    for value in ("'kubernetes'", "'Docker'", "3", "['docker']"):
        with pytest.raises(SettingError, match="which is not an engine") as refusal:
            project(f"engine = {value}")
        assert refusal.value.remedy == "There are: auto, docker, podman, swarm."


def test_a_project_says_where_it_runs() -> None:
    found = project("node = 'n2'\nconstraints = ['node.labels.room==2', 'engine.labels.disk!=slow']")
    assert (found.node, found.constraints) == ("n2", ("node.labels.room==2", "engine.labels.disk!=slow"))


@pytest.mark.parametrize(
    "text",
    [
        *("node = '-x'", "node = 'a b'", "node = 3", "node = ['n2']", "node = 'n==2'"),
        *("constraints = 'node.id==x'", "constraints = [1]", "constraints = ['node.id=x']"),
        *("constraints = ['node.id==x,y']", "constraints = ['node.labels.a==b c']", "constraints = ['a==b']"),
        "constraints = ['node.nothing==2']",
        "constraints = [" + "'node.id==x', " * 21 + "]",
    ],
)
def test_what_is_no_place_is_refused_with_its_key(text: str) -> None:
    key = text.split()[0]
    with pytest.raises(SettingError, match=rf"^\[tool\.ds01\] {key} in .* (which is not|has) "):
        project(text)


def test_a_project_only_adds_to_what_the_admin_says_of_nodes() -> None:
    admin = Settings(swarm_constraints=("node.labels.room==2",))
    found = with_project(admin, Ceiling(), "[tool.ds01]\nconstraints = ['node.labels.room==3']", FILE)
    assert found.swarm_constraints == admin.swarm_constraints
    text = "[tool.ds01]\nswarm_constraints = []"
    with pytest.raises(SettingError, match="is not a setting"):
        with_project(admin, Ceiling(), text, FILE)
