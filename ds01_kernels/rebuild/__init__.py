"""Flow 2: what was installed at run time -> Dockerfile -> new image -> new container, or back.

``phases`` says as a table what may follow what, and `Rebuilds` (``walk``) walks it: it plans what is written
(``saving``), builds a candidate, tries it (``checking``), and puts it in the place of the old one (``swap``).
Each `Exchange` of old and new (``exchange``) is written down first (``journal``), so that it is done as a
whole or not at all.
"""

from .exchange import Exchanges
from .journal import Exchange, Journals
from .phases import PHASES, Order, Report, Step
from .saving import Plan, check
from .walk import Rebuilds

__all__ = [
    "PHASES",
    "Exchange",
    "Exchanges",
    "Journals",
    "Order",
    "Plan",
    "Rebuilds",
    "Report",
    "Step",
    "check",
]
