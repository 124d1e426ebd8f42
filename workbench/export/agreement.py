"""Compares a merged model with base and adapter on real rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from workbench.errors import ModelError
from workbench.training.dataset.row_stats import IGNORED

MOST_ROWS, MOST_TOKENS = 64, 128
"""Rows that are compared, and tokens of each."""
LARGE_BYTES, LARGE_ROWS = 4 << 30, 8
"""A base of more bytes is compared on fewer rows: each pass reads and computes all of it."""
BATCH_ROWS = 8
BOUNDS = {
    "float32": (1e-6, 0.999),
    "float16": (1e-2, 0.99),
    "bfloat16": (2e-2, 0.99),
}
"""By dtype of the merged weights: the largest mean KL divergence in nats a token, and the least
share of tokens whose likeliest successor is the same. Rounding alone stays far below the first on
trained models; a wrong scale or a forgotten module does not."""
TIE_NATS = 0.1
"""Two successors whose logits are nearer than this are equally likely as far as 16-bit weights can
tell: rounding moves a logit by some hundredths. Random weights have many such ties."""
Logits = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedRow:
    """A row of tokens, with the labels that carry loss."""

    ids: list[int]
    labels: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Two models compared on the same rows."""

    rows: int
    tokens: int
    kl_nats: float
    """Mean KL divergence from base and adapter to the merged model, nats a token."""
    top1_share: float
    """Share of tokens after which both find the same token likeliest, or one within TIE_NATS."""
    max_logits_difference: float
    max_logit: float
    loss_before: float | None
    """Mean loss of base and adapter, nats per target token; None without a target token."""
    loss_after: float | None
    """The same of the merged model."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields for a report."""
        return asdict(self)


class Comparison:
    """Sums over batches of logits of two models."""

    def __init__(self) -> None:
        self._rows = self._tokens = self._same = self._targets = 0
        self._kl = self._apart = self._most = 0.0
        self._loss = [0.0, 0.0]

    def add(self, rows: Sequence[CheckedRow], before: torch.Tensor, after: torch.Tensor) -> None:
        """Add a batch: logits of the rows, padded on the right, of both models in fp32."""
        for number, row in enumerate(rows):
            length = len(row.ids)
            one, other = before[number, :length].double(), after[number, :length].double()
            self._rows += 1
            self._tokens += length
            lead = one.amax(-1) - one.gather(1, other.argmax(-1, keepdim=True)).squeeze(1)
            self._same += int((lead <= TIE_NATS).sum())
            p, q = one.log_softmax(-1), other.log_softmax(-1)
            self._kl += float((p.exp() * (p - q)).sum())
            self._apart = max(self._apart, float((one - other).abs().max()))
            self._most = max(self._most, float(one.abs().max()))
            labels = torch.tensor(row.labels[1:])
            kept = labels != IGNORED
            self._targets += int(kept.sum())
            for place, logs in enumerate((p, q)):
                picked = logs[:-1][kept].gather(1, labels[kept][:, None])
                self._loss[place] -= float(picked.sum())

    def result(self) -> Agreement:
        """Return the means over everything added."""
        targets = self._targets
        losses = [total / targets if targets else None for total in self._loss]
        return Agreement(
            rows=self._rows,
            tokens=self._tokens,
            kl_nats=self._kl / max(1, self._tokens),
            top1_share=self._same / max(1, self._tokens),
            max_logits_difference=self._apart,
            max_logit=self._most,
            loss_before=losses[0],
            loss_after=losses[1],
        )


def compare(rows: Sequence[CheckedRow], before: Logits, after: Logits) -> Agreement:
    """Return how far two models are apart on the rows."""
    sums = Comparison()
    for start in range(0, len(rows), BATCH_ROWS):
        batch = rows[start : start + BATCH_ROWS]
        ids = padded(batch)
        sums.add(batch, before(ids), after(ids))
    return sums.result()


def padded(rows: Sequence[CheckedRow]) -> torch.Tensor:
    """Return the rows' ids, padded on the right, which a causal model does not look at."""
    longest = max(len(row.ids) for row in rows)
    return torch.tensor([row.ids + [row.ids[-1]] * (longest - len(row.ids)) for row in rows])


def check_agreement(found: Agreement, dtype: str) -> None:
    """Raise ModelError where the merged model is further off than rounding explains."""
    most_kl, least_same = BOUNDS[dtype]
    # One token more than the bound may differ: of a few dozen tokens, a single tie is over 1 %.
    others = round((1 - found.top1_share) * found.tokens)
    same = others <= 1 + (1 - least_same) * found.tokens
    if found.kl_nats <= most_kl and same:
        return
    if not math.isfinite(found.kl_nats):
        what = "its logits are not finite"
    else:
        what = (
            f"on {found.rows} rows it is {found.kl_nats:.2g} nats a token from base and adapter "
            f"({most_kl:g} at most), and agrees on {found.top1_share:.2%} of the likeliest tokens "
            f"({least_same:.1%} at least)"
        )
    raise ModelError(
        f"the merged model is not what was trained: {what}",
        hint="merge with --dtype float32; if that fails too, report it",
    )


def read_rows(file: Path | None, most_rows: int) -> list[CheckedRow]:
    """Return rows of a prepared data set's arrow file; none where there is no file."""
    if file is None or not file.is_file():
        return []
    from datasets import Dataset

    table = Dataset.from_file(str(file))
    chosen = table.select(range(min(len(table), most_rows))).select_columns(["input_ids", "labels"])
    rows = [
        CheckedRow(ids=row["input_ids"][:MOST_TOKENS], labels=row["labels"][:MOST_TOKENS])
        for row in chosen.to_list()
    ]
    return [row for row in rows if len(row.ids) > 1]


def rows_of_text(tokenizer: Any, text: str) -> list[CheckedRow]:
    """Return a text as one row, all of whose tokens carry loss."""
    ids = list(tokenizer(text)["input_ids"])[:MOST_TOKENS]
    return [CheckedRow(ids=ids, labels=ids)]
