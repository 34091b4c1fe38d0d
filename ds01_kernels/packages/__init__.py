"""What is installed, and how a container differs from its image: values, nothing read or run.

``Installed`` is what the agent lists, or what was kept of that; ``Drift.between`` compares an image's with a
container's, ``requirement`` says how one of its items is written into a Dockerfile, and ``breakages`` what in
a list does not fit together.

What leads in a drift is what the user asked for. pip and uv mark that (``REQUESTED``); with other installers
(conda, the distribution, none) a package that nothing else requires counts as asked for. Below it stand its
``dependencies``, as far as they are new or changed: they are shown, never written.

Nothing that a container says is believed: types are checked, sizes cut, credentials in addresses taken out,
and what moves a cursor replaced. A text that was cut ends in ``…`` and one that was cleaned in a replacement
character, so that neither passes for a version or an address.
"""

from .breakages import UnclearError, breakages
from .drift import Drift
from .installed import Broken, Installed, Origin, Package
from .item import Dependency, Item, requirement

__all__ = [
    "Broken",
    "Dependency",
    "Drift",
    "Installed",
    "Item",
    "Origin",
    "Package",
    "UnclearError",
    "breakages",
    "requirement",
]
