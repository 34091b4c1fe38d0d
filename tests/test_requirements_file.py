"""The editor of requirements files: golden texts, and properties with pip's own reader as the oracle."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pip._internal.req.req_file import preprocess

from ds01_kernels.dockerfile import edit_requirements
from ds01_kernels.dockerfile.requirements_file import logical_lines
from ds01_kernels.errors import BadInputError

HEADING = "# Custom additional packages"
BLOCK = f"{HEADING}\nsix==1.16.0\nrich==13.9.4\n"
HASH = f"--hash=sha256:{'0' * 64}"
quick = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))


# --- golden texts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "install", "remove", "after"),
    [
        ("", ["six==1"], [], f"{HEADING}\nsix==1\n"),
        ("\ufeff", ["six==1"], [], f"\ufeff{HEADING}\nsix==1\n"),
        ("\n", ["six==1"], [], f"\n\n{HEADING}\nsix==1\n"),
        ("numpy\n", ["six==1", "rich"], [], f"numpy\n\n{HEADING}\nsix==1\nrich\n"),
        ("numpy", ["six==1"], [], f"numpy\n\n{HEADING}\nsix==1"),
        ("numpy\r\n", ["six==1", "rich"], [], f"numpy\r\n\r\n{HEADING}\r\nsix==1\r\nrich\r\n"),
        ("\ufeffnumpy\r\n", ["six==1"], [], f"\ufeffnumpy\r\n\r\n{HEADING}\r\nsix==1\r\n"),
        ("numpy\r", ["six==1"], [], f"numpy\n\n{HEADING}\nsix==1\r"),
        # A line that goes on into nothing ends at the empty line.
        ("numpy \\", ["six==1"], [], f"numpy \\\n\n{HEADING}\nsix==1"),
        ("numpy \\\n", ["six==1"], [], f"numpy \\\n\n{HEADING}\nsix==1\n"),
        # Replaced where it stands, with its comment and its indentation; the rest as it was.
        (
            f"{HEADING}\n  SIX >= 1 ; os_name == 'posix'  # why\nrich\n",
            ["six==2"],
            [],
            f"{HEADING}\n  six==2  # why\nrich\n",
        ),
        (BLOCK, ["rich==14.0.0", "attrs"], [], f"{HEADING}\nsix==1.16.0\nrich==14.0.0\nattrs\n"),
        (BLOCK, ["attrs"], ["rich"], f"{HEADING}\nsix==1.16.0\nattrs\n"),
        (BLOCK, ["attrs"], ["Six", "RICH"], f"{HEADING}\nattrs\n"),
        (BLOCK, [], ["six"], f"{HEADING}\nrich==13.9.4\n"),
        (f"{HEADING}\nsix\nsix==1\nSix", ["six==2"], [], f"{HEADING}\nsix==2"),
        (
            f"{HEADING}\nsix\n",
            ["six==1; os_name=='nt'", "six==2; os_name!='nt'"],
            [],
            f"{HEADING}\nsix==1; os_name=='nt'\nsix==2; os_name!='nt'\n",
        ),
        # Emptied, it goes with its heading and the empty line above.
        (f"numpy\n\n{BLOCK}", [], ["six", "rich"], "numpy\n"),
        (f"numpy\n\n{BLOCK}\nattrs\n", [], ["six", "rich"], "numpy\n\nattrs\n"),
        (f"numpy\n{BLOCK}", [], ["six", "rich"], "numpy\n"),
        (f"numpy\r\n\r\n{HEADING}\r\nsix\r\n", [], ["six"], "numpy\r\n"),
        (BLOCK, [], ["six", "rich"], ""),
        # A heading that is there is used, in any spelling; the first one with packages before others.
        (
            f"a\n# custom additional packages:\n\nb\n",  # noqa: F541
            ["six"],
            [],
            "a\n# custom additional packages:\nsix\n\nb\n",
        ),
        (
            f"{HEADING}\n\n{HEADING}\nrich\n\nb\n",
            ["six"],
            [],
            f"{HEADING}\n\n{HEADING}\nrich\nsix\n\nb\n",
        ),
        (HEADING, ["six"], [], f"{HEADING}\nsix"),
        # Comments end the block, and lines that are more than a requirement are the user's own.
        (f"{HEADING}\n# mine\nrich\n", ["six"], [], f"{HEADING}\nsix\n# mine\nrich\n"),
        (
            f"{HEADING}\nrich\n-r more.txt\nattrs \\\n  >=1\n",
            ["six"],
            ["rich"],
            f"{HEADING}\nsix\n-r more.txt\nattrs \\\n  >=1\n",
        ),
        # One that only continues a line is no heading.
        (f"numpy \\\n{HEADING}\nsix\n", ["rich"], [], f"numpy \\\n{HEADING}\nsix\n\n{HEADING}\nrich\n"),
        # Nothing to do.
        (BLOCK, [], [], BLOCK),
        ("numpy\n", [], ["six"], "numpy\n"),
        (f"{HEADING}\n", [], ["six"], f"{HEADING}\n"),
        # Hashes do not matter to what is taken out.
        (f"numpy==1 {HASH}\n\n{HEADING}\nsix\n", [], ["six"], f"numpy==1 {HASH}\n"),
    ],
)
def test_golden(before: str, install: list[str], remove: list[str], after: str) -> None:
    result = edit_requirements(before, install=install, remove=remove)
    assert result.text == after
    assert (result.conflicts, result.unpinnable) == ((), ())
    assert edit_requirements(after, install=install, remove=remove).text == after


@pytest.mark.parametrize(
    ("own", "wanted", "line"),
    [
        ("six==1.16.0", "six==1.16.0", 1),
        ("# first\n\nSix==1.*", "six==1.16.0", None),
        ("# first\n\nSix==1.*", "six==2", 3),
        ("six", "six==2", None),
        ("six>=1,<2 ; os_name == 'posix'  # why", "six==2", 1),
        ("six<2", "six", None),
        ("\nsix \\\n  ==1.0 \\\n  # why", "six==2", 2),
        ("six[x] @ https://x.org/six.zip", "six==2", 1),
        ("git+https://x.org/six@main#egg=six", "six==2", 1),
        ("-e git+https://x.org/six@main#egg=six&subdirectory=y", "six==2", 1),
        ('--editable="git+https://x.org/six#egg=six"', "six==2", 1),
        ("https://x.org/six-1.0-py3-none-any.whl", "six==2", 1),
        ("./wheels/six-1.0-py3-none-any.whl", "six==2", 1),
        ("six==${SIX}", "six==2", 1),
        ("six==1 --config-settings=x=y", "six==2", 1),
        (f"{HEADING}\nsix==1 --config-settings=x=y", "six==2", 2),
        ("six==1\r\nsix==1.5\r\n", "six==2", 2),
        ("-r six.txt\n-c six==1.txt\n--index-url https://x.org/six", "six==2", None),
        ("-e .\n--editable ./six\n", "six==2", None),
        ("six==1 # six==2\n", "six==2", 1),
        ("# goes on? \\\nsix==1", "six==2", 2),
        ("\ufeffsix==1", "six==2", 1),
        (f"six; {'(' * 900}os_name == 'nt'{')' * 900}", "six==2", 1),
    ],
)
def test_an_own_line_that_rules_the_version_out_is_a_conflict(
    own: str, wanted: str, line: int | None
) -> None:
    result = edit_requirements(own, install=[wanted, "rich"], remove=[])
    assert [(one.name, one.line) for one in result.conflicts] == ([("six", line)] if line else [])
    assert (f"\n{wanted}" in result.text) is (line is None)
    assert "\nrich" in result.text
    if line:
        assert result.conflicts[0].sentence == f"installed by line {line}"


@pytest.mark.parametrize(
    "own", ["six", "six>=1", "-e git+https://x.org/y#egg=six", f"a\n\n{HEADING}\nsix -C a=b"]
)
def test_an_own_line_is_not_removed(own: str) -> None:
    result = edit_requirements(own, install=[], remove=["six", "numpy"])
    assert result.text == own
    assert [(one.name, one.line) for one in result.unpinnable] == [("six", own.count("\n") + 1)]


@pytest.mark.parametrize(
    "text",
    [
        f"numpy==1.0 {HASH}\n",
        f"numpy==1.0 \\\n    {HASH}\n",
        "--require-hashes\nnumpy\n",
        f"{HEADING}\nsix==1 {HASH}\n",
        "a --hash sha256:00",
    ],
)
def test_a_file_that_checks_hashes_is_refused(text: str) -> None:
    with pytest.raises(BadInputError, match="checks hashes") as caught:
        edit_requirements(text, install=["rich==1"])
    assert "pip-compile" in caught.value.remedy
    assert edit_requirements(text, install=[], remove=["nothing"]).text == text


def test_hashes_in_comments_check_nothing() -> None:
    assert edit_requirements(f"numpy # {HASH}\n", install=["six"]).text.endswith("\nsix\n")


@pytest.mark.parametrize(
    "spec",
    [
        "--index-url http://x",
        "a; rm -rf /",
        "a\nb",
        "$(id)",
        "-r /etc/passwd",
        "a==1.0 --hash=sha256:00",
        "a" * 10_000,
        "näme",
        "a @ https://u:p@x.org/a.zip",
        "a @ file:///etc/passwd",
        "a; os_name == 'x --index-url=http://e'",
        "a; os_name == ' #'",
        "a; os_name == 'é'",
        "a @ https://x.org/${SECRET}.zip",
        f"a; {'(' * 900}os_name == 'nt'{')' * 900}",
    ],
)
def test_what_pip_would_read_otherwise_is_refused_in_one_sentence(spec: str) -> None:
    with pytest.raises(BadInputError) as caught:
        edit_requirements("numpy\n", install=[spec])
    assert caught.value.sentence.isprintable()
    assert len(caught.value.sentence) < 600


@pytest.mark.parametrize(
    ("text", "install", "remove", "said"),
    [
        ("a\0", ["six"], [], "NUL"),
        ("a" * 1_000_001, ["six"], [], "longer"),
        ("", ["six"], ["Six"], "both"),
        ("", ["six", "six==1"], [], "twice"),
        ("", [], ["six==1"], "not the name"),
    ],
)
def test_bad_input(text: str, install: list[str], remove: list[str], said: str) -> None:
    with pytest.raises(BadInputError, match=said):
        edit_requirements(text, install=install, remove=remove)


def test_a_large_file_takes_no_longer_than_its_length() -> None:
    text = f"{HEADING}\n" + "a\n" * 100_000 + " " * 300_000 + "#" + " " * 300_000
    assert edit_requirements(text, install=["six"], remove=["a"]).text.startswith(f"{HEADING}\nsix\n ")


# --- properties -----------------------------------------------------------------------------------------

LINES = [
    *(
        "numpy",
        "six==1",
        "six>=1 # why",
        "rich",
        "rich==1 ; os_name == 'nt'",
        "",
        "  ",
        "\t# comment",
        "#",
        "a \\",
    ),
    *(
        "\\",
        "  >=1",
        "-r more.txt",
        "-c x.txt",
        "-e .",
        "--index-url https://x.org",
        "six @ https://x.org/a.zip",
    ),
    *(
        HEADING,
        f"{HEADING} here",
        "# custom ADDITIONAL packages",
        f"  {HEADING}",
        "zz-new",
        "a#b",
        "# c\\",
        "a #b\\",
        "x\\\\",
    ),
    *(
        "git+https://x.org/y#egg=rich",
        "numpy -C a=b",
        "${DS01_NO_SUCH}",
        "six==${DS01_NO_SUCH}",
        "\ufeff",
        "\x0bsix",
        "\x85",
        "\u2028rich",
    ),
]
newlines = st.sampled_from(["\n", "\r\n", "\r"])
soup = st.builds(
    lambda lines, newline, end: newline.join(lines) + end,
    st.lists(st.sampled_from(LINES) | st.text(max_size=8), max_size=12),
    newlines,
    st.sampled_from(["", "\n", "\r\n", "\r", "\n\n", "\\\n"]),
)
texts = st.builds(str.__add__, st.sampled_from(["", "\ufeff"]), soup) | st.text()
versions = st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){0,2}", fullmatch=True)
requirements = st.one_of(
    st.builds("{}=={}".format, st.sampled_from(["six", "Rich", "zope.interface", "new_1"]), versions),
    st.builds("{}[x]>={}; os_name == 'posix'".format, st.sampled_from(["six", "numpy"]), versions),
    st.just("two @ git+https://x.org/a@1#subdirectory=b&egg=two"),
)


def name_in(spec: str) -> str:
    return canonicalize_name(Requirement(spec).name)


def seen_by_pip(text: str) -> list[str]:
    """The lines as pip reads them, without their numbers."""
    return [line.strip() for _, line in preprocess(text.removeprefix("\ufeff")) if line.strip()]


@quick
@given(texts)
def test_lines_are_read_as_pip_reads_them(text: str) -> None:
    ours = [(line.number, line.text) for line in logical_lines(text) if line.text]
    theirs = [(number, line.strip()) for number, line in preprocess(text.removeprefix("\ufeff"))]
    assert ours == [one for one in theirs if one[1]]
    spans = [(line.start, line.next) for line in logical_lines(text)]
    assert [one[0] for one in spans[1:]] == [one[1] for one in spans[:-1]]


@quick
@given(
    texts,
    st.lists(requirements, max_size=3, unique_by=name_in),
    st.sets(st.sampled_from(["numpy", "rich", "a"])),
)
def test_pip_sees_what_was_there_and_what_was_asked_for(text: str, specs: list[str], gone: set[str]) -> None:
    remove = sorted(gone - set(map(name_in, specs)))
    result = edited(text, specs, remove)
    if result is None:
        return
    refused = {one.name for one in result[1]}
    asked = [spec for spec in specs if name_in(spec) not in refused]
    before, after = seen_by_pip(text), seen_by_pip(result[0])
    # Nothing but lines of single requirements that were asked for, replaced or removed comes and goes.
    changed = {name_in(spec) for spec in asked} | set(remove)
    for line in set(before) - set(after):
        assert name_in(line) in changed
    assert set(after) - set(before) <= set(asked)
    assert set(asked) <= set(after)
    # The lines of conflicts move down with a block above them.
    again = edited(result[0], specs, remove)
    assert again is not None
    assert again[0] == result[0]


@quick
@given(texts)
def test_adding_and_taking_out_again_changes_no_byte(text: str) -> None:
    added = edited(text, ["zz-other==1", "zz-another"], [])
    if added is None:
        return
    assert re.sub(r"\r", "", added[0]).count("zz-other==1\nzz-another") == 1
    # A heading goes with its last package, also where it was there before them.
    if not re.search(r"#\s*custom additional packages", text, re.IGNORECASE):
        assert edited(added[0], [], ["zz-other", "zz-another"]) == (text, ())


def edited(text: str, install: Sequence[str], remove: Sequence[str]) -> tuple[str, tuple[object, ...]] | None:
    """None where the editor refuses, which it does in one clean sentence."""
    try:
        result = edit_requirements(text, install=install, remove=remove)
    except BadInputError as error:
        said = error.sentence
    else:
        return result.text, result.conflicts
    assert said.isprintable()
    return None
