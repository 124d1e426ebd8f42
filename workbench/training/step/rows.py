"""Rows without padding: one concatenated row, cut into micro-steps, sized to a bucket.

Saves the pad tokens of a padded batch (about half of them at GSM8K's lengths) and, by buckets,
keeps the shapes few enough to capture. Concatenating with cumulative lengths: Krell et al. 2021,
arXiv 2107.02027; the varlen form of attention: Dao 2023, arXiv 2307.08691.
"""

# T tokens of the concatenated row, L positions of them that carry loss, R rows

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workbench.footprint.micro_steps import cut_rows

IGNORE = -100
"""The label that carries no loss (torch.nn.functional.cross_entropy's default)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """An optimizer batch, or a part of one, on the host."""

    ids_T: Tensor
    targets_T: Tensor
    """The token that each position has to predict: labels shifted by one inside each row."""
    lengths: tuple[int, ...]
    """Tokens of each row."""

    @property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return sum(self.lengths)

    @property
    def targets(self) -> int:
        """Positions that carry loss."""
        return int((self.targets_T != IGNORE).sum())

    def cut(
        self, max_rows: int, max_tokens: int | None = None, *, padded: bool = False
    ) -> list[Rows]:
        """Return one part for each micro-step, cut as the planner cuts (micro_steps.cut_rows)."""
        ends = cut_rows(self.lengths, max_rows, max_tokens, padded=padded)
        return [self._part(first, end) for first, end in ends]

    def pad(self) -> Rows:
        """Return rows as long as the longest, as a padded batch computes them."""
        width = max(self.lengths)
        ids: list[Tensor] = []
        targets: list[Tensor] = []
        row_ids: Sequence[Tensor] = torch.split(self.ids_T, list(self.lengths))
        row_targets: Sequence[Tensor] = torch.split(self.targets_T, list(self.lengths))
        for row, target in zip(row_ids, row_targets, strict=True):
            more = width - len(row)
            ids.append(nn.functional.pad(row, (0, more)))
            targets.append(nn.functional.pad(target, (0, more), value=IGNORE))
        lengths = (width,) * len(ids)
        return Rows(ids_T=torch.cat(ids), targets_T=torch.cat(targets), lengths=lengths)

    def _part(self, first: int, end: int) -> Rows:
        before = sum(self.lengths[:first])
        lengths = self.lengths[first:end]
        span = slice(before, before + sum(lengths))
        return Rows(ids_T=self.ids_T[span], targets_T=self.targets_T[span], lengths=lengths)


def collate_rows(examples: Iterable[Mapping[str, Sequence[int]]]) -> Rows:
    """Return the concatenation of examples, each with `input_ids` and `labels`.

    Where `labels` are left out, all tokens carry loss. The last position of a row has no next token
    and carries none. An example with `seq_lengths` is a bin of so many rows, which stay rows.
    """
    ids: list[int] = []
    targets: list[int] = []
    lengths: list[int] = []
    for example in examples:
        bin = list(example["input_ids"])
        labels = list(example.get("labels") or bin)
        assert 0 < len(bin) == len(labels), (len(bin), len(labels))
        ids += bin
        for length in example.get("seq_lengths") or [len(bin)]:
            targets += [*labels[1:length], IGNORE]
            labels = labels[length:]
            lengths.append(length)
    return Rows(
        ids_T=torch.tensor(ids, dtype=torch.int64),
        targets_T=torch.tensor(targets, dtype=torch.int64),
        lengths=tuple(lengths),
    )


def split_examples(rows: Rows) -> list[dict[str, list[int]]]:
    """Return a dictionary of `input_ids` and `labels` for each row: collate_rows' inverse."""
    examples, at = [], 0
    for length in rows.lengths:
        ids = rows.ids_T[at : at + length].tolist()
        shifted = rows.targets_T[at : at + length].tolist()
        examples.append({"input_ids": ids, "labels": [IGNORE, *shifted[:-1]]})
        at += length
    return examples


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroInputs:
    """The inputs of one forward pass on the card: views of one buffer, which one copy fills."""

    ids_1T: Tensor
    positions_1T: Tensor
    """Each token's place in its own row."""
    at_L: Tensor | None
    """Positions whose loss is asked for; None: all."""
    targets_L: Tensor
    cu_lengths: Tensor
    """Cumulative lengths, int64. R + 2 entries, of which unused ones repeat the end, so that the
    shape never depends on the rows."""
    divisor: Tensor
    """Target tokens of the whole optimizer batch."""
    seed: Tensor
    counter: Tensor
    """The micro-step's number, which names its dropout masks."""
    max_length: int
    """No sequence of any batch of this bucket is longer."""

    @classmethod
    def view_of(
        cls, buffer: Tensor, *, tokens: int, rows: int, carrying: int, max_length: int
    ) -> MicroInputs:
        """Return views of `buffer`, which has input_size(tokens, rows, carrying) int64 elements."""
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


def input_size(tokens: int, rows: int, carrying: int) -> int:
    """Return the int64 elements of a buffer of inputs: see MicroInputs.view_of for their order."""
    return 2 * tokens + 2 * carrying + rows + 2 + 3


def pack_inputs(
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
    """Return the contents of a buffer of inputs, on the host.

    The tail from the part's tokens up to `tokens` becomes a sequence of its own without loss. Of
    `carrying` positions those that carry loss come first; the last position of all, which never
    carries any, fills up.
    """
    tail, targets = tokens - part.tokens, part.targets_T
    assert tail >= 0
    assert len(part.lengths) <= rows
    # Position tokens - 1 ends the tail or a row, so it never carries loss and may fill up.
    at = torch.arange(tokens)
    if carrying < tokens:
        at = (targets != IGNORE).nonzero()[:, 0]
        targets = targets[at]
        at = nn.functional.pad(at, (0, carrying - len(at)), value=tokens - 1)
    # A sequence of its own: attention mixes the tail with no row.
    lengths = [*part.lengths, tail] if tail else list(part.lengths)
    ends = torch.tensor(lengths).cumsum(0)
    # Unused entries are the end: sequences of length 0, which every kernel skips.
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


def row_of_tokens(cu: Tensor, tokens: int) -> Tensor:
    """Return the number of the row of each token, found on the card from cumulative lengths."""
    return torch.bucketize(torch.arange(tokens, device=cu.device), cu[1:], right=True)
