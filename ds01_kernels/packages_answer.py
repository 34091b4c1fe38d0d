"""What REST and ``packages --json`` say of a project's packages."""

from __future__ import annotations

from typing import Any

from .drifts import Look


def packages_answer(look: Look) -> dict[str, Any]:
    """``{python, running, packages, broken, drift, lost}``; of a container that does not run, its image's
    packages."""
    installed = look.installed or look.image
    return {
        "python": installed.python if installed else None,
        "running": look.installed is not None,
        "packages": [package.as_json() for package in installed.packages] if installed else [],
        "broken": [{"path": one.path, "reason": one.reason} for one in installed.broken] if installed else [],
        "drift": look.drift.as_json(),
        "lost": look.lost.as_json(),
    }
