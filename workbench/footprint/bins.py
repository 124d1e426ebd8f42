"""The size of a bin of packed rows, which data and plans have to agree on."""

MOST_ROWS_PER_BIN = 64
"""Rows in one bin of `data.packing` at most, so that a step knows how many may come."""
