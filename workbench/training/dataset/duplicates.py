"""Which rows are alike: sixteen bytes a row, however long the rows are."""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Sequence

import numpy as np

_NUMBERED = re.compile(r"(.*?)(\d+)\Z", re.DOTALL)


class Seen:
    """Rows by the hash of their tokens, and the place of each.

    Hashes have 64 bits: among two million rows, one in ten million files has a false copy.
    """

    def __init__(self) -> None:
        self._hashes = array("Q")
        self._numbers = array("Q")
        self._before = ""

    def add(self, ids: Sequence[int], place: str) -> None:
        digest = hashlib.sha256(array("q", ids).tobytes()).digest()
        self._hashes.append(int.from_bytes(digest[:8], "little"))
        numbered = _NUMBERED.match(place)
        self._numbers.append(int(numbered[2]) if numbered else 0)
        self._before = numbered[1] if numbered else place

    def _place(self, index: int) -> str:
        return f"{self._before}{self._numbers[index]}"

    def copies(self) -> tuple[int, str]:
        """How many rows stand further up already, and the first of them."""
        hashes = np.frombuffer(self._hashes, np.uint64) if self._hashes else np.empty(0, np.uint64)
        order = np.argsort(hashes, kind="stable")
        again = order[1:][hashes[order][1:] == hashes[order][:-1]]
        return (len(again), self._place(int(again.min()))) if len(again) else (0, "")

    def shared_with(self, other: Seen) -> tuple[int, str]:
        """How many of these rows, copies counted once, are the other's too, and the first."""
        if not self._hashes or not other._hashes:
            return 0, ""
        mine, theirs = (np.frombuffer(seen._hashes, np.uint64) for seen in (self, other))
        both = np.flatnonzero(np.isin(mine, theirs))
        return (len(np.unique(mine[both])), self._place(int(both[0]))) if len(both) else (0, "")
