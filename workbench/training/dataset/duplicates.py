"""Detection of rows with equal tokens, in sixteen bytes a row however long the rows are."""

from __future__ import annotations

import hashlib
import re
from array import array
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

_NUMBERED = re.compile(r"(.*?)(\d+)\Z", re.DOTALL)


class RowHashes:
    """The 64-bit hash of each row's tokens, with the row's place (`train.jsonl:17`).

    Two different rows share a hash in one of ten million files of two million rows.
    """

    def __init__(self) -> None:
        self._hashes = array("Q")
        self._lines = array("Q")
        self._labels: list[tuple[int, str]] = []
        """The number of the first row with a label, and the label: a file's name, mostly."""

    def add(self, ids: Sequence[int], place: str) -> None:
        """Remember the row that has the token ids `ids` and stands at `place`."""
        digest = hashlib.sha256(array("q", ids).tobytes()).digest()
        self._hashes.append(int.from_bytes(digest[:8], "little"))
        numbered = _NUMBERED.match(place)
        self._lines.append(int(numbered[2]) if numbered else 0)
        label = numbered[1] if numbered else place
        if not self._labels or self._labels[-1][1] != label:
            self._labels.append((len(self._lines) - 1, label))

    def _place(self, index: int) -> str:
        at = bisect_right(self._labels, index, key=lambda one: one[0]) - 1
        return f"{self._labels[at][1]}{self._lines[index]}"

    def copies(self) -> tuple[int, str]:
        """Return how many rows repeat an earlier row, and the place of the first repetition."""
        hashes = np.frombuffer(self._hashes, np.uint64) if self._hashes else np.empty(0, np.uint64)
        order = np.argsort(hashes, kind="stable")
        repeats = order[1:][hashes[order][1:] == hashes[order][:-1]]
        return (len(repeats), self._place(int(repeats.min()))) if len(repeats) else (0, "")

    def shared_with(self, other: RowHashes) -> tuple[int, str]:
        """Return how many distinct rows are also in `other`, and the place of the first."""
        if not self._hashes or not other._hashes:
            return 0, ""
        mine, theirs = (np.frombuffer(seen._hashes, np.uint64) for seen in (self, other))
        # By sorting: numpy 2.0's table overflows where a set has one hash of 2**63 or more.
        both = np.flatnonzero(np.isin(mine, theirs, kind="sort"))
        return (len(np.unique(mine[both])), self._place(int(both[0]))) if len(both) else (0, "")
