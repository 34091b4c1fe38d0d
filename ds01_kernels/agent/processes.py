"""Processes of the container: starting interpreters of our own, and ending what a kernel left."""

import ctypes
import os
import signal
import subprocess

from . import loader

_PR_SET_CHILD_SUBREAPER = 36

#: In the variables of a kernel and so of every program it starts: what belongs to it can be found.
KERNEL_VARIABLE = "DS01_KERNEL"


def become_subreaper():
    """Orphans below this process become its children (prctl(2)), so that their exit codes come here."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def start_python(python, texts, module, arguments, title, **popen):
    """Run ``main(*arguments)`` of one of our modules in a new interpreter, with no file of ours in the container."""
    text = os.memfd_create("ds01", 0)
    try:
        with os.fdopen(os.dup(text), "wb") as output:
            output.write(loader.program(texts, module, arguments).encode())
        os.lseek(text, 0, os.SEEK_SET)
        popen["pass_fds"] = tuple(popen.get("pass_fds", ())) + (text,)
        command = [*python, "-c", "exec(open(%d).read()) # ds01 %s" % (text, title)]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, **popen)
    finally:
        os.close(text)


def end_kernel(kernel, pid):
    """SIGKILL to the kernel's process group, to its session, and to what it started that left both."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except OSError:
        pass
    mark = ("%s=%s" % (KERNEL_VARIABLE, kernel)).encode()
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) not in (1, os.getpid()) and _belongs(int(entry), pid, mark):
            try:
                os.kill(int(entry), signal.SIGKILL)
            except OSError:
                continue


def _belongs(process, session, mark):
    try:
        if os.getsid(process) == session:
            return True
        with open("/proc/%d/environ" % process, "rb") as variables:
            return mark in variables.read().split(b"\0")
    except OSError:
        return False


def returncode(status):
    """A status of waitpid(2) as `subprocess.Popen.returncode` has it: negative for a signal."""
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
