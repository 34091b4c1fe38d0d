"""The store of ipykernel copies: what may ask for one, where it stands, how it is filled."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import re
import stat
import subprocess
import sys
import time
import uuid
import venv
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from ds01_kernels.errors import BadInputError, Ds01Error, NoIpykernelError
from ds01_kernels.ipykernel_store import (
    MINIMUM_CURVE,
    Target,
    fetched,
    installed,
    is_sufficient,
    provide,
    store_root,
)

HERE = Target((sys.version_info[0], sys.version_info[1]), "cpython", "glibc", (2, 36), platform.machine())
OLD = Target((3, 8), "cpython", "glibc", (2, 31), "x86_64")
IMPORTS = "import ipykernel.kernelapp, debugpy, zmq, IPython"


# --- what a container may say of itself


def test_tag_is_a_directory_name() -> None:
    assert Target((3, 11), "cpython", "glibc", (2, 36), "x86_64").tag == "cp311-glibc2.36-x86_64"
    assert Target((3, 8), "cpython", "musl", (1, 2), "aarch64").tag == "cp38-musl1.2-aarch64"


@pytest.mark.parametrize(
    "change",
    [
        {"version": (3, 7)},
        {"version": (3, 15)},
        {"version": (2, 7)},
        {"version": (3, "11")},
        {"version": "3.11"},
        {"version": [3, 11]},
        {"version": (3, 11, 2)},
        {"version": (3, True)},
        {"version": (3, 11.0)},
        {"implementation": "pypy"},
        {"implementation": "cpython\n"},
        {"libc": "../../etc"},
        {"libc": ["glibc"]},
        {"libc_version": (2, 4)},
        {"libc_version": (3, 0)},
        {"libc_version": (2, 10**9)},
        {"libc_version": (1, 2)},
        {"machine": "x86_64/../.."},
        {"machine": "armv7l"},
        {"machine": "x" * 100_000 + "\x1b[2J"},
    ],
)
def test_hostile_target_is_refused_in_a_sentence(change: dict[str, object]) -> None:
    good = {"version": (3, 11), "implementation": "cpython", "libc": "glibc", "libc_version": (2, 36)}
    with pytest.raises(BadInputError) as caught:
        Target(**{**good, "machine": "x86_64", **change})  # type: ignore[arg-type]
    assert "Dockerfile" in caught.value.sentence
    assert caught.value.sentence.isprintable()
    assert len(caught.value.sentence) < 300


anything = st.one_of(st.text(), st.integers(), st.booleans(), st.none(), st.floats(), st.binary())
pairs = st.tuples(st.integers(0, 20) | anything, st.integers(0, 120) | anything)


@given(
    st.tuples(
        pairs | anything,
        st.just("cpython") | anything,
        st.sampled_from(["glibc", "musl"]) | anything,
        pairs | anything,
        st.sampled_from(["x86_64", "aarch64"]) | anything,
    )
)
def test_every_accepted_target_has_a_safe_tag(values: tuple[object, ...]) -> None:
    try:
        target = Target(*values)  # type: ignore[arg-type]
    except BadInputError:
        return
    assert re.fullmatch(r"cp3\d{1,2}-(glibc2|musl1)\.\d{1,2}-(x86_64|aarch64)", target.tag)


def test_platforms_run_from_the_newest_to_the_oldest() -> None:
    assert Target((3, 11), "cpython", "glibc", (2, 18), "aarch64").platforms == [
        "manylinux_2_18_aarch64",
        "manylinux_2_17_aarch64",
        "manylinux2014_aarch64",
    ]
    old = Target((3, 11), "cpython", "glibc", (2, 28), "x86_64").platforms
    assert old[0] == "manylinux_2_28_x86_64"
    assert old[-2:] == ["manylinux_2_5_x86_64", "manylinux1_x86_64"]
    musl = Target((3, 11), "cpython", "musl", (1, 2), "x86_64").platforms
    assert musl == ["musllinux_1_2_x86_64", "musllinux_1_1_x86_64", "musllinux_1_0_x86_64"]


def test_wheel_tags_are_those_that_the_target_loads() -> None:
    tags = {str(tag) for tag in Target((3, 9), "cpython", "glibc", (2, 31), "x86_64").wheel_tags}
    assert {"cp39-cp39-manylinux_2_31_x86_64", "cp38-abi3-manylinux2014_x86_64", "py3-none-any"} <= tags
    assert tags.isdisjoint({"cp39-cp39-manylinux_2_34_x86_64", "cp310-abi3-manylinux2014_x86_64"})
    assert not any(tag.endswith("-linux_x86_64") for tag in tags)


@pytest.mark.parametrize(
    ("version", "plain", "encrypted"),
    [
        ("7.3.0", True, True),
        ("8.0", True, True),
        ("7.2.0", True, False),
        ("6.0.3", True, False),
        ("6.0.2", False, False),
        ("5.5.6", False, False),
        ("", False, False),
        ("six", False, False),
        ("1" * 100_000, False, False),
    ],
)
def test_is_sufficient(version: str, plain: bool, encrypted: bool) -> None:
    assert is_sufficient(version, curve=False) is plain
    assert is_sufficient(version, curve=True) is encrypted


# --- where it stands


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data" / "ds01-kernels"


@pytest.mark.parametrize("umask", [0o077, 0o022, 0o002, 0o000])
def test_store_root_is_writable_by_us_alone_whatever_the_umask(data: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        root = store_root()
    finally:
        os.umask(before)
    assert root == data / "ipykernel"
    assert stat.S_IMODE(root.stat().st_mode) == 0o755
    assert stat.S_IMODE(root.parent.stat().st_mode) == 0o700
    assert store_root() == root


def test_store_root_ignores_a_relative_data_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", "here")
    assert store_root() == tmp_path / ".local/share/ds01-kernels/ipykernel"


def test_store_root_refuses_a_symlink(data: Path, tmp_path: Path) -> None:
    data.mkdir(parents=True)
    (data / "ipykernel").symlink_to(tmp_path)
    with pytest.raises(Ds01Error, match="not a directory"):
        store_root()


def test_store_root_refuses_a_file(data: Path) -> None:
    data.mkdir(parents=True)
    (data / "ipykernel").write_text("")
    with pytest.raises(Ds01Error, match="not a directory"):
        store_root()


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o1777])
def test_store_root_refuses_what_others_can_write(data: Path, mode: int) -> None:
    store_root().chmod(mode)
    with pytest.raises(Ds01Error, match="Others can write"):
        store_root()
    with pytest.raises(Ds01Error, match="Others can write"):
        asyncio.run(provide(HERE, root=data / "ipykernel"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_store_root_refuses_the_directory_of_another_user(data: Path) -> None:
    os.chown(store_root(), 12345, 12345)
    with pytest.raises(Ds01Error, match="belongs to another user"):
        store_root()


def test_store_root_below_a_file_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    with pytest.raises(Ds01Error, match="cannot be created"):
        store_root()


# --- from the server's own distributions

PURE = "py3-none-any"


def install(
    site: Path,
    name: str,
    version: str = "7.3.0",
    *,
    requires: Sequence[str] = (),
    tag: str = PURE,
    record: bool = True,
    direct_url: dict[str, object] | None = None,
    more: Sequence[str] = (),
) -> Path:
    """Lay a distribution out as an installer does; return its folder of metadata."""
    package, info = site / name, site / f"{name}-{version}.dist-info"
    package.mkdir(parents=True)
    info.mkdir()
    (package / "__init__.py").write_text(f"version = {version!r}\n")
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    (info / "METADATA").write_text("\n".join([*lines, *(f"Requires-Dist: {each}" for each in requires), ""]))
    (info / "WHEEL").write_text(f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
    if direct_url is not None:
        (info / "direct_url.json").write_text(json.dumps(direct_url))
    if record:
        entries = [f"{name}/__init__.py", f"{info.name}/METADATA", f"{info.name}/WHEEL", *more]
        (info / "RECORD").write_text("".join(f"{entry},,\n" for entry in entries))
    return info


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return tmp_path / "site-packages"


def fitting(site: Path, target: Target = HERE) -> list[str]:
    return sorted(each.name for each in installed.fitting(target, Version("6.29"), [str(site)]))


def test_closure_follows_markers_and_ignores_extras(site: Path) -> None:
    install(site, "ipykernel", requires=["zmq>=1", "gone; sys_platform == 'win32'", "gone; extra == 'test'"])
    install(site, "debugpy")
    install(
        site,
        "zmq",
        requires=["traitlets[test]>7; python_version >= '3.8'"],
        tag="cp36-abi3-manylinux2014_" + HERE.machine,
    )
    install(site, "traitlets", requires=["IPykernel"])
    install(site, "unrelated")
    assert fitting(site) == ["debugpy", "ipykernel", "traitlets", "zmq"]


@pytest.mark.parametrize(
    ("ipykernel", "reason"),
    [
        ({"record": False}, "no RECORD"),
        ({"direct_url": {"url": "file:///x", "dir_info": {"editable": True}}}, "editable"),
        ({"tag": "cp311-cp311-linux_x86_64"}, "built for"),
        ({"tag": "cp311-cp311-manylinux_2_99_x86_64"}, "built for"),
        ({"tag": "cp37-cp37m-manylinux2014_x86_64"}, "built for"),
        ({"version": "6.28.0"}, "not >=6.29|older"),
        ({"requires": ["missing"]}, "missing is not installed"),
        ({"requires": ["debugpy>100"]}, "debugpy is not >100"),
        ({"requires": ["???"]}, "metadata"),
    ],
)
def test_what_cannot_be_copied_whole_does_not_fit(
    site: Path, ipykernel: dict[str, object], reason: str
) -> None:
    install(site, "ipykernel", **ipykernel)  # type: ignore[arg-type]
    install(site, "debugpy")
    with pytest.raises(installed.DoesNotFitError, match=reason):
        fitting(site)


def test_other_interpreters_do_not_fit(site: Path) -> None:
    install(site, "ipykernel")
    install(site, "debugpy")
    assert fitting(site) == ["debugpy", "ipykernel"]
    other = "aarch64" if HERE.machine == "x86_64" else "x86_64"
    for target in (OLD, Target(HERE.version, "cpython", "glibc", (2, 36), other)):
        with pytest.raises(installed.DoesNotFitError, match="another version or architecture"):
            fitting(site, target)


def test_a_wheel_for_glibc_does_not_fit_musl(site: Path) -> None:
    install(site, "ipykernel", tag=f"cp36-abi3-manylinux2014_{HERE.machine}")
    install(site, "debugpy")
    with pytest.raises(installed.DoesNotFitError, match="built for"):
        fitting(site, Target(HERE.version, "cpython", "musl", (1, 2), HERE.machine))


def test_copy_takes_what_lies_in_site_packages_only(site: Path, tmp_path: Path) -> None:
    outside = tmp_path / "secret.py"
    outside.write_text("secret")
    listed = [
        "../secret.py",
        str(outside),
        "ipykernel/../../secret.py",
        "ipykernel/__pycache__/a.pyc",
        "evil.pth",
    ]
    install(site, "ipykernel", more=[*listed, "ipykernel/deep/linked.py"])
    install(site, "debugpy")
    (site / "evil.pth").write_text("import os")
    (site / "ipykernel" / "deep").mkdir()
    (site / "ipykernel" / "deep" / "linked.py").symlink_to(outside)
    installed.copy(installed.fitting(HERE, Version("6.29"), [str(site)]), tmp_path / "copy")
    copied = {
        str(path.relative_to(tmp_path / "copy"))
        for path in (tmp_path / "copy").rglob("*")
        if not path.is_dir()
    }
    assert copied == {
        *("ipykernel/__init__.py", "ipykernel-7.3.0.dist-info/METADATA", "ipykernel-7.3.0.dist-info/WHEEL"),
        *("debugpy/__init__.py", "debugpy-7.3.0.dist-info/METADATA", "debugpy-7.3.0.dist-info/WHEEL"),
        "ipykernel/deep/linked.py",
    }
    assert not (tmp_path / "copy" / "ipykernel/deep/linked.py").is_symlink()


def test_copy_of_a_damaged_installation_does_not_fit(site: Path, tmp_path: Path) -> None:
    install(site, "ipykernel", more=["ipykernel/lost.py"])
    install(site, "debugpy")
    with pytest.raises(installed.DoesNotFitError, match=r"ipykernel/lost\.py"):
        installed.copy(installed.fitting(HERE, Version("6.29"), [str(site)]), tmp_path / "copy")


# --- the lock files


@pytest.mark.parametrize("minor", range(8, 15))
def test_lock_files_are_pinned_by_hash_and_name_no_index(minor: int) -> None:
    text = (files("ds01_kernels.ipykernel_store") / "locks" / f"py3.{minor}.txt").read_text()
    assert "://" not in text
    assert ";" not in text
    assert "--index" not in text
    requirements = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", "").splitlines()
    pins = {}
    for line in requirements:
        match = re.fullmatch(r"([a-z0-9-]+)==(\S+)((?: +--hash=sha256:[0-9a-f]{64})+) *", line)
        assert match, line
        pins[match[1]] = Version(match[2])
    assert {"ipykernel", "debugpy", "pyzmq", "ipython"} <= set(pins)
    assert (pins["ipykernel"] >= MINIMUM_CURVE) is (minor >= 10)


def test_encryption_is_refused_for_pythons_that_have_no_such_ipykernel(tmp_path: Path) -> None:
    with pytest.raises(NoIpykernelError, match=r"7\.3\.0: there is none for Python 3\.8"):
        asyncio.run(provide(OLD, curve=True, root=tmp_path / "store"))


# --- when it cannot be filled


@pytest.fixture
def no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_INDEX_URL", "http://me:s3cret@127.0.0.1:9/simple")


@pytest.mark.usefixtures("no_index")
def test_without_an_index_the_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NoIpykernelError) as caught:
        asyncio.run(provide(OLD, root=tmp_path / "store"))
    sentence = caught.value.sentence
    assert "no usable ipykernel" in sentence
    assert "No matching distribution found for asttokens" in sentence
    assert "Add `ipykernel` to the project's Dockerfile" in sentence
    assert "package index" in sentence
    assert "s3cret" not in sentence
    assert "\n" not in sentence
    assert list((tmp_path / "store").iterdir()) == []


@pytest.mark.usefixtures("no_index")
def test_nothing_is_imported_from_the_directory_the_server_runs_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trap = tmp_path / "project"
    trap.mkdir()
    for name in ("pip", "random", "logging", "compileall"):
        (trap / f"{name}.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\n")
    monkeypatch.chdir(trap)
    with pytest.raises(NoIpykernelError):
        asyncio.run(provide(OLD, root=tmp_path / "store"))
    assert not (tmp_path / "sprung").exists()


def test_a_fill_has_a_time_limit(tmp_path: Path) -> None:
    with pytest.raises(NoIpykernelError, match=r"longer than 0\.05 seconds"):
        asyncio.run(provide(OLD, root=tmp_path / "store", timeout=0.05))
    assert list((tmp_path / "store").iterdir()) == []


def test_a_cancelled_command_ends_with_its_children(tmp_path: Path) -> None:
    code = (
        "import pathlib, subprocess; child = subprocess.Popen(['sleep', '60']);"
        "pathlib.Path('part').write_text(str(child.pid)); pathlib.Path('part').rename('pid'); child.wait()"
    )

    async def cancel() -> int:
        task = asyncio.create_task(fetched.run([sys.executable, "-c", code], cwd=tmp_path))
        while not (tmp_path / "pid").exists():
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return int((tmp_path / "pid").read_text())

    pid = asyncio.run(cancel())
    deadline = time.monotonic() + 60
    while _is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _is_alive(pid)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.usefixtures("no_index")
def test_drafts_of_crashed_fills_are_removed_after_a_day(tmp_path: Path) -> None:
    old, fresh, copy = (tmp_path / "store" / name for name in (".filling-old", ".filling-new", "cp38-kept"))
    for folder in (old, fresh, copy):
        (folder / "deep").mkdir(parents=True)
    for folder in (old, copy):
        os.utime(folder, (0, time.time() - 25 * 3600))
    with pytest.raises(NoIpykernelError):
        asyncio.run(provide(OLD, root=tmp_path / "store"))
    assert set((tmp_path / "store").iterdir()) == {fresh, copy}


# --- for real

FILL = f"""
import asyncio, pathlib, sys, time
from ds01_kernels.ipykernel_store import Target, provide
root, me = map(pathlib.Path, sys.argv[1:])
me.touch()
while not (me.parent / "go").exists():
    time.sleep(0.005)
began = time.monotonic()
name = asyncio.run(provide({HERE!r}, root=root))
print(name, time.monotonic() - began)
"""


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy for this interpreter, filled without an index by two processes that began at the same moment."""
    base = tmp_path_factory.mktemp("filled")
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9", "PIP_RETRIES": "0", "PIP_CONFIG_FILE": os.devnull}
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    variables |= {**nowhere, "PYTHONPATH": str(Path(__file__).parent.parent)}
    starts = [base / "one", base / "two"]
    fills = [
        subprocess.Popen(
            [sys.executable, "-c", FILL, str(base / "store"), str(start)],
            env=variables,
            stdout=subprocess.PIPE,
            text=True,
        )
        for start in starts
    ]
    while not all(start.exists() for start in starts):
        assert all(fill.poll() is None for fill in fills)
        time.sleep(0.01)
    (base / "go").touch()
    answers = [fill.communicate(timeout=240)[0].split() for fill in fills]
    assert [fill.returncode for fill in fills] == [0, 0]
    assert answers[0][0] == answers[1][0]
    # Both did the work: an answer from a copy that is there takes milliseconds.
    assert all(float(seconds) > 0.1 for _, seconds in answers)
    assert [path.name for path in (base / "store").iterdir()] == [answers[0][0]]
    return base / "store" / answers[0][0]


def test_a_copy_that_is_there_is_given_at_once(filled: Path) -> None:
    # In no time nothing could be filled.
    assert asyncio.run(provide(HERE, root=filled.parent, timeout=0)) == filled.name


def test_copies_can_be_read_by_all_and_written_by_us_alone(filled: Path) -> None:
    for path in [filled, *filled.rglob("*")]:
        assert not path.is_symlink()
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o644)


def test_a_copy_serves_a_bare_interpreter_and_needs_no_compiling(filled: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    code = f"""
import sys, pathlib
sys.path.append({str(filled)!r})
{IMPORTS}
modules = [m for m in list(sys.modules.values()) if str(getattr(m, "__file__", "")).startswith(sys.path[-1])]
print(ipykernel.__file__, debugpy.__file__)
sources = [m for m in modules if m.__file__.endswith(".py")]
assert len(sources) > 100
print(*[m.__file__ for m in sources if not pathlib.Path(m.__cached__).exists()])
"""
    python = tmp_path / "bare" / "bin" / "python"
    run = subprocess.run([python, "-I", "-B", "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    found, uncompiled = run.stdout.splitlines()
    assert all(Path(file).is_relative_to(filled) for file in found.split())
    assert uncompiled == ""


def test_a_kernel_of_the_copy_answers(filled: Path, tmp_path: Path) -> None:
    """The copy is complete: a kernel runs from it alone, over ipc, and its debugger is there."""
    from jupyter_client.blocking import BlockingKernelClient
    from jupyter_client.connect import write_connection_file

    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    connection = str(tmp_path / "connection.json")
    write_connection_file(connection, transport="ipc", ip=str(tmp_path / "s"), key=b"key")
    code = f"import sys; sys.path.append({str(filled)!r}); from ipykernel import kernelapp as app; "
    code += "app.launch_new_instance()"
    python = str(tmp_path / "bare" / "bin" / "python")
    kernel = subprocess.Popen([python, "-I", "-c", code, "-f", connection])
    client = BlockingKernelClient(connection_file=connection)
    client.load_connection_file()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        client.kernel_info()
        reply = client.get_shell_msg(timeout=30)
        assert reply["msg_type"] == "kernel_info_reply"
        assert "debugger" in reply["content"]["supported_features"]
        outputs: list[str] = []
        reply = client.execute_interactive(
            "import debugpy; print(6 * 7)",
            timeout=60,
            output_hook=lambda message: outputs.append(message["content"].get("text", "")),
        )
        assert reply["content"]["status"] == "ok"
        assert "42\n" in outputs
    finally:
        client.stop_channels()
        kernel.terminate()
        kernel.wait(timeout=30)


def test_pip_fills_for_another_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the user's pip is set to install elsewhere, or not at all; twice at once in one process."""
    for name in ("PIP_USER", "PIP_REQUIRE_VIRTUALENV", "PIP_DRY_RUN"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("PIP_TARGET", str(tmp_path / "elsewhere"))

    async def twice() -> list[str]:
        return await asyncio.gather(*(provide(OLD, root=tmp_path / "store") for _ in range(2)))

    names = asyncio.run(twice())
    assert names[0] == names[1]
    assert not (tmp_path / "elsewhere").exists()
    assert [path.name for path in (tmp_path / "store").iterdir()] == [names[0]]
    copy = tmp_path / "store" / names[0]
    assert (copy / "ipykernel" / "kernelapp.py").is_file()
    assert (copy / "debugpy" / "__init__.py").is_file()
    modules = [path.name for path in copy.rglob("*.so") if path.name.count(".") > 1]
    assert any(".cpython-38-" in name for name in modules)
    assert all(".cpython-38-x86_64-linux-gnu." in name or ".abi3." in name for name in modules)
    assert not any((copy / name).exists() for name in ("bin", "share", "etc"))
    assert not list(copy.rglob("*.pyc"))


@pytest.mark.engine
def test_a_copy_serves_a_container_that_cannot_write_to_it(tmp_path: Path) -> None:
    import docker

    target = Target((3, 11), "cpython", "glibc", (2, 36), HERE.machine)
    name = asyncio.run(provide(target, root=tmp_path / "store"))
    code = f"import os, sys; sys.path.append('/store/{name}'); {IMPORTS}; print(ipykernel.__file__)"
    code += "; print(os.statvfs('/store').f_flag & os.ST_RDONLY)"
    client = docker.from_env()
    try:
        for user in ("0:0", "12345:12345"):
            output = client.containers.run(
                "ds01/base:latest",
                entrypoint=["/usr/bin/python", "-I", "-c", code],
                command=[],
                user=user,
                volumes={str(tmp_path / "store"): {"bind": "/store", "mode": "ro"}},
                labels={"ds01-kernels.test": uuid.uuid4().hex},
                network_disabled=True,
                remove=True,
            )
            assert output.decode().split() == [f"/store/{name}/ipykernel/__init__.py", "1"]
    finally:
        client.close()
