"""What a kernel process does: in the zygote's child after the fork, or in an interpreter of its own."""

import ctypes
import os
import signal
import socket
import sys
import time

#: Variables that the interpreter or the loader read once, when the process starts: a fork cannot apply them.
START_BOUND = ("PYTHON", "LD_", "LC_", "MALLOC_", "GLIBC_")
START_BOUND_NAMES = ("LANG", "LANGUAGE")

ADOPTION_LIMIT = 5.0
_PR_SET_PDEATHSIG = 1


def is_start_bound(name):
    """Whether a change of that variable needs a new interpreter."""
    return name.startswith(START_BOUND) or name in START_BOUND_NAMES


def main(request, notify_fd):
    """The ordinary start: this interpreter was made for one kernel."""
    at = 0 if request["first"] else len(sys.path)
    sys.path[at:at] = request["path"]
    die_with(request["agent"])
    run(request, socket.socket(fileno=notify_fd))


def run(request, notify):
    """Be the kernel that `request` describes until it ends.

    `notify` is a sequenced-packet socket to the agent: it gets the kernel's id when the five sockets are bound.
    """
    _settle(request)
    from ipykernel.kernelapp import IPKernelApp

    # Process 1 as the parent to watch means none: the agent watches, and the note on stopping by hand is left out.
    own = ["-f", request["connection_file"], "--IPKernelApp.parent_handle=1"]
    sys.argv = ["ipykernel_launcher", *own, *request["arguments"]]
    app = IPKernelApp.instance()
    app.initialize(sys.argv[1:])
    notify.send(request["kernel"].encode())
    notify.close()
    app.start()


def die_with(agent):
    """Ask for SIGKILL when the agent dies (prctl(2)): nobody could reach this process any more.

    After the zygote's double fork the agent becomes the parent only when the process between is gone.
    """
    deadline = time.monotonic() + ADOPTION_LIMIT
    while os.getppid() != agent and time.monotonic() < deadline:
        time.sleep(0.0002)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != agent:
        sys.exit("the agent is gone")


def _settle(request):
    """Signals, folder and variables as a program started by a shell has them."""
    for signum in (signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP):
        signal.signal(signum, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = request["cwd"]
    while folder != "/" and not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    os.chdir(folder or "/")
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
