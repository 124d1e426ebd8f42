"""The store: one SQLite database with one writer, any number of readers, and request files.

`Reader` reads and `Store` writes; the other modules hold queries and writes of one topic each, as
functions that take one of the two. `recovery` keeps the data safe, `requests` is how front ends
reach the engine, and `schema` holds the tables. Called by `workbench.service`, the scheduler and
the engine; imports `trial`, `events`, `recipe`, `machine` and the small modules beside them, and is
the only package that imports sqlite3.
"""

from workbench.store.reader import Reader
from workbench.store.writer import Blocked, Store

__all__ = ["Blocked", "Reader", "Store"]
