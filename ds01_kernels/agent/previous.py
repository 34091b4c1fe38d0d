"""What became of the kernel process before this one: said once, above the output of the first cell."""

from __future__ import annotations

import os
from typing import Any


def announce(shell: Any, path: str) -> None:
    """Let `shell` (IPython's, or None) say the sentence in the file `path` at the first cell that is run.

    The file goes with that, by which the agent sees whether it was said.
    """
    if shell is None:
        return

    def tell(info: Any) -> None:
        # Clients run code of their own too, whose output nobody sees; only cells enter the history.
        if not info.store_history:
            return
        shell.events.unregister("pre_run_cell", tell)
        try:
            with open(path, encoding="utf-8") as file:
                sentence = file.read()
            os.remove(path)
        except OSError:
            return
        # Not on a stream, which some take for output of the code itself.
        shell.display_pub.publish({"text/plain": sentence})

    shell.events.register("pre_run_cell", tell)
