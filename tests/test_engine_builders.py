"""How Docker builds: which builder, what is sent, what BuildKit's words mean, and on the real engine."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import random
import socketserver
import stat
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from conftest import BASE_IMAGE
from docker_clients import use_client
from hypothesis import given
from hypothesis import strategies as st
from lab import LABEL, Lab, a_lab, built, run

from ds01_kernels.build_text import BuildText
from ds01_kernels.engine import BuildProgress, BuildRequest
from ds01_kernels.engine.docker import DockerEngine
from ds01_kernels.engine.docker_builders import BuilderName
from ds01_kernels.engine.docker_buildkit import TraceReport
from ds01_kernels.engine.docker_client import client_kind
from ds01_kernels.engine.docker_context import Context
from ds01_kernels.engine.docker_needs import Needs, needs
from ds01_kernels.engine.docker_plain import PlainReader
from ds01_kernels.engine.docker_steps import StepLines, StepName
from ds01_kernels.engine.docker_trace import Output, Trace, Vertex, from_aux, from_json
from ds01_kernels.engine.protobuf import fields
from ds01_kernels.errors import (
    BadInputError,
    BuildFailedError,
    EngineError,
    EngineUnreachableError,
)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with a_lab() as lab:
        yield lab


@pytest.fixture(params=["buildx", "buildkit", "client"])
def builder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> BuilderName:
    """Each way of building with BuildKit."""
    if request.param != "buildkit":
        use_client(monkeypatch, request.param)
    name: BuilderName = request.param
    return name


def printed(progress: list[BuildProgress]) -> str:
    return "".join(one.log for one in progress)


# Protobuf


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


@given(
    st.lists(
        st.tuples(st.integers(1, 2**29 - 1), st.one_of(st.integers(0, 2**64 - 1), st.binary(max_size=300)))
    )
)
def test_fields_are_read_as_they_were_written(written: list[tuple[int, int | bytes]]) -> None:
    assert list(fields(b"".join(field(*one) for one in written))) == written


def test_numbers_of_fixed_size_are_bytes() -> None:
    eight, four = bytes(range(8)), bytes(range(4))
    message = varint(1 << 3 | 1) + eight + varint(2 << 3 | 5) + four + field(3, 7)
    assert list(fields(message)) == [(1, eight), (2, four), (3, 7)]


@pytest.mark.parametrize(
    "message",
    [
        b"\x08",
        b"\x08\x80",
        b"\x08" + b"\xff" * 11,
        b"\x0a\x05abcd",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x09abcdefg",
        b"\x0b",
        b"\x0f",
        b"\x00\x00",
    ],
)
def test_what_is_no_protobuf(message: bytes) -> None:
    with pytest.raises(ValueError, match=r"field|number|wire type"):
        list(fields(message))


@given(st.binary(max_size=200))
def test_any_bytes_are_fields_or_a_value_error(message: bytes) -> None:
    try:
        found = list(fields(message))
    except ValueError:
        return
    assert all(number > 0 for number, _ in found)


def moment(seconds: float) -> bytes:
    return field(1, int(seconds)) + field(2, round(seconds % 1 * 1e9))


def aux(*vertices: Vertex, outputs: tuple[Output, ...] = ()) -> str:
    message = b""
    for one in vertices:
        inner = field(1, one.digest.encode()) + field(2, b"input") + field(3, one.name.encode())
        inner += field(4, 1) if one.cached else b""
        inner += field(5, moment(one.started)) if one.started is not None else b""
        inner += field(6, moment(one.completed)) if one.completed is not None else b""
        inner += field(7, one.error.encode()) if one.error else b""
        message += field(1, inner)
    message += field(2, field(1, b"a status"))
    for output in outputs:
        inner = field(1, output.digest.encode()) + field(3, 1) + field(4, output.data)
        message += field(3, inner)
    return base64.b64encode(message).decode()


VERTICES = (
    Vertex("sha256:a", "[1/2] FROM docker.io/ds01/base"),
    Vertex("sha256:b", "[2/2] RUN ä", started=1700000000.25, completed=1700000001.5, error="exit code: 3"),
    Vertex("sha256:c", "cached", started=5.0, completed=5.0, cached=True),
)


def test_traces_of_the_api() -> None:
    outputs = (Output("sha256:b", b"\xff\n"),)
    assert from_aux(aux(*VERTICES, outputs=outputs)) == Trace(VERTICES, outputs)


def test_traces_of_buildx() -> None:
    said = {
        "vertexes": [
            {"digest": "sha256:a", "name": "x", "inputs": ["y"], "started": "2026-11-22T16:00:56.095316173Z"},
            {"digest": "sha256:b", "cached": True, "error": "no", "started": None, "completed": None},
        ],
        "statuses": [{"id": "exporting layers"}],
        "logs": [{"vertex": "sha256:a", "stream": 1, "data": "ego=", "timestamp": "2026-11-22T16:00:56Z"}],
    }
    found = from_json(said)
    assert found.outputs == (Output("sha256:a", b"z\n"),)
    assert [one.digest for one in found.vertices] == ["sha256:a", "sha256:b"]
    assert found.vertices[0].started == pytest.approx(1795363256.0953, abs=1e-3)
    assert (found.vertices[1].cached, found.vertices[1].error) == (True, "no")


@pytest.mark.parametrize("value", [None, 3, "é", "a", base64.b64encode(b"\x08\x01").decode()])
def test_what_is_no_trace(value: object) -> None:
    with pytest.raises(ValueError, match=r".*"):
        from_aux(value)


@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.text()),
        lambda inner: st.one_of(
            st.lists(inner),
            st.dictionaries(
                st.sampled_from(
                    ["vertexes", "logs", "digest", "name", "started", "vertex", "data", "cached"]
                ),
                inner,
            ),
        ),
    )
)
def test_any_json_is_a_trace_or_a_value_error(value: object) -> None:
    try:
        from_json(value)
    except ValueError:
        return


@given(st.binary(max_size=60))
def test_any_bytes_are_a_trace_or_a_value_error(data: bytes) -> None:
    for message in (data, field(1, data), field(3, data), field(1, field(5, data))):
        try:
            from_aux(base64.b64encode(message).decode())
        except ValueError:
            continue


# Which line


MULTI_STAGE = """\
# syntax-free
ARG X=latest
FROM ds01/base:$X AS build
ENV FOO=bar
WORKDIR /srv
RUN echo hello && \\
    # a comment
    echo $FOO
FROM ds01/base AS unused
RUN echo unused
FROM ds01/base
USER root
COPY --from=build /a /b
run\tprintf "%s" x
ADD Dockerfile /d
"""


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("[build 1/3] FROM docker.io/ds01/base:latest", 3),
        ("[build 2/3] WORKDIR /srv", 5),
        ("[build 3/3] RUN echo hello &&     echo bar", 6),
        # The same image, which is one step: that of the first stage in which it stands.
        ("[stage-2 1/4] FROM docker.io/ds01/base", 3),
        ("[stage-2 2/4] COPY --from=build /a /b", 13),
        ('[linux/amd64 stage-2 3/4] RUN printf "%s" x', 14),
        ("[stage-2 4/4] ADD Dockerfile /d", 15),
        ("[stage-2  4/14] ADD Dockerfile /d", 15),
        # What a base image's ONBUILD adds.
        ("[build 2/3] RUN onbuild", None),
        ("[build 4/3] RUN echo hello &&     echo bar", 6),
        ("[nowhere 2/3] RUN echo hello", None),
        ("[stage-9 2/3] RUN echo hello", None),
    ],
)
def test_lines_of_buildkit_s_steps(name: str, line: int | None) -> None:
    step = StepName.of(name)
    assert step is not None
    assert StepLines(MULTI_STAGE, {}).of_step(step) == line


@pytest.mark.parametrize(
    "name",
    ["exporting to image", "[internal] load metadata for x", "[auth] x", "copy /context /", "[1/a] RUN"],
)
def test_what_is_no_step(name: str) -> None:
    assert StepName.of(name) is None


def test_steps_of_a_dockerfile_that_cannot_be_read_stand_nowhere() -> None:
    step = StepName.of("[1/2] RUN x")
    assert step is not None
    assert StepLines("FOO", {}).of_step(step) is None


@pytest.mark.parametrize(
    ("reference", "line"),
    [
        ("docker.io/library/python:3.12-slim", 2),
        ("docker.io/ds01/base:v2", 3),
        ("ghcr.io/a/b:latest", 4),
        ("docker.io/library/python:3.11", None),
    ],
)
def test_lines_of_images(reference: str, line: int | None) -> None:
    text = "ARG V=v1\nFROM python:3.12-slim\nFROM ds01/base:$V\nCOPY --from=ghcr.io/a/b /x /y\n"
    assert StepLines(text, {"V": "v2"}).of_image(reference) == line


# BuildKit's report


def report(text: str, *traces: Trace) -> tuple[TraceReport, list[BuildProgress]]:
    reading = TraceReport(BuildRequest(Path(), text, "x"))
    return reading, [progress for trace in traces for progress in reading.read(trace)]


def vertex(name: str, started: float | None = None, completed: float | None = None, **more: object) -> Vertex:
    return Vertex(f"sha256:{name}", name, started, completed, **more)  # type: ignore[arg-type]


def test_steps_count_in_the_order_of_the_dockerfile_whatever_is_named_first() -> None:
    names = [
        "[stage-2 4/4] ADD Dockerfile /d",
        '[stage-2 3/4] RUN printf "%s" x',
        "[build 2/3] WORKDIR /srv",
        "[stage-2 2/4] COPY --from=build /a /b",
        "[stage-2 1/4] FROM docker.io/ds01/base",
        "[build 3/3] RUN echo hello &&     echo bar",
    ]
    announced = Trace(tuple(vertex(name) for name in names))
    _, found = report(
        MULTI_STAGE,
        Trace((vertex("[internal] load remote build context", 1, 2),)),
        announced,
        *(Trace((vertex(name, 3, 3.5),)) for name in reversed(names)),
        Trace((vertex("exporting to image", 4),)),
    )
    assert [(one.step, one.line) for one in found if one.line] == [
        (3, 6),
        (1, 3),
        (4, 13),
        (2, 5),
        (5, 14),
        (6, 15),
    ]
    assert {one.steps for one in found} == {6}
    assert (found[-1].step, found[-1].name) == (6, "exporting to image")


def test_a_step_begins_prints_and_ends() -> None:
    run_ = "[2/2] RUN printf ä"
    first, second = "ä".encode()[:1], "ä".encode()[1:]
    reading, found = report(
        f"FROM {BASE_IMAGE}\nRUN printf ä\n",
        Trace((vertex("[1/2] FROM docker.io/ds01/base", 1, 1, cached=True), vertex(run_))),
        Trace((vertex(run_, 2.0),)),
        Trace(outputs=(Output(f"sha256:{run_}", b"x" + first),)),
        Trace(outputs=(Output(f"sha256:{run_}", second + b"\n"),)),
        Trace((vertex(run_, 2.0, 4.5),)),
        # BuildKit says some things twice.
        Trace((vertex(run_, 2.0, 4.5),)),
        Trace(outputs=(Output("sha256:nobody", b"lost"),)),
    )
    assert found == [
        BuildProgress(1, 2, "FROM docker.io/ds01/base", 1, cached=True, seconds=0.0),
        BuildProgress(2, 2, "RUN printf ä", 2),
        BuildProgress(2, 2, "RUN printf ä", 2, log="x"),
        BuildProgress(2, 2, "RUN printf ä", 2, log="ä\n"),
        BuildProgress(2, 2, "RUN printf ä", 2, seconds=2.5),
    ]
    assert reading.finished("sha256:x") == BuildProgress(2, 2, image_id="sha256:x")
    with pytest.raises(EngineUnreachableError, match="without an image"):
        reading.finished("")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("executor failed running [/bin/sh -c false]: exit code: 42", "`RUN false` ended with exit code 42."),
        ('process "/bin/sh -c false" did not complete successfully: exit code: 1', "ended with exit code 1."),
        ("process did not complete successfully: exit code: 137", "It was killed"),
        ("write /x: no space left on device", "disk of the engine is full"),
        ("no active sessions", "buildx plugin"),
    ],
)
def test_failures_of_a_step(error: str, words: str) -> None:
    name = "[2/2] RUN false"
    lines = b"".join(b"line %d\n" % number for number in range(50))
    reading, _ = report(
        f"FROM {BASE_IMAGE}\nRUN false\n",
        Trace((vertex(name, 1.0),), (Output(f"sha256:{name}", lines),)),
        Trace(
            (vertex(name, 1.0, 2.0, error=error), vertex("[3/3] RUN x", 1.0, 2.0, error="context canceled"))
        ),
    )
    failure = reading.failure("failed to solve")
    assert isinstance(failure, BuildFailedError)
    assert words in failure.sentence
    assert failure.line == 2
    assert failure.log.splitlines() == ["RUN false", *(f"line {number}" for number in range(30, 50))]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (
            "failed to solve with frontend dockerfile.v0: failed to create LLB definition: "
            "dockerfile parse error line 2: unknown instruction: FOO",
            2,
            "cannot be built: dockerfile parse error line 2: unknown instruction: FOO.",
        ),
        ("dockerfile parse error on line 7: unknown", 7, "on line 7"),
        ("something else", None, "The build failed: something else."),
    ],
)
def test_failures_before_a_step(text: str, line: int | None, words: str) -> None:
    failure = report("FROM x\n")[0].failure(text)
    assert isinstance(failure, BuildFailedError)
    assert words in str(failure)
    assert failure.line == line


def test_a_base_image_that_is_not_there() -> None:
    name = "[internal] load metadata for docker.io/library/nothing:latest"
    reading, _ = report("\n\nFROM nothing\n", Trace((vertex(name, 1, 2, error="pull access denied"),)))
    failure = reading.failure("failed to solve")
    assert isinstance(failure, BuildFailedError)
    assert failure.line == 3
    assert "pull access denied" in str(failure)
    assert "base-image" in failure.remedy


PLAIN = """\
#1 [internal] load remote build context
#1 sha256:eef391aa3329e514672449cc188f7aa0a09c3c05bd086daf112d8903a5926
#1 DONE 0.0s

#4 [1/3] FROM docker.io/ds01/base
#4 CACHED

#6 [2/3] RUN echo one; sleep 2
#6 ...

#5 [3/3] RUN echo two
#5 0.285 #6 DONE 9.9s
#5 0.285 {nothing}
#5 DONE 0.3s

#6 [2/3] RUN echo one; sleep 2
#6 0.356 one
#6 ERROR: executor failed running [/bin/sh -c echo one; sleep 2]: exit code: 3
------
 > [2/3] RUN echo one; sleep 2:
------
"""


def test_the_client_s_plain_progress() -> None:
    reader = PlainReader()
    request = BuildRequest(Path(), f"FROM {BASE_IMAGE}\nRUN echo one; sleep 2\nRUN echo two\n", "x")
    reading = TraceReport(request, is_announced=False)
    found = [one for line in PLAIN.format(nothing="").splitlines() for one in reading.read(reader.read(line))]
    assert {one.steps for one in found} == {3}
    assert [(one.step, one.log, one.seconds) for one in found if one.log or one.seconds is not None] == [
        (1, "", 0.0),
        (3, "#6 DONE 9.9s\n", None),
        (3, "\n", None),
        (3, "", 0.3),
        (2, "one\n", None),
    ]
    failure = reading.failure("x")
    assert isinstance(failure, BuildFailedError)
    assert failure.line == 2


# What is needed of the folder, and which images


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("FROM x\nRUN y\n", ()),
        ("FROM x\nCOPY a.txt ./b/ /c/../d/ /y/\nADD e /z\n", ("a.txt", "b", "d", "e")),
        ('FROM x\nCOPY ["a", "/y"]\n', ("a",)),
        ("FROM x AS b\nCOPY a /y\nFROM y\nCOPY --from=b --chown=1:1 /a* /y\n", ("a",)),
        ("FROM x\nCOPY --chown=1:1 --chmod=755 --link a /y\n", ("a",)),
        ("FROM x\nADD https://example.org/a?b /y\n", ()),
        ("FROM x\nCOPY <<EOF /y\n$HOME *\nEOF\n", ()),
        ("FROM x\nRUN --mount=type=cache,target=/c --mount=type=secret,id=s y\n", ()),
        ("FROM x\nRUN --mount=from=y,target=/c y\n", ()),
        ("FROM x\nCOPY . /y\n", None),
        ("FROM x\nCOPY a/.. /y\n", None),
        ("FROM x\nCOPY *.txt /y\n", None),
        ("FROM x\nCOPY [ab] /y\n", None),
        ("ARG A\nFROM x\nARG A\nCOPY $A /y\n", None),
        ("FROM x\nCOPY a\\ b /y\n", None),
        ('FROM x\nCOPY "a b" /y\n', None),
        ('FROM x\nCOPY ["a b", "/y"]\n', None),
        ("FROM x\nCOPY --from=$S a /y\n", None),
        ("FROM x\nCOPY --parents a/./b /y\n", None),
        ("FROM x\nADD git@example.org:a/b /y\n", None),
        ("FROM x\nADD https://example.org/$A /y\n", None),
        ("FROM x\nRUN --mount=type=bind,target=/c y\n", None),
        ("FROM x\nRUN --mount=target=/c y\n", None),
        ("FROM x\nRUN --mount=type=cache,from=$A y\n", ()),
        ("FROM x\nRUN --mount=type=$T,target=/c y\n", None),
        ("FROM x\nONBUILD COPY a /y\n", None),
        ("# syntax=docker/dockerfile:1\nFROM x\nRUN y\n", None),
        ("FROM x\nFOO\n", None),
    ],
)
def test_what_a_dockerfile_copies(text: str, paths: tuple[str, ...] | None) -> None:
    assert needs(text, {}).paths == paths


@pytest.mark.parametrize(
    ("text", "bases", "images"),
    [
        ("FROM x\n", ("x",), ()),
        ("ARG A=1\nARG B=x:$A\nFROM ${B}\n", ("x:2",), ()),
        ("FROM x AS a\nFROM y AS b\nFROM a\nCOPY --from=z /q /q\n", ("x",), ("z",)),
        ("FROM x AS a\nFROM y AS b\nFROM scratch\nCOPY --from=0 /q /q\n", ("x",), ()),
        ("FROM x AS a\nFROM y\nRUN --mount=from=A,target=/q z\n", ("x", "y"), ()),
        ("FROM x AS a\nFROM y\nCOPY --from=$Z /q /q\n", ("x", "y"), None),
        ("ARG Q\nFROM $Q\n", None, ()),
        ("FROM ${Q:-x}\n", None, ()),
        ("FROM x/../../containers/y\n", None, ()),
        ("FROM x\nCOPY --from=../y /q /q\n", ("x",), None),
        ("FROM --platform=linux/arm64 x\n", None, ()),
    ],
)
def test_which_images_a_dockerfile_uses(
    text: str, bases: tuple[str, ...] | None, images: tuple[str, ...] | None
) -> None:
    found = needs(text, {"A": "2"})
    assert (found.bases, found.images) == (bases, images)


def test_another_frontend_needs_who_knows_what() -> None:
    assert needs("FROM x\n", {"BUILDKIT_SYNTAX": "y"}) == Needs()


def names(context: Context) -> set[str]:
    return archived(b"".join(context.tar()))


def archived(data: bytes) -> set[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return set(tar.getnames())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for path in ("a", "b/c/d", "b/e", "data/large"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(path)
    (tmp_path / "link").symlink_to("b")
    return tmp_path


EVERYTHING = {"Dockerfile", "a", "b", "b/c", "b/c/d", "b/e", "data", "data/large", "link"}


@pytest.mark.parametrize(
    ("needed", "expected"),
    [
        (None, EVERYTHING),
        ((), {"Dockerfile"}),
        (("a",), {"Dockerfile", "a"}),
        (("b/c",), {"Dockerfile", "b", "b/c", "b/c/d"}),
        (("b", "missing/x"), {"Dockerfile", "b", "b/c", "b/c/d", "b/e"}),
        (("link",), EVERYTHING),
        (("link/e",), EVERYTHING),
    ],
)
def test_only_what_is_needed_is_sent(
    folder: Path, needed: tuple[str, ...] | None, expected: set[str]
) -> None:
    assert names(Context.of(folder, "FROM x\n", needed)) == expected


def test_what_is_ignored_is_not_sent_though_it_is_needed(folder: Path) -> None:
    (folder / ".dockerignore").write_text("b\n!b/c\ndata\n")
    assert names(Context.of(folder, "x", ("b",))) == {"Dockerfile", "b/c", "b/c/d"}
    assert names(Context.of(folder, "x")) == {"Dockerfile", ".dockerignore", "a", "b/c", "b/c/d", "link"}


def test_texts_take_the_place_of_files(folder: Path) -> None:
    (folder / ".dockerignore").write_text("data\n")
    files = {"a": "other", "./b/new": "new", "data/x": "ignored"}
    context = Context.of(folder, "x", ("a", "b"), files=files)
    with tarfile.open(fileobj=io.BytesIO(b"".join(context.tar()))) as tar:
        assert set(tar.getnames()) == {"Dockerfile", "a", "b", "b/c", "b/c/d", "b/e", "b/new"}
        for name, text in (("a", b"other"), ("b/new", b"new"), ("b/e", b"b/e")):
            member = tar.extractfile(name)
            assert member is not None
            assert member.read() == text
    for path in ("/etc/passwd", "../x", "", "Dockerfile"):
        with pytest.raises(BadInputError, match="cannot be a file of the build"):
            Context.of(folder, "x", files={path: ""})


@given(
    st.lists(
        st.sampled_from(["a", "b", "b/c", "!b/c", "!b/c/d", "*", "!a", "**/d", "data/", "#x"]), max_size=4
    )
)
def test_the_same_is_ignored_as_by_docker_py(patterns: list[str]) -> None:
    from tempfile import TemporaryDirectory

    from docker.utils.build import exclude_paths

    with TemporaryDirectory() as name:
        root = Path(name)
        for path in ("a", "b/c/d", "b/e", "data/large"):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).touch()
        (root / ".dockerignore").write_text("\n".join(patterns))
        wanted = exclude_paths(name, [one for one in patterns if not one.startswith("#")])
        assert set(Context.of(root, "x").paths) == wanted


def test_a_large_folder_in_which_nothing_is_ignored_gets_a_notice(folder: Path) -> None:
    for name, size in (("data/large", 2_300_000_000), ("a", 90_000_000), ("b/e", 30_000_000)):
        with (folder / name).open("wb") as file:
            file.truncate(size)
    notice = Context.of(folder, "x").notice()
    assert "2.4 GB" in notice
    assert "data (2.3 GB), a (90 MB), b (30 MB)" in notice
    assert ".dockerignore" in notice
    assert Context.of(folder, "x", ("a",)).notice() == ""
    assert Context.of(folder, "x", ("a", "b")).notice() != ""
    (folder / ".dockerignore").write_text("nothing\n")
    assert Context.of(folder, "x").notice() == ""


def test_a_walk_can_be_cancelled(folder: Path) -> None:
    assert Context.of(folder, "x", is_cancelled=lambda: True).paths == ()


# What a person reads


def test_the_text_of_a_build() -> None:
    text = BuildText()
    values = [
        BuildProgress(log="Notice: large.\n"),
        BuildProgress(name="FROM x", line=1, log="Pulling\n"),
        BuildProgress(1, 3, "FROM x", 1, cached=True, seconds=0.0),
        BuildProgress(2, 3, "RUN <<EOF\nlong\nEOF", 2),
        BuildProgress(2, 3, "RUN <<EOF\nlong\nEOF", 2, log="no line end"),
        BuildProgress(2, 3, "RUN <<EOF\nlong\nEOF", 2, seconds=12.34),
        BuildProgress(3, 3, "RUN " + "y" * 300, 5),
        BuildProgress(3, 3, "RUN " + "y" * 300, 5, seconds=0.2),
        BuildProgress(3, 3, image_id="sha256:x"),
    ]
    assert "".join(map(text.of, values)) == (
        "Notice: large.\nFROM x\nPulling\n[1/3] FROM x (cached)\n[2/3] RUN <<EOF\nno line end\n"
        f"[2/3] took 12.3 s\n[3/3] RUN {'y' * 195}…\n"
    )


# Which builder: a docker command and an engine that say what they are told to


FAKE_DOCKER = """\
#!{python}
import json, os, sys
said = json.load(open({script!r}))
with open({calls!r}, "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
if sys.argv[1:] == ["buildx", "version"]:
    sys.exit(print(said["buildx"]) or 0 if said["buildx"] else 1)
if sys.argv[1] == "version":
    sys.exit(print(said["client"]))
sys.stdin.buffer.read()
for option in sys.argv:
    if option.startswith("--iidfile=") and not said["code"]:
        open(option.partition("=")[2], "w").write("sha256:" + "1" * 64)
sys.stderr.write(said["errors"])
sys.exit(said["code"])
"""


class FakeDocker:
    """The `docker` command on the PATH."""

    def __init__(self, folder: Path) -> None:
        self._script, self._calls = folder / "said.json", folder / "calls"
        self._calls.touch()
        command = folder / "docker"
        command.write_text(
            FAKE_DOCKER.format(python=sys.executable, script=str(self._script), calls=str(self._calls))
        )
        command.chmod(command.stat().st_mode | stat.S_IXUSR)
        self.says()

    def says(self, *, buildx: str = "", client: str = "", errors: str = "", code: int = 0) -> None:
        said = {"buildx": buildx, "client": client, "errors": errors, "code": code}
        self._script.write_text(json.dumps(said))

    @property
    def builds(self) -> list[list[str]]:
        calls = [json.loads(line) for line in self._calls.read_text().splitlines()]
        return [call for call in calls if "-" in call]


@pytest.fixture
def fake_docker(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> FakeDocker:
    folder = tmp_path_factory.mktemp("bin")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("DOCKER_CONTEXT", raising=False)
    return FakeDocker(folder)


@pytest.mark.parametrize(
    ("buildx", "client", "kind"),
    [
        ("github.com/docker/buildx v0.13.1 788433953af10f2a698f5c07611dddce2e08c7a0", "28.2.2", "buildx"),
        ("github.com/docker/buildx 0.13.1+ds1 0.13.1+ds1-3", "26.1.5", "buildx"),
        ("github.com/docker/buildx v1.0.0 abc", "", "buildx"),
        ("github.com/docker/buildx v0.12.1 abc", "24.0.7", "client"),
        ("", "20.10.24+dfsg1", "client"),
        ("", "28.2.2", None),
        ("", "17.06.0", None),
        ("", "", None),
    ],
)
def test_what_the_client_can_do(fake_docker: FakeDocker, buildx: str, client: str, kind: str | None) -> None:
    fake_docker.says(buildx=buildx, client=client)
    assert client_kind() == kind


class FakeApi:
    """As much of an engine as a build needs; `builder_version` is what it says about itself, `errors` is how
    BuildKit is refused, with status 500."""

    def __init__(self, address: Path) -> None:
        self.api_version, self.builder_version, self.platform = "1.41", "", ""
        self.refusal = ""
        self.messages: list[dict[str, object]] = []
        self.builds: list[str] = []
        self.bodies: list[bytes] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def address_string(self) -> str:
                return "client"

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                headers = {"Builder-Version": fake.builder_version} if fake.builder_version else {}
                if self.path.endswith("/version"):
                    components = [{"Name": fake.platform or "Engine"}]
                    self.answer(
                        200, {"ApiVersion": fake.api_version, "Os": "linux", "Components": components}
                    )
                elif "/images/" in self.path:
                    self.answer(200, {"Id": "sha256:1", "Config": {}})
                else:
                    self.answer(200, "OK", headers)

            def do_POST(self) -> None:
                if "/build/cancel" in self.path:
                    self.answer(200, None)
                    return
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size + 2)[:size]
                self.rfile.readline()
                fake.builds.append(self.path)
                fake.bodies.append(body)
                if fake.refusal and "version=2" in self.path:
                    self.answer(500, {"message": fake.refusal})
                    return
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for message in fake.messages:
                    data = json.dumps(message).encode() + b"\r\n"
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                self.wfile.write(b"0\r\n\r\n")

            def answer(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
                data = json.dumps(value).encode()
                self.send_response(status)
                for name, text in (headers or {}).items():
                    self.send_header(name, text)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        class Server(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True

        self.server = Server(str(address), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def fake_api(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeApi]:
    address = tmp_path_factory.mktemp("d") / "s"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{address}")
    api = FakeApi(address)
    api.messages = [{"aux": {"ID": "sha256:2"}, "id": "moby.image.id"}]
    yield api
    api.server.shutdown()
    api.server.server_close()


BUILT = '{"vertexes": [{"digest": "sha256:1", "name": "[1/1] FROM x", "started": "2026-11-22T16:00:56Z"}]}\n'


def test_buildx_is_the_first_choice(fake_docker: FakeDocker, fake_api: FakeApi, tmp_path: Path) -> None:
    pretty = json.dumps(json.loads(BUILT), indent=2) + "\n"
    fake_docker.says(buildx="buildx v0.13.0 x", errors="#0 a line of its own\n" + BUILT + pretty)

    async def flow(engine: DockerEngine) -> None:
        request = BuildRequest(
            tmp_path, "FROM x\n", "t:1", args={"A": "b c"}, labels={"l": "m"}, pull=True, no_cache=True
        )
        progress = await built(engine, request)
        assert progress[0] == BuildProgress(1, 1, "FROM x", 1)
        assert progress[-1].image_id == "sha256:" + "1" * 64

    run(flow)
    (call,) = fake_docker.builds
    assert call[:4] == ["buildx", "build", "--builder", "default"]
    options = ("--build-arg=A=b c", "--label=l=m", "--pull", "--no-cache", "--tag=t:1", "--progress=rawjson")
    assert set(options) <= set(call)
    assert fake_api.builds == []


@pytest.mark.parametrize("said", ["unknown flag: --provenance", 'ERROR: no builder "default" found'])
def test_a_client_that_does_not_do_is_left_for_the_api(
    fake_docker: FakeDocker, fake_api: FakeApi, tmp_path: Path, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    fake_docker.says(buildx="buildx v0.13.0 x", errors=f"{said}\n", code=1)

    async def flow(engine: DockerEngine) -> None:
        for round_ in range(2):
            progress = await built(engine, BuildRequest(tmp_path, "FROM x\n", "t:1"))
            assert progress[-1].image_id == "sha256:2"
            assert (said in printed(progress)) is (round_ == 0)

    run(flow)
    assert len(fake_docker.builds) == 1
    assert ["version=2" in path for path in fake_api.builds] == [True, True]
    assert said in caplog.text


@pytest.mark.usefixtures("fake_docker")
def test_a_dockerfile_that_takes_nothing_goes_without_an_archive(fake_api: FakeApi, tmp_path: Path) -> None:
    """But for the classic builder, which would take it for an archive."""
    (tmp_path / "a").touch()

    async def flow(engine: DockerEngine) -> None:
        for text in ("FROM x\nRUN y\n", "FROM x\nCOPY a /b\n", "FROM x\nCOPY . /b\n"):
            await built(engine, BuildRequest(tmp_path, text, "t:1"))
        fake_api.refusal = "buildkit is not supported by this daemon"
        fake_api.messages = [{"stream": "Step 1/1 : FROM x"}, {"aux": {"ID": "sha256:2"}}]
        await built(engine, BuildRequest(tmp_path, "FROM x\n", "t:1"))

    run(flow)
    alone, copied, whole, refused, classic = fake_api.bodies
    assert (alone, refused) == (b"FROM x\nRUN y\n", b"FROM x\n")
    assert archived(copied) == archived(whole) == {"Dockerfile", "a"}
    assert archived(classic) == {"Dockerfile"}


@pytest.mark.usefixtures("fake_docker")
def test_an_api_that_refuses_buildkit_builds_the_classic_way(fake_api: FakeApi, tmp_path: Path) -> None:
    fake_api.refusal = "buildkit is not supported by this daemon"

    async def flow(engine: DockerEngine) -> None:
        for round_ in range(2):
            progress = await built(engine, BuildRequest(tmp_path, "FROM x\n", "t:1"))
            assert progress[-1].image_id == "sha256:2"
            assert (fake_api.refusal in printed(progress)) is (round_ == 0)

    run(flow)
    assert ["version=2" in path for path in fake_api.builds] == [True, False, False]


@pytest.mark.usefixtures("fake_docker")
@pytest.mark.parametrize(
    ("api_version", "builder_version", "platform", "is_buildkit"),
    [
        ("1.41", "", "", True),
        ("1.41", "2", "", True),
        ("1.39", "", "", True),
        ("1.38", "", "", False),
        ("1.41", "1", "", False),
        ("1.41", "", "Podman Engine", False),
    ],
)
def test_which_engines_have_buildkit(
    fake_api: FakeApi,
    tmp_path: Path,
    api_version: str,
    builder_version: str,
    platform: str,
    is_buildkit: bool,
) -> None:
    fake_api.api_version, fake_api.builder_version = api_version, builder_version
    fake_api.platform = platform

    async def flow(engine: DockerEngine) -> None:
        await built(engine, BuildRequest(tmp_path, "FROM x\n", "t:1"))

    run(flow)
    assert ["version=2" in path for path in fake_api.builds] == [is_buildkit]


@pytest.mark.usefixtures("fake_api")
@pytest.mark.parametrize(
    ("errors", "kind", "words"),
    [
        (
            BUILT + "ERROR: failed to solve: rpc error: code = Unknown desc = gone wrong\n",
            BuildFailedError,
            ": gone wrong.",
        ),
        ("ERROR: Cannot connect to the Docker daemon at unix:///x.\n", EngineUnreachableError, "ended"),
        (BUILT + "ERROR: error reading from server: EOF\n", EngineUnreachableError, "ended"),
        ("ERROR: failed to solve: invalid reference format\n", BuildFailedError, "invalid reference"),
        ("", BuildFailedError, "without a word"),
        ('{"vertexes": 3}\n', EngineError, "cannot be understood"),
    ],
)
def test_failures_of_a_client(
    fake_docker: FakeDocker, tmp_path: Path, errors: str, kind: type[EngineError], words: str
) -> None:
    fake_docker.says(buildx="buildx v0.13.0 x", errors=errors, code=1)

    async def flow(engine: DockerEngine) -> None:
        with pytest.raises(kind, match=words):
            await built(engine, BuildRequest(tmp_path, "FROM x\n", "t:1"))

    run(flow)


@pytest.mark.usefixtures("fake_docker")
def test_a_stream_that_ends_early_is_an_engine_that_is_gone(fake_api: FakeApi, tmp_path: Path) -> None:
    fake_api.messages = [{"id": "moby.buildkit.trace", "aux": aux(vertex("[1/1] FROM x", 1.0))}]

    async def flow(engine: DockerEngine) -> None:
        with pytest.raises(EngineUnreachableError):
            await built(engine, BuildRequest(tmp_path, "FROM x\n", "t:1"))

    run(flow)


@pytest.mark.usefixtures("fake_docker")
def test_a_trace_that_is_none_is_an_engine_error(fake_api: FakeApi, tmp_path: Path) -> None:
    fake_api.messages = [{"id": "moby.buildkit.trace", "aux": "!"}]

    async def flow(engine: DockerEngine) -> None:
        with pytest.raises(EngineError, match="cannot be understood"):
            await built(engine, BuildRequest(tmp_path, "FROM x\n", "t:1"))

    run(flow)


@pytest.mark.usefixtures("fake_docker", "fake_api")
def test_secrets_are_refused_where_no_builder_takes_them(tmp_path: Path) -> None:
    async def flow(engine: DockerEngine) -> None:
        with pytest.raises(BadInputError, match="cannot take") as failure:
            await built(engine, BuildRequest(tmp_path, "FROM x\n", "t:1", secrets={"a": tmp_path / "a"}))
        assert "buildx" in failure.value.remedy

    run(flow)


@pytest.mark.usefixtures("fake_api")
def test_secrets_go_to_a_client(fake_docker: FakeDocker, tmp_path: Path) -> None:
    fake_docker.says(client="20.10.24")

    async def flow(engine: DockerEngine) -> None:
        given = {"a": Path("/x/y"), "b.c": Path("/x,y")}
        await built(engine, BuildRequest(tmp_path, "FROM x\n", "t:1", secrets=given))
        for bad in ({"a,b": Path("/x")}, {"a": Path('/x"y')}):
            with pytest.raises(BadInputError, match="cannot be given"):
                await built(engine, BuildRequest(tmp_path, "FROM x\n", "t:1", secrets=bad))

    run(flow)
    (call,) = fake_docker.builds
    assert {"--secret=id=a,src=/x/y", '--secret=id=b.c,"src=/x,y"'} <= set(call)


# On the real engine


@pytest.mark.engine
def test_a_build_of_several_stages(lab: Lab, tmp_path: Path, builder: BuilderName) -> None:
    text = f"""\
ARG X=latest
FROM {BASE_IMAGE.partition(":")[0]}:$X AS one
WORKDIR /srv
RUN echo {lab.mark} > word
FROM {BASE_IMAGE} AS unused
RUN false
FROM {BASE_IMAGE}
ENV A=b
COPY --from=one /srv/word /w
RUN cat /w && \\
    # inside
    false
"""

    async def flow(engine: DockerEngine) -> None:
        seen: list[BuildProgress] = []

        async def watch() -> None:
            async for progress in engine.build(lab.request(tmp_path, text)):
                seen.append(progress)  # noqa: PERF401 - kept when it fails

        with pytest.raises(BuildFailedError, match=r"line 10 of the Dockerfile.*exit code 1") as failure:
            await watch()
        assert failure.value.line == 10
        assert failure.value.log.splitlines()[1:] == [lab.mark]
        assert {one.steps for one in seen} == {5}
        assert {one.line for one in seen} == {2, 3, 4, 9, 10}
        assert f"{lab.mark}\n" in printed(seen)

    run(flow, builder)


@pytest.mark.engine
def test_mounts_arguments_and_no_cache(lab: Lab, tmp_path: Path, builder: BuilderName) -> None:
    (tmp_path / "data").write_text("from the folder\n")
    text = f"""\
FROM {BASE_IMAGE}
ARG WORD
RUN --mount=type=cache,target=/c,id={lab.mark} : {lab.mark}; echo x >> /c/x && wc -l < /c/x && echo "$WORD"
RUN --mount=type=bind,target=/b cat /b/data
"""

    async def flow(engine: DockerEngine) -> None:
        request = lab.request(tmp_path, text, args={"WORD": "a b"})
        first = await built(engine, request)
        assert "1\na b\nfrom the folder\n" in printed(first)
        again = await built(engine, request)
        assert {one.line for one in again if one.cached} >= {3, 4}
        assert again[-1].image_id == first[-1].image_id
        anew = await built(engine, lab.request(tmp_path, text, args={"WORD": "a b"}, no_cache=True))
        assert not {one.line for one in anew if one.cached} & {3, 4}
        assert "a b\nfrom the folder\n" in printed(anew)
        image = await engine.image(anew[-1].image_id)
        assert image is not None
        assert image.labels[LABEL] == lab.mark

    run(flow, builder)


@pytest.mark.engine
@pytest.mark.parametrize("kind", ["buildx", "client"])
def test_secrets(lab: Lab, tmp_path: Path, kind: BuilderName, monkeypatch: pytest.MonkeyPatch) -> None:
    use_client(monkeypatch, kind)
    (tmp_path / "token").write_text("hush " + lab.mark)
    command = f"echo {lab.mark}; tr a-z A-Z < /run/secrets/token"
    text = f"FROM {BASE_IMAGE}\nRUN --mount=type=secret,id=token {command}\n"

    async def flow(engine: DockerEngine) -> None:
        request = lab.request(tmp_path, text, secrets={"token": tmp_path / "token"})
        assert f"HUSH {lab.mark.upper()}" in printed(await built(engine, request))

    run(flow, kind)


@pytest.mark.engine
@pytest.mark.parametrize("kind", ["classic", "buildkit"])
def test_only_what_is_copied_leaves_the_folder(lab: Lab, tmp_path: Path, kind: BuilderName) -> None:
    """A file that cannot be sent, being endless, stands beside: it would be an error, or never end."""
    (tmp_path / "wanted").write_text("x")
    with (tmp_path / "endless").open("wb") as file:
        file.truncate(2**42)

    async def flow(engine: DockerEngine) -> None:
        for text in (f"FROM {BASE_IMAGE}\n", f"FROM {BASE_IMAGE}\nCOPY wanted /w\n"):
            progress = await asyncio.wait_for(built(engine, lab.request(tmp_path, text)), 60)
            assert progress[-1].image_id
            assert "Notice" not in printed(progress)

    run(flow, kind)


@pytest.mark.engine
@pytest.mark.parametrize("image", ["NotLower", "x:y:z"])
def test_what_cannot_be_an_image_is_told_with_its_line(lab: Lab, tmp_path: Path, image: str) -> None:
    async def flow(engine: DockerEngine) -> None:
        with pytest.raises(BuildFailedError, match="line 2 of the Dockerfile") as failure:
            await built(engine, lab.request(tmp_path, f"\nFROM {image}\n"))
        assert failure.value.line == 2

    run(flow, "buildkit")


@pytest.mark.engine
@pytest.mark.parametrize("kind", ["classic", "buildkit"])
def test_a_base_image_that_copies_gets_the_folder(lab: Lab, tmp_path: Path, kind: BuilderName) -> None:
    (tmp_path / "data").write_text("from the folder\n")
    base = f"ds01-test-{lab.mark}/base:latest"

    async def flow(engine: DockerEngine) -> None:
        text = f"FROM {BASE_IMAGE}\nONBUILD COPY . /here\nONBUILD RUN cat /here/data\n"
        await built(engine, BuildRequest(tmp_path, text, base, labels={LABEL: lab.mark}))
        assert "from the folder\n" in printed(
            await built(engine, lab.request(tmp_path, f"FROM {base}\nRUN true\n"))
        )

    run(flow, kind)


@pytest.mark.engine
def test_a_cancelled_build_ends_on_the_engine(lab: Lab, tmp_path: Path, builder: BuilderName) -> None:
    # A number of seconds that no other process sleeps.
    mark = f"{random.randrange(10**6, 10**7)}.5"
    text = f"FROM {BASE_IMAGE}\nRUN echo {lab.mark}; sleep {mark}\n"

    def sleeping() -> bool:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if path.read_bytes() == b"sleep\0" + mark.encode() + b"\0":
                    return True
            except OSError:
                continue
        return False

    async def until(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < end
            await asyncio.sleep(0.05)

    async def flow(engine: DockerEngine) -> None:
        if not (await engine.info()).local:
            pytest.skip("the engine's processes are not this machine's")
        build = engine.build(lab.request(tmp_path, text))
        async for progress in build:
            if lab.mark in progress.log:
                break
        await until(sleeping)
        await build.aclose()  # type: ignore[attr-defined]
        await until(lambda: not sleeping())

    run(flow, builder)
