"""A worker that never starts: its constructor raises an error that does not survive pickling."""

from __future__ import annotations

from typing import Any


class DriverMissing(Exception):
    """An error with keyword-only arguments, as some libraries have them."""

    def __init__(self, *, library: str) -> None:
        super().__init__(f"{library} was not found on this machine")


class RefusingWorker:
    def __init__(self, card: dict[str, Any], generation: int, home: str) -> None:
        raise DriverMissing(library="libcuda.so.1")
