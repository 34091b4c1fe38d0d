"""Runs inside the container, on its Python (3.8 and up), with the standard library alone.

The modules travel as text (`loader.py`); outside, only `protocol` is imported.
"""

from __future__ import annotations

#: Inside the container: the texts of this package's modules by name, put here by the loader, for the next interpreter.
loaded: dict[str, str] = {}
