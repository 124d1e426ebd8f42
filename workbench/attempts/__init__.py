"""Records of an attempt: the assignment that a worker is given, and the events that it reports.

The scheduler writes an assignment, a worker reads it; the worker appends events, the loop reads
them. Both are plain data in files, so either side may be killed at any time. The store, the fleet
and training import this package; it imports `workbench.text` and the standard library.
"""
