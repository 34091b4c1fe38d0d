"""What the command line prints for programs and for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

from .text import clean


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=None if not sys.stdout.isatty() else 2))


def print_table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    table = [header, *(tuple(clean(cell, colours=False) for cell in row) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
