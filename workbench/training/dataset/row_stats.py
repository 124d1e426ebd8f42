"""Cuts rows, counts what happens to them, and judges whether the lot can be trained on."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import Any

from workbench.errors import DataError
from workbench.training.dataset.duplicates import Seen
from workbench.training.dataset.rendering import Tokens

IGNORED = -100
"""The label of a token without loss, as torch's cross entropy has it."""
SAMPLED = 64
"""Lengths that stand for those of all rows."""

ANSWER_THEM = "give them an answer, or take them out"
CLOSE_TURNS = "use a chat template that closes each turn with its end token"
BREAK = "let the prompt end, or the answer begin, with a line break"
UNREPEAT = "each counts again in every epoch: take out those that are not meant"


@dataclass(frozen=True, slots=True)
class Kept:
    """One row as it is written."""

    input_ids: list[int]
    labels: list[int]
    length: int
    prompt_ids: list[int]
    """What generation starts from; empty where there is nothing to ask within the cut."""
    question: str
    answer: str


@dataclass(slots=True)
class Count:
    """How many rows something holds for, and the first of them."""

    rows: int = 0
    first: str = ""

    def add(self, place: str) -> None:
        self.rows += 1
        self.first = self.first or place

    def note(self, name: str, words: str, hint: str = "") -> list[str]:
        """`2 train rows <words> (first: t.jsonl:9); <mend>`, or nothing."""
        if not self.rows:
            return []
        rows = f"{self.rows} {name} row{'s' if self.rows > 1 else ''}"
        return [f"{rows} {words} (first: {self.first})" + (f"; {hint}" if hint else "")]


class Tally:
    """Keeps a few numbers, and sixteen bytes a row."""

    def __init__(
        self, name: str, max_tokens: int, *, answers: bool = True, judged: bool = False
    ) -> None:
        """`answers`: rows hold answers that must end; plain text may go on for ever. `judged`: a
        digest of them is wanted."""
        self.name = name
        self.highest_id = 0
        self.kept = 0
        self._max_tokens = max_tokens
        self._answers = answers
        self._judged = judged
        self._lengths: Counter[int] = Counter()
        self._uncut: Counter[int] = Counter()
        self._target_tokens = 0
        self._seen = Seen()
        self._cut = Count()
        self._cut_away = Count()
        self._cut_end = Count()
        self._silent = Count()
        self._endless = Count()
        self._apart = Count()
        self._beyond = Count()
        self._all = hashlib.sha256()

    def add(self, tokens: Tokens, place: str, ends: Set[int]) -> Kept | None:
        """The row, cut; None when it has no token to learn besides the end of a turn."""
        if not any(_learned(tokens, len(tokens.ids), ends)):
            self._silent.add(place)
            return None
        self._uncut[len(tokens.ids)] += 1
        if len(tokens.ids) > self._max_tokens:
            self._cut.add(place)
            if not any(_learned(tokens, self._max_tokens, ends)):
                self._cut_away.add(place)
                return None
        if not tokens.ended:
            self._endless.add(place)
        elif self._answers and not _ends_within(tokens, self._max_tokens, ends):
            self._cut_end.add(place)
        if not tokens.agrees:
            self._apart.add(place)
        if len(tokens.prompt_ids) > self._max_tokens:
            self._beyond.add(place)
        kept = _cut(tokens, self._max_tokens)
        self._note(kept, place)
        return kept

    def _note(self, kept: Kept, place: str) -> None:
        self.kept += 1
        self._lengths[kept.length] += 1
        self.highest_id = max(self.highest_id, *kept.input_ids, *kept.prompt_ids)
        self._target_tokens += len(kept.labels) - 1 - kept.labels.count(IGNORED)
        self._target_tokens += kept.labels[0] == IGNORED  # the first is nobody's target
        self._seen.add(kept.input_ids, place)
        if self._judged:
            row = [kept.input_ids, kept.labels, kept.prompt_ids, kept.answer]
            self._all.update(json.dumps(row).encode())

    def check(self) -> None:
        """DataError when the majority of rows cannot be learned from, or none says when to end."""
        total = self.kept + self._silent.rows + self._cut_away.rows
        if self._cut_away.rows * 2 > total:
            raise DataError(
                f"{self._cut_away.first}: {self._cut_away.rows} of {total} {self.name} rows lose "
                f"their whole answer when cut at {self._max_tokens} tokens",
                hint=self._longer(),
            )
        if (self._silent.rows + self._cut_away.rows) * 2 > total or not self.kept:
            raise DataError(
                f"{self._silent.first}: {self._silent.rows} of {total} {self.name} rows have no "
                "token that carries loss",
                hint="are the answers empty, or do chats lack an assistant's turn? "
                "Check data.columns and data.loss_on",
            )
        if self._endless.rows * 2 > self.kept:
            raise DataError(
                f"{self._endless.first}: in {self._endless.rows} of {self.kept} {self.name} rows "
                "the end of the trained turn carries no loss, so the model would not learn to stop",
                hint=CLOSE_TURNS,
            )
        if self._cut_end.rows == self.kept:
            raise DataError(
                f"{self._cut_end.first}: all {self.kept} {self.name} rows lose the end of their "
                f"answer when cut at {self._max_tokens} tokens, so the model would not learn to "
                "stop",
                hint=self._longer(),
            )

    def _longer(self) -> str:
        return f"raise data.max_tokens to {self._limit(0.95)}, or shorten the rows"

    def _whole(self) -> str:
        most, all_ = self._limit(0.95), self._limit(1.0)
        if most <= self._max_tokens or most == all_:
            return f"data.max_tokens: {all_} would leave all of them whole"
        return f"data.max_tokens: {most} would leave 95 % of all rows whole, {all_} every one"

    def _limit(self, share: float) -> int:
        """For data.max_tokens, that leaves so many of the rows whole."""
        return min(-(-_at(self._uncut, share) // 64) * 64, 1 << 20)

    def digest(self) -> str:
        """Of all kept rows, in order."""
        assert self._judged
        return self._all.hexdigest()[:32]

    @property
    def longest(self) -> int:
        """Tokens, after cutting."""
        return max(self._lengths)

    def numbers(self) -> dict[str, Any]:
        total = sum(length * rows for length, rows in self._lengths.items())
        return {
            "min_length": min(self._lengths),
            "median_length": _at(self._lengths, 0.5),
            "p95_length": _at(self._lengths, 0.95),
            "max_length": self.longest,
            "mean_length": round(total / self.kept, 2),
            "length_sample": [
                _at(self._lengths, (2 * n + 1) / (2 * SAMPLED)) for n in range(SAMPLED)
            ],
            "target_tokens": self._target_tokens,
            "uncut_p95_length": _at(self._uncut, 0.95),
            "uncut_max_length": max(self._uncut),
            "cut_rows": self._cut.rows,
            "dropped_rows": self._silent.rows + self._cut_away.rows,
        }

    def notes(self) -> list[str]:
        """What a person should know, in words; each with the first row it holds for."""
        longer = self._longer()
        said = (
            (self._cut, f"longer than {self._max_tokens} tokens and cut", self._whole()),
            (self._cut_away, "left out, because cutting took their whole answer", longer),
            (self._silent, "left out, because no token of theirs carries loss", ANSWER_THEM),
            (self._endless, "trained without the end of their last turn", CLOSE_TURNS),
            (self._cut_end, "whose answer's end was cut off", longer),
            (self._beyond, "whose last answer begins beyond the cut, so it is not asked", longer),
            (self._apart, "whose prompt has other tokens than with its answer behind it", BREAK),
            (Count(*self._seen.copies()), "repeating earlier ones", UNREPEAT),
        )
        return [note for count, *words in said for note in count.note(self.name, *words)]

    def shared_with(self, train: Tally) -> list[str]:
        """A note when held-out rows are trained on."""
        rows, first = self._seen.shared_with(train._seen)
        if not rows:
            return []
        return Count(rows, first).note(
            "held-out",
            "standing in the training rows, too",
            "take them out of one of the two: what was trained on scores too well",
        )


def _at(lengths: Counter[int], share: float) -> int:
    """The length that so many of the rows are no longer than."""
    place = int(lengths.total() * share)
    for length in sorted(lengths):
        place -= lengths[length]
        if place < 0:
            return length
    return max(lengths)


def _learned(tokens: Tokens, limit: int, ends: Set[int]) -> Iterator[bool]:
    """True for each token within `limit` that carries loss and is no turn's end.

    The first token is nobody's target.
    """
    pairs = zip(tokens.ids[1:limit], tokens.trained[1:limit], strict=True)
    return (trained and id not in ends for id, trained in pairs)


def _ends_within(tokens: Tokens, limit: int, ends: Set[int]) -> bool:
    """True where a trained turn's end is left by cutting."""
    if len(tokens.ids) <= limit:
        return True
    pairs = zip(tokens.ids[1:limit], tokens.trained[1:limit], strict=True)
    return any(trained and id in ends for id, trained in pairs)


def _cut(tokens: Tokens, limit: int) -> Kept:
    ids = tokens.ids[:limit]
    pairs = zip(ids, tokens.trained[:limit], strict=True)
    labels = [id if trained else IGNORED for id, trained in pairs]
    asked = tokens.prompt_ids if len(tokens.prompt_ids) <= limit else []
    return Kept(ids, labels, len(ids), asked, tokens.question, tokens.answer)
