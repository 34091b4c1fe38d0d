"""How what is installed in a container differs from its image."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .fields import fields, rows
from .installed import MARK_REQUESTED, Installed, Package, same_version
from .item import Dependency, Item, unpinnable

#: Steps from leading packages to their dependencies, beyond which each dependency is listed but once.
MOST_STEPS = 300_000

LISTS = ("added", "changed", "removed", "unpinnable")


@dataclass(frozen=True)
class Drift:
    """What differs, sorted by name. What is in `unpinnable`, with a `reason`, is not in another list."""

    added: tuple[Item, ...] = ()
    changed: tuple[Item, ...] = ()
    removed: tuple[Item, ...] = ()
    unpinnable: tuple[Item, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.items)

    @property
    def items(self) -> tuple[Item, ...]:
        return (*self.added, *self.changed, *self.removed, *self.unpinnable)

    @property
    def counts(self) -> dict[str, int]:
        return {"added": len(self.added), "changed": len(self.changed), "removed": len(self.removed)}

    @classmethod
    def between(cls, image: Installed, container: Installed) -> Drift:
        """What makes the container differ from its image, as far as somebody asked for it."""
        return Comparison(image, container).drift()

    def as_json(self) -> dict[str, Any]:
        return {one: [item.as_json() for item in getattr(self, one)] for one in LISTS}

    @classmethod
    def from_json(cls, value: object) -> Drift:
        """Raises ValueError."""
        given = fields(value, "a drift")
        return cls(*(tuple(map(Item.from_json, rows(given.get(one), one))) for one in LISTS))

    def only(self, keep: Callable[[Item], bool]) -> Drift:
        return Drift(*(tuple(filter(keep, getattr(self, one))) for one in LISTS))

    def without(self, names: Collection[str]) -> Drift:
        """Without the items of these names, which are normalised."""
        return self.only(lambda item: item.name not in names)

    def merged(self, later: Drift) -> Drift:
        """Both, where a name that is in both is as in the later one."""
        rest = self.without({item.name for item in later.items})
        return Drift(*(by_name((*getattr(rest, one), *getattr(later, one))) for one in LISTS))

    def not_in(self, installed: Installed) -> Drift:
        """The items that have not come about there: it still is at what the image had of them."""
        removed = {item.name for item in self.removed}

        def is_outstanding(item: Item) -> bool:
            there = item.name in installed.by_name
            return there if item.name in removed else not has_come_about(item, installed)

        return self.only(is_outstanding)


def has_come_about(item: Item, installed: Installed) -> bool:
    """Whether what was added or changed is there, or another version since, which somebody chose later."""
    package = installed.by_name.get(item.name)
    if package is None:
        return False
    if not same_version(package.version, item.from_):
        return True
    # At the image's version: then only the origin or what the extras brought can tell.
    same = item.version == item.from_ and item.origin.is_same_as(package.origin)
    return same and all(one.name in installed.by_name for one in item.dependencies)


def by_name(items: Iterable[Item]) -> tuple[Item, ...]:
    return tuple(sorted(items, key=lambda item: item.name))


class Comparison:
    """Finds what leads. ``differing`` holds the names that are new or changed; ``explained`` those of them
    that lead or are required, directly or not, by one that leads."""

    def __init__(self, image: Installed, container: Installed) -> None:
        self.image: Mapping[str, Package] = image.by_name
        self.container: Mapping[str, Package] = container.by_name
        self.unreadable = {one.name for one in container.broken}
        self.differing = {
            one.name
            for one in container.packages
            if one.name not in self.image or not one.is_same_as(self.image[one.name])
        }
        self.leading: set[str] = set()
        self.reached: set[str] = set()

    def drift(self) -> Drift:
        self.find_leading()
        steps = len(self.leading) * len(self.container)
        seen: set[str] = set()
        written: list[Item] = []
        left: list[Item] = []
        for name in sorted(self.leading):
            below = self.below(name, seen if steps > MOST_STEPS else set())
            item = item_of(self.container[name], self.image.get(name), self.dependencies(below))
            reason = unpinnable(item)
            (left if reason else written).append(replace(item, reason=reason))
        gone = self.image.keys() - self.container.keys() - self.unreadable
        return Drift(
            added=tuple(item for item in written if not item.from_),
            changed=tuple(item for item in written if item.from_),
            removed=by_name(item_of(self.image[name]) for name in gone),
            unpinnable=tuple(left),
        )

    def find_leading(self) -> None:
        self.lead({name for name in self.differing if self.container[name].requested})
        # pip takes the mark away when it changes a package on behalf of another one.
        self.lead({name for name in self.unexplained if name in self.image and self.image[name].requested})
        # ``pip install transformers[torch]``, where transformers is there: only what torch brings is new.
        for name in sorted(filter(self.has_new_extras, self.container)):
            if self.below(name, self.reached) & self.differing:
                self.lead({name})
        # What no request explains, but what the image's own packages require, is no leftover.
        settled = self.container.keys() - self.differing
        needed = {one for name in settled for one in self.container[name].requires}
        self.lead(self.unexplained & needed)
        for name in sorted(self.unexplained):
            # What pip and uv leave behind of a package that is gone again was never asked for.
            if name not in self.reached and self.container[name].installer not in MARK_REQUESTED:
                self.lead({name})

    @property
    def unexplained(self) -> set[str]:
        return self.differing - self.reached

    def lead(self, names: set[str]) -> None:
        self.leading |= names
        for name in names:
            self.reached.add(name)
            self.below(name, self.reached)

    def below(self, name: str, seen: set[str]) -> set[str]:
        """All that a package requires, directly or not, and that was not in `seen`, where it is put."""
        found: set[str] = set()
        todo = [name]
        while todo:
            new = {one for one in self.container[todo.pop()].requires if one in self.container} - seen
            seen |= new
            found |= new
            todo += new
        return found

    def has_new_extras(self, name: str) -> bool:
        before = self.image.get(name)
        return (
            name not in self.differing
            and before is not None
            and not set(self.container[name].extras) <= set(before.extras)
        )

    def dependencies(self, names: set[str]) -> tuple[Dependency, ...]:
        found = sorted((names & self.differing) - self.leading)
        before = {name: self.image[name].version for name in found if name in self.image}
        return tuple(Dependency(one, self.container[one].version, before.get(one, "")) for one in found)


def item_of(
    package: Package, before: Package | None = None, dependencies: tuple[Dependency, ...] = ()
) -> Item:
    return Item(
        package.name,
        package.version,
        package.requested,
        package.extras,
        package.origin,
        package.spec,
        from_=before.version if before else "",
        dependencies=dependencies,
    )
