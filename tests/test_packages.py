"""What is installed and how a container differs from its image: an example for each rule, and properties."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ds01_kernels.dockerfile import edit, edit_requirements
from ds01_kernels.dockerfile.requirement import read_requirement
from ds01_kernels.errors import BadInputError, ProtocolError
from ds01_kernels.packages import (
    Broken,
    Dependency,
    Drift,
    Installed,
    Item,
    Origin,
    Package,
    drift,
    requirement,
)
from ds01_kernels.packages.installed import MOST_PACKAGES
from ds01_kernels.packages.requires import MOST_MARKERS, applying
from ds01_kernels.requirement import without_credentials
from ds01_kernels.text import clean

quick = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
INDEX = Origin("index")
GIT = Origin("vcs", "git+https://x.org/a", commit="a" * 40)
MARKERS = {"python_version": "3.12", "python_full_version": "3.12.1", "os_name": "posix"}


def package(name: str, version: str = "1.0", *requires: str, **changes: Any) -> Package:
    """One that was asked for, from an index, by pip."""
    return replace(Package(name, version, "/lib", True, "pip", INDEX, requires), **changes)


def dependency(name: str, version: str = "1.0", *requires: str, **changes: Any) -> Package:
    return package(name, version, *requires, **{"requested": False, **changes})


def installed(*packages: Package, broken: tuple[Broken, ...] = ()) -> Installed:
    return Installed("/usr/bin/python", packages, broken)


def between(image: list[Package], container: list[Package]) -> Drift:
    return Drift.between(installed(*image), installed(*container))


def item(name: str = "a", version: str = "1.0", **changes: Any) -> Item:
    return replace(Item(name, version, True, (), INDEX, ""), **changes)


def listed(*packages: dict[str, Any], **message: Any) -> Installed:
    given = {"kind": "listed", "python": "/p", "markers": MARKERS, "packages": list(packages), "broken": []}
    return Installed.from_message({**given, **message})


def raw(name: str, version: str = "1.0", *requires: str, **changes: Any) -> dict[str, Any]:
    """A package as the agent tells it."""
    return {
        "name": name,
        "version": version,
        "location": "/lib",
        "requested": True,
        "installer": "pip",
        "origin": INDEX.as_json(),
        "requires": list(requires),
        "extras": [],
        "spec": "",
        **changes,
    }


def names(items: tuple[Item, ...]) -> list[str]:
    return [one.name for one in items]


# --- what differs, and what leads -----------------------------------------------------------------------


def test_what_was_added_changed_and_removed() -> None:
    found = between(
        [package("numpy", "1.26.4"), package("gone", "3"), package("same")],
        [package("same"), package("rich", "13.9"), package("numpy", "2.1.0")],
    )
    assert found == Drift(
        added=(item("rich", "13.9"),),
        changed=(item("numpy", "2.1.0", from_="1.26.4"),),
        removed=(item("gone", "3"),),
    )
    assert found.counts == {"added": 1, "changed": 1, "removed": 1}
    assert found
    assert not Drift()


def test_new_dependencies_stand_below_what_was_asked_for() -> None:
    found = between(
        [dependency("click", "7"), dependency("old")],
        [
            package("flask", "3.0", "werkzeug", "click", "old"),
            dependency("werkzeug", "3.1", "markupsafe", "not-installed"),
            dependency("markupsafe", "2", "flask"),
            dependency("click", "8"),
            dependency("old"),
        ],
    )
    assert found.added == (
        item(
            "flask",
            "3.0",
            dependencies=(
                Dependency("click", "8", "7"),
                Dependency("markupsafe", "2"),
                Dependency("werkzeug", "3.1"),
            ),
        ),
    )
    assert found.counts == {"added": 1, "changed": 0, "removed": 0}


def test_a_shared_dependency_stands_below_each_and_one_that_leads_below_none() -> None:
    found = between([], [package("a", "1", "b", "c"), package("b", "1", "c"), dependency("c")])
    assert [(one.name, [d.name for d in one.dependencies]) for one in found.added] == [
        ("a", ["c"]),
        ("b", ["c"]),
    ]


def test_where_there_is_too_much_to_list_each_dependency_is_listed_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(drift, "MOST_STEPS", 5)
    found = between([], [package("a", "1", "b", "c"), package("b", "1", "c"), dependency("c")])
    assert [(one.name, [d.name for d in one.dependencies]) for one in found.added] == [
        ("a", ["c"]),
        ("b", []),
    ]


def test_what_the_image_asked_for_leads_unless_another_request_explains_its_change() -> None:
    image = [package("numpy", "1"), package("scipy", "1"), package("torch", "1", "numpy")]
    container = [dependency("numpy", "2"), dependency("scipy", "2"), package("torch", "1", "numpy")]
    assert between(image, container).changed == (
        item("numpy", "2", from_="1", requested=False),
        item("scipy", "2", from_="1", requested=False),
    )
    with_request = [*container, package("pandas", "2", "numpy")]
    found = between(image, with_request)
    assert names(found.changed) == ["scipy"]
    assert found.added[0].dependencies == (Dependency("numpy", "2", "1"),)


def test_an_extra_that_only_the_container_knows_leads_where_it_brought_something() -> None:
    image = [package("transformers", "4"), package("plain")]
    extended = package("transformers", "4", "torch", extras=("torch",), spec="transformers[torch]")
    assert between(image, [extended, package("plain"), dependency("torch", "2")]).changed == (
        item(
            "transformers",
            "4",
            from_="4",
            extras=("torch",),
            spec="transformers[torch]",
            dependencies=(Dependency("torch", "2"),),
        ),
    )
    # Asked for again, with all that it brings there before: nothing differs.
    there = [package("transformers", "4", "torch"), package("plain"), dependency("torch", "2")]
    assert not between(there, [extended, package("plain"), dependency("torch", "2")])


def test_a_change_below_an_unchanged_package_leads_when_no_request_explains_it() -> None:
    found = between(
        [package("pandas", "2", "numpy"), dependency("numpy", "1", "low"), dependency("low", "1")],
        [package("pandas", "2", "numpy"), dependency("numpy", "2", "low"), dependency("low", "2")],
    )
    assert found.changed == (
        item("numpy", "2", from_="1", requested=False, dependencies=(Dependency("low", "2", "1"),)),
    )


def test_what_pip_left_behind_is_no_drift() -> None:
    left = [dependency("a", "1", "b"), dependency("b", "1", "a")]
    assert not between([], left)
    assert not between([], [replace(one, installer="uv") for one in left])
    # Of other installers nobody can tell, so the first of a circle leads.
    assert names(between([], [replace(one, installer="conda") for one in left]).added) == ["a"]


def test_names_that_are_written_otherwise_are_the_same_package() -> None:
    image = listed(raw("Ruamel_YAML", "0.18"), raw("zope.interface"))
    assert not Drift.between(image, listed(raw("ruamel.yaml", "0.18"), raw("zope-interface")))


def test_versions_that_mean_the_same_are_the_same() -> None:
    assert not between([package("a", "1.0")], [package("a", "1.0.0")])
    assert between([package("a", "1.0")], [package("a", "1.0+cu121")])
    assert between([package("a", "odd")], [package("a", "odd.0")])


@pytest.mark.parametrize(
    ("before", "after", "differs"),
    [
        (INDEX, INDEX, False),
        (INDEX, replace(INDEX, private=True), False),
        (INDEX, replace(INDEX, url="https://x.org/simple"), False),
        (INDEX, GIT, True),
        (GIT, INDEX, True),
        (GIT, replace(GIT, commit="b" * 40), True),
        (GIT, replace(GIT, subdirectory="x"), True),
        (GIT, GIT, False),
        (Origin("url", "https://x.org/a"), Origin("url", "https://x.org/a", hash="sha256=00"), False),
        (
            Origin("url", "https://x.org/a", hash="sha256:00"),
            Origin("url", "https://x.org/a", hash="sha256=00"),
            False,
        ),
        (
            Origin("url", "https://x.org/a", hash="sha256=11"),
            Origin("url", "https://x.org/a", hash="sha256=00"),
            True,
        ),
        (Origin("url", "https://x.org/a"), Origin("url", "https://x.org/b"), True),
    ],
)
def test_another_origin_is_a_change(before: Origin, after: Origin, differs: bool) -> None:
    found = between([package("a", origin=before)], [package("a", origin=after)])
    assert names(found.items) == (["a"] if differs else [])
    if differs:
        assert found.changed[0].from_ == "1.0"


def test_what_became_unreadable_was_not_removed() -> None:
    broken = Broken("/lib/Ruamel_yaml-0.18.dist-info", "it is empty")
    egg = Broken("/lib/old_one-1.0-py3.11.egg-info", "it is empty")
    image = installed(package("ruamel-yaml"), package("old-one"), package("gone"))
    assert names(Drift.between(image, installed(broken=(broken, egg))).removed) == ["gone"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"origin": Origin("editable", "file:///w/a")}, "it is installed in editable mode from file:///w/a"),
        ({"origin": Origin("editable")}, "it is installed in editable mode from a folder"),
        (
            {"origin": Origin("local", "file:///w/a.whl")},
            "it was installed from file:///w/a.whl, which a build cannot reach",
        ),
        ({"origin": Origin("local")}, "it was installed from a file, which a build cannot reach"),
        ({"origin": Origin("index", private=True)}, "it came from an address that needs credentials"),
        ({"origin": replace(GIT, private=True)}, "it came from an address that needs credentials"),
        ({"origin": replace(GIT, commit="")}, "the commit that it was built from is not known"),
        ({"origin": replace(GIT, commit="main; x")}, "the commit that it was built from is not known"),
        ({"origin": Origin("url")}, "the address that it came from is not known"),
        ({"origin": replace(GIT, url="git+https://x.org/a b")}, "the address that it came from is not known"),
        ({"origin": replace(GIT, url="https://x.org/a ; os_name == 'nt'")}, "the address that it came from"),
        ({"origin": replace(GIT, url="https://x.org/é")}, "the address that it came from is not known"),
        ({"origin": replace(GIT, subdirectory="é")}, "the address that it came from is not known"),
        ({"origin": Origin("url", "ldap://x.org/a")}, "a comes from 'ldap://x.org/a', which a build cannot"),
        ({"origin": Origin("url", "https://[x/a")}, "The address of a cannot be read"),
        ({"origin": Origin("url", "https://u:p@x.org/a")}, "The address of a holds credentials"),
        ({"origin": Origin("url", f"https://x.org/{'a' * 1990}")}, "A requirement is longer than"),
        ({"version": "1.0-weird-thing"}, "its version, 1.0-weird-thing, is none that pip could ask for"),
    ],
)
def test_what_cannot_be_made_permanent_says_why(changes: dict[str, Any], reason: str) -> None:
    found = between([], [replace(package("a", "1.0", "b"), **changes), dependency("b")])
    assert (found.added, found.changed) == ((), ())
    assert found.unpinnable[0].reason.startswith(reason)
    assert not found.unpinnable[0].reason.endswith(".")
    assert found.unpinnable[0].dependencies == (Dependency("b", "1.0"),)
    assert found
    for pin in (True, False):
        with pytest.raises(BadInputError, match=r"^a cannot be made permanent: ") as caught:
            requirement(found.unpinnable[0], pin=pin)
        assert caught.value.sentence.isprintable()


def test_a_changed_package_that_cannot_be_written_keeps_its_former_version() -> None:
    found = between([package("a", "0.9")], [package("a", origin=Origin("editable", "file:///a"))])
    assert (found.unpinnable[0].from_, found.changed) == ("0.9", ())


def test_one_that_says_that_it_cannot_be_written_is_not() -> None:
    with pytest.raises(BadInputError, match=r"^a cannot be made permanent: so it is"):
        requirement(item(reason="so it is"), pin=True)


# --- what is written ------------------------------------------------------------------------------------

URL = Origin("url", "https://x.org/a-1.zip", hash="sha256=0f")


@pytest.mark.parametrize(
    ("changes", "pinned", "unpinned"),
    [
        ({}, "a==1.0", "a"),
        ({"extras": ("x", "y_z")}, "a[x,y_z]==1.0", "a[x,y_z]"),
        ({"version": "2.1.0+cu121"}, "a==2.1.0+cu121", "a"),
        ({"version": "1.0-1"}, "a==1.0.post1", "a"),
        ({"version": "1!2.0RC1"}, "a==1!2.0rc1", "a"),
        # The user's own words, marker and all, as long as they describe what is there.
        ({"spec": "A >=1,<2"}, "a==1.0", "A >=1,<2"),
        ({"spec": 'a; python_version < "3.13"'}, "a==1.0", 'a; python_version < "3.13"'),
        ({"spec": "a>=0.9rc1", "version": "1.0rc1"}, "a==1.0rc1", "a>=0.9rc1"),
        ({"spec": "a>=2"}, "a==1.0", "a"),
        ({"spec": "b>=1"}, "a==1.0", "a"),
        ({"spec": "a; rm -rf /"}, "a==1.0", "a"),
        ({"spec": "a @ https://x.org/a.zip"}, "a==1.0", "a"),
        ({"spec": "a[X]>=1", "extras": ("x",)}, "a[x]==1.0", "a[X]>=1"),
        ({"spec": "a[y]>=1", "extras": ("x", "y")}, "a[x,y]==1.0", "a[x,y]>=1"),
        # Never the name alone for what did not come from an index: there it could be anybody's.
        ({"origin": GIT}, f"a @ git+https://x.org/a@{'a' * 40}", "a @ git+https://x.org/a"),
        (
            {"origin": GIT, "spec": "a @ git+https://x.org/a@main"},
            f"a @ git+https://x.org/a@{'a' * 40}",
            "a @ git+https://x.org/a@main",
        ),
        ({"origin": GIT, "spec": "a"}, f"a @ git+https://x.org/a@{'a' * 40}", "a @ git+https://x.org/a"),
        (
            {"origin": Origin("vcs", "https://x.org/a", commit="0f", subdirectory="b c/d"), "extras": ("x",)},
            "a[x] @ git+https://x.org/a@0f#subdirectory=b%20c/d",
            "a[x] @ git+https://x.org/a#subdirectory=b%20c/d",
        ),
        (
            {"origin": Origin("vcs", "svn+https://x.org/a", commit="17")},
            "a @ svn+https://x.org/a@17",
            "a @ svn+https://x.org/a",
        ),
        (
            {"origin": Origin("vcs", "git+ssh://git@x.org/a", commit="0f")},
            "a @ git+ssh://git@x.org/a@0f",
            "a @ git+ssh://git@x.org/a",
        ),
        ({"origin": URL}, "a @ https://x.org/a-1.zip#sha256=0f", "a @ https://x.org/a-1.zip"),
        (
            {"origin": replace(URL, hash="md5:0f", subdirectory="b")},
            "a @ https://x.org/a-1.zip#md5=0f&subdirectory=b",
            "a @ https://x.org/a-1.zip#subdirectory=b",
        ),
        ({"origin": replace(URL, hash="own=0f")}, "a @ https://x.org/a-1.zip", "a @ https://x.org/a-1.zip"),
        ({"origin": replace(URL, hash="")}, "a @ https://x.org/a-1.zip", "a @ https://x.org/a-1.zip"),
    ],
)
def test_what_is_written(changes: dict[str, Any], pinned: str, unpinned: str) -> None:
    one = item(**changes)
    assert requirement(one, pin=True) == pinned
    assert requirement(one, pin=False) == unpinned


# --- what a container says ------------------------------------------------------------------------------


def test_a_message_is_read() -> None:
    found = listed(
        raw("Flask", "3.0", "Werkzeug>=3", "gone; python_version < '3'", spec="flask[async]>=3"),
        raw("werkzeug", "3.1", requested=False, location="/usr/lib"),
        raw("flask", "2.0", location="/behind"),
        broken=[{"path": "/lib/x.dist-info", "reason": "it is empty"}],
    )
    assert found == Installed(
        "/p",
        (
            package("flask", "3.0", "werkzeug", spec="flask[async]>=3"),
            dependency("werkzeug", "3.1", location="/usr/lib"),
        ),
        (Broken("/lib/x.dist-info", "it is empty"),),
    )
    assert found.by_name["werkzeug"].version == "3.1"
    assert Installed.from_json(json.loads(json.dumps(found.as_json()))) == found


def test_a_package_in_json() -> None:
    assert package("a", extras=("x",), origin=GIT).as_json() == {
        "name": "a",
        "version": "1.0",
        "requested": True,
        "location": "/lib",
        "installer": "pip",
        "origin": {
            "kind": "vcs",
            "url": "git+https://x.org/a",
            "commit": "a" * 40,
            "hash": "",
            "subdirectory": "",
            "private": False,
        },
        "extras": ["x"],
    }


def test_an_item_in_json() -> None:
    one = item(from_="0.9", dependencies=(Dependency("b", "2"), Dependency("c", "2", "1")), reason="why")
    assert one.as_json() == {
        "name": "a",
        "version": "1.0",
        "requested": True,
        "extras": [],
        "origin": INDEX.as_json(),
        "spec": "",
        "dependencies": [{"name": "b", "version": "2"}, {"name": "c", "version": "2", "from": "1"}],
        "from": "0.9",
        "reason": "why",
    }
    assert Drift(added=(item(),)).as_json() == {
        "added": [item().as_json()],
        "changed": [],
        "removed": [],
        "unpinnable": [],
    }
    assert not {"from", "reason"} & item().as_json().keys()


@pytest.mark.parametrize(
    ("changes", "requested"),
    [
        ({"installer": "pip", "requested": False}, False),
        ({"installer": "uv", "requested": False}, False),
        ({"installer": "uv", "requested": True}, True),
        ({"installer": "pip", "requested": False, "spec": "low>=1"}, True),
        # The mark of other installers says nothing: conda-build leaves pip's in every package.
        ({"installer": "conda", "requested": True}, False),
        ({"installer": "conda", "requested": False, "spec": "low"}, True),
        ({"installer": "", "requested": False}, False),
    ],
)
def test_what_counts_as_requested(changes: dict[str, Any], requested: bool) -> None:
    found = listed(raw("top", "1", "low", installer="conda", requested=False), raw("low", **changes))
    assert found.by_name["low"].requested is requested
    assert found.by_name["top"].requested is True


def test_requiring_itself_makes_nothing_a_dependency() -> None:
    found = listed(
        raw("a", "1", "a[all]", "b; extra == 'all'", installer="conda"), raw("b", installer="conda")
    )
    assert found.by_name["a"].requires == ("b",)
    assert found.by_name["a"].requested is True


def test_extras_are_followed_wherever_they_are_asked_for() -> None:
    found = applying(
        {
            "app": ("lib[Fast_IO]>=1", "never; extra == 'gui'"),
            "lib": (
                "quick; extra == 'fast-io'",
                "more[x]; extra == 'fast_io' and os_name == 'posix'",
                "lib[y]",
            ),
            "more": ("deep ; extra == 'x'", "(bad", "worse; extra ==", "elsewhere; os_name == 'nt'"),
            "top": ('plain; extra == "a" or extra == "b"', "always"),
        },
        {"top": ("B",)},
        MARKERS,
    )
    assert found == {
        "app": ("lib",),
        "lib": ("more", "quick"),
        "more": ("deep",),
        "top": ("always", "plain"),
    }


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("b", "b"),
        (" B_c.d ( >=1 , <2 ) ", "b-c-d"),
        ("b[x, y]>=1", "b"),
        ("b @ https://x.org/a;b.zip", "b"),
        ("b@https://x.org/a.zip ; os_name == 'posix'", "b"),
        ("b @ https://x.org/a.zip ; os_name == 'nt'", None),
        ("b; python_version >= '3.9' and python_full_version < '4'", "b"),
        ("b; platform_machine == ''", "b"),
        ("b; extras == 'x'", None),
        ("b; python_version >= 'x'", None),
        ("b; platform_release >= '1'", None),
        (f"b; {'(' * 240}os_name == 'posix'", None),
        (f"b; {'(' * 900}os_name == 'posix'{')' * 900}", None),
        ("-b", None),
        ("b-", None),
        ("b" * 200, None),
        ("", None),
    ],
)
def test_what_requires_dist_may_hold(text: str, name: str | None) -> None:
    assert applying({"a": (text,)}, {}, MARKERS)["a"] == ((name,) if name else ())


def test_versions_that_are_none_do_not_apply() -> None:
    texts = {"a": ("b; python_version >= '3'", "c; python_full_version < '4'")}
    assert applying({"a": ("b; os_name == 'x'", "c; os_name == 'x'")}, {}, MARKERS) == {"a": ()}
    assert applying(texts, {}, {"python_version": "x", "python_full_version": ""}) == {"a": ()}


def test_so_many_markers_are_read_and_no_more() -> None:
    texts = {"a": tuple(f"b{index}; os_name != 'x{index}'" for index in range(MOST_MARKERS + 10))}
    assert len(applying(texts, {}, MARKERS)["a"]) == MOST_MARKERS


def test_credentials_never_get_further() -> None:
    found = listed(
        raw("a", origin={"kind": "vcs", "url": "git+https://me:s3cret@x.org/a#egg=s3cret", "commit": "0f"}),
        raw("b", origin={"kind": "url", "url": "https://x.org/b.zip?v=1&X-Amz-Signature=s3cret&w=2"}),
        raw("c", spec="c @ https://me:s3cret@x.org/c"),
        raw("d", origin={"kind": "url", "url": f"https://me:s3cret{'x' * 3000}@x.org/d"}),
        raw("e", origin={"kind": "editable", "url": "https://me:s3cret@x.org/e"}),
    )
    assert "s3cret" not in json.dumps(found.as_json())
    assert found.packages[0].origin == Origin("vcs", "git+https://x.org/a", commit="0f", private=True)
    assert found.packages[1].origin == Origin("url", "https://x.org/b.zip?v=1&w=2", private=True)
    assert found.packages[2].spec == ""
    result = Drift.between(installed(), found)
    assert names(result.unpinnable) == ["a", "b", "d", "e"]


@pytest.mark.parametrize(
    ("url", "expected", "private"),
    [
        ("https://x.org/a", "https://x.org/a", False),
        (" https://x.org/a?b=1#egg=a ", "https://x.org/a?b=1", False),
        ("https://u@x.org/a", "https://x.org/a", True),
        ("https://x.org/a?token=1", "https://x.org/a", True),
        ("https://x.org/a@1.0", "https://x.org/a@1.0", False),
        ("ssh://git@x.org/a", "ssh://git@x.org/a", False),
        ("ssh://git:p@x.org/a", "ssh://x.org/a", True),
        ("git@x.org:a/b", "git@x.org:a/b", False),
        ("u:p@x.org/a", "", True),
        ("https:/u:p@x.org/a", "", True),
        ("file:///home/a@b", "file:///home/a@b", False),
        ("git+file:///home/a@b", "git+file:///home/a@b", False),
        ("https://[u:p@x", "", False),
    ],
)
def test_addresses_without_credentials(url: str, expected: str, private: bool) -> None:
    assert without_credentials(url) == (expected, private)


HOSTILE = [
    "a\nRUN id",
    "a\x1b[31m",
    'a"',
    "a'; id; '",
    "a\u202eb",
    "\ud800",
    "a\x00",
    "$(id)",
    "-r x",
    "é",
    "A" * 5_000_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize(
    "field",
    [
        "name",
        "version",
        "location",
        "installer",
        "spec",
        "extras",
        "requires",
        "url",
        "commit",
        "hash",
        "subdirectory",
    ],
)
@pytest.mark.parametrize("kind", ["index", "url", "vcs", "local"])
def test_hostile_metadata_reaches_no_requirement_and_no_reader(kind: str, field: str, text: str) -> None:
    given = raw("a", origin={"kind": kind, "url": "https://x.org/a", "commit": "0f"})
    if field in ("extras", "requires"):
        given[field] = [text]
    elif field in given:
        given[field] = text
    else:
        given["origin"][field] = text
    found = listed(given, raw("b"))
    assert "b" in found.by_name
    check_is_clean(found.as_json())
    assert len(json.dumps(found.as_json())) < 20_000
    result = Drift.between(installed(), found)
    check_is_clean(result.as_json())
    check_written(result)


@pytest.mark.parametrize(
    ("field", "shown"),
    [("name", "its name, a\N{REPLACEMENT CHARACTER}"), ("version", "a has no version")],
)
def test_what_has_no_name_or_version_is_reported(field: str, shown: str) -> None:
    found = listed({**raw("a"), field: "a\x07" if field == "name" else ""}, raw("b"))
    assert names_of(found) == ["b"]
    assert found.broken[0].path == "/lib"
    assert found.broken[0].reason.startswith(shown)


def names_of(found: Installed) -> list[str]:
    return [one.name for one in found.packages]


def test_what_was_cut_passes_for_nothing() -> None:
    found = listed(
        raw("a", "1." + "0" * 300), raw("b", origin={"kind": "url", "url": "https://x.org/" + "b" * 3000})
    )
    assert found.packages[0].version.endswith("…")
    assert len(found.packages[0].version) == 200
    assert names(Drift.between(installed(), found).unpinnable) == ["a", "b"]


BAD_FIELDS: list[tuple[str, Any]] = [
    *(
        (field, value)
        for field in ("name", "version", "location", "installer", "spec")
        for value in (None, 1, [], {})
    ),
    *(("requested", value) for value in (None, 0, "yes", [])),
    *(
        (field, value)
        for field in ("extras", "requires")
        for value in (None, 1, "text", {}, [1], [None], [[]])
    ),
    ("origin", None),
    ("origin", []),
    ("origin", {}),
    ("origin", {"kind": "other"}),
    ("origin", {"kind": ["index"]}),
    *(
        ("origin", {"kind": "url", field: 1})
        for field in ("url", "commit", "hash", "subdirectory", "private")
    ),
]


@pytest.mark.parametrize(("field", "value"), BAD_FIELDS)
def test_a_field_of_the_wrong_type_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ProtocolError, match=r"^The agent's list of packages cannot be used: ") as caught:
        listed(raw("b"), {**raw("a"), field: value})
    assert caught.value.sentence.isprintable()


@pytest.mark.parametrize(
    "message",
    [
        {"packages": None},
        {"packages": [None]},
        {"packages": {}},
        {"packages": [{}] * (MOST_PACKAGES + 1)},
        {"python": None},
        {"markers": None},
        {"markers": {"os_name": 1}},
        {"broken": None},
        {"broken": [None]},
        {"broken": [{"path": "/x"}]},
        {"broken": [{"path": 1, "reason": "x"}]},
    ],
)
def test_a_message_of_the_wrong_shape_is_refused(message: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        listed(**message)


def test_a_message_with_too_much_is_cut() -> None:
    many = {"extras": [f"x{index}" for index in range(500)]}
    requires = [f"r{index}" for index in range(500)]
    broken = [{"path": "/x", "reason": "r"}] * 5000
    found = listed(raw("a", "1", *requires, **many), *[raw("é")] * 10, broken=broken)
    assert (len(found.packages[0].extras), len(found.packages[0].requires)) == (100, 200)
    assert len(found.broken) == 1000


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"python": "/p", "packages": [{"name": "a"}], "broken": []},
        {"python": "/p", "packages": [{"name": "a", "version": ""}], "broken": []},
        {"python": "/p", "packages": [{"name": "a b", "version": "1"}], "broken": []},
        {"python": "/p", "packages": [{"name": "a", "version": "1", "requires": ["a b"]}], "broken": []},
        {"python": "/p", "packages": []},
    ],
)
def test_what_is_no_set_of_packages_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"^[a-z ]+$"):
        Installed.from_json(value)


@pytest.mark.parametrize(
    "changed",
    [
        {"name": ""},
        {"name": None},
        {"version": ""},
        {"requested": None},
        {"extras": None},
        {"from": 1},
        {"dependencies": None},
        {"dependencies": [{"name": "b"}]},
        {"dependencies": [{"name": "b c", "version": "1"}]},
        {"origin": None},
    ],
)
def test_what_is_no_drift_is_refused(changed: dict[str, Any]) -> None:
    good = Drift(added=(item(),)).as_json()
    assert Drift.from_json(good) == Drift(added=(item(),))
    with pytest.raises(ValueError, match=r"^[a-z ]+$"):
        Drift.from_json({**good, "added": [{**item().as_json(), **changed}]})
    with pytest.raises(ValueError, match=r"^[a-z ]+$"):
        Drift.from_json({**good, "removed": None})


# --- drifts of containers that are gone -----------------------------------------------------------------


def test_later_wins_where_drifts_are_merged() -> None:
    earlier = Drift(added=(item("a"), item("b")), removed=(item("c"),))
    later = Drift(added=(item("c", "2"),), changed=(item("b", "2", from_="1"),))
    assert earlier.merged(later) == Drift(
        added=(item("a"), item("c", "2")), changed=(item("b", "2", from_="1"),)
    )
    assert earlier.merged(Drift()) == earlier
    assert names(earlier.without({"a", "c"}).items) == ["b"]


@pytest.mark.parametrize(
    ("lost", "there", "outstanding"),
    [
        (Drift(added=(item("a", "2"),)), [], True),
        (Drift(added=(item("a", "2"),)), [package("a", "2")], False),
        # Somebody installed another version since: that is what is wanted now.
        (Drift(added=(item("a", "2"),)), [package("a", "3")], False),
        (Drift(changed=(item("a", "2", from_="1.0"),)), [package("a", "1")], True),
        (Drift(changed=(item("a", "2", from_="1.0"),)), [package("a", "2")], False),
        (Drift(changed=(item("a", "2", from_="1.0"),)), [], True),
        (Drift(changed=(item("a", "1", from_="1", origin=GIT),)), [package("a", "1")], True),
        (Drift(changed=(item("a", "1", from_="1", origin=GIT),)), [package("a", "1", origin=GIT)], False),
        (
            Drift(changed=(item("a", "1", from_="1", dependencies=(Dependency("b", "1"),)),)),
            [package("a", "1")],
            True,
        ),
        (
            Drift(changed=(item("a", "1", from_="1", dependencies=(Dependency("b", "1"),)),)),
            [package("a", "1"), dependency("b")],
            False,
        ),
        (Drift(removed=(item("a"),)), [package("a")], True),
        (Drift(removed=(item("a"),)), [], False),
        (Drift(unpinnable=(item("a", reason="why"),)), [], True),
        (Drift(unpinnable=(item("a", reason="why"),)), [package("a")], False),
    ],
)
def test_what_has_come_about_elsewhere_is_no_longer_lost(
    lost: Drift, there: list[Package], outstanding: bool
) -> None:
    assert lost.not_in(installed(*there)) == (lost if outstanding else Drift())


# --- properties -----------------------------------------------------------------------------------------

short_names = st.sampled_from(["a", "b", "c", "d", "e", "Zope.Interface", "ruamel_yaml"])
odd_text = st.text(max_size=12) | st.sampled_from(
    [*HOSTILE[:-1], "x" * 300, "https://u:p@h/x?token=1#y", "a://b:c@d"]
)
versions = st.sampled_from(["1.0", "1.0.0", "2", "2.1+cu121", "1.0-1", "odd version"]) | odd_text.filter(bool)
addresses = (
    st.sampled_from(["https://x.org/a", "git+https://x.org/a", "ssh://git@x.org/a", "file:///a", ""])
    | odd_text
)
origins = st.just({"kind": "index"}) | st.fixed_dictionaries(
    {"kind": st.sampled_from(["index", "url", "vcs", "local", "editable"])},
    optional={
        "url": addresses,
        "commit": st.sampled_from(["0f" * 20, "17"]) | odd_text,
        "hash": st.sampled_from(["sha256=0f", "sha256:0f"]) | odd_text,
        "subdirectory": odd_text,
        "private": st.booleans(),
    },
)
specs = st.builds(
    "{}{}".format, short_names, st.sampled_from(["", ">=1", "[x]", "; os_name == 'nt'", " @ https://x.org/a"])
)
messages = st.builds(
    lambda packages, broken: {"python": "/p", "markers": MARKERS, "packages": packages, "broken": broken},
    st.lists(
        st.fixed_dictionaries(
            {"name": short_names | odd_text, "version": versions},
            optional={
                "location": odd_text,
                "requested": st.booleans(),
                "installer": st.sampled_from(["pip", "uv", "conda", ""]) | odd_text,
                "origin": origins,
                "requires": st.lists(
                    st.builds("{}{}".format, short_names, st.sampled_from(["", "[x]", "; extra == 'x'"]))
                    | odd_text,
                    max_size=3,
                ),
                "extras": st.lists(st.sampled_from(["x", "y_z"]) | odd_text, max_size=2),
                "spec": specs | odd_text,
            },
        ),
        max_size=8,
    ),
    st.lists(st.fixed_dictionaries({"path": odd_text, "reason": odd_text}), max_size=2),
)
sets = messages.map(Installed.from_message)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | odd_text,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["name", "version", "kind", "url", "origin", "requires", "extras", "spec", "os_name"]
            ),
            inner,
        )
    ),
    max_leaves=12,
)
broken_messages = st.one_of(
    st.dictionaries(st.sampled_from(["python", "markers", "packages", "broken"]), anything),
    st.builds(
        lambda message, index, key, value: {
            **message,
            "packages": [
                {**one, key: value} if number == index else one
                for number, one in enumerate(message["packages"])
            ],
        },
        messages,
        st.integers(0, 3),
        st.sampled_from(
            ["name", "version", "location", "requested", "installer", "origin", "requires", "extras", "spec"]
        ),
        anything,
    ),
)


def check_is_clean(value: Any) -> None:
    if isinstance(value, str):
        assert value.isprintable()
        assert clean(value, colours=False) == value
        value.encode()
    elif isinstance(value, dict):
        for one in value.values():
            check_is_clean(one)
    elif isinstance(value, list):
        for one in value:
            check_is_clean(one)


def check_written(result: Drift) -> None:
    """Every item has a reason why not, or gives a requirement for that package that the editors take."""
    for one in result.unpinnable:
        assert one.reason
        assert one.reason.isprintable()
    for one in (*result.added, *result.changed):
        for pin in (True, False):
            text = requirement(one, pin=pin)
            assert read_requirement(text).name == one.name
            assert text.isprintable()
            assert canonicalize_name(Requirement(text).name) == one.name
            if pin:
                assert text.isascii()
                assert not {'"', "'", "\\", "`", "{"} & set(text)
                assert edit_requirements("", install=[text]).text.endswith(f"\n{text}\n")
            assert text in edit("FROM a\n", install=[text]).text or "'" in text or '"' in text


@quick
@given(sets)
def test_a_container_like_its_image_has_no_drift(found: Installed) -> None:
    assert Drift.between(found, found) == Drift()


@quick
@given(sets, sets)
def test_every_difference_is_accounted_for(image: Installed, container: Installed) -> None:
    result = Drift.between(image, container)
    leading = {one.name for one in (*result.added, *result.changed, *result.unpinnable)}
    below = {one.name for item in result.items for one in item.dependencies}
    assert len(result.items) == len({one.name for one in result.items})
    gone = {one.name for one in result.removed}
    unreadable = {one.name for one in container.broken}
    assert gone == image.by_name.keys() - container.by_name.keys() - unreadable
    differing = {
        one.name
        for one in container.packages
        if one.name not in image.by_name or not one.is_same_as(image.by_name[one.name])
    }
    assert below <= differing - leading
    left = differing - leading - below
    for name in left:
        one = container.by_name[name]
        assert not one.requested
        assert one.installer in ("pip", "uv")
        requiring = {other.name for other in container.packages if name in other.requires}
        assert requiring <= left, "only what was left behind itself may require what was left behind"
    for one in result.items:
        if one.name in differing | gone:
            assert one.name in gone or bool(one.from_) is (one.name in image.by_name)
        else:
            # Led by its extras alone.
            assert one.dependencies
            assert set(one.extras) - set(image.by_name[one.name].extras)
    check_written(result)


@quick
@given(sets, sets)
def test_a_drift_survives_being_kept(image: Installed, container: Installed) -> None:
    result = Drift.between(image, container)
    check_is_clean(result.as_json())
    check_is_clean(container.as_json())
    assert Drift.from_json(json.loads(json.dumps(result.as_json()))) == result
    assert Installed.from_json(json.loads(json.dumps(container.as_json()))) == container
    assert result.merged(result) == result
    outstanding = result.not_in(image)
    assert {one.name for one in result.items} >= {one.name for one in outstanding.items}
    assert not result.not_in(container).items or container.broken


@quick
@given(broken_messages)
def test_any_message_is_read_or_refused(message: dict[str, Any]) -> None:
    try:
        found = Installed.from_message(message)
    except ProtocolError as error:
        said = error.sentence
    else:
        check_is_clean(found.as_json())
        check_written(Drift.between(installed(), found))
        return
    assert said.isprintable()


@quick
@given(anything, st.sampled_from([Installed.from_json, Drift.from_json, Item.from_json, Package.from_json]))
def test_any_json_is_read_or_refused(value: object, read: Any) -> None:
    try:
        read(value)
    except ValueError as error:
        said = str(error)
    else:
        return
    assert said.isprintable()
