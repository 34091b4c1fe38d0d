"""Processes of the container: starting interpreters of our own, and ending what a kernel left."""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import signal
import subprocess
from contextlib import ExitStack, suppress
from typing import AbstractSet, Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Set

from . import loader

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

#: In the variables of a kernel and so of every program that it starts: whose it is, and whose the kernel is.
KERNEL_VARIABLE = "DS01_KERNEL"
AGENT_VARIABLE = "DS01_KERNEL_AGENT"

#: A program that forks while it is being looked for may need more than one look.
LOOKS = 10


def become_subreaper() -> None:
    """Orphans below this process become its children (prctl(2)), so that their exit codes come here."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Ask for SIGKILL when the parent dies (prctl(2)); children do not inherit that."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def mark(folder: str, env: Mapping[str, str]) -> None:
    """Let this process and its forks be known by the two variables of `env`, in which a kernel runs.

    /proc shows the variables that a program was started with (proc(5)): of a kernel that was forked, and of
    what it forks, they are the zygote's. What is mapped is inherited until another program is run, which then
    has the variables. No file stays in `folder`.
    """
    global _mark
    names = [_variable(name, env[name]).decode() for name in (AGENT_VARIABLE, KERNEL_VARIABLE)]
    # It starts without, too, and then only misses what leaves its session in a fork.
    with suppress(OSError, ValueError):
        descriptor = nameless(folder, bytes(mmap.PAGESIZE), ",".join(names))
        _mark = mmap.mmap(descriptor, mmap.PAGESIZE, access=mmap.ACCESS_READ)
        os.close(descriptor)


#: What `mark` has mapped.
_mark: Optional[mmap.mmap] = None


def start_python(
    python: Sequence[str],
    folder: str,
    texts: Dict[str, str],
    module: str,
    arguments: Sequence[Any],
    *,
    inherit: int,
    env: Dict[str, str],
    output: str = "",
) -> int:
    """Run ``main(*arguments, inherit)`` of one of our modules in an interpreter of its own; returns its pid.

    `output` is a file to append its output to; without one that goes where this process's goes. No file of
    ours stays in the container: the text is in one of `folder` whose name is removed at once. Raises
    `OSError`, and `ValueError` for variables that no process can have.
    """
    with ExitStack() as opened:
        text = nameless(folder, loader.program(texts, module, [*arguments, inherit]).encode("utf-8"))
        opened.callback(os.close, text)
        log = None
        if output:
            log = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            opened.callback(os.close, log)
        process = subprocess.Popen(
            [*python, "-c", command(text, module)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(text, inherit),
            env=env,
            cwd="/",
            start_new_session=True,
        )
    # Popen looks after children that it has not seen end when it starts the next one, and would take the exit
    # codes from the agent, which waits for every child itself.
    process.returncode = 0
    return process.pid


def command(text: int, name: str) -> str:
    """What an interpreter is to run the program on that descriptor with; `ps` shows the name."""
    return 'exec(open(%d, encoding="utf-8").read()) # ds01 %s' % (text, name)


def end_kernel(kernel: str, pid: Optional[int], others: AbstractSet[int] = frozenset()) -> None:
    """SIGKILL to the kernel's process group, to its session, and to what it started that left both.

    `others` are processes that are known to be none of these, and are not looked at.
    """
    if pid is not None:
        signal_group(pid, signal.SIGKILL)
    # Both: another agent's kernel may have the same id, where this one sees that agent's processes too.
    marks = {_variable(KERNEL_VARIABLE, kernel), _variable(AGENT_VARIABLE, identity())}
    killed: Set[int] = set()
    for _ in range(LOOKS):
        belonging = {
            process.pid
            for process in _others()
            if process.session == pid
            or (process.pid not in others and marks.issubset(_variables(process.pid)))
        }
        if belonging <= killed:
            return
        for other in belonging:
            kill(other)
        killed |= belonging


def end_orphans() -> None:
    """SIGKILL to what kernels of agents left that are no more: a killed agent could not do it."""
    name = _variable(AGENT_VARIABLE, "")
    alive: Dict[str, bool] = {}
    for process in _others():
        for variable in _variables(process.pid):
            if variable.startswith(name):
                agent = variable[len(name) :].decode("ascii", "replace")
                if agent not in alive:
                    alive[agent] = _is_alive(agent)
                if not alive[agent]:
                    kill(process.pid)


def open_files() -> Set[str]:
    """The paths of all files that the other processes hold open."""
    found: Set[str] = set()
    for process in _others():
        folder = "/proc/%d/fd" % process.pid
        with suppress(OSError):
            for descriptor in os.listdir(folder):
                with suppress(OSError):
                    found.add(os.readlink(os.path.join(folder, descriptor)))
    return found


def signal_group(pid: int, signum: int) -> None:
    """To every process of the group; nothing happens when none is left."""
    # It may just have ended, which is told elsewhere; or there is no such signal.
    with suppress(OSError, OverflowError):
        os.killpg(pid, signum)


def kill(pid: int) -> None:
    """SIGKILL; nothing happens when it is gone, or another user's."""
    with suppress(OSError):
        os.kill(pid, signal.SIGKILL)


def identity() -> str:
    """What tells this process from any other that ever runs here: its pid, its start in ticks, and the
    namespace in which the pid counts. The host sees what runs in a container too, under other pids.
    """
    return "%d-%s-%s" % (os.getpid(), _start("self"), _namespace())


def returncode(ended: os.waitid_result) -> int:
    """A result of waitid(2) as `subprocess.Popen.returncode` has it: negative for a signal."""
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


class _Process(NamedTuple):
    pid: int
    session: int


def _others() -> Iterator[_Process]:
    """What runs here beside process 1 and this one."""
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) not in (1, os.getpid()):
            fields = _stat(entry)
            if fields:
                yield _Process(int(entry), int(fields[3]))


def _is_alive(agent: str) -> bool:
    """Whether it runs; yes for one of another namespace, whose pids mean nothing here."""
    pid, _, rest = agent.partition("-")
    start, _, namespace = rest.partition("-")
    return namespace != _namespace() or (pid.isdigit() and _start(pid) == start)


def _namespace() -> str:
    """The number of this process's pid namespace (pid_namespaces(7))."""
    return os.readlink("/proc/self/ns/pid").strip("pid:[]")


def _start(pid: str) -> str:
    fields = _stat(pid)
    return fields[19] if fields else ""


def _stat(pid: str) -> Sequence[str]:
    """What follows the name in /proc/<pid>/stat (proc(5)): state, parent, group, session, ...

    Nothing for a process that has ended, reaped or not.
    """
    try:
        with open("/proc/%s/stat" % pid, errors="replace") as stat:
            fields = stat.read().rpartition(")")[2].split()
    except OSError:
        return ()
    return () if fields[:1] in ([], ["Z"], ["X"]) else fields


def _variables(pid: int) -> Sequence[bytes]:
    """Those that it was started with, or by which it is marked."""
    variables: List[bytes] = _read("/proc/%d/environ" % pid).split(b"\0")
    if not any(variable.startswith(_variable(KERNEL_VARIABLE, "")) for variable in variables):
        for marks in _MARKS.findall(_read("/proc/%d/maps" % pid)):
            variables += marks
    return variables


_MARKS = re.compile(
    (r"/(%s=[^,\s]+),(%s=[^,\s]+)" % (AGENT_VARIABLE, KERNEL_VARIABLE)).encode("ascii"),
)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _variable(name: str, value: str) -> bytes:
    return ("%s=%s" % (name, value)).encode("utf-8", "surrogateescape")


def nameless(folder: str, content: bytes, name: str = "") -> int:
    """A descriptor at the start of a file without a name. Some Pythons are built without memfd_create(2).

    `name` is the one that it had for a moment, and by which /proc tells of it.
    """
    path = os.path.join(folder, name or "text-%d-%s" % (os.getpid(), os.urandom(8).hex()))
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.remove(path)
        with os.fdopen(os.dup(descriptor), "wb") as output:
            output.write(content)
        os.lseek(descriptor, 0, os.SEEK_SET)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
