"""The agent's list of what is installed, on trees made here: against pip's own list and the email parser."""

from __future__ import annotations

import email
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pip._internal.metadata import get_environment

from ds01_kernels.agent import direct_url, packages, pip_settings
from ds01_kernels.agent.asked import Asked, parse
from ds01_kernels.agent.metadata import BrokenError, read_metadata

PACKAGE = Path(packages.__file__).parent


def dist(folder: Path, name: str, version: str, *, metadata: str | None = None, **files: str) -> Path:
    """A ``.dist-info``; `files` are more of its files (``direct_url`` is the JSON one)."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\n"
    (info / "METADATA").write_text(text if metadata is None else metadata)
    for file, content in files.items():
        (info / {"direct_url": "direct_url.json"}.get(file, file)).write_text(content)
    return info


def listed(*folders: Path, sites: tuple[Path, ...] | None = None) -> dict[str, dict[str, Any]]:
    """The packages by name."""
    made = {str(folder) for folder in (folders if sites is None else sites)}
    listing = packages.list_packages([str(folder) for folder in folders], made)
    return {package["name"]: package for package in listing.packages}


def broken(folder: Path) -> dict[str, str]:
    """Reasons by the name of the file."""
    listing = packages.list_packages([str(folder)], {str(folder)})
    return {Path(one["path"]).name: one["reason"] for one in listing.broken}


def pips(*folders: Path) -> dict[str, str]:
    """What ``pip list`` would show."""
    environment = get_environment([str(folder) for folder in folders])
    found = environment.iter_installed_distributions(local_only=False)
    return {one.metadata["Name"]: one.metadata["Version"] for one in found}


def versions(*folders: Path) -> dict[str, str]:
    return {name: package["version"] for name, package in listed(*folders).items()}


# The same as pip


def test_every_form_that_pip_knows(tmp_path: Path) -> None:
    site, source = tmp_path / "site", tmp_path / "source"
    dist(site, "Wheel.Like", "1.0")
    dist(site, "argparse", "1.4")
    folder = site / "apt_folder-2.0.egg-info"
    folder.mkdir()
    (folder / "PKG-INFO").write_text("Name: apt-folder\r\nVersion: 2.0\r\n\r\nName: other\r\n")
    (site / "apt_file-3.egg-info").write_text("Name: apt_file\nVersion: 3\nSummary: x\n  y\n")
    egg = site / "easy-4-py3.egg" / "EGG-INFO"
    egg.mkdir(parents=True)
    (egg / "PKG-INFO").write_text("Metadata-Version: 1.1\nName: easy\nVersion: 4\n")
    on_path = tmp_path / "onpath-5-py3.egg" / "EGG-INFO"
    on_path.mkdir(parents=True)
    (on_path / "PKG-INFO").write_text("Metadata-Version: 1.1\nName: onpath\nVersion: 5\n")
    developed = source / "develop.egg-info"
    developed.mkdir(parents=True)
    (developed / "PKG-INFO").write_text("Metadata-Version: 1.1\nName: develop\nVersion: 6.dev0\n")
    (site / "develop.egg-link").write_text(f"{source}\n.")
    (site / "dangling.egg-link").write_text("../nowhere\n.")
    (site / "empty.egg-link").write_text("\n")
    (site / "module.py").touch()

    found = listed(site, on_path.parent)
    assert {name: package["version"] for name, package in found.items()} == {
        "Wheel.Like": "1.0",
        "apt-folder": "2.0",
        "apt_file": "3",
        "easy": "4",
        "onpath": "5",
        "develop": "6.dev0",
    }
    # Not "easy": pip's newest leave out what is in an egg.
    assert pips(site, on_path.parent).items() <= versions(site, on_path.parent).items()
    assert found["develop"]["origin"]["kind"] == "editable"
    assert found["develop"]["origin"]["url"] == source.as_uri()
    assert found["develop"]["location"] == str(site)
    assert {one["origin"]["kind"] for one in found.values()} == {"editable", "index"}


NAMES = st.sampled_from(["one", "two", "Two", "t.w.o", "t-w_o", "three", "four-4", "python", "wsgiref"])
ONE = st.tuples(
    st.integers(0, 1),
    NAMES,
    st.sampled_from(["1", "1.0", "2.0rc1", "2024.01.02"]),
    st.sampled_from(["dist-info", "egg-info"]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(ONE, max_size=12, unique_by=lambda one: one[:3]))
def test_the_first_of_a_name_wins_as_with_pip(ones: list[tuple[int, str, str, str]]) -> None:
    with tempfile.TemporaryDirectory() as root:
        folders = [Path(root, "a"), Path(root, "b")]
        for folder in folders:
            folder.mkdir()
        for place, name, version, suffix in ones:
            info = folders[place] / f"{name.replace('-', '_')}-{version}.{suffix}"
            info.mkdir()
            file = "METADATA" if suffix == "dist-info" else "PKG-INFO"
            (info / file).write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        assert versions(*folders) == pips(*folders)


NAME = re.compile("[A-Za-z0-9._-]+")
LINES = st.one_of(
    st.sampled_from(
        [
            "Name: pkg",
            "NAME:pkg",
            "Version: 1.0",
            "version:   2.0  ",
            "Requires-Dist: one (>=1)",
            "requires-dist: two ; extra == 'x'",
            "Description: text",
            "        Name: folded",
            "\tVersion: folded",
            "no header",
            "",
            "Summary: Version: 3",
            "Classifier: A :: B",
        ]
    ),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(LINES, max_size=12), st.sampled_from(["\n", "\r\n", "\r"]))
def test_headers_are_what_the_email_parser_says(lines: list[str], newline: str) -> None:
    text = newline.join(["Metadata-Version: 2.1", *lines, ""])
    message = email.message_from_string(re.sub("\r\n?", "\n", text))
    expected = [unfolded(message.get(name, "")) for name in ("Name", "Version")]
    requires = [unfolded(value) for value in message.get_all("Requires-Dist", [])]
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(text.encode())
        if all(expected) and NAME.fullmatch(expected[0]):
            assert read_metadata(file.name, is_folder=False) == (*expected, requires, False)
        else:
            with pytest.raises(BrokenError, match=r"it has no|is none"):
                read_metadata(file.name, is_folder=False)


def unfolded(value: str) -> str:
    return " ".join(line.strip() for line in value.split("\n")).strip()


def test_it_knows_what_was_asked_for_and_by_what_it_came(tmp_path: Path) -> None:
    dist(tmp_path, "asked", "1", REQUESTED="", INSTALLER="uv\n")
    dist(tmp_path, "needed", "1", INSTALLER="pip\nmore\n")
    dist(tmp_path, "odd", "1", INSTALLER="x" * 5000)
    found = listed(tmp_path)
    assert [(one["requested"], one["installer"][:9]) for one in found.values()] == [
        (True, "uv"),
        (False, "pip"),
        (False, "x" * 9),
    ]
    assert len(found["odd"]["installer"]) <= packages.INSTALLER_LIMIT


def test_an_eggs_requirements_become_markers(tmp_path: Path) -> None:
    info = tmp_path / "old-1.egg-info"
    info.mkdir()
    (info / "PKG-INFO").write_text("Name: old\nVersion: 1\n")
    (info / "requires.txt").write_text(
        "one\ntwo>=2\n\n[fast]\nthree\n\n[:sys_platform == 'win32' or x]\nfour\n\n[all:x]\nfive @ https://e/f\n"
    )
    assert listed(tmp_path)["old"]["requires"] == [
        "one",
        "two>=2",
        'three ; extra == "fast"',
        "four ; (sys_platform == 'win32' or x)",
        'five @ https://e/f ; (x) and extra == "all"',
    ]


def test_a_source_tree_on_the_path_is_local(tmp_path: Path) -> None:
    source = tmp_path / "a source"
    info = source / "mine.egg-info"
    info.mkdir(parents=True)
    (info / "PKG-INFO").write_text("Name: mine\nVersion: 1\n")
    dist(source, "target", "1")
    found = listed(source, sites=())
    assert (found["mine"]["origin"]["kind"], found["mine"]["origin"]["url"]) == ("local", source.as_uri())
    assert found["target"]["origin"]["kind"] == "index"


# What is broken, or worse


def test_what_is_broken_is_reported_and_the_rest_is_listed(tmp_path: Path) -> None:
    good = dist(tmp_path, "good", "1")
    texts = {
        "nameless": "Version: 1\n",
        "versionless": "Name: versionless\n",
        "empty": "",
        "newline": "Name: a\n b\nVersion: 1\n",
        "ansi": "Name: \x1b[31mred\nVersion: 1\n",
        "shell": 'Name: x"; rm -rf /\nVersion: 1\n',
        "kelvin": "Name: \u212aelvin\nVersion: 1\n",
        "long": f"Name: {'n' * 201}\nVersion: 1\n",
        "longer": f"Name: {'n' * 5_000_000}\nVersion: 1\n",
        "version": "Name: version\nVersion: 1\x1b]0;x\x07\n",
        "body": "\n\nName: body\nVersion: 1\n",
    }
    for name, text in texts.items():
        dist(tmp_path, name, "1", metadata=text)
    os.mkfifo(dist_without_metadata(tmp_path, "fifo") / "METADATA")
    (dist_without_metadata(tmp_path, "folder") / "METADATA").mkdir()
    (dist_without_metadata(tmp_path, "loop") / "METADATA").symlink_to("METADATA")
    dist_without_metadata(tmp_path, "bare")
    (tmp_path / "self-1.dist-info").symlink_to("self-1.dist-info")
    (tmp_path / "zero-1.egg-info").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe-1.egg-info")
    dist(tmp_path, "~ood", "0.9", metadata=(good / "METADATA").read_text())

    assert versions(tmp_path) == {"good": "1"}
    reasons = broken(tmp_path)
    named = {re.sub(r"-[\d.]+\.(dist|egg)-info$", "", name): reason for name, reason in reasons.items()}
    assert named.keys() == {*texts, "fifo", "folder", "loop", "bare", "self", "zero", "pipe", "~ood"}
    assert named["nameless"] == "it has no name"
    assert named["versionless"] == "it has no version"
    assert named["fifo"] == named["zero"] == named["pipe"] == "it is no regular file"
    assert "symbolic links" in named["loop"]
    assert "interrupted" in named["~ood"]


def dist_without_metadata(folder: Path, name: str) -> Path:
    info = folder / f"{name}-1.dist-info"
    info.mkdir()
    return info


def test_a_megabyte_of_description_does_no_harm(tmp_path: Path) -> None:
    text = "Name: big\nVersion: 1\nDescription: x\n" + "        line\n" * 400_000 + "Requires-Dist: lost\n\n"
    dist(tmp_path, "big", "1", metadata=text + "body\n" * 100_000)
    dist(tmp_path, "bytes", "1", metadata="").joinpath("METADATA").write_bytes(
        b"Author: J\xf6rg\nName: bytes\nVersion: 1\nRequires-Dist: r\xff\n"
    )
    many = "".join(f"Requires-Dist: r{number}\n" for number in range(1000)) + f"Requires-Dist: {'l' * 501}\n"
    dist(tmp_path, "many", "1", metadata=f"Name: many\nVersion: 1\n{many}")
    found = listed(tmp_path)
    assert found["big"]["version"] == found["bytes"]["version"] == "1"
    assert len(found["many"]["requires"]) == 200


def test_links_are_followed_as_uv_makes_them(tmp_path: Path) -> None:
    dist(tmp_path / "cache", "linked", "1")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "linked-1.dist-info").symlink_to(tmp_path / "cache" / "linked-1.dist-info")
    assert versions(tmp_path / "site") == {"linked": "1"}


def test_names_that_are_no_text_can_be_told(tmp_path: Path) -> None:
    os.mkdir(os.fsencode(tmp_path) + b"/\xff\n-1.dist-info")
    folder = os.fsencode(tmp_path) + b"/\xfe"
    os.makedirs(folder + b"/fine-1.dist-info")
    Path(os.fsdecode(folder), "fine-1.dist-info", "METADATA").write_text("Name: fine\nVersion: 1\n")
    listing = packages.list_packages([str(tmp_path), os.fsdecode(folder)], ())
    assert [one["name"] for one in listing.packages] == ["fine"]
    assert len(listing.broken) == 1
    json.dumps(listing.packages + listing.broken).encode("ascii")
    str(listing.packages + listing.broken).encode("utf-8")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.binary(max_size=300), st.binary(max_size=100))
def test_bytes_of_any_kind(metadata: bytes, url: bytes, installer: bytes) -> None:
    with tempfile.TemporaryDirectory() as root:
        info = Path(root, "any-1.dist-info")
        info.mkdir()
        (info / "METADATA").write_bytes(b"Name: any\nVersion: 1\n" + metadata)
        (info / "direct_url.json").write_bytes(url)
        (info / "INSTALLER").write_bytes(installer)
        listing = packages.list_packages([root], ())
        assert len(listing.packages) + len(listing.broken) == 1
        json.dumps(listing, ensure_ascii=False).encode("utf-8")


# Where it came from

SHA = "0" * 64


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (
            {
                "url": "https://h/x",
                "vcs_info": {"vcs": "git", "commit_id": "abc", "requested_revision": "v1"},
            },
            {"kind": "vcs", "url": "git+https://h/x", "commit": "abc"},
        ),
        (
            {"url": "git+ssh://git@h/x", "vcs_info": {"vcs": "git", "commit_id": "a"}, "subdirectory": "p/q"},
            {
                "kind": "vcs",
                "url": "git+ssh://git@h/x",
                "commit": "a",
                "subdirectory": "p/q",
                "private": True,
            },
        ),
        (
            {"url": "https://me:secret@h/x.git", "vcs_info": {"vcs": "git", "commit_id": "a"}},
            {"kind": "vcs", "url": "git+https://h/x.git", "commit": "a", "private": True},
        ),
        (
            {"url": "https://h/x.git", "vcs_info": {"vcs": "git; rm", "commit_id": "a b", "x": 1}},
            {"kind": "vcs"},
        ),
        (
            {"url": "https://h/x.whl#frag", "archive_info": {"hashes": {"sha256": SHA, "md5": "0"}}},
            {"kind": "url", "url": "https://h/x.whl", "hash": f"sha256={SHA}"},
        ),
        (
            {"url": "https://h/x.whl", "archive_info": {"hash": f"sha256={SHA}"}},
            {"kind": "url", "url": "https://h/x.whl", "hash": f"sha256={SHA}"},
        ),
        (
            {"url": "https://h/x.whl", "archive_info": {"hash": "sha256=$(id)"}},
            {"kind": "url", "url": "https://h/x.whl"},
        ),
        (
            {"url": "https://${USER}:${TOKEN}@h/x.whl", "archive_info": {}},
            {"kind": "url", "url": "https://h/x.whl", "private": True},
        ),
        (
            {"url": "https://h/x.whl?X-Amz-Signature=secret", "archive_info": {}},
            {"kind": "url", "url": "https://h/x.whl", "private": True},
        ),
        ({"url": "https://h/x?y=1", "archive_info": {}}, {"kind": "url", "url": "https://h/x?y=1"}),
        ({"url": "file:///w/x.whl", "archive_info": {}}, {"kind": "local", "url": "file:///w/x.whl"}),
        ({"url": "file:///w", "dir_info": {}}, {"kind": "local", "url": "file:///w"}),
        ({"url": "file:///w", "dir_info": {"editable": True}}, {"kind": "editable", "url": "file:///w"}),
        ({"url": "file:///w", "dir_info": {"editable": "yes"}}, {"kind": "local", "url": "file:///w"}),
        ({"url": "https://h/x\nRUN id", "archive_info": {}}, {"kind": "url"}),
        ({"url": "https://h/" + "x" * 2000, "archive_info": {}}, {"kind": "url"}),
        ({"url": "https://[h/x", "archive_info": {}}, {"kind": "url"}),
        (
            {"url": "me:secret@h:x", "vcs_info": {"vcs": "git", "commit_id": "a"}},
            {"kind": "vcs", "commit": "a"},
        ),
        ({"url": 7, "archive_info": 7}, {"kind": "url"}),
        ([], {"kind": "url"}),
    ],
)
def test_origins(told: Any, expected: dict[str, Any]) -> None:
    plain = {"kind": "", "url": "", "commit": "", "hash": "", "subdirectory": "", "private": False}
    assert direct_url.read_origin(json.dumps(told).encode()) == {**plain, **expected}


def test_an_origin_that_cannot_be_read_is_not_taken_for_an_index(tmp_path: Path) -> None:
    dist(tmp_path, "bad", "1", direct_url="{")
    dist(tmp_path, "deep", "1", direct_url="[" * 60_000)
    os.mkfifo(dist(tmp_path, "pipe", "1") / "direct_url.json")
    assert {package["origin"]["kind"] for package in listed(tmp_path).values()} == {"url"}


WORDS = st.text("abcXYZ019%._-~!$&'()*+,;=", min_size=1, max_size=12)


@given(WORDS, WORDS, st.sampled_from(["https", "git+https", "ssh", "git+ssh", "http", "hg+http"]))
def test_no_credentials_are_told(user: str, password: str, scheme: str) -> None:
    secret = f"{user}S3CR{password}"
    for netloc in (f"{secret}@host", f"{user}:{secret}@host", f"git:{secret}@host", f"{secret}@x@host"):
        url, private = direct_url.without_credentials(f"{scheme}://{netloc}/path")
        assert "S3CR" not in url
        assert private or not url
    for kind in ({"archive_info": {}}, {"vcs_info": {"vcs": "git", "commit_id": "1"}}):
        told = json.dumps({"url": f"{scheme}://{secret}:x@host/path", **kind}).encode()
        assert "S3CR" not in json.dumps(direct_url.read_origin(told))


# What was asked for


@pytest.mark.parametrize(
    ("text", "name", "extras", "spec"),
    [
        ("six", "six", (), "six"),
        (" Six_Six >= 1, <2 ", "six-six", (), "Six_Six >= 1, <2"),
        ("a[b,c.d]==1.*", "a", ("b", "c.d"), "a[b,c.d]==1.*"),
        ("a (>=1)", "a", (), "a (>=1)"),
        ("a; python_version>'3'", "a", (), "a; python_version>'3'"),
        ("a[x] @ https://u:p@h/a.whl", "a", ("x",), "a[x] @ https://h/a.whl"),
        ("a @ https://h/a.whl ; x", "a", (), "a @ https://h/a.whl ; x"),
    ],
)
def test_a_requirement_as_typed(text: str, name: str, extras: tuple[str, ...], spec: str) -> None:
    found = parse(text)
    assert found is not None
    assert (found.name, found.extras, found.text) == (name, extras, spec)
    assert found.private == ("u:p" in text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "-r x", "--index-url", "a b", "a; rm\n", "./folder", "git+https://h/x", "$(id)"),
        *("a==1 --hash=x", "a\nRUN", "a" * 501, "a @ me@h:x"),
    ],
)
def test_what_is_no_requirement_is_left_out(text: str) -> None:
    assert parse(text) is None


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "pip"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    return folder


def report(name: str, version: str, *extras: str, url: str = "https://files.pythonhosted.org/x.whl") -> str:
    entry: dict[str, Any] = {"metadata": {"name": name, "version": version}, "download_info": {"url": url}}
    if extras:
        entry["requested_extras"] = extras
    return json.dumps({"version": "1", "install": [entry]})


def told(notes: Path, *ones: tuple[str, str], kind: str = "index") -> dict[str, tuple[list[str], str, bool]]:
    """Extras, spec and whether it is private, of packages of these names and versions."""
    found: list[packages.Package] = [
        {"name": name, "version": version, "origin": direct_url.origin(kind), "extras": [], "spec": ""}
        for name, version in ones
    ]
    Asked(str(notes), str(notes)).tell(found)
    return {one["name"]: (one["extras"], one["spec"], one["origin"]["private"]) for one in found}


def test_extras_come_from_pips_report_and_outlive_the_next_one(notes: Path) -> None:
    asked = Asked(str(notes), str(notes))
    assert not asked.take_report()
    (notes / "report.json").write_text(report("Trans.formers", "1.0", "torch", "Sentence_Piece"))
    assert asked.take_report()
    assert not (notes / "report.json").exists(), "one that not everybody may write to must go"
    (notes / "report.json").write_text(report("other", "1.0"))
    assert asked.take_report()
    assert told(notes, ("trans-formers", "1.0"), ("other", "1.0")) == {
        "trans-formers": (["sentence-piece", "torch"], "", False),
        "other": ([], "", False),
    }
    (notes / "report.json").write_text(report("trans-formers", "2.0"))
    assert asked.take_report()
    assert told(notes, ("trans-formers", "2.0"))["trans-formers"][0] == ["sentence-piece", "torch"]


def test_the_last_words_typed_count(notes: Path) -> None:
    asked = Asked(str(notes), str(notes))
    asked.add(["six==1.15", "attrs[a]"])
    asked.add(["six>=1.16", "attrs ==", "x" * 501, "-r file"])
    assert told(notes, ("SIX", "1.16"), ("attrs", "1"), ("x", "1")) == {
        "SIX": ([], "six>=1.16", False),
        "attrs": (["a"], "attrs[a]", False),
        "x": ([], "", False),
    }


def test_without_the_folder_the_agents_own_is_used(tmp_path: Path) -> None:
    Asked(str(tmp_path / "none"), str(tmp_path)).add(["six"])
    assert (tmp_path / "asked.jsonl").exists()


def test_a_report_that_everybody_may_write_to_stays(notes: Path) -> None:
    (notes / "report.json").touch()
    (notes / "report.json").chmod(0o666)
    asked = Asked(str(notes), str(notes))
    assert not asked.take_report()
    (notes / "report.json").write_text(report("a", "1", "x"))
    assert asked.take_report()
    assert (notes / "report.json").read_text() == ""
    assert told(notes, ("a", "1"))["a"][0] == ["x"]


def test_a_report_that_is_not_complete_is_left(notes: Path) -> None:
    whole = report("a", "1", "x")
    (notes / "report.json").write_text(whole[:-5])
    asked = Asked(str(notes), str(notes))
    assert not asked.take_report()
    (notes / "report.json").write_text(whole)
    assert asked.take_report()


def test_an_index_with_credentials_is_private(notes: Path, tmp_path: Path) -> None:
    (tmp_path / ".config" / "pip").mkdir(parents=True)
    (tmp_path / ".config" / "pip" / "pip.conf").write_text(
        "[global]\nindex-url = https://me:secret@Index.Example:8443/simple\n"
    )
    (tmp_path / ".netrc").write_text("machine other.example login me password secret\n")
    assert {"index.example:8443", "other.example"} <= pip_settings.guarded_hosts()
    asked = Asked(str(notes), str(notes))
    hosts = {"a": "index.example:8443", "b": "other.example", "c": "files.pythonhosted.org"}
    for name, host in hosts.items():
        (notes / "report.json").write_text(report(name, "1", url=f"https://{host}/x.whl"))
        assert asked.take_report()
    found = told(notes, ("a", "1"), ("b", "1"), ("c", "1"))
    assert [private for _, _, private in found.values()] == [True, True, False]
    assert "secret" not in "".join(file.read_text() for file in notes.iterdir())


def test_typed_credentials_make_what_came_from_there_private(notes: Path) -> None:
    Asked(str(notes), str(notes)).add(["a @ https://me:secret@h/a.whl"])
    assert told(notes, ("a", "1"), kind="url") == {"a": ([], "a @ https://h/a.whl", True)}
    assert told(notes, ("a", "1"), kind="index")["a"][2] is False


VALUES = st.recursive(st.none() | st.integers() | st.text(), st.lists)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), VALUES)
def test_notes_of_any_kind_do_no_harm(line: bytes, value: Any) -> None:
    with tempfile.TemporaryDirectory() as root:
        notes = Path(root)
        lines = [line, json.dumps({"specs": value}).encode(), json.dumps({"installed": value}).encode()]
        (notes / "asked.jsonl").write_bytes(b"\n".join(lines))
        entry = {"metadata": {"name": "a", "version": value}, "requested_extras": value, "download_info": 1}
        (notes / "report.json").write_text(json.dumps({"install": [value, entry]}))
        Asked(root, root).take_report()
        json.dumps(told(notes, ("a", "1")), ensure_ascii=False).encode("utf-8")


def test_notes_that_are_no_files_do_no_harm(notes: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (notes / "asked.jsonl").symlink_to(victim)
    os.mkfifo(notes / "report.json")
    asked = Asked(str(notes), str(notes))
    asked.add(["six"])
    assert not asked.take_report()
    assert told(notes, ("six", "1")) == {"six": ([], "", False)}
    assert victim.read_text() == "untouched"


# Where it is looked for


@contextmanager
def an_interpreter(kind: str, folder: Path) -> Iterator[str]:
    if kind == "plain":
        yield sys._base_executable  # type: ignore[attr-defined]
        return
    options = ["--system-site-packages"] if kind == "venv-with-system" else []
    venv = [sys._base_executable, "-m", "venv", "--without-pip", *options, str(folder)]  # type: ignore[attr-defined]
    subprocess.run(venv, check=True)
    yield str(folder / "bin" / "python")


@pytest.mark.parametrize("kind", ["plain", "venv", "venv-with-system"])
def test_the_path_is_that_of_a_kernel(kind: str, tmp_path: Path) -> None:
    number = f"python{sys.version_info.major}.{sys.version_info.minor}"
    user = tmp_path / "home" / ".local" / "lib" / number / "site-packages"
    for folder in ("one", "two", "own", "inherited", "hidden"):
        (tmp_path / folder).mkdir()
    user.mkdir(parents=True)
    lines = f"# comment\n\nimport sys\n{tmp_path}/one\n../two-missing\n{tmp_path}/one\n"
    (user / "b.pth").write_text(lines)
    (user / "a.pth").write_text(f"{tmp_path}/two\n")
    (user / "dangling.pth").symlink_to("nothing")
    with an_interpreter(kind, tmp_path / "venv") as python:
        if kind != "plain":
            (own,) = (tmp_path / "venv" / "lib").glob("*/site-packages")
            (own / "x.pth").write_text(f"{tmp_path}/own")
        env = {"HOME": str(tmp_path / "home"), "PYTHONPATH": f"{tmp_path}/inherited:{tmp_path}/none"}
        load = (
            f"import sys; sys.path[:0] = [{str(PACKAGE.parent)!r}]; from agent import paths; del sys.path[0]"
        )
        ask = f"{load}; print('\\n'.join(paths.kernel_path()))"
        ours = subprocess.check_output([python, "-I", "-c", ask], env=env, text=True, cwd="/").splitlines()
        plain = "import sys; print('\\n'.join(filter(None, sys.path)))"
        pythons = subprocess.check_output([python, "-c", plain], env=env, text=True, cwd="/").splitlines()
    # Folders for packages that do not exist are on ours: they may come.
    assert [entry for entry in ours if entry in pythons] == pythons
    assert all(not Path(entry).exists() for entry in ours if entry not in pythons)
