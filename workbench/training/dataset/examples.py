"""A few prepared rows as text, with exactly the parts that carry loss, for a person to read."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from workbench.text import safe_text
from workbench.training.dataset.row_stats import IGNORED, KeptRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHOWN = 3
_PARTS = 16
_CHARACTERS = 1_200
"""Characters shown of one part; a longer one loses its middle."""


class Examples:
    """The first `SHOWN` rows that are kept, as plain data in `rows`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self.rows: list[dict[str, Any]] = []

    def take(self, kept: KeptRow, place: str) -> None:
        """Add the row while fewer than `SHOWN` are held.

        Its `parts` are in order; each has `text`, `tokens` (a count) and `loss` (true or false).
        """
        if len(self.rows) == SHOWN:
            return
        # The first token is nobody's target, whatever its label says.
        marked = zip(kept.input_ids, [IGNORED, *kept.labels[1:]], strict=True)
        parts = [self._part(list(run)) for _, run in groupby(marked, lambda one: one[1] != IGNORED)]
        if len(parts) > _PARTS:
            gone = sum(part["tokens"] for part in parts[_PARTS // 2 : -_PARTS // 2])
            left = {"text": "…", "tokens": gone, "loss": False}
            parts = [*parts[: _PARTS // 2], left, *parts[-_PARTS // 2 :]]
        self.rows.append({"place": place, "tokens": kept.length, "parts": parts})

    def _part(self, run: list[tuple[int, int]]) -> dict[str, Any]:
        ids = [id for id, _ in run]
        half = _CHARACTERS // 2
        head, tail = ids[:_CHARACTERS], ids[-_CHARACTERS:]
        text = safe_text(self._tokenizer.decode(head), 1 << 20)
        if len(text) > _CHARACTERS or len(ids) > _CHARACTERS:
            end = safe_text(self._tokenizer.decode(tail), 1 << 20)
            text = f"{text[:half]} … {end[-half:]}"
        return {"text": text, "tokens": len(ids), "loss": run[0][1] != IGNORED}
