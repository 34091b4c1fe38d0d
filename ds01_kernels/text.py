"""Makes text of builds, packages and containers safe to show."""

from __future__ import annotations

import re

# ECMA-48: a control sequence is CSI, parameters, intermediates, one final byte; SGR (final byte m) sets
# colours.
_COLOUR = r"\x1b\[[0-9;:]*m"
_SEQUENCE = re.compile(
    rf"(?P<colour>{_COLOUR})"
    r"|\x1b\[[0-?]*[ -/]*[@-~]"  # other control sequences
    r"|\x1b[\]PX^_][^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c|$)"  # OSC, DCS, SOS, PM, APC up to their end
    r"|\x1b[ -/]*[0-~]?"  # two-character escapes
    r"|[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f-\x9f]"  # C0 without tab, newline and return; DEL; C1
    r"|[\u200e\u200f\u202a-\u202e\u2066-\u2069]"  # direction overrides make text read as something else
)


def clean(text: str, *, colours: bool = True) -> str:
    """`text` without control characters and sequences; newlines and tabs stay, colours too when asked for.

    A carriage return, by which progress bars overwrite their line, keeps only what was written last.
    """
    kept = _SEQUENCE.sub(lambda match: (match["colour"] or "") if colours else "", text)
    lines = kept.replace("\r\n", "\n").split("\n")
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)


def shown(text: str, most: int = 200) -> str:
    """A stranger's text on one line: `most` characters of it, and nothing that moves a cursor or the eye."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text[:most])
