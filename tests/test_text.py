"""Text from builds and containers, made safe to show."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds01_kernels.text import clean


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m"),
        ("\x1b[2J\x1b[Hgone", "gone"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]52;c;Y29weQ==", ""),
        ("10%\r50%\r100%\n", "100%\n"),
        ("a\r\nb\r\n", "a\nb\n"),
        ("bell\x07 back\x08 del\x7f c1\x9b31m", "bell back del c131m"),
        ("abc\u202edef", "abcdef"),
    ],
)
def test_cleaning(text: str, shown: str) -> None:
    assert clean(text) == shown


def test_colours_can_go_too() -> None:
    assert clean("\x1b[1;31mred\x1b[0m", colours=False) == "red"


@given(st.text())
def test_no_control_character_is_left_but_in_colours(text: str) -> None:
    left = re.sub(r"\x1b\[[0-9;:]*m", "", clean(text))
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", left)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", clean(text, colours=False))


@given(st.text())
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    assert clean(clean(text)) == clean(text)
