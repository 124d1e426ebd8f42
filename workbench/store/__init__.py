"""The store: one database, one writer, any number of readers, and request files."""

from workbench.store.reader import Reader
from workbench.store.writer import Store

__all__ = ["Reader", "Store"]
