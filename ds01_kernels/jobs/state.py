"""What is known of a job: values, and their JSON for the disk and for REST alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from ..errors import BuildFailedError, Ds01Error
from ..text import clean

Kind = Literal["install", "restore", "build", "rebuild", "rollback", "deploy", "retire", "restart"]
Phase = Literal[
    "waiting", "edit", "build", "check", "swap", "restart", "done", "failed", "cancelled", "rolled-back"
]
ENDS: tuple[Phase, ...] = ("done", "failed", "cancelled", "rolled-back")

#: Characters that are kept of a step's name and of an error's sentence.
MOST_NAME = 300
MOST_MESSAGE = 4000


@dataclass(frozen=True)
class Progress:
    """Step `step` of `steps` within the phase, from 1; 0 where nothing is counted. `name`: what it does."""

    step: int = 0
    steps: int = 0
    name: str = ""


@dataclass(frozen=True)
class JobError:
    """Why a job failed; `line` is the Dockerfile's, from 1, where one of them is the reason."""

    message: str
    reason: str
    line: int | None = None

    @classmethod
    def of(cls, error: Ds01Error) -> JobError:
        line = error.line if isinstance(error, BuildFailedError) else None
        return cls(clean(error.sentence, colours=False)[:MOST_MESSAGE], error.reason, line)

    def as_json(self) -> dict[str, Any]:
        told = {"message": self.message, "reason": self.reason}
        return told if self.line is None else {**told, "line": self.line}


@dataclass(frozen=True)
class JobState:
    """A job as it stands; `project` is the project's name, and the times are in UTC.

    `cancelling`: somebody asked for its end, which has not come yet. `ended` and `error` are None until there
    is one.
    """

    id: str
    project: str
    kind: Kind
    phase: Phase = "waiting"
    progress: Progress = Progress()
    error: JobError | None = None
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    ended: datetime | None = None
    cancelling: bool = False

    @property
    def over(self) -> bool:
        return self.phase in ENDS

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "project": self.project,
            "kind": self.kind,
            "phase": self.phase,
            "progress": dict(vars(self.progress)),
            "error": self.error.as_json() if self.error else None,
            "started": _written(self.started),
            "ended": _written(self.ended) if self.ended else None,
            "cancelling": self.cancelling,
        }

    @classmethod
    def from_json(cls, value: Any) -> JobState:
        """Raises `ValueError` for what `as_json` cannot have made."""
        try:
            progress, error, ended = value["progress"], value["error"], value["ended"]
            return cls(
                id=_text(value["id"]),
                project=_text(value["project"]),
                kind=_one_of(get_args(Kind), value["kind"]),
                phase=_one_of(get_args(Phase), value["phase"]),
                progress=Progress(
                    _count(progress["step"]), _count(progress["steps"]), _text(progress["name"])
                ),
                error=_error(error) if error is not None else None,
                started=_read(value["started"]),
                ended=_read(ended) if ended is not None else None,
                cancelling=value["cancelling"] is True,
            )
        except (KeyError, TypeError) as problem:
            raise ValueError(f"not a job's state: {problem!r}") from None


def _error(value: Mapping[str, Any]) -> JobError:
    line = value.get("line")
    return JobError(_text(value["message"]), _text(value["reason"]), None if line is None else _count(line))


def _written(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _read(value: Any) -> datetime:
    time = datetime.fromisoformat(_text(value))
    if time.tzinfo is None:
        raise ValueError(f"{value!r} has no time zone")
    return time


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a text")  # noqa: TRY004 - as for every other thing that is wrong
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is not a count")
    return value


def _one_of(known: tuple[Any, ...], value: Any) -> Any:
    if value not in known:
        raise ValueError(f"{value!r} is none of {known}")
    return value
