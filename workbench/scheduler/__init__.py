"""One tick of the engine, a few times a second: guard → obey → settle → rescue → propose → place,
and what has ended is told.

Each may be cut off at any line; the next tick goes on from what the store says.
"""

from workbench.scheduler.conclude import conclude
from workbench.scheduler.desk import Desk
from workbench.scheduler.guards import guard
from workbench.scheduler.obey import obey
from workbench.scheduler.place import place
from workbench.scheduler.propose import propose
from workbench.scheduler.rescue import rescue
from workbench.scheduler.settle import settle

__all__ = ["Desk", "conclude", "guard", "obey", "place", "propose", "rescue", "settle", "tick"]


def tick(desk: Desk) -> None:
    """Everything that is due now. Waits for nothing."""
    desk.look()
    guard(desk)
    obey(desk)
    settle(desk)
    rescue(desk)
    propose(desk)
    place(desk)
    conclude(desk)
