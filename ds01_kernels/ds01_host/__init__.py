"""Beside an installation of DS01, whose commands make and remove the containers of this machine.

There ``container-deploy`` and ``container-retire`` account for GPUs and set the labels that its enforcement
relies on, and so does the ``docker`` of the PATH for whatever else makes or changes a container. `Ds01Engine`
is an engine that has them do it; who talks to it need not know. What they make is known by the rule in
`deployed`, and what DS01 says of a container that it has ended is read in `events`.

https://github.com/hertie-data-science-lab/ds01-infra
"""

from __future__ import annotations

from .commands import DEPLOY, RETIRE, Commands, find_commands
from .deployed import LABEL_DEPLOYED
from .engine import Ds01Engine
from .events import why_ended

__all__ = [
    "DEPLOY",
    "LABEL_DEPLOYED",
    "RETIRE",
    "Commands",
    "Ds01Engine",
    "find_commands",
    "why_ended",
]
