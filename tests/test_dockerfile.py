"""The Dockerfile editor: golden files, every combination of what a Dockerfile may hold, and properties.

BuildKit's own parser (the package ``dockerfile``) is the oracle: where its wheel does not exist for a
platform, the tests that ask it are skipped."""

from __future__ import annotations

import importlib.util
import itertools
import json
import random
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ds01_kernels.dockerfile import edit, find_block, own_installs, parse
from ds01_kernels.dockerfile.__main__ import main
from ds01_kernels.dockerfile.shell import quoted, split
from ds01_kernels.errors import BadInputError

CASES = Path(__file__).parent / "dockerfiles"
HEADING = "# Custom additional packages"
SPECS = ["six==1.16.0", 'rich==13.9.4; python_version < "3.13"', "transformers[torch]>=4.46,<5"]
NAMES = ["six", "rich", "transformers"]
quick = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
needs_buildkit = pytest.mark.skipif(
    importlib.util.find_spec("dockerfile") is None, reason="BuildKit's parser has no wheel here"
)


# --- golden files ---------------------------------------------------------------------------------------


golden = pytest.mark.parametrize(
    "case", sorted(one for one in CASES.iterdir() if one.is_dir()), ids=lambda c: c.name
)


@golden
def test_golden(case: Path) -> None:
    text = (case / "Dockerfile").read_bytes().decode()
    said = json.loads((case / "args.json").read_text())
    if "error" in said:
        with pytest.raises(BadInputError, match=re.escape(said["error"])) as caught:
            edit(text, **said["arguments"])
        assert "\n" not in caught.value.sentence
        return
    result = edit(text, **said["arguments"])
    assert result.text.encode() == (case / "expected").read_bytes()
    assert [[one.name, one.line] for one in result.conflicts] == said["conflicts"]
    assert [[one.name, one.line] for one in result.unpinnable] == said["unpinnable"]
    for conflict in result.conflicts + result.unpinnable:
        assert conflict.sentence == f"installed by line {conflict.line}"
    # The lines of conflicts move down with a block that is written above them.
    assert edit(result.text, **said["arguments"]).text == result.text


def test_there_are_enough_golden_files() -> None:
    assert len([one for one in CASES.iterdir() if one.is_dir()]) >= 40


# --- every combination ----------------------------------------------------------------------------------

HEADS = {
    "one": ["FROM python:3.12"],
    "final": ["FROM golang AS build", "RUN go build", "CMD go", "", "FROM python:3.12 AS final"],
    "child": ["ARG V=1", "FROM --platform=linux/amd64 python:$V AS Base", "USER base", "", "FROM base"],
}
BODIES = {
    "plain": ["RUN apt-get update >E", "    # in between >", "", "    && true"],
    "heredoc": [
        "RUN <<-EOF bash",
        "\tFROM nothing",
        "\tCMD no >E",
        "\tEOF",
        "ONBUILD RUN pip install six==1",
    ],
}
BLOCKS = {
    "none": [],
    "canonical": [HEADING, "RUN pip install --no-cache-dir >E", '    "numpy==2.1.0" >E', '    "attrs"', ""],
    "one-line": [HEADING, "RUN pip3 install attrs numpy==2.1.0", ""],
    "commented": [
        HEADING.lower(),
        "RUN python -m pip install >E",
        "    # why",
        "\tattrs >E",
        "",
        "  'numpy'",
        "ENV A=1",
    ],
    "ds01-heading": [HEADING, "", "# Next", "ENV A=1"],
    "ds01-hint": [HEADING, "# Add packages here with: image-update", "", "WORKDIR /workspace"],
}
USERS = {"root": [], "app": ["USER app"], "back": ["USER app", "RUN true", "USER 0"]}
ENDS = {
    "nothing": [],
    "cmd": ["CMD x"],
    "both": ["# Start", 'ENTRYPOINT ["a"]', "CMD x"],
    "comment": ["# bye", ""],
}


def written(
    head: str, body: str, user: str, block: str, end: str, escape: str, newline: str, form: str
) -> str:
    """A Dockerfile of those parts; ``>E`` ends a line that goes on."""
    lines = ["# escape=`"] if escape == "`" else []
    lines += HEADS[head] + BODIES[body] + USERS[user] + BLOCKS[block] + ENDS[end]
    text = newline.join(lines).replace(">E", escape)
    return ("\ufeff" if "bom" in form else "") + text + (newline if "last" in form else "")


PARTS = [HEADS, BODIES, USERS, BLOCKS, ENDS, ["\\", "`"], ["\n", "\r\n"], ["", "last", "bom", "bom-last"]]
ALL = [written(*parts) for parts in itertools.product(*PARTS)]
VARIED = random.Random(1).sample(ALL, 400)


@needs_buildkit
@pytest.mark.parametrize("index", range(len(VARIED)))
def test_a_varied_dockerfile(index: int) -> None:
    text = VARIED[index]
    edited = checked(text, SPECS)
    assert_root_installs(text, edited)
    removed = checked_removal(edited, NAMES)
    if not is_changed_for_good(text):
        assert removed == text


def is_changed_for_good(text: str) -> bool:
    """A block that somebody wrote for another user than root is given USER lines, and they stay with it."""
    dockerfile = parse(text)
    stage = dockerfile.stage()
    block = find_block(dockerfile, stage)
    return bool(block and block.run and not block.opened and "USER root" in edit(text, install=SPECS).text)


def checked(text: str, specs: Sequence[str], **options: Any) -> str:
    """The edited text, after all that must hold for any edit."""
    result = edit(text, install=specs, **options)
    assert edit(result.text, install=specs, **options).text == result.text
    assert_same_outside(text, result.text)
    refused = {one.name for one in result.conflicts}
    expected = {spec for spec in specs if canonicalize_name(Requirement(spec).name) not in refused}
    before = shell_words(text)
    replaced = {canonicalize_name(Requirement(spec).name) for spec in expected}
    kept = {word for word in before if canonicalize_name(Requirement(word).name) not in replaced}
    assert set(shell_words(result.text)) == expected | kept
    assert_buildkit_agrees(text, result.text)
    return result.text


def checked_removal(text: str, names: Sequence[str]) -> str:
    result = edit(text, install=[], remove=names)
    assert edit(result.text, install=[], remove=names).text == result.text
    assert_same_outside(result.text, text)
    gone = {word for word in shell_words(text) if canonicalize_name(Requirement(word).name) in names}
    assert set(shell_words(result.text)) == set(shell_words(text)) - gone
    assert_buildkit_agrees(text, result.text)
    return result.text


def assert_same_outside(small: str, large: str) -> None:
    """The larger text is the smaller one and a block, with at most two line ends before or after it."""
    newline = parse(small).newline
    left, right = around(large)
    lefts = [left.removesuffix(newline * count) for count in (0, 1, 2) if left.endswith(newline * count)]
    rights = [right.removeprefix(newline * count) for count in (0, 1, 2) if right.startswith(newline * count)]
    if has_block(small):
        assert around(small) in list(itertools.product(lefts, rights))
    else:
        assert small in [one + other for one, other in itertools.product(lefts, rights)]


def assert_root_installs(before: str, after: str) -> None:
    """The block runs as root, whatever is above it, and the stage ends with the user it had."""
    old, new = buildkit_view(before)[0], buildkit_view(after)[0]
    start = min(buildkit_view(after)[1])
    above = [one for one in new[: start + 1] if one.startswith("USER")]
    assert above[-1:] in ([], ["USER root"], ["USER 0"])
    assert [one for one in old if one.startswith("USER")][-1:] == [
        one for one in new if one.startswith("USER")
    ][-1:]


def around(text: str) -> tuple[str, str]:
    dockerfile = parse(text)
    block = find_block(dockerfile, dockerfile.stage())
    return (text[: block.start], text[block.end :]) if block else (text, "")


def has_block(text: str) -> bool:
    dockerfile = parse(text)
    return find_block(dockerfile, dockerfile.stage()) is not None


def shell_words(text: str) -> list[str]:
    """What the block's ``pip install`` gets from a shell, without its options."""
    dockerfile = parse(text)
    block = find_block(dockerfile, dockerfile.stage())
    if block is None or block.run is None:
        return []
    words = shlex.split(dockerfile.joined(block.run)[0])
    return [word for word in words[words.index("install") + 1 :] if not word.startswith("-")]


def assert_buildkit_agrees(before: str, after: str) -> None:
    """BuildKit sees the instructions that were there, in their order, and ours in the final stage."""
    (old, old_block), (new, new_block) = buildkit_view(before), buildkit_view(after)
    assert [one for index, one in enumerate(old) if index not in old_block] == [
        one for index, one in enumerate(new) if index not in new_block
    ]
    assert not any(one.startswith("FROM") for one in new[min(new_block, default=len(new)) :])


def buildkit_view(text: str) -> tuple[list[str], set[int]]:
    """The instructions as BuildKit reads them, and which of them are the block's, by their lines."""
    import dockerfile as buildkit

    parsed = parse(text)
    found = buildkit.parse_string(text)
    assert [(one.cmd.upper(), one.start_line, one.end_line) for one in found if not one.heredocs] == [
        (one.name, one.start_line, one.end_line) for one in parsed.instructions if not one.heredocs
    ]
    block = find_block(parsed, parsed.stage())
    ours = [] if block is None else [one.start_line for one in (block.opened, block.run, block.closed) if one]
    return [one.original for one in found], {
        index for index, one in enumerate(found) if one.start_line in ours
    }


def name_in(spec: str) -> str:
    return canonicalize_name(Requirement(spec).name)


# --- properties -----------------------------------------------------------------------------------------

versions = st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){0,2}", fullmatch=True)
names = st.sampled_from(["six", "Rich", "ruamel.yaml", "zope-interface", "numpy", "a_b"])
markers = st.sampled_from(["", '; python_version < "3.13"', "; os_name == 'posix'", '; extra == "it\'s"'])
addresses = st.sampled_from(
    ["https://x.org/a-1.0.zip#sha256=00", "git+https://x.org/a@1$HOME", "https://x.org/`id`'"]
)
requirements = st.one_of(
    st.builds("{}=={}{}".format, names, versions, markers),
    st.builds("{}[x,y]>={}".format, names, versions),
    st.builds("{} @ {}".format, names, addresses),
)
LINES = [
    *(
        "FROM a",
        "FROM a AS b",
        "FROM b",
        "USER app",
        "USER root",
        "USER $X",
        "ARG X=1",
        "CMD x",
        "ENTRYPOINT y",
    ),
    *(
        "RUN pip install six==1 numpy",
        "RUN x \\",
        "RUN x `",
        "  y \\",
        "    six>=1",
        "# comment",
        HEADING,
        "",
        " ",
    ),
    *(
        "RUN <<EOF",
        "EOF",
        "RUN cat <<-'E' <<EOF",
        "\tE",
        "# escape=`",
        "# escape=\\",
        "#syntax=x",
        "\ufeff",
        "\r",
    ),
    *(
        'SHELL ["bash", "-c"]',
        'SHELL ["pwsh"]',
        'RUN ["pip", "install", "six==2"]',
        "ONBUILD RUN y",
        "ENV X=2 Y=3",
    ),
    *(
        "RUN pip install 'a",
        "RUN --mount=x pip install -r r.txt $Y",
        "# Add packages here",
        "pip install -q a b \\",
    ),
]
around_text = st.builds(
    str.__mod__,
    st.sampled_from(
        ["%s", "# %s", "RUN %s", "RUN <<E\n%s\nE", "RUN pip install %s", "USER %s", "ENV A=%s", "FROM %s"]
    ),
    st.text(max_size=12),
)
line_soup = st.builds(
    lambda lines, newline, end: newline.join(lines) + end,
    st.lists(st.sampled_from(LINES) | around_text, max_size=14).map(lambda lines: ["FROM z", *lines]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["", "\n", "\r\n", "\n\n", "\n\n\n", "\r"]),
)
INPUTS = [(case / "Dockerfile").read_bytes().decode() for case in sorted(CASES.iterdir()) if case.is_dir()]


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A golden input with a few characters taken out, put in or moved."""
    text = draw(st.sampled_from(INPUTS + VARIED[:100]))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 12)))
        text = text[:start] + draw(st.text(max_size=3) | st.sampled_from(LINES) | st.just("\n")) + text[end:]
    return text


@needs_buildkit
@quick
@given(st.sampled_from(VARIED), st.lists(requirements, min_size=1, max_size=4, unique_by=name_in))
def test_whatever_is_asked_for_is_what_the_shell_runs(text: str, specs: list[str]) -> None:
    checked(text, specs)


@quick
@given(st.text() | line_soup | around_text.map("FROM a\n{}".format) | mutated())
def test_any_text_is_edited_correctly_or_refused(text: str) -> None:
    check_any(text)


@quick
@given(st.binary() | mutated().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_edited_correctly_or_refused(raw: bytes) -> None:
    check_any((b"FROM a\n" + raw).decode("utf-8", "surrogateescape"))


def check_any(text: str) -> None:
    """An edit of anything: refused with one clean sentence, or right."""
    edited = edited_or_none(text, ["zz-new==1.0", "six==9"])
    if edited is None:
        return
    assert edited_or_none(edited, ["zz-new==1.0", "six==9"]) == edited
    assert "zz-new==1.0" in shell_words(edited)
    assert_same_outside(text, edited)
    if may_ask_buildkit(text):
        assert_buildkit_agrees(text, edited)
    only_new = edit(text, install=["zz-new"]).text
    if not repaired(text):
        assert edit(only_new, install=[], remove=["zz-new"]).text == text


def edited_or_none(text: str, specs: Sequence[str]) -> str | None:
    """None where the editor refuses, which it does in one clean sentence."""
    try:
        return edit(text, install=specs).text
    except BadInputError as error:
        sentence = error.sentence
    assert sentence.isprintable()
    return None


def repaired(text: str) -> bool:
    """A block that somebody wrote may be given USER lines and quotes, and they stay; an empty one goes."""
    dockerfile = parse(text)
    block = find_block(dockerfile, dockerfile.stage())
    if block is None or block.run is None or block.pip is None:
        return False
    empty = not block.requirements and not block.pip.brings
    return (
        empty
        or is_changed_for_good(text)
        or any(re.search("[<>]", one.bare) for one in block.pip.requirements)
    )


def may_ask_buildkit(text: str) -> bool:
    """Not where it is not installed, and not about text that it refuses or that is no UTF-8."""
    try:
        import dockerfile as buildkit

        buildkit.parse_string(text.encode().decode())
    except (ImportError, UnicodeEncodeError, ValueError):
        return False
    return True


@quick
@given(st.text() | requirements)
def test_any_specification_is_one_word_or_refused(spec: str) -> None:
    text = edited_or_none("FROM a", [spec])
    if text is None:
        return
    assert shell_words(text) == [spec.strip()]
    assert text.count("\n") == 4


@quick
@given(st.text(st.characters(exclude_categories=["C"])))
def test_a_quoted_word_is_one_word(word: str) -> None:
    assert shlex.split(quoted(word)) == [word]
    assert [[one.value for one in command] for command in split(quoted(word)).commands] == [[word]]


# --- what is refused, and why ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("", "not a requirement"),
        ("--index-url http://x", "not a requirement"),
        ("-r /etc/passwd", "not a requirement"),
        ("a; rm -rf /", "not a requirement"),
        ("a==1.0 --hash=sha256:00", "not a requirement"),
        ("$(id)", "not a requirement"),
        ("a==1 # b", "not a requirement"),
        ("naïve-😀", "not a requirement"),
        ("a\nRUN id", "control character"),
        ("a\r", "control character"),
        ("a\x1b[31m", "control character"),
        ("a\u2028b", "control character"),
        ("a\\", "control character or a backslash"),
        ("a" * 10_000, "longer than 2000"),
        ("a @ ../local", "cannot reach"),
        ("a @ file:///tmp/a.whl", "cannot reach"),
        ("a @ -e", "cannot reach"),
        ("a @ https:///a.whl", "cannot reach"),
        ("a @ https://[x/a.whl", "cannot be read"),
        ("a @ https://token@x.org/a.whl", "credentials"),
        ("a @ git+https://me:pass@x.org/a.git", "credentials"),
        ("a @ git+ssh://git:pass@x.org/a.git", "credentials"),
        ("a @ https://x.org/a.whl?private_token=", "credentials"),
        ("a @ https://x.org/a.whl?X-Amz-Signature=1", "credentials"),
    ],
)
def test_what_is_no_requirement_is_refused(spec: str, reason: str) -> None:
    with pytest.raises(BadInputError, match=reason) as caught:
        edit("FROM a\n", install=[spec])
    assert caught.value.sentence.isprintable()
    assert len(caught.value.sentence) < 400
    assert "pass@" not in caught.value.sentence


@pytest.mark.parametrize(
    "spec", ["a @ git+ssh://git@github.com/x/a.git", "a @ https://x.org/a.whl?v=1#egg=b"]
)
def test_an_address_without_secrets_is_taken(spec: str) -> None:
    assert shell_words(edit("FROM a\n", install=[spec, spec]).text) == [spec]


@pytest.mark.parametrize(
    "pip", ["", "pip; id", "pip install", "-m pip", "conda", "python -m", "pip  ", "$PIP", "pip\nx"]
)
def test_what_is_no_pip_command_is_refused(pip: str) -> None:
    with pytest.raises(BadInputError, match="not a pip command"):
        edit("FROM a\n", install=["six"], pip=pip)


@pytest.mark.parametrize(
    "pip", ["pip3.12", "/opt/conda/bin/pip", "python3 -I -m pip", "uv pip", "pypy3 -m pip"]
)
def test_a_pip_command_is_taken(pip: str) -> None:
    text = edit("FROM a\n", install=["six"], pip=pip).text
    assert f"\nRUN {pip} install --no-cache-dir \\\n" in text
    assert edit(text, install=["six"], pip=pip).text == text


@pytest.mark.parametrize("name", ["six==1", "six[x]", "", "a b", "-r", "a @ https://x.org"])
def test_what_is_no_name_is_not_removed(name: str) -> None:
    with pytest.raises(BadInputError, match=r"not the name|not a requirement"):
        edit("FROM a\n", install=[], remove=[name])


def test_one_package_is_not_installed_and_removed() -> None:
    with pytest.raises(BadInputError, match="zope-interface is both"):
        edit("FROM a\n", install=["zope.interface==1"], remove=["Zope_Interface"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("FROM a\n" + "# x\n" * 260_000, "longer than 1000000"),
        ("FROM a\n# " + "x" * 70_000, "a line of more than"),
        ("# ok\n# escape=a" + " " * 2000 + "b\nFROM a\n", "comment at the top"),
        ("FROM a\n# \0\n", "NUL"),
        ("FROM a\nCMD " + "[" * 60_000, "cannot be read"),
        ("# escape=x\nFROM a\n", "escape token"),
        ("FROM\n", "FROM of line 1"),
        ("FROM a b\n", "FROM of line 1"),
        ("FROM a IS b\n", "FROM of line 1"),
        ("FROM a\nENV x\n", "line 2"),
        ("FROM a\nSHELL bash -c\n", "SHELL of line 2"),
        ("FROM a\nSHELL []\n", "SHELL of line 2"),
        ('FROM a AS b\nSHELL ["cmd", "/S", "/C"]\nFROM b\n', "SHELL of line 2"),
        ("FROM a\n\x1b]0;x\x07 y\n", "unknown instruction"),
    ],
)
def test_a_dockerfile_that_cannot_be_edited(text: str, reason: str) -> None:
    with pytest.raises(BadInputError, match=reason) as caught:
        edit(text, install=["six"])
    assert caught.value.sentence.isprintable()


def test_a_deep_chain_of_stages() -> None:
    text = "FROM a AS s0\nUSER app\n" + "".join(f"FROM s{n} AS s{n + 1}\n" for n in range(3000))
    assert edit(text, install=["six"]).text.endswith('    "six"\n\nUSER app\n')


# --- what is read ---------------------------------------------------------------------------------------


def test_places() -> None:
    text = (
        "\ufeff# escape=`\r\nARG V\r\nFROM a AS One\r\nRUN x `\r\n # c\r\n y\r\n"
        "FROM --platform=p one\r\nRUN <<E\r\nz\r\nE\r\n"
    )
    dockerfile = parse(text)
    assert (dockerfile.escape, dockerfile.newline, dockerfile.bom) == ("`", "\r\n", True)
    assert [(one.name, one.start_line, one.end_line) for one in dockerfile.instructions] == [
        *(("ARG", 2, 2), ("FROM", 3, 3), ("RUN", 4, 6), ("FROM", 7, 7), ("RUN", 8, 10)),
    ]
    assert [text[one.start : one.end] for one in dockerfile.instructions][2:4] == [
        *("RUN x `\r\n # c\r\n y", "FROM --platform=p one"),
    ]
    assert [(one.name, one.image, one.parent, one.end_line) for one in dockerfile.stages] == [
        *(("One", "a", None, 6), (None, "one", 0, 10)),
    ]
    joined, offsets = dockerfile.joined(dockerfile.instructions[2])
    assert joined == "RUN x  y"
    assert [text[offset] for offset in offsets] == list(joined)
    assert dockerfile.stage("0") is dockerfile.stage("ONE") is dockerfile.stages[0]
    assert dockerfile.stage() is dockerfile.stages[1]
    for missing in ("2", "two", "-1", "²", "9" * 5000):
        with pytest.raises(BadInputError, match="no stage"):
            dockerfile.stage(missing)


@needs_buildkit
@pytest.mark.parametrize("text", [text for text in INPUTS if edited_or_none(text, []) is not None])
def test_instructions_are_joined_as_buildkit_joins_them(text: str) -> None:
    import dockerfile as buildkit

    parsed = parse(text)
    for ours, theirs in zip(parsed.instructions, buildkit.parse_string(text), strict=True):
        if not ours.heredocs:
            assert parsed.joined(ours)[0].strip() == theirs.original.strip()


@pytest.mark.parametrize(
    ("run", "found"),
    [
        ("pip install six", ["six"]),
        ("sudo -E -H pip3 install -U six==1", ["six==1"]),
        ("PIP_X=1 python3.11 -m pip --no-cache-dir --proxy p install 'six>1'", ["six>1"]),
        ("uv pip install --system six", ["six"]),
        ("if true; then pip install six; fi", ["six"]),
        ("cd /x && (pip install six 2>&1 | tee log)", ["six"]),
        ("pip install six > log 2>> log # numpy", ["six"]),
        ("pip install -qr r.txt -c c.txt --index-url=u -ie six -t dir rich", ["six", "rich"]),
        (
            "pip install -e . ./x /y/rich-1.0-py3-none-any.whl 'rich @ https://x.org/y-1-py3-none-any.whl'",
            ["/y/rich-1.0-py3-none-any.whl", "rich @ https://x.org/y-1-py3-none-any.whl"],
        ),
        ("pip install $PACKAGES six==${V}", ["six==${V}"]),
        ("pip uninstall six", []),
        ("pip", []),
        ("python -m venv pip install six", []),
        ("python", []),
        ("uv install six", []),
        ("echo pip install six", []),
        ("&& six", []),
        ("'pip install six", []),
        ("<<E\npip install six\nE", ["six"]),
        ("<<E bash -e\r\npip install \\\r\n  six\r\nE", ["six"]),
        ("cat <<E > x\npip install six\nE", []),
        ('["pip", "install", "six"]', ["six"]),
        ('["bash", "-ec", "true\\npip install six"]', ["six"]),
        ('["x"]', []),
    ],
)
def test_an_own_install_is_recognised(run: str, found: list[str]) -> None:
    dockerfile = parse(f"FROM a\nRUN --network=none {run}\n")
    lines = own_installs(dockerfile, dockerfile.stage())
    assert [one.text for line in lines for one in line.requirements] == found


def test_requirement_files_are_seen() -> None:
    text = "FROM a\nRUN pip install -r a.txt -rb.txt --requirement=c.txt -Ur d.txt --requirement e.txt -r\n"
    dockerfile = parse(text)
    (line,) = own_installs(dockerfile, dockerfile.stage())
    assert (line.line, line.requirements, line.files) == (
        2,
        (),
        ("a.txt", "b.txt", "c.txt", "d.txt", "e.txt"),
    )


@pytest.mark.parametrize(
    ("own", "wanted", "conflict"),
    [
        ("six==1.16.0", "six==1.16.0", True),
        ("six===1.16.0", "six", True),
        ("six==1.*", "six==1.16.0", False),
        ("six==1.*", "six==2.0", True),
        ("six", "six==2.0", False),
        ("six>=1,<3", "six==2.0rc1", False),
        ("six>=3", "six==2.0", True),
        ("six>=3", "six>=2", False),
        ("six>=3", "six==2.*", False),
        ("six @ https://x.org/six.zip", "six==2.0", True),
        ("six==$V", "six==2.0", True),
        ("SIX[a]==1", "six==2", True),
    ],
)
def test_an_own_line_conflicts_when_it_rules_the_wanted_version_out(
    own: str, wanted: str, conflict: bool
) -> None:
    text = f'FROM a\nRUN true && \\\n  pip install "{own}"\n'
    result = edit(text, install=[wanted], remove=["numpy"])
    assert [(one.name, one.line) for one in result.conflicts] == ([("six", 3)] if conflict else [])
    assert (result.text == text) is conflict
    assert [one.name for one in edit(text, install=[], remove=["six"]).unpinnable] == ["six"]


@pytest.mark.parametrize(
    ("block", "requirements"),
    [
        (f"{HEADING}\nRUN pip install a>=1 'b'", ("a>=1", "b")),
        (f"{HEADING} go here\nRUN pip install a", ("a",)),
        (
            "  #custom Additional PACKAGES :\n# why\nRUN --mount=type=cache,target=/x A=1 pip3 install -U a",
            ("a",),
        ),
        (f"{HEADING}\n\nRUN pip install a", ()),
        (f"{HEADING}\nRUN pip install a > log", ()),
        (f"{HEADING}\nRUN pip install a; true", ()),
        (f"{HEADING}\nRUN pip install a # b", ()),
        (f"{HEADING}\nRUN pip install 'a", ()),
        (f"{HEADING}\nRUN ['pip', 'install', 'a']", ()),
        (f"{HEADING}\nRUN <<E\npip install a\nE", ()),
        (f'{HEADING}\nRUN ["pip", "install", "a"]', ()),
        (f"{HEADING}\nENV A pip install a", ()),
        (f"{HEADING}\n\n{HEADING}\nRUN pip install a", ("a",)),
    ],
)
def test_the_block_is_recognised(block: str, requirements: tuple[str, ...]) -> None:
    dockerfile = parse(f"FROM a\n{block}\n")
    found = find_block(dockerfile, dockerfile.stage())
    assert found is not None
    assert found.requirements == requirements
    assert (found.run is not None) is bool(requirements)


@pytest.mark.parametrize(
    "around",
    [
        "FROM a\nUSER app\nUSER root\n\n{}\n\nUSER app\n",
        "FROM a\nUSER app\nUSER 0\n{}\n\nUSER app\n",
        "FROM a\nUSER app\nUSER root\n{}\n\nUSER other\n",
        "FROM a\nUSER app\nUSER root\n{}\n# theirs\nUSER app\n",
        "FROM a\nUSER app\nUSER root\n{}\n",
        "FROM a\nUSER root\n{}\nUSER app\n",
    ],
)
def test_user_lines_that_are_not_the_blocks_stay(around: str) -> None:
    text = around.format(f"{HEADING}\nRUN pip install six")
    dockerfile = parse(text)
    block = find_block(dockerfile, dockerfile.stage())
    assert block is not None
    assert (block.opened, block.closed) == (None, None)
    removed = edit(text, install=[], remove=["six"]).text
    assert re.findall("USER.*", removed) == re.findall("USER.*", text)


def test_a_real_shell_hands_over_the_requirements() -> None:
    specs = [*SPECS, "a @ https://x.org/$(id)`id`'$HOME", "b @ https://x.org/!x*?[a]~"]
    dockerfile = parse(edit("# escape=`\nFROM a\n", install=specs).text)
    command = dockerfile.joined(dockerfile.instructions[-1])[0]
    command = command.replace("RUN pip install --no-cache-dir", "printf '%s\\n'")
    for shell in ("/bin/sh", "/bin/bash"):
        ran = subprocess.run([shell, "-c", command], capture_output=True, text=True, check=True)
        assert ran.stdout.splitlines() == specs


def test_ds01_finds_the_block_and_where_it_ends() -> None:
    """image-update wants the RUN on the line after the heading, and adds to it before the next line that is
    empty, a RUN or a comment."""
    lines = edit("FROM a\nUSER app\nCMD x\n", install=SPECS).text.splitlines()
    heading = lines.index(HEADING)
    assert lines[heading + 1].startswith("RUN pip install --no-cache-dir ")
    end = next(index for index in range(heading + 2, len(lines)) if re.match("$|RUN|#", lines[index]))
    assert shlex.split(lines[end - 1]) == [SPECS[-1]]


# --- the command ----------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "Dockerfile"
    path.write_bytes(b"\xef\xbb\xbfFROM a\r\n# caf\xe9 \xff\r\nRUN pip install numpy==1.26.4")
    return path


def test_the_command_prints_every_byte(file: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    before = file.read_bytes()
    options = [
        "--remove",
        "numpy",
        "six==1.16.0",
        "--pip",
        "pip3",
        "--break-system-packages",
        "--target",
        "0",
    ]
    assert main([str(file), "numpy-x", *options, "numpy2==1"]) == 0
    out, err = capfdbinary.readouterr()
    assert out == before + (
        b"\r\n\r\n# Custom additional packages\r\n"
        b"RUN pip3 install --no-cache-dir --break-system-packages \\\r\n"
        b'    "numpy-x" \\\r\n    "six==1.16.0" \\\r\n    "numpy2==1"'
    )
    assert err == b"numpy is not removed: installed by line 3.\n"
    assert file.read_bytes() == before


def test_the_command_reports_a_conflict(file: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main([str(file), "numpy==2.1.0"]) == 0
    assert capfdbinary.readouterr() == (file.read_bytes(), b"numpy is not written: installed by line 3.\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--index-url http://x"],
        ["a; rm -rf /"],
        ["a\nRUN id"],
        ["-r", "/etc/passwd"],
        ["--remove"],
        ["--rem", "a"],
    ],
)
def test_the_command_refuses_in_one_sentence(
    file: Path, arguments: list[str], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main([str(file), *arguments]) == 2
    out, err = capfdbinary.readouterr()
    assert out == b""
    assert err.endswith(b".\n")
    assert err.count(b"\n") == 1


def test_the_command_says_that_it_cannot_read(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main([str(tmp_path), "six"]) == 2
    assert b"cannot be read" in capfdbinary.readouterr().err


def test_the_command_by_its_module(
    file: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setattr(sys, "argv", ["dockerfile", str(file), "six"])
    monkeypatch.delitem(sys.modules, "ds01_kernels.dockerfile.__main__")
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module("ds01_kernels.dockerfile", run_name="__main__")
    text = file.read_bytes().decode("utf-8", "surrogateescape")
    expected = edit(text, install=["six"]).text.encode("utf-8", "surrogateescape")
    assert capfdbinary.readouterr().out == expected
