"""What a zygote does to its memory is seen by nobody but whoever counts pages."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

from test_agent import Site, run, site
from test_spares import roomy, with_spare

__all__ = ["roomy", "site"]

#: Of a process: kB that it shares with nobody.
PRIVATE = (
    "sum(int(line.split()[1]) for line in open('/proc/self/smaps_rollup') if line[:14] == 'Private_Dirty:')"
)

#: The files of all modules, as a kernel has listed them when it was made, and what else there is now.
MISSED = """
import sys
kernel = get_ipython().kernel
files = {m.__file__ for m in sys.modules.values() if getattr(m, "__file__", None)}
arranged = len(sys.modules["ds01_agent.sharing"]._files)
listed, missed = len(kernel._kernel_modules), sorted(files - set(kernel._kernel_modules))
"""

#: An error deep in code that was moved.
FAILURE = """
import json, traceback
try:
    json.dumps({1: 2}, cls=lambda **_: 1 / 0)
except ZeroDivisionError as error:
    said = [(frame.name, frame.lineno, frame.line) for frame in traceback.extract_tb(error.__traceback__)]
"""


def python(script: str, **env: str) -> str:
    """What an interpreter prints that runs `script`: the one of the tests is to stay as it is."""
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={"PATH": "/usr/bin:/bin", **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_modules_functions_and_their_order_stay() -> None:
    said = python("""
        import sys, json, logging
        from ds01_kernels.agent import sharing

        def add(one, two=2, *more):
            return one + two + sum(more)

        def counter():
            count = 0
            def up():
                nonlocal count
                count += 1
                return count
            return up

        up = counter()
        assert up() == 1
        functions = [add, json.dumps, logging.getLogger, logging.Logger.info]
        codes = [function.__code__ for function in functions]
        before = list(sys.modules.items())
        sharing.arrange([(function.__module__, function.__code__.co_qualname) for function in functions])
        after = list(sys.modules.items())
        assert [name for name, _ in after] == [name for name, _ in before]
        assert all(one is other for (_, one), (_, other) in zip(before, after))
        for function, code in zip(functions, codes):
            assert function.__code__ is not code
            assert function.__code__ == code
            assert hash(function.__code__) == hash(code)
        assert (add(1), add(1, 3, 5), up(), up(), json.dumps({"a": [1]})) == (3, 9, 2, 3, '{"a": [1]}')
        assert add.__code__.co_filename == codes[0].co_filename
        import json.tool, json
        assert sys.modules["json"] is json
        del sys.modules["json.tool"]
        import json.tool
        assert "json.tool" in sys.modules
        print("well")
    """)
    assert said == "well\n"


def test_copies_lie_side_by_side() -> None:
    said = python("""
        import sys
        from ds01_kernels.agent import sharing
        names = list(sys.modules)
        sharing.arrange(())
        pages = {id(name) // 4096 for name in sys.modules}
        size = sum(map(sys.getsizeof, sys.modules))
        print(len({id(name) // 4096 for name in names}), len(pages), size // 4096)
    """)
    before, after, least = map(int, said.split())
    assert after < before
    assert after <= 4 * least + 8


def test_the_files_of_modules_are_those_that_a_kernel_would_find() -> None:
    said = python("""
        import sys
        import ipykernel.ipkernel as ipkernel
        from ds01_kernels.agent import sharing

        def found():
            sys = ipkernel.sys
            return [m.__file__ for m in sys.modules.copy().values() if hasattr(m, "__file__") and m.__file__]

        with sharing.files_at_hand():
            assert ipkernel.sys is sys, "nothing was gathered"
        sharing.arrange(())
        import colorsys, wave
        expected = found()
        with sharing.files_at_hand():
            assert ipkernel.sys is not sys
            assert found() == expected
            assert ipkernel.sys.version == sys.version
            assert ipkernel.sys.modules["wave"] is wave
            assert "wave" in ipkernel.sys.modules and "nothing" not in ipkernel.sys.modules
            assert list(ipkernel.sys.modules) == list(sys.modules)
            assert len(ipkernel.sys.modules) == len(sys.modules)
            assert ipkernel.sys.modules.get("nothing", 1) == 1
        assert ipkernel.sys is sys
        assert expected[-1] == wave.__file__
        try:
            with sharing.files_at_hand():
                raise ValueError
        except ValueError:
            assert ipkernel.sys is sys
        print("well")
    """)
    assert said == "well\n"


def test_a_rehearsal_leaves_nothing_and_reads_nothing_of_the_users(tmp_path: Path) -> None:
    startup = tmp_path / ".ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    for path in (startup / "00.py", tmp_path / "startup.py"):
        path.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    before = sorted(tmp_path.rglob("*"))
    (temporary := tmp_path / "t").mkdir()
    said = python(
        """
        import os, socket
        import ipykernel.kernelapp
        from ds01_kernels.agent import rehearsal
        ours, theirs = socket.socketpair()
        threads = os.listdir("/proc/self/task")
        descriptors = os.listdir("/proc/self/fd")
        called = rehearsal.called(ours)
        names = {name for module, name in called}
        expected = {"IPKernelApp.init_kernel", "Kernel.kernel_info_request", "Kernel.execute_request"}
        assert expected <= names and "Kernel.shutdown_request" not in names
        theirs.send(b"F")
        assert rehearsal.called(ours) is None, "somebody wants a kernel"
        assert os.listdir("/proc/self/task") == threads and os.listdir("/proc/self/fd") == descriptors
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            print("well")
        """,
        HOME=str(tmp_path),
        TMPDIR=str(temporary),
        PYTHONSTARTUP=str(tmp_path / "startup.py"),
    )
    assert said == "well\n"
    assert not list(temporary.iterdir())
    temporary.rmdir()
    assert sorted(tmp_path.rglob("*")) == before


def test_where_there_can_be_none_nothing_is_known(tmp_path: Path) -> None:
    """A folder that sockets cannot be in, a configuration: what ran until then is known, and it ends."""
    config = tmp_path / "etc"
    config.mkdir()
    (config / "ipython_config.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    (deep := tmp_path / ("d" * 120)).mkdir()
    script = """
        import socket
        import ipykernel.kernelapp
        from ds01_kernels.agent import rehearsal
        ours, theirs = socket.socketpair()
        print(len(rehearsal.called(ours)) > 0)
    """
    assert python(script, HOME=str(tmp_path), TMPDIR=str(deep)) == "True\n"
    assert not list(deep.iterdir())


def test_a_kernel_knows_the_files_of_its_modules_and_shares_its_memory(site: Site, roomy: Path) -> None:
    async def work() -> None:
        agent = await site.connect(spares=1)
        spare = await with_spare(site, agent)
        own = await site.kernel(agent, env={"PYTHONHASHSEED": "1"})
        assert own.how == "start"
        for one in (spare, own):
            await site.run(one, "1 + 1")
        shares, alone = [int(await site.run(one, "", PRIVATE)) for one in (spare, own)]
        assert shares < 0.45 * alone, f"{shares} kB of {alone} kB"
        found = await site.run(spare, MISSED, "(listed, arranged, missed)")
        listed, arranged, missed = ast.literal_eval(found)
        assert listed >= arranged > 300
        assert len(missed) < 30, "no more than what only a cell imports"
        shown = [await site.run(one, FAILURE, "said") for one in (spare, own)]
        assert shown[0] == shown[1]
        assert "'dumps'" in shown[0]
        await agent.close()

    run(site, work)
