"""Rows without padding: one concatenated row, cut into micro-steps, sized to a bucket.

Saves the pad tokens of a padded batch (about half of them at GSM8K's lengths) and, by buckets,
keeps the shapes few enough to capture. Concatenating with cumulative lengths: Krell et al. 2021,
arXiv 2107.02027; the varlen form: Dao 2023, arXiv 2307.08691.
"""

# T tokens of the concatenated row, L positions of them, R rows

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workbench.footprint.micro_steps import cuts

IGNORE = -100
"""The label that carries no loss (torch.nn.functional.cross_entropy's default)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """An optimizer batch, or a part of one, on the host."""

    ids_T: Tensor
    targets_T: Tensor
    """The token each position has to predict: labels shifted by one inside each row."""
    lengths: tuple[int, ...]

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    @property
    def targets(self) -> int:
        """Positions that carry loss."""
        return int((self.targets_T != IGNORE).sum())

    def cut(
        self, max_rows: int, max_tokens: int | None = None, *, padded: bool = False
    ) -> list[Rows]:
        """One part for each micro-step, as the planner cuts."""
        ends = cuts(self.lengths, max_rows, max_tokens, padded=padded)
        return [self._part(first, end) for first, end in ends]

    def _part(self, first: int, end: int) -> Rows:
        before = sum(self.lengths[:first])
        lengths = self.lengths[first:end]
        span = slice(before, before + sum(lengths))
        return Rows(ids_T=self.ids_T[span], targets_T=self.targets_T[span], lengths=lengths)


def collate(examples: Iterable[Mapping[str, Sequence[int]]]) -> Rows:
    """Rows of `input_ids` and `labels` (left out: all tokens carry loss)."""
    ids: list[int] = []
    targets: list[int] = []
    lengths: list[int] = []
    for example in examples:
        row = list(example["input_ids"])
        labels = list(example.get("labels") or row)
        assert 0 < len(row) == len(labels), (len(row), len(labels))
        ids += row
        targets += [*labels[1:], IGNORE]
        lengths.append(len(row))
    return Rows(
        ids_T=torch.tensor(ids, dtype=torch.int64),
        targets_T=torch.tensor(targets, dtype=torch.int64),
        lengths=tuple(lengths),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Micro:
    """One forward's inputs on the card, views of one buffer that one copy fills."""

    ids_1T: Tensor
    positions_1T: Tensor
    at_L: Tensor | None
    """Positions whose loss is asked for; None: all."""
    targets_L: Tensor
    cu_lengths: Tensor
    """int64; R + 2 entries, unused ones repeat the end, so its shape never depends on the rows."""
    divisor: Tensor
    """Target tokens of the whole optimizer batch."""
    seed: Tensor
    counter: Tensor
    max_length: int
    """No sequence of any batch of this bucket is longer."""

    @classmethod
    def over(
        cls, buffer: Tensor, *, tokens: int, rows: int, carrying: int, max_length: int
    ) -> Micro:
        """Views of `buffer`, which has size_of(tokens, rows, carrying) int64 elements."""
        sizes = [tokens, tokens, carrying, carrying, rows + 2, 1, 1, 1]
        ids, positions, at, targets, cu, divisor, seed, counter = torch.split(buffer, sizes)
        return cls(
            ids_1T=ids[None],
            positions_1T=positions[None],
            at_L=at if carrying < tokens else None,
            targets_L=targets,
            cu_lengths=cu,
            divisor=divisor[0],
            seed=seed[0],
            counter=counter[0],
            max_length=max_length,
        )


def size_of(tokens: int, rows: int, carrying: int) -> int:
    return 2 * tokens + 2 * carrying + rows + 2 + 3


def fill(
    part: Rows,
    tokens: int,
    rows: int,
    carrying: int,
    *,
    divisor: int,
    seed: int,
    counter: int,
    pad_id: int = 0,
) -> Tensor:
    """The host's side of Micro's buffer. The tail up to `tokens` is a sequence without loss; of
    `carrying` positions those that carry loss come first, and the last one, which never does,
    fills up.
    """
    tail, targets = tokens - part.tokens, part.targets_T
    assert tail >= 0
    assert len(part.lengths) <= rows
    at = torch.arange(tokens)
    if carrying < tokens:
        at = (targets != IGNORE).nonzero()[:, 0]
        targets = targets[at]
        at = nn.functional.pad(at, (0, carrying - len(at)), value=tokens - 1)
    lengths = [*part.lengths, tail] if tail else list(part.lengths)
    ends = torch.tensor(lengths).cumsum(0)
    cu = torch.full((rows + 2,), tokens)
    cu[0] = 0
    cu[1 : 1 + len(lengths)] = ends
    return torch.cat(
        [
            part.ids_T,
            torch.full((tail,), pad_id),
            torch.cat([torch.arange(length) for length in lengths]),
            at,
            nn.functional.pad(targets, (0, carrying - len(targets)), value=IGNORE),
            cu,
            torch.tensor([divisor, seed, counter]),
        ]
    )


def examples_of(rows: Any) -> list[dict[str, list[int]]]:
    """Back to one dictionary a row, for the plain path."""
    examples, at = [], 0
    for length in rows.lengths:
        ids = rows.ids_T[at : at + length].tolist()
        shifted = rows.targets_T[at : at + length].tolist()
        examples.append({"input_ids": ids, "labels": [IGNORE, *shifted[:-1]]})
        at += length
    return examples
