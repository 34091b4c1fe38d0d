"""Runs inside the container, on its Python (3.8 and up), with the standard library alone.

The modules travel as text (`loader.py`). Outside, only `protocol`, `loader` and the names in `kernel` are
used.
"""

from __future__ import annotations

from typing import Dict

#: Inside the container: the texts of this package's modules by name, put here by the loader for the next one.
loaded: Dict[str, str] = {}
