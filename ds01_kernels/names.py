"""What a project's image and container are called: two patterns of the admin's, and their rules."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import SettingError

IMAGE = "ds01-{uid}/{project}:latest"
CONTAINER = "{project}._.{uid}"

#: Characters of a pattern. With the longest project's name it stays below the 255 that Docker takes.
MOST = 120

_FIELDS = ("project", "uid")

# https://github.com/distribution/reference/blob/main/regexp.go, without the digest: an image that is built
# here is found by its tag.
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
# A host, unlike a path's first component, has a dot or a port, or is localhost.
_HOST = r"(?=[^/]*[.:]|localhost/)[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?"
_IMAGE = re.compile(rf"(?:{_HOST}/)?{_COMPONENT}(?:/{_COMPONENT})*:[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}}")
# https://github.com/moby/moby/blob/master/daemon/names/names.go
_CONTAINER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class Names:
    """Two patterns in which ``{project}`` is the project's name in lower case and ``{uid}`` the user's.

    `image` always has a tag. Made from what somebody wrote by `parse_names`.
    """

    image: str = IMAGE
    container: str = CONTAINER

    def of_image(self, project: str, uid: int) -> str:
        return _filled(self.image, project, uid)

    def of_container(self, project: str, uid: int) -> str:
        return _filled(self.container, project, uid)


USUAL = Names()


def parse_image_name(where: str, pattern: str) -> str:
    """The pattern, with the tag ``latest`` if it has none. Raises `SettingError` that begins with `where`."""
    _check_fields(where, pattern, IMAGE)
    repository, colon, tag = pattern.rpartition(":")
    if not colon or "/" in tag:
        repository, tag = pattern, "latest"
    if "{uid}" not in pattern:
        # Images are found by their name alone: somebody else's would be taken for one's own.
        raise SettingError(
            f"{where} is {pattern!r}, which lacks {{uid}}: users of one engine who have projects of one name "
            "would share their image.",
            remedy=f"Write it as in {IMAGE!r}.",
        )
    if "{project}" not in repository:
        raise SettingError(
            f"{where} is {pattern!r}, which has {{project}} in its tag only: the images of all projects "
            "would share one name.",
            remedy=f"Put it before the colon, as in {IMAGE!r}.",
        )
    return _checked(where, f"{repository}:{tag}", _IMAGE, "an image", IMAGE)


def parse_container_name(where: str, pattern: str) -> str:
    """The pattern. Raises `SettingError`, which begins with `where`."""
    _check_fields(where, pattern, CONTAINER)
    return _checked(where, pattern, _CONTAINER, "a container", CONTAINER)


def _check_fields(where: str, pattern: str, example: str) -> None:
    remedy = f"Write it as in {example!r}."
    if len(pattern) > MOST:
        raise SettingError(
            f"{where} has {len(pattern)} characters; {MOST} is the most.", remedy="Write a shorter one."
        )
    if "{project}" not in pattern:
        raise SettingError(
            f"{where} is {pattern!r}, which lacks {{project}}: all projects would share one name.",
            remedy=remedy,
        )
    for field in re.findall(r"\{([^{}]*)\}", pattern):
        if field not in _FIELDS:
            raise SettingError(
                f"{where} is {pattern!r}, and {{{field}}} is none of {{project}} and {{uid}}.", remedy=remedy
            )


def _checked(where: str, pattern: str, rule: re.Pattern[str], what: str, example: str) -> str:
    # A project's name begins and ends with a letter or a digit and fits each rule, and so does a uid: if one
    # of them does not make the whole break a rule, none does.
    if not rule.fullmatch(_filled(pattern, "a", 0)):
        raise SettingError(
            f"{where} is {pattern!r}, which Docker does not take as the name of {what}.",
            remedy=f"Write it as in {example!r}.",
        )
    return pattern


def _filled(pattern: str, project: str, uid: int) -> str:
    return pattern.replace("{uid}", str(uid)).replace("{project}", project.lower())
