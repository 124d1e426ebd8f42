"""Cuts rows, counts what happens to them, and judges whether the lot can be trained on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Set
from dataclasses import dataclass

from workbench.errors import DataError
from workbench.training.render import Tokens

IGNORED = -100
"""The label of a token without loss, as torch's cross entropy has it."""


@dataclass(frozen=True, slots=True)
class Kept:
    """One row as it is written."""

    input_ids: list[int]
    labels: list[int]
    length: int
    prompt_ids: list[int]
    question: str
    answer: str


class Tally:
    """Keeps a few numbers and a hash a row."""

    def __init__(self, name: str, max_tokens: int) -> None:
        self.name = name
        self._max_tokens = max_tokens
        self._lengths: list[int] = []
        self._target_tokens = 0
        self.highest_id = 0
        self._seen: dict[bytes, str] = {}
        self._copies = _Count()
        self._cut = _Count()
        self._cut_away = _Count()
        self._silent = _Count()
        self._endless = _Count()
        self._apart = _Count()
        self._all = hashlib.sha256()

    @property
    def kept(self) -> int:
        return len(self._lengths)

    def add(self, tokens: Tokens, place: str, ends: Set[int]) -> Kept | None:
        """The row, cut; None when it has no token to learn besides the end of a turn."""
        if not any(_learned(tokens, len(tokens.ids), ends)):
            self._silent.add(place)
            return None
        if len(tokens.ids) > self._max_tokens:
            self._cut.add(place)
            if not any(_learned(tokens, self._max_tokens, ends)):
                self._cut_away.add(place)
                return None
        if not tokens.ended:
            self._endless.add(place)
        if not tokens.agrees:
            self._apart.add(place)
        kept = _cut(tokens, self._max_tokens)
        self._note(kept, place)
        return kept

    def _note(self, kept: Kept, place: str) -> None:
        self._lengths.append(kept.length)
        self.highest_id = max(self.highest_id, *kept.input_ids, *kept.prompt_ids)
        self._target_tokens += sum(label != IGNORED for label in kept.labels[1:])
        ids = hashlib.sha256(repr(kept.input_ids).encode()).digest()[:16]
        if ids in self._seen:
            self._copies.add(place)
        self._seen.setdefault(ids, place)
        row = [kept.input_ids, kept.labels, kept.prompt_ids, kept.answer]
        self._all.update(json.dumps(row).encode())

    def check(self) -> None:
        """DataError when the majority of rows cannot be learned from."""
        total = self.kept + self._silent.rows + self._cut_away.rows
        if self._cut_away.rows * 2 > total:
            raise DataError(
                f"{self._cut_away.first}: {self._cut_away.rows} of {total} {self.name} rows lose "
                f"their whole answer when cut at {self._max_tokens} tokens",
                mend="raise data.max_tokens, or shorten the prompts",
            )
        if (self._silent.rows + self._cut_away.rows) * 2 > total or not self.kept:
            raise DataError(
                f"{self._silent.first}: {self._silent.rows} of {total} {self.name} rows have no "
                "token that carries loss",
                mend="are the answers empty, or do chats lack an assistant's turn? "
                "Check data.columns and data.loss_on",
            )
        if self._endless.rows * 2 > self.kept:
            raise DataError(
                f"{self._endless.first}: in {self._endless.rows} of {self.kept} {self.name} rows "
                "the end of the trained turn carries no loss, so the model would not learn to stop",
                mend="use a chat template that closes each turn with its end token",
            )

    def digest(self) -> str:
        """Of all kept rows, in order."""
        return self._all.hexdigest()[:32]

    def numbers(self) -> dict[str, int | float]:
        ordered = sorted(self._lengths)
        return {
            "min_length": ordered[0],
            "median_length": ordered[len(ordered) // 2],
            "p95_length": ordered[int(len(ordered) * 0.95)],
            "max_length": ordered[-1],
            "mean_length": round(sum(ordered) / len(ordered), 2),
            "target_tokens": self._target_tokens,
            "cut_rows": self._cut.rows,
            "dropped_rows": self._silent.rows + self._cut_away.rows,
        }

    def notes(self) -> list[str]:
        """What a person should know, in words; each with the first row it holds for."""
        said = (
            (self._cut, f"longer than {self._max_tokens} tokens and cut"),
            (self._cut_away, "left out, because cutting took their whole answer"),
            (self._silent, "left out, because no token of theirs carries loss"),
            (self._endless, "trained without the end of their last turn"),
            (self._apart, "whose prompt has other tokens alone than with its answer behind it"),
            (self._copies, "copies of earlier ones"),
        )
        return [
            f"{count.rows} {self.name} row{'s' if count.rows > 1 else ''} {words} "
            f"(first: {count.first})"
            for count, words in said
            if count.rows
        ]

    def shared_with(self, train: Tally) -> list[str]:
        """A note when held-out rows are trained on."""
        both = self._seen.keys() & train._seen.keys()
        if not both:
            return []
        first = next(place for ids, place in self._seen.items() if ids in both)
        return [f"{len(both)} held-out rows also stand in the training rows (first: {first})"]


@dataclass(slots=True)
class _Count:
    rows: int = 0
    first: str = ""

    def add(self, place: str) -> None:
        self.rows += 1
        self.first = self.first or place


def _learned(tokens: Tokens, limit: int, ends: Set[int]) -> Iterator[bool]:
    """True for each token within `limit` that carries loss and is no turn's end.

    The first token is nobody's target.
    """
    pairs = zip(tokens.ids[1:limit], tokens.trained[1:limit], strict=True)
    return (trained and id not in ends for id, trained in pairs)


def _cut(tokens: Tokens, limit: int) -> Kept:
    ids = tokens.ids[:limit]
    pairs = zip(ids, tokens.trained[:limit], strict=True)
    labels = [id if trained else IGNORED for id, trained in pairs]
    return Kept(ids, labels, len(ids), tokens.prompt_ids, tokens.question, tokens.answer)
