"""``docs/causes.md``: what the first cell says when a kernel does not start, or ended."""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "causes.md"

#: What every sentence about a kernel that has ended ends with.
ENDED = "Its variables are gone."

_ON_RECORD = (
    "What was installed there at run time is on record: `jupyter ds01 restore PROJECT` installs it, a "
    "rebuild puts it into the Dockerfile."
)

#: What is said, and what to do, where containers are on Docker Swarm: the tests of that hold it to this.
ON_SWARM = {
    "no room on the nodes": (
        "No node of the swarm takes thesis._.1000 now: no suitable node (insufficient resources on 3 nodes). "
        "It wants 1 GPU.",
        "It starts as soon as there is room. Interrupt the kernel to wait no longer.",
    ),
    "the node was lost": (
        "The previous kernel was ended because its container's node was lost (the node n2 does not answer: "
        f"heartbeat failure). {ENDED}",
        f"This kernel runs in a new container, on a node that answers. {_ON_RECORD}",
    ),
    "the node was drained": (
        "The previous kernel was ended because its container may not run on its node any more (the node n2 "
        f"takes nothing new: its availability is drain). {ENDED}",
        f"This kernel runs in a new container, on another node. {_ON_RECORD}",
    ),
}

HEAD = """\
# Why a kernel does not start, or ended

What the first cell says, and what helps. `tests/test_causes.py` makes this page of what real sessions say.

"""


def row_of(cause: str, says: str, do: str) -> str:
    return f"| {cause} | {says} | {do} |".replace("\n", " ")


def page(rows: dict[str, tuple[str, str]]) -> str:
    def table(title: str, kept: bool) -> str:
        lines = [row_of(cause, says, do) for cause, (says, do) in rows.items() if (ENDED in says) is kept]
        return "\n".join(
            [f"## {title}\n", "| cause | the notebook says | what to do |", "| --- | --- | --- |", *lines]
        )

    return f"{HEAD}{table('When a kernel does not start', False)}\n\n{table('When a kernel ended', True)}\n"
