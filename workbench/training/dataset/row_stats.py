"""Cutting of rows, statistics over them, and the decision whether they can be trained on."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import Any

from workbench.errors import DataError
from workbench.training.dataset.chat.rendering import Tokens
from workbench.training.dataset.duplicates import RowHashes

IGNORED = -100
"""The label of a token without loss, as torch's cross entropy has it."""
SAMPLED = 64
"""Number of quantiles that stand for the lengths of all rows."""

_ADD_ANSWER = "give them an answer, or take them out"
_CLOSE_TURNS = "use a chat template that closes each turn with its end token"
_ADD_BREAK = "let the prompt end, or the answer begin, with a line break"
_END_HEADER = (
    "begin no answer with a blank or a line break, and let the chat template's generation prompt "
    "end with one of its tokens or a line break; where it opens a <think> block, give the answers "
    "their reasoning, or set data.reasoning: drop"
)
_REMOVE_COPIES = "each counts again in every epoch: take out those that are not meant"
_REMOVE_SCORED_COPIES = "each counts again in every score: take out those that are not meant"


@dataclass(frozen=True, slots=True)
class KeptRow:
    """One row as it is written to the arrow file, already cut."""

    input_ids: list[int]
    labels: list[int]
    length: int
    prompt_ids: list[int]
    """Ids that generation starts from; empty for plain text and for prompts beyond the cut."""
    question: str
    answer: str


@dataclass(slots=True)
class RowCount:
    """A count of rows that share a property, with the place of the first."""

    rows: int = 0
    first: str = ""

    def add(self, place: str) -> None:
        """Count one more row."""
        self.rows += 1
        self.first = self.first or place

    def note(self, name: str, words: str, hint: str = "") -> list[str]:
        """Return `["2 train rows <words> (first: t.jsonl:9); <hint>"]`, or an empty list."""
        if not self.rows:
            return []
        rows = f"{self.rows} {name} row{'s' if self.rows > 1 else ''}"
        return [f"{rows} {words} (first: {self.first})" + (f"; {hint}" if hint else "")]


class RowStats:
    """Statistics over the rows of one part; takes a few numbers and sixteen bytes a row."""

    def __init__(
        self,
        name: str,
        max_tokens: int,
        *,
        most_tokens: int | None = None,
        chats: bool = False,
        judged: bool = False,
    ) -> None:
        """Start with no rows.

        `most_tokens` is what the model reads, which suggestions do not pass; None if unknown.
        `chats` says that a chat template rendered them, which decides a hint.
        `judged` says that a digest of the rows is needed.
        """
        self.name = name
        self.highest_id = 0
        self.kept = 0
        """Rows that are kept, each counted as often as an epoch has it."""
        self._distinct = 0
        self._max_tokens = max_tokens
        self._chats = chats
        self._most_tokens = most_tokens or 1 << 20
        self._judged = judged
        self._lengths: Counter[int] = Counter()
        self._uncut: Counter[int] = Counter()
        self._target_tokens = 0
        self._seen = RowHashes()
        self._cut = RowCount()
        self._cut_away = RowCount()
        self._cut_end = RowCount()
        self._untaught = RowCount()
        self._unended = RowCount()
        self._prompt_differs = RowCount()
        self._prompt_cut = RowCount()
        self._end_ids: set[int] = set()
        self._all = hashlib.sha256()

    def add(
        self,
        tokens: Tokens,
        place: str,
        ends: frozenset[int],
        *,
        answers: bool = True,
        times: int = 1,
    ) -> KeptRow | None:
        """Count the row and return it cut; None when it has no token to learn but a turn's end.

        `answers` says that it holds answers, whose end must carry loss; plain text need not end.
        Warnings count a row once, and sums `times` times, as often as an epoch has it.
        """
        if not any(_learned(tokens, len(tokens.ids), ends)):
            self._untaught.add(place)
            return None
        self._uncut[len(tokens.ids)] += 1
        if len(tokens.ids) > self._max_tokens:
            self._cut.add(place)
            if not any(_learned(tokens, self._max_tokens, ends)):
                self._cut_away.add(place)
                return None
        if not tokens.ended:
            self._unended.add(place)
        elif answers and not _ends_within(tokens, self._max_tokens, ends):
            self._cut_end.add(place)
        if not tokens.agrees:
            self._prompt_differs.add(place)
        if len(tokens.prompt_ids) > self._max_tokens:
            self._prompt_cut.add(place)
        kept = _cut(tokens, self._max_tokens)
        if kept.length == len(tokens.ids):
            self._end_ids |= tokens.end_ids
        self._distinct += 1
        self._note(kept, place, times)
        return kept

    def _note(self, kept: KeptRow, place: str, times: int) -> None:
        self.kept += times
        self._lengths[kept.length] += times
        self.highest_id = max(self.highest_id, *kept.input_ids, *kept.prompt_ids)
        # No position predicts the first token.
        learned = len(kept.labels) - 1 - kept.labels.count(IGNORED) + (kept.labels[0] == IGNORED)
        self._target_tokens += times * learned
        self._seen.add(kept.input_ids, place)
        if self._judged:
            row = [kept.input_ids, kept.labels, kept.prompt_ids, kept.answer]
            self._all.update(json.dumps(row).encode())

    def check(self) -> None:
        """Raise DataError when most rows have nothing to learn, or none trains an answer's end."""
        total = self._distinct + self._untaught.rows + self._cut_away.rows
        if self._cut_away.rows * 2 > total:
            raise DataError(
                f"{self._cut_away.first}: {self._cut_away.rows} of {total} {self.name} rows lose "
                f"their whole answer when cut at {self._max_tokens} tokens",
                hint=self._longer(),
            )
        if (self._untaught.rows + self._cut_away.rows) * 2 > total or not self.kept:
            raise DataError(
                f"{self._untaught.first}: {self._untaught.rows} of {total} {self.name} rows have "
                "no token that carries loss",
                hint="are the answers empty, or do chats lack an assistant's turn? "
                "Check data.columns and data.loss_on",
            )
        if self._unended.rows * 2 > self._distinct:
            raise DataError(
                f"{self._unended.first}: in {self._unended.rows} of {self._distinct} {self.name} "
                "rows the end of the trained turn carries no loss, so the model would not learn "
                "to stop",
                hint=_CLOSE_TURNS,
            )
        if self._cut_end.rows == self._distinct:
            others = f", {self._cut_away.rows} others all of it" if self._cut_away.rows else ""
            raise DataError(
                f"{self._cut_end.first}: all {self._distinct} {self.name} rows lose the end of "
                f"their answer when cut at {self._max_tokens} tokens{others}, so the model would "
                "not learn to stop",
                hint=self._longer(),
            )

    def _longer(self) -> str:
        limit = self._limit(0.95)
        if limit <= self._max_tokens:
            return "shorten the rows, or split each into several"
        return f"raise data.max_tokens to {limit}, or shorten the rows"

    def _whole(self) -> str:
        most, all_ = self._limit(0.95), self._limit(1.0)
        if all_ < max(self._uncut):
            return f"the model reads {self._most_tokens} tokens at most: shorten or split them"
        if most <= self._max_tokens or most == all_:
            return f"data.max_tokens: {all_} would leave all of them whole"
        return f"data.max_tokens: {most} would leave 95 % of all rows whole, {all_} every one"

    def _limit(self, share: float) -> int:
        """Return the data.max_tokens that leaves this share of rows uncut, or the model's limit.

        It is a multiple of 64, unless it is the limit.
        """
        return min(-(-_at(self._uncut, share) // 64) * 64, self._most_tokens)

    def digest(self) -> str:
        """Return the digest of all kept rows, which depends on their order; 32 hex digits."""
        assert self._judged
        return self._all.hexdigest()[:32]

    @property
    def longest(self) -> int:
        """Tokens in the longest kept row, after cutting."""
        return max(self._lengths)

    def numbers(self) -> dict[str, Any]:
        """Return the fields of `Prepared` that describe these rows; lengths in tokens."""
        return {
            **length_numbers(self._lengths),
            "target_tokens": self._target_tokens,
            "turn_end_ids": sorted(self._end_ids),
            "uncut_p95_length": _at(self._uncut, 0.95),
            "uncut_max_length": max(self._uncut),
            "cut_rows": self._cut.rows,
            "dropped_rows": self._untaught.rows + self._cut_away.rows,
        }

    def notes(self) -> list[str]:
        """Return the data warnings in words, each with its first row and a hint."""
        longer = self._longer()
        joined = _END_HEADER if self._chats else _ADD_BREAK
        remove_copies = _REMOVE_COPIES if self.name == "train" else _REMOVE_SCORED_COPIES
        said = (
            (self._cut, f"longer than {self._max_tokens} tokens and cut", self._whole()),
            (self._cut_away, "left out, because cutting took their whole answer", longer),
            (self._untaught, "left out, because no token of theirs carries loss", _ADD_ANSWER),
            (self._unended, "trained without the end of their last turn", _CLOSE_TURNS),
            (self._cut_end, "whose answer's end was cut off", longer),
            (
                self._prompt_cut,
                "whose last answer begins beyond the cut, so it is not asked",
                longer,
            ),
            (
                self._prompt_differs,
                "whose prompt has other tokens than with its answer behind it",
                joined,
            ),
            (RowCount(*self._seen.copies()), "repeating earlier ones", remove_copies),
        )
        return [note for count, *words in said for note in count.note(self.name, *words)]

    def shared_with(self, train: RowStats, name: str = "held-out") -> list[str]:
        """Return a warning when these rows, `name` in its words, are also among training rows."""
        return RowCount(*self._seen.shared_with(train._seen)).note(
            name,
            "standing in the training rows, too",
            "take them out of one of the two: what was trained on scores too well",
        )

    def chosen_by(self, held: RowStats) -> list[str]:
        """Return a warning when these test rows are also among the held-out rows."""
        return RowCount(*self._seen.shared_with(held._seen)).note(
            "test",
            "standing in the held-out rows, too",
            "take them out of one of the two: the best adapter is chosen by its held-out rows",
        )


def length_numbers(lengths: Counter[int]) -> dict[str, Any]:
    """Return the fields of `Prepared` that describe lengths in tokens, each with its rows."""
    total = sum(length * rows for length, rows in lengths.items())
    return {
        "min_length": min(lengths),
        "median_length": _at(lengths, 0.5),
        "p95_length": _at(lengths, 0.95),
        "max_length": max(lengths),
        "mean_length": round(total / lengths.total(), 2),
        "length_sample": [_at(lengths, (2 * n + 1) / (2 * SAMPLED)) for n in range(SAMPLED)],
    }


def _at(lengths: Counter[int], share: float) -> int:
    """Return the length that this share of the rows does not exceed, in tokens."""
    place = int(lengths.total() * share)
    for length in sorted(lengths):
        place -= lengths[length]
        if place < 0:
            return length
    return max(lengths)


def _learned(tokens: Tokens, limit: int, ends: Set[int]) -> Iterator[bool]:
    """Yield for each token within `limit` whether it carries loss and is no turn's end.

    The first token is left out: no position predicts it.
    """
    pairs = zip(tokens.ids[1:limit], tokens.trained[1:limit], strict=True)
    return (trained and id not in ends for id, trained in pairs)


def _ends_within(tokens: Tokens, limit: int, ends: Set[int]) -> bool:
    """Return whether a trained turn's end remains within the first `limit` tokens."""
    if len(tokens.ids) <= limit:
        return True
    pairs = zip(tokens.ids[1:limit], tokens.trained[1:limit], strict=True)
    return any(trained and id in ends for id, trained in pairs)


def _cut(tokens: Tokens, limit: int) -> KeptRow:
    ids = tokens.ids[:limit]
    pairs = zip(ids, tokens.trained[:limit], strict=True)
    labels = [id if trained else IGNORED for id, trained in pairs]
    asked = tokens.prompt_ids if len(tokens.prompt_ids) <= limit else []
    return KeptRow(ids, labels, len(ids), asked, tokens.question, tokens.answer)
