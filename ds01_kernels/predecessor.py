"""What the next kernel process is to tell of the one before it."""

from __future__ import annotations

from .agent_client import KernelProcess
from .exits import told
from .explaining import ExplainingKernel

Process = KernelProcess | ExplainingKernel


class Predecessor:
    """The process that runs now, as the one that follows it will see it.

    An end that nobody has asked for gives a `notice`, one line. It is kept until a cell has said it: clients
    restart a kernel once more after Jupyter has done so.
    """

    def __init__(self) -> None:
        self.notice = ""
        self._process: Process | None = None
        self._told_to_end: Process | None = None

    def is_now(self, process: Process) -> None:
        self._process = process

    def is_told_to_end(self) -> None:
        """Jupyter asks for its end. What has ended before has done so by itself."""
        if self._process is not None and self._process.exit is None:
            self._told_to_end = self._process

    def was_told(self, process: Process) -> bool:
        return process is self._told_to_end

    def judge(self) -> None:
        """Another process is to follow: settle what that one has to say."""
        process, self._process = self._process, None
        if isinstance(process, ExplainingKernel):
            self.notice = process.notice
        elif process is not None:
            if process.exit is not None and not self.was_told(process):
                self.notice = told(process.exit).sentence
            elif process.exit is None or process.exit.heard:
                self.notice = ""
