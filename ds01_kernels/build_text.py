"""What a person reads of a build, in a terminal, a log or a cell: a heading for each step, and its output."""

from __future__ import annotations

from .engine import BuildProgress

_MOST_OF_A_NAME = 200
# Seconds from which it is worth a line how long a step took.
_LONG = 1.0


class BuildText:
    """One build; `of` takes its values in their order."""

    def __init__(self) -> None:
        self._shown = (0, "")
        self._is_line_open = False

    def of(self, value: BuildProgress) -> str:
        """The text that this value adds; it is as clean as what the build printed."""
        text = self._heading(value) + value.log
        if value.seconds is not None and value.seconds >= _LONG:
            text += self._line_end(text) + f"{_place(value)}took {value.seconds:.1f} s\n"
        if text:
            self._is_line_open = not text.endswith("\n")
        return text

    def _heading(self, value: BuildProgress) -> str:
        here = (value.step, value.name)
        if not value.name or value.image_id or here == self._shown:
            return ""
        self._shown = here
        # A command of many lines is known by its first.
        name = value.name.strip().split("\n")[0]
        short = name if len(name) <= _MOST_OF_A_NAME else name[: _MOST_OF_A_NAME - 1] + "…"
        return self._line_end("") + f"{_place(value)}{short}{' (cached)' if value.cached else ''}\n"

    def _line_end(self, before: str) -> str:
        return "\n" if (not before.endswith("\n") if before else self._is_line_open) else ""


def _place(value: BuildProgress) -> str:
    return f"[{value.step}/{value.steps}] " if value.steps else ""
