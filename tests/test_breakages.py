"""What does not fit together among packages: against pip's own check, on trees of metadata made here."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pip
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pip._internal.metadata import get_environment
from pip._internal.operations.check import PackageDetails, check_package_set
from test_listing import dist

from ds01_kernels.agent.packages import list_packages
from ds01_kernels.agent.survey import markers
from ds01_kernels.agent_client import Agent
from ds01_kernels.engine import ContainerSpec
from ds01_kernels.errors import CheckFailedError, ProtocolError
from ds01_kernels.packages import UnclearError, breakages
from ds01_kernels.rebuild.checking import check_dependencies
from ds01_kernels.testing import FakeEngine


def installed(folder: Path, name: str, version: str, *requires: str) -> None:
    needs = "".join(f"Requires-Dist: {one}\n" for one in requires)
    dist(folder, name, version, metadata=f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")


def message(*folders: Path) -> dict[str, Any]:
    """What the agent would say of these folders."""
    listing = list_packages([str(folder) for folder in folders], ())
    told = {"python": "/p", "markers": markers(), "packages": listing.packages, "broken": listing.broken}
    return cast(dict[str, Any], json.loads(json.dumps(told)))


def raw(*packages: tuple[Any, Any, list[Any]], **more: Any) -> dict[str, Any]:
    rows = [{"name": name, "version": version, "requires": needs} for name, version, needs in packages]
    return {"packages": rows, "broken": [], "markers": markers(), **more}


def pips(folder: Path) -> set[str] | None:
    """What ``pip check`` says of the packages there; None when it cannot read all of them."""
    details: dict[Any, PackageDetails] = {}
    for one in get_environment([str(folder)]).iter_installed_distributions(local_only=False, skip=()):
        try:
            details[one.canonical_name] = PackageDetails(one.version, list(one.iter_dependencies()))
        except ValueError:
            return None
    missing, conflicting = check_package_set(details)
    # As pip/_internal/commands/check.py words it.
    return {
        f"{name} {details[name].version} requires {wanted}, which is not installed."
        for name, needs in missing.items()
        for wanted, _ in needs
    } | {
        f"{name} {details[name].version} has requirement {need}, but you have {there} {version}."
        for name, needs in conflicting.items()
        for there, version, need in needs
    }


# The same as pip

NAMES = ["one", "Two.two", "three_3"]
SPELLED = [*NAMES, "ONE", "two-TWO", "three.3", "absent", "argparse"]
VERSIONS = ["1", "1.0", "1.5.post1", "2.0rc1", "2.0.dev3", "2.0", "1!0.5", "2.0+local.1"]
BAD = [
    "",
    "!!",
    "one>=",
    "one==banana",
    "one; nonsense == 'x'",
    "one; python_version >",
    "one[",
    "one>=1.0.*",
    "one===2.0; os_name != 'x'",
]
NEEDS = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(SPELLED),
    st.sampled_from(["", "[x]", "[x, Y.y]"]),
    st.sampled_from(["", ">=1", " (<2)", "==1.*", "!=1.0", "~=1.0", ">1,<2", ">=2.0rc1", ">=2", "<2"]),
    st.sampled_from(
        [
            "",
            "; python_version >= '3'",
            "; python_version < '3'",
            "; extra == 'x'",
            "; extra != 'x'",
            "; sys_platform == 'win32' or extra == 'x'",
            "; os_name == 'posix' and python_full_version > '3.0.0'",
            " ; platform_machine in 'x86_64 aarch64 arm64'",
            "; implementation_name == 'cpython' and platform_release >= '1'",
        ]
    ),
)
ADDRESSES = st.builds(
    "{} @ https://x.org/{}.whl{}".format,
    st.sampled_from(SPELLED),
    st.just("a"),
    st.sampled_from(["", " ; python_version < '3'", " ; python_version > '3'"]),
)
PACKAGE = st.tuples(st.sampled_from(VERSIONS), st.lists(st.one_of(NEEDS, NEEDS, ADDRESSES), max_size=4))


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from([*NAMES, "argparse"]), PACKAGE, min_size=1))
def test_the_same_as_pip_says(packages: dict[str, tuple[str, list[str]]]) -> None:
    with tempfile.TemporaryDirectory() as root:
        for name, (version, needs) in packages.items():
            installed(Path(root), name, version, *needs)
        try:
            found = breakages(message(Path(root)))
        except UnclearError:
            # It is not in the list, whether it is there or not.
            assert "argparse" in str(packages)
        else:
            expected = pips(Path(root))
            assert expected is not None
            assert found == {one for one in expected if not one.startswith("argparse ")}


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.one_of(NEEDS, st.sampled_from(BAD)), max_size=4),
    st.sampled_from([*VERSIONS, "banana", "1.x"]),
)
def test_what_pip_cannot_read_is_never_judged(needs: list[str], version: str) -> None:
    with tempfile.TemporaryDirectory() as root:
        installed(Path(root), "one", version, *needs)
        expected = pips(Path(root)) if version in VERSIONS else None
        try:
            assert breakages(message(Path(root))) == expected
        except UnclearError:
            assert version not in VERSIONS or "argparse" in str(needs) or set(BAD) & set(needs)


def pip_check(folder: Path, tmp_path: Path) -> list[str]:
    """What the real command prints of that folder alone; what there is beside it is left out by ``-S``."""
    alone = tmp_path / "pip-alone"
    if not alone.exists():
        alone.mkdir()
        (alone / "pip").symlink_to(Path(pip.__file__).parent)
    done = subprocess.run(
        [sys.executable, "-S", "-m", "pip", "--disable-pip-version-check", "check"],
        env={"PYTHONPATH": f"{folder}:{alone}", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode == 0) == (done.stdout == "No broken requirements found.\n"), done
    return sorted(done.stdout.splitlines())


def test_to_the_word(tmp_path: Path) -> None:
    site = tmp_path / "site"
    installed(
        site, "Needy.One", "1.0rc1", "tiny<2,>=1; python_version > '3'", "gone[x]", "fine", "x; extra == 'x'"
    )
    installed(site, "tiny", "2.0")
    installed(site, "fine", "1")
    assert sorted(breakages(message(site))) == pip_check(site, tmp_path)
    assert len(breakages(message(site))) == 2
    installed(site, "gone", "1")
    (site / "tiny-2.0.dist-info" / "METADATA").write_text("Name: tiny\nVersion: 1.9\n")
    assert breakages(message(site)) == frozenset()
    assert pip_check(site, tmp_path) == ["No broken requirements found."]


def test_what_only_eggs_say(tmp_path: Path) -> None:
    info = tmp_path / "old-1.egg-info"
    info.mkdir()
    (info / "PKG-INFO").write_text("Name: old\nVersion: 1\n")
    (info / "requires.txt").write_text("here>=2\n[fast]\nabsent\n[:python_version<'3']\nabsent\n")
    installed(tmp_path, "here", "1")
    assert breakages(message(tmp_path)) == pips(tmp_path)
    assert len(breakages(message(tmp_path))) == 1


# Where only pip can tell


@pytest.mark.parametrize(
    "told",
    [
        raw(broken=[{"path": "/x", "reason": "it has no name"}]),
        raw(("one", "1", []), ("two", "1", ["one "]), ("three", "2004d", [])),
        raw(("one", "1", ["two>=1.banana"])),
        raw(("one", "1", ["argparse"])),
        raw(("one", "1", ["two; platform_version >= 'a' and python_versions == '3'"])),
        raw(("one", "1", ["two===1"])),
        raw(("one", "1", [f"two; os_name == '{'x' * 500}'"])),
        raw(("one", "1", ["two"] * 50_001)),
        raw(("!!", "1", [])),
        raw(packages=[{"name": "one", "version": "1", "requires": [], "cut": True}]),
    ],
    ids=range(10),
)
def test_only_pip_can_tell(told: dict[str, Any]) -> None:
    with pytest.raises(UnclearError):
        breakages(told)


def test_metadata_that_is_too_long_says_so(tmp_path: Path) -> None:
    installed(tmp_path, "many", "1", *(f"r{number}; extra == 'x'" for number in range(201)))
    with pytest.raises(UnclearError):
        breakages(message(tmp_path))


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"packages": 5},
        raw(packages=[5]),
        raw(("one", 5, [])),
        raw(("one", "1", [5])),
        raw(markers={"os_name": 5}),
        raw(broken=5),
        raw(packages=[{"name": "one", "version": "1", "requires": 5}]),
    ],
    ids=range(8),
)
def test_what_is_no_list_is_refused(told: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match="list of packages cannot be used"):
        breakages(told)


def test_a_breakage_can_be_shown() -> None:
    evil = "\x1b]0;owned\x07\u202e"
    (found,) = breakages(raw(("one", "1", [f"two>1; os_name != '{evil}'"]), ("two", "1", [])))
    assert found.isprintable()
    assert "two>1" in found


# What was not so before


class Place:
    """An agent of a container whose packages are those of a folder."""

    def __init__(self, folder: Path, python: Path, container: str = "") -> None:
        self.survey = {"executable": str(python)}
        self.container = container
        self.asked = 0
        self._folder = folder

    async def packages(self) -> dict[str, Any]:
        self.asked += 1
        return message(self._folder)


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """An interpreter that knows the packages of its container alone, and pip."""
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "pip").symlink_to(Path(pip.__file__).parent)
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nPYTHONPATH="$PLACE:{alone}" exec {sys.executable} -S "$@"\n')
    script.chmod(0o755)
    return script


def checked(new: Path, old: Path | None, python: Path) -> list[Place]:
    """Raises `CheckFailedError`. The agents, the new one first."""

    async def check() -> list[Place]:
        engine = FakeEngine()
        image = engine.add_image("i")
        places = []
        for folder in filter(None, (new, old)):
            spec = ContainerSpec(folder.name, image.id, ("sh",), env={"PLACE": str(folder)})
            container = (await engine.create(spec)).id
            await engine.start(container)
            places.append(Place(folder, python, container))

        @asynccontextmanager
        async def before() -> AsyncIterator[Agent | None]:
            yield cast(Agent, places[1]) if old else None

        try:
            agent = cast(Agent, places[0])
            await check_dependencies(engine, agent, await agent.packages(), before)
        finally:
            await engine.close()
        return places

    return asyncio.run(check())


@pytest.mark.parametrize("more", [[], ["2004d"]], ids=["read", "by pip"])
def test_only_what_is_new_counts(tmp_path: Path, python: Path, more: Sequence[str]) -> None:
    """A version that is none leaves it to the pip that is there."""
    old, new, newer = tmp_path / "old", tmp_path / "new", tmp_path / "newer"
    for folder in (old, new, newer):
        installed(folder, "tiny", "2.0")
        installed(folder, "stale", "1.0", "tiny<2")
        for version in more:
            installed(folder, "odd", version)
    installed(newer, "needy", "1.0", "tiny<1")
    checked(new, old, python)
    with pytest.raises(
        CheckFailedError, match=r"needy 1\.0 has requirement tiny<1, but you have tiny 2\.0\.$"
    ):
        checked(newer, old, python)
    with pytest.raises(CheckFailedError, match=r"\(and \d more\)$"):
        checked(newer, None, python)


def test_nothing_is_asked_of_the_old_container_when_all_fits(tmp_path: Path, python: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    installed(new, "tiny", "2.0")
    assert [place.asked for place in checked(new, old, python)] == [1, 0]


def test_an_image_without_pip_is_looked_at_too(tmp_path: Path) -> None:
    new = tmp_path / "new"
    installed(new, "needy", "1.0", "tiny")
    with pytest.raises(CheckFailedError, match="which is not installed"):
        checked(new, None, tmp_path / "no-python")
