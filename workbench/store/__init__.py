"""The store: one database, one writer, any number of readers, and request files."""

from workbench.store.reader import Reader
from workbench.store.writer import Blocked, Store

__all__ = ["Blocked", "Reader", "Store"]
