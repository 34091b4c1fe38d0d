"""What every engine must do. A new engine is added to `lab`, and must pass all of this."""

from __future__ import annotations

import asyncio
import os
import secrets
import tarfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

import docker
import pytest
from docker_clients import use_client
from podman_here import Podman
from swarm_here import REGISTRY, Swarm

from ds01_kernels.engine import (
    BuildProgress,
    BuildRequest,
    ContainerFile,
    ContainerInfo,
    ContainerSpec,
    Engine,
    GpuRequest,
    Stream,
)
from ds01_kernels.engine.docker import DockerEngine
from ds01_kernels.engine.docker_builders import BuilderName
from ds01_kernels.engine.podman import PodmanEngine
from ds01_kernels.engine.swarm import SwarmEngine
from ds01_kernels.engine.swarm_options import SwarmOptions
from ds01_kernels.errors import (
    BadInputError,
    BuildFailedError,
    ConflictError,
    ContainerExitedError,
    EngineError,
    NoRoomError,
    NotFoundError,
)
from ds01_kernels.testing import FakeEngine

BASE = "ds01/base:latest"
LABEL = "ds01-kernels.test"


class Lab:
    """One engine and what a test makes in it, gone afterwards."""

    def __init__(
        self, kind: Literal["fake", "podman"] | BuilderName | None, swarm: SwarmOptions | None = None
    ) -> None:
        """`kind` is the fake, Podman, or how Docker builds (None: as it chooses), alone or for a swarm."""
        self.mark = secrets.token_hex(6)
        self.engine: Engine
        if kind == "fake":
            self.engine = FakeEngine()
        elif kind == "podman":
            self.engine = PodmanEngine()
        elif swarm is not None:
            self.engine = SwarmEngine(swarm, builder=kind)
        else:
            self.engine = DockerEngine(builder=kind)
        self.images: list[str] = []

    def spec(self, name: str = "a", **more: object) -> ContainerSpec:
        more.setdefault("labels", {LABEL: self.mark})
        return ContainerSpec(
            f"ds01-test-{self.mark}-{name}",
            BASE,
            ("sleep", "1000"),
            # A swarm has none like that, and its nodes' have no bridge either.
            network="" if isinstance(self.engine, SwarmEngine) else "none",
            **more,  # type: ignore[arg-type]
        )

    def reference(self, name: str = "image") -> str:
        self.images.append(f"ds01-test-{self.mark}/{name}:latest")
        return self.images[-1]

    def run(self, flow: Callable[[Engine], Awaitable[None]]) -> None:
        async def whole() -> None:
            try:
                await asyncio.wait_for(flow(self.engine), 120)
            finally:
                await self.clean()

        asyncio.run(whole())

    async def clean(self) -> None:
        for container in await self.engine.containers({LABEL: self.mark}):
            await self.engine.remove(container.id)
        for reference in self.images:
            await self.engine.remove_image(reference)
        if isinstance(self.engine, DockerEngine) and not isinstance(self.engine, PodmanEngine):
            await asyncio.to_thread(remove_remains, self.mark)
        await self.engine.close()

    async def running(self, name: str = "a") -> ContainerInfo:
        made = await self.engine.create(self.spec(name))
        await self.engine.start(made.name)
        return made


def remove_remains(mark: str) -> None:
    """The images without a name that builds leave when they end early."""
    client = docker.from_env().api
    for image in client.images(filters={"label": f"{LABEL}={mark}", "dangling": True}):
        client.remove_image(image["Id"])


@pytest.fixture
def in_podman(podman: Podman, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in podman.variables.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def in_swarm(swarm: Swarm, monkeypatch: pytest.MonkeyPatch) -> SwarmOptions:
    monkeypatch.setenv("DOCKER_HOST", swarm.address)
    return SwarmOptions(REGISTRY, swarm.addresses)


@pytest.fixture(
    params=[
        "fake",
        pytest.param("docker", marks=pytest.mark.engine),
        *(pytest.param(one, marks=[pytest.mark.engine, pytest.mark.apart]) for one in ("podman", "swarm")),
    ]
)
def lab(request: pytest.FixtureRequest) -> Lab:
    if request.param == "podman":
        request.getfixturevalue("in_podman")
    if request.param == "swarm":
        return Lab(None, request.getfixturevalue("in_swarm"))
    return Lab(None if request.param == "docker" else request.param)


BUILDERS = [
    *(pytest.param(name, marks=pytest.mark.engine) for name in get_args(BuilderName)),
    pytest.param("podman", marks=[pytest.mark.engine, pytest.mark.apart]),
]


@pytest.fixture(params=["fake", *BUILDERS])
def yard(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A lab that builds in one of the ways there are."""
    if request.param == "podman":
        request.getfixturevalue("in_podman")
    if request.param in ("buildx", "client"):
        use_client(monkeypatch, request.param)
    return Lab(request.param)


async def everything(stream: Stream) -> bytes:
    output = b""
    while data := await stream.read():
        output += data
    return output


async def outcome(stream: Stream) -> tuple[bytes, str, int | None]:
    try:
        return await everything(stream), stream.errors, await stream.exit_code()
    finally:
        await stream.close()


def test_info_says_what_the_engine_is(lab: Lab) -> None:
    async def flow(engine: Engine) -> None:
        info = await engine.info()
        assert info.name
        assert info.version
        assert info.cpus > 0
        assert info.memory > 2**20
        assert all(sentence.endswith(".") for sentence in info.cannot.values())

    lab.run(flow)


def test_image_present_and_absent(lab: Lab) -> None:
    async def flow(engine: Engine) -> None:
        image = await engine.image(BASE)
        assert image is not None
        assert image.id.startswith("sha256:")
        assert BASE in image.tags
        assert image.created.tzinfo is not None
        by_id = await engine.image(image.id)
        assert by_id is not None
        assert by_id.id == image.id
        assert await engine.image(lab.reference("absent")) is None

    lab.run(flow)


def test_a_container_gets_another_name(lab: Lab) -> None:
    async def flow(engine: Engine) -> None:
        made = await lab.running("a")
        await lab.running("b")
        name = f"ds01-test-{lab.mark}-c"
        for _ in range(2):
            await engine.rename(made.id, name)
        renamed = await engine.container(name)
        assert renamed is not None
        assert (renamed.id, renamed.running) == (made.id, True)
        assert await engine.container(made.name) is None
        with pytest.raises(ConflictError):
            await engine.rename(made.id, f"ds01-test-{lab.mark}-b")
        with pytest.raises(NotFoundError):
            await engine.rename(f"ds01-test-{lab.mark}-a", "x")

    lab.run(flow)


def test_images_are_found_by_their_labels(lab: Lab, tmp_path: Path) -> None:
    async def flow(engine: Engine) -> None:
        reference = lab.reference()
        labels = {LABEL: lab.mark, "ds01-kernels.kind": "a"}
        await built(engine, BuildRequest(tmp_path, f"FROM {BASE}\n", reference, labels=labels))
        assert [image.tags for image in await engine.images({LABEL: lab.mark})] == [(reference,)]
        assert len(await engine.images(labels)) == 1
        assert await engine.images({**labels, "ds01-kernels.kind": "b"}) == []

    lab.run(flow)


def test_life_of_a_container_each_step_twice(lab: Lab) -> None:
    async def flow(engine: Engine) -> None:
        made = await engine.create(lab.spec())
        assert (made.state, made.running, made.exit_code, made.started) == ("created", False, None, None)
        for _ in range(2):
            await engine.start(made.name)
        running = await engine.container(made.name)
        assert running is not None
        assert running.running
        assert running.exit_code is None
        assert running.started is not None
        assert running.id == made.id
        for _ in range(2):
            await engine.stop(made.name, 2)
        stopped = await engine.container(made.id)
        assert stopped is not None
        # 143 is SIGTERM: the main process was asked, not killed.
        assert (stopped.state, stopped.exit_code, stopped.oom_killed) == ("exited", 143, False)
        await engine.start(made.name)
        for _ in range(2):
            await engine.remove(made.name)
        assert await engine.container(made.name) is None

    lab.run(flow)


def test_container_belongs_to_its_image(lab: Lab) -> None:
    async def flow(engine: Engine) -> None:
        image = await engine.image(BASE)
        made = await engine.create(lab.spec())
        assert image is not None
        assert made.image_id == image.id

    lab.run(flow)


def test_what_a_container_was_made_with_is_told(lab: Lab) -> None:
    async def flow(engine: Engine) -> None:
        plain = await engine.create(lab.spec())
        assert (plain.memory, plain.gpus) == (None, None)
        asked = {"all": GpuRequest(-1), "two": GpuRequest(2), "named": GpuRequest(ids=("0", "1"))}
        if isinstance(engine, PodmanEngine):
            # It would drop them without a word.
            with pytest.raises(EngineError, match="Podman ignores requests for GPUs"):
                await engine.create(lab.spec("gpus", gpus=GpuRequest(-1)))
            asked = {}
        if isinstance(engine, SwarmEngine):
            for request in (asked.pop("all"), asked.pop("named")):
                with pytest.raises(EngineError, match="gives a number of GPUs"):
                    await engine.create(lab.spec("gpus", gpus=request))
        for name, gpus in {"none": None, **asked}.items():
            made = await engine.create(lab.spec(name, memory=2**26, gpus=gpus))
            assert (made.memory, made.gpus) == (2**26, gpus)
            assert await engine.container(made.name) == made

    lab.run(flow)


def test_name_taken_is_a_conflict(lab: Lab) -> None:
    async def flow(engine: Engine) -> None:
        made = await engine.create(lab.spec())
        with pytest.raises(ConflictError, match="already in use"):
            await engine.create(lab.spec())
        assert await engine.container(made.name) == made

    lab.run(flow)


def test_only_the_exact_name_or_id_is_found(lab: Lab) -> None:
    async def flow(engine: Engine) -> None:
        made = await engine.create(lab.spec())
        for name in (made.id[:12], made.name[:-1], f"../{made.name}", "", "a/b?c"):
            assert await engine.container(name) is None

    lab.run(flow)


def test_search_by_labels_wants_every_one(lab: Lab) -> None:
    async def flow(engine: Engine) -> None:
        mine = {LABEL: lab.mark}
        one = await engine.create(lab.spec("one", labels={**mine, "x": "1", "y": "=2"}))
        two = await engine.create(lab.spec("two", labels={**mine, "x": "1"}))
        await engine.start(two.name)

        async def names(**labels: str) -> set[str]:
            return {found.name for found in await engine.containers({**mine, **labels})}

        assert await names() == {one.name, two.name}
        assert await names(x="1") == {one.name, two.name}
        assert await names(x="1", y="=2") == {one.name}
        assert await names(x="2") == set()
        found = await engine.containers({**mine, "y": "=2"})
        assert found == [one]

    lab.run(flow)


def test_exec_output_errors_and_exit_code(lab: Lab) -> None:
    async def flow(engine: Engine) -> None:
        made = await lab.running()
        command = ["sh", "-c", 'echo "$WORD $PWD"; echo problem >&2; exit 7']
        stream = await engine.exec(made.name, command, env={"WORD": "a=b c"}, cwd="/")
        output, errors, code = await outcome(stream)
        assert output.startswith(b"a=b c /")
        assert (errors, code) == ("problem\n", 7)

    lab.run(flow)


def test_exec_talks_both_ways(lab: Lab) -> None:
    async def flow(engine: Engine) -> None:
        made = await lab.running()
        stream = await engine.exec(made.name, ["sh", "-c", 'read x; echo "got $x"; read y'])
        await stream.write(b"one\n")
        received = b""
        while not received.endswith(b"\n"):
            received += await stream.read()
        assert received == b"got one\n"
        assert await stream.exit_code() is None
        await stream.write(b"two\n")
        assert await outcome(stream) == (b"", "", 0)
        with pytest.raises(EngineError):
            await stream.write(b"three\n")

    lab.run(flow)


@pytest.mark.parametrize("terminal", [False, True])
def test_ended_input_is_an_end_of_file_to_the_command(lab: Lab, terminal: bool) -> None:
    async def flow(engine: Engine) -> None:
        made = await lab.running()
        stream = await engine.exec(made.name, ["sh", "-c", "cat; echo all; exit 3"], terminal=terminal)
        await stream.write(b"one\n")
        for _ in range(2):
            await stream.end_input()
        with pytest.raises(EngineError):
            await stream.write(b"two\n")
        output, _, code = await outcome(stream)
        assert output.replace(b"\r", b"").replace(b"^D\b\b", b"").endswith(b"one\nall\n")
        assert code == 3
        await stream.end_input()

    lab.run(flow)


def test_large_data_arrives_whole_and_waits_for_its_reader(lab: Lab) -> None:
    data = os.urandom(2**20) * 100

    async def flow(engine: Engine) -> None:
        made = await lab.running()
        stream = await engine.exec(made.name, ["cat"])

        async def send() -> None:
            for start in range(0, len(data), 300_000):
                await stream.write(data[start : start + 300_000])

        sending = asyncio.create_task(send())
        # Nobody reads: what is under way must not all end up in memory.
        await asyncio.sleep(1)
        assert not sending.done()
        received = bytearray()
        while len(received) < len(data):
            piece = await stream.read()
            assert piece
            received += piece
        await sending
        assert received == data
        await stream.close()

    lab.run(flow)


def test_errors_are_the_last_16_kib(lab: Lab) -> None:
    async def flow(engine: Engine) -> None:
        made = await lab.running()
        script = "yes 12345678 | head -n 20000 >&2; printf end >&2; echo out"
        output, errors, code = await outcome(await engine.exec(made.name, ["sh", "-c", script]))
        assert (output, code) == (b"out\n", 0)
        assert len(errors) == 16 * 1024
        assert errors.endswith("12345678\nend")

    lab.run(flow)


def test_a_terminal_has_a_size(lab: Lab) -> None:
    async def flow(engine: Engine) -> None:
        made = await lab.running()
        stream = await engine.exec(
            made.name, ["sh", "-c", "read x; stty size; echo err >&2; test -t 0"], terminal=True
        )
        await stream.resize(101, 33)
        await stream.write(b"go\n")
        output, errors, code = await outcome(stream)
        assert b"33 101\r\n" in output
        assert b"err\r\n" in output
        assert (errors, code) == ("", 0)

    lab.run(flow)


def test_command_that_cannot_start_says_so_in_its_output(lab: Lab) -> None:
    async def flow(engine: Engine) -> None:
        made = await lab.running()
        for terminal in (False, True):
            stream = await engine.exec(made.name, ["/no/such/program", "x"], terminal=terminal)
            output, _, code = await outcome(stream)
            assert code in (126, 127)
            assert b"/no/such/program" in output

    lab.run(flow)


def test_closing_a_stream_ends_reading_and_writing_only(lab: Lab) -> None:
    async def flow(engine: Engine) -> None:
        made = await lab.running()
        sign = f"/tmp/{lab.mark}"
        waiting = f"until rm {sign} 2>/dev/null; do sleep 0.05; done; exit 5"
        stream = await engine.exec(made.name, ["sh", "-c", waiting])
        await stream.close()
        await stream.close()
        assert await stream.read() == b""
        with pytest.raises(EngineError):
            await stream.write(b"x")
        assert await stream.exit_code() is None
        await outcome(await engine.exec(made.name, ["touch", sign]))
        while (code := await stream.exit_code()) is None:
            await asyncio.sleep(0.05)
        assert code == 5

    lab.run(flow)


def test_exec_needs_a_running_container(lab: Lab) -> None:
    async def flow(engine: Engine) -> None:
        made = await engine.create(lab.spec())
        with pytest.raises(ContainerExitedError):
            await engine.exec(made.name, ["true"])
        await engine.start(made.name)
        stream = await engine.exec(made.name, ["sh", "-c", "echo; exec sleep 1000"])
        assert await stream.read() == b"\n"
        await engine.stop(made.name, 0)
        assert await everything(stream) == b""
        with pytest.raises(ContainerExitedError):
            await engine.exec(made.name, ["true"])

    lab.run(flow)


def test_files_are_written_and_read(lab: Lab) -> None:
    async def flow(engine: Engine) -> None:
        made = await engine.create(lab.spec())
        folder, path = PurePosixPath("/opt/ä b"), PurePosixPath("/opt/ä b/x")
        content = bytes(range(256))
        await engine.write_files(
            made.name,
            [
                ContainerFile(folder, None, 1234, 1234, 0o750),
                ContainerFile(path, content, 1234, 1234, 0o640),
                ContainerFile(folder / "empty", b"", 0, 0, 0o600),
            ],
        )
        for start in (False, True):
            if start:
                await engine.start(made.name)
            assert await engine.read_file(made.name, path) == content
            assert await engine.read_file(made.name, folder / "empty") == b""
            assert await engine.read_file(made.name, folder / "nothing") is None
            with pytest.raises(EngineError):
                await engine.read_file(made.name, folder)

    lab.run(flow)


def test_a_file_above_the_limit_is_refused_and_leaves_the_container_usable(lab: Lab) -> None:
    async def flow(engine: Engine) -> None:
        made = await engine.create(lab.spec())
        small, large = PurePosixPath("/opt/small"), PurePosixPath("/opt/large")
        await engine.write_files(
            made.name,
            [
                ContainerFile(small, b"x" * 2**20, 0, 0, 0o644),
                ContainerFile(large, b"x" * (2**20 + 1), 0, 0, 0o644),
            ],
        )
        assert await engine.read_file(made.name, small) == b"x" * 2**20
        with pytest.raises(EngineError, match="1024 KiB"):
            await engine.read_file(made.name, large)
        await asyncio.wait_for(engine.write_files(made.name, [ContainerFile(small, b"", 0, 0, 0o644)]), 60)

    lab.run(flow)


@pytest.mark.parametrize("path", ["relative", "/opt/../etc/passwd"])
def test_files_need_an_absolute_path(lab: Lab, path: str) -> None:
    async def flow(engine: Engine) -> None:
        made = await engine.create(lab.spec())
        with pytest.raises(BadInputError):
            await engine.write_files(made.name, [ContainerFile(PurePosixPath(path), b"", 0, 0, 0o644)])

    lab.run(flow)


def test_what_is_missing_is_not_found(lab: Lab) -> None:
    async def flow(engine: Engine) -> None:
        missing = lab.spec().name
        calls = [
            engine.start(missing),
            engine.stop(missing, 1),
            engine.exec(missing, ["true"]),
            engine.logs(missing),
            engine.read_file(missing, PurePosixPath("/etc/passwd")),
            engine.write_files(missing, [ContainerFile(PurePosixPath("/x"), b"", 0, 0, 0o644)]),
            engine.tag(lab.reference("absent"), lab.reference()),
            engine.create(ContainerSpec(missing, lab.reference("absent"), ("true",))),
        ]
        for call in calls:
            with pytest.raises(NotFoundError):
                await call
        assert await engine.container(missing) is None
        await engine.remove(missing)
        await engine.remove_image(lab.reference("absent"))

    lab.run(flow)


def test_tag_and_remove_image(lab: Lab) -> None:
    async def flow(engine: Engine) -> None:
        base = await engine.image(BASE)
        assert base is not None
        one, two = lab.reference("one"), lab.reference("two")
        await engine.tag(BASE, one)
        await engine.tag(base.id, two)
        tagged = await engine.image(one)
        assert tagged is not None
        assert tagged.id == base.id
        assert {one, two} <= set(tagged.tags)
        for _ in range(2):
            await engine.remove_image(one)
        assert await engine.image(one) is None
        assert await engine.image(two) is not None
        assert await engine.image(BASE) is not None

    lab.run(flow)


def test_an_archive_becomes_an_image_of_that_name(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "hello").write_text("hello")
    with tarfile.open(tmp_path / "root.tar", "w") as archive:
        archive.add(tmp_path / "hello", "hello")

    async def flow(engine: Engine) -> None:
        # Of one repository, and without the tag that every engine takes where it is given none.
        repository = lab.reference().removesuffix(":latest")
        lab.images += [f"{repository}:one", f"{repository}:two"]
        one = await engine.import_image(tmp_path / "root.tar", f"{repository}:one")
        two = await engine.import_image(tmp_path / "root.tar", f"{repository}:two", ["ENV A=b"])
        assert (f"{repository}:one" in one.tags, f"{repository}:two" in two.tags) == (True, True)
        assert await engine.image(f"{repository}:latest") is None
        assert one.id in {image.id for image in await engine.images({})}

    lab.run(flow)


def test_an_image_in_use_is_not_removed(lab: Lab, tmp_path: Path) -> None:
    async def flow(engine: Engine) -> None:
        reference = lab.reference()
        await built(engine, BuildRequest(tmp_path, f"FROM {BASE}\nLABEL {LABEL}={lab.mark}\n", reference))
        made = await engine.create(
            ContainerSpec(lab.spec().name, reference, ("true",), labels={LABEL: lab.mark})
        )
        with pytest.raises(ConflictError):
            await engine.remove_image(reference)
        assert await engine.image(reference) is not None
        await engine.remove(made.name)
        await engine.remove_image(reference)
        assert await engine.image(made.image_id) is None

    lab.run(flow)


async def built(engine: Engine, request: BuildRequest) -> list[BuildProgress]:
    return [progress async for progress in engine.build(request)]


def test_build_says_where_it_is_and_ends_with_the_image(yard: Lab, tmp_path: Path) -> None:
    text = f"# a comment\nFROM {BASE}\n\nLABEL {LABEL}={yard.mark}\nRUN true\n"

    async def flow(engine: Engine) -> None:
        reference = yard.reference()
        request = BuildRequest(tmp_path, text, reference, labels={LABEL: yard.mark})
        progress = await built(engine, request)
        lines = [line for line in dict.fromkeys(one.line for one in progress) if line]
        # BuildKit takes LABEL for no step.
        assert lines in ([2, 4, 5], [2, 5])
        steps = [one.step for one in progress]
        assert steps == sorted(steps)
        assert {one.steps for one in progress} == {len(lines)}
        assert any(one.name == "RUN true" and one.line == 5 for one in progress)
        ends = [one for one in progress if one.seconds is not None and one.line]
        assert [one.line for one in ends] == lines
        assert all(one.seconds == 0 for one in ends if one.cached)
        assert [bool(one.image_id) for one in progress] == [False] * (len(progress) - 1) + [True]
        image = await engine.image(reference)
        assert image is not None
        assert image.id == progress[-1].image_id
        assert image.labels[LABEL] == yard.mark

    yard.run(flow)


def test_given_texts_take_the_place_of_files(yard: Lab, tmp_path: Path) -> None:
    text = f"FROM {BASE}\nLABEL {LABEL}={yard.mark}\nCOPY a.txt /a\nCOPY b.txt /b\nCOPY new.txt /new\n"
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(f"{name} on disk\n")

    async def flow(engine: Engine) -> None:
        files = {"a.txt": "a as given\n", "new.txt": "new as given\n"}
        reference = yard.reference()
        await built(engine, BuildRequest(tmp_path, text, reference, files=files, labels={LABEL: yard.mark}))
        made = await engine.create(replace(yard.spec(), image=reference))
        found = [await engine.read_file(made.name, PurePosixPath(name)) for name in ("/a", "/b", "/new")]
        assert found == [b"a as given\n", b"b.txt on disk\n", b"new as given\n"]

    yard.run(flow)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "a.txt": "a.txt on disk\n",
        "b.txt": "b.txt on disk\n",
    }


def test_build_failure_names_the_line(yard: Lab, tmp_path: Path) -> None:
    text = f"FROM {BASE}\nLABEL {LABEL}={yard.mark} \\\n  # inside\n  b=2\n\nRUN false\nRUN true\n"

    async def flow(engine: Engine) -> None:
        reference = yard.reference()
        with pytest.raises(BuildFailedError, match=r"line 6 of the Dockerfile.*RUN false") as failure:
            await built(engine, BuildRequest(tmp_path, text, reference))
        assert failure.value.line == 6
        assert "RUN false" in failure.value.log
        assert await engine.image(reference) is None

    yard.run(flow)


def test_build_needs_its_base_image(yard: Lab, tmp_path: Path) -> None:
    async def flow(engine: Engine) -> None:
        text = f"\nFROM localhost:9/ds01-test-{yard.mark}/absent\n"
        with pytest.raises(BuildFailedError) as failure:
            await built(engine, BuildRequest(tmp_path, text, yard.reference()))
        assert failure.value.line == 2

    yard.run(flow)


def test_leaving_a_build_cancels_it(yard: Lab, tmp_path: Path) -> None:
    text = f"FROM {BASE}\nLABEL {LABEL}={yard.mark}\nRUN sleep 1000\nRUN true\n"

    async def flow(engine: Engine) -> None:
        reference = yard.reference()
        build = engine.build(BuildRequest(tmp_path, text, reference))
        async for progress in build:
            if progress.line == 3:
                break
        # That it ends on the engine as well is shown where the engine's processes can be seen.
        await build.aclose()  # type: ignore[attr-defined]
        assert await engine.image(reference) is None

    yard.run(flow)


def test_a_build_in_a_cancelled_task_is_cancelled(yard: Lab, tmp_path: Path) -> None:
    text = f"FROM {BASE}\nLABEL {LABEL}={yard.mark}\nRUN sleep 1000\n"

    async def flow(engine: Engine) -> None:
        if isinstance(engine, FakeEngine):
            pytest.skip("nothing takes time in the fake")
        begun = asyncio.Event()

        async def build() -> None:
            async for progress in engine.build(BuildRequest(tmp_path, text, yard.reference())):
                if progress.line == 3:
                    begun.set()

        task = asyncio.create_task(build())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 60)

    yard.run(flow)


def test_logs_of_a_container(lab: Lab) -> None:
    async def flow(engine: Engine) -> None:
        made = await lab.running()
        assert await engine.logs(made.name) == ""

    lab.run(flow)


@pytest.mark.parametrize("place", [{"node": "n2"}, {"constraints": ("node.labels.room==2",)}])
def test_an_engine_with_one_machine_takes_no_place(lab: Lab, place: dict[str, object]) -> None:
    async def flow(engine: Engine) -> None:
        if isinstance(engine, SwarmEngine):
            # It has several; where it starts is shown where they are.
            await engine.create(lab.spec(**place))
            return
        with pytest.raises(EngineError, match="has one machine") as refusal:
            await engine.create(lab.spec(**place))
        assert refusal.value.remedy
        assert await engine.containers({LABEL: lab.mark}) == []

    lab.run(flow)


def test_the_fake_says_that_it_has_no_room() -> None:
    async def flow() -> None:
        engine = FakeEngine(nodes=("n1", "n2"), gpus=2)
        for number, count in enumerate((2, 1, 2)):
            await engine.create(ContainerSpec(f"c{number}", BASE, ("sleep",), gpus=GpuRequest(count)))
        await engine.start("c0")
        await engine.start("c1")
        with pytest.raises(NoRoomError, match="insufficient resources on 2 nodes"):
            await engine.start("c2")
        found = [await engine.container(f"c{number}") for number in range(3)]
        assert [(one.state, one.node) for one in found if one] == [
            ("running", "n1"),
            ("running", "n2"),
            ("created", ""),
        ]
        await engine.stop("c0", 1)
        await engine.start("c2")
        last = await engine.container("c2")
        assert last is not None
        assert (last.state, last.node) == ("running", "n1")

    asyncio.run(flow())


def test_the_fake_loses_a_node() -> None:
    async def flow() -> None:
        engine = FakeEngine(nodes=("n1", "n2"))
        made = await engine.create(ContainerSpec("c", BASE, ("sleep",)))
        await engine.start("c")
        await engine.write_files("c", [ContainerFile(PurePosixPath("/x"), b"x", 0, 0, 0o644)])
        stream = await engine.exec("c", ["sleep", "1000"])
        engine.lose_node("n1")
        assert await everything(stream) == b""
        await stream.close()
        lost = await engine.container("c")
        assert lost is not None
        assert (lost.id, lost.state, lost.node) == (made.id, "dead", "n1")
        assert "n1 does not answer" in lost.problem
        await engine.start("c")
        again = await engine.container(made.id)
        assert again is not None
        assert (again.id != made.id, again.name, again.state) == (True, "c", "running")
        assert (again.node, again.problem) == ("n2", "")
        assert await engine.read_file("c", PurePosixPath("/x")) is None
        await engine.close()

    asyncio.run(flow())


def test_the_fake_fails_once_when_told(tmp_path: Path) -> None:
    async def flow() -> None:
        engine = FakeEngine()
        engine.fail_next("image", EngineError("no"))
        with pytest.raises(EngineError, match="no"):
            await engine.image(BASE)
        assert await engine.image(BASE) is not None
        engine.fail_next("build", EngineError("no"))
        with pytest.raises(EngineError, match="no"):
            await built(engine, BuildRequest(tmp_path, f"FROM {BASE}\n", "x"))
        with pytest.raises(ValueError, match="no method"):
            engine.fail_next("biuld", EngineError("no"))

    asyncio.run(flow())


def test_the_fake_ends_main_processes(tmp_path: Path) -> None:
    async def flow() -> None:
        engine = FakeEngine()
        made = await engine.create(ContainerSpec("x", BASE, ("sleep",)))
        await engine.start("x")
        stream = await engine.exec("x", ["sleep", "1000"])
        engine.end_main_process("x", 137, oom_killed=True)
        assert await everything(stream) == b""
        assert await stream.exit_code() == 137
        found = await engine.container(made.id)
        assert found is not None
        assert (found.state, found.exit_code, found.oom_killed) == ("exited", 137, True)

    asyncio.run(flow())
