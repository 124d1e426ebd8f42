"""The held-out loss: every held-out row is scored, in nats per target token.

packed_losses.py computes it for models that decode/ knows, this module for all others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from datasets import Dataset
from torch import nn
from trl.trainer.utils import add_fused_lm_head

from workbench import fault_points
from workbench.training.control import Control
from workbench.training.decode.forward import CannotFuse, fast_forward
from workbench.training.failure import is_out_of_memory
from workbench.training.model.base import DTYPES
from workbench.training.scoring.packed_losses import losses_of_rows
from workbench.training.scoring.row_losses import RowLosses

Result = TypeVar("Result")


def autocast_context(device: str, precision: str) -> AbstractContextManager[Any]:
    """Return torch's autocast for a 16-bit precision, and a context that does nothing for fp32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device, dtype=DTYPES[precision])


@contextmanager
def scoring_mode(model: nn.Module, precision: str) -> Iterator[str]:
    """Score inside the block: eval mode, no gradients, the compute dtype; yields the device type.

    The model's mode is restored afterwards.
    """
    was = model.training
    device = next(model.parameters()).device.type
    model.eval()
    try:
        with torch.no_grad(), autocast_context(device, precision):
            yield device
    finally:
        model.train(was)


def in_batches(
    order: Sequence[int],
    size: int,
    control: Control,
    work: Callable[[list[int]], Result],
    shrunk: Callable[[int], None] = lambda size: None,
) -> list[Result]:
    """Call `work` with `size` rows of `order` at a time and return its results.

    On out of memory the size is halved and `shrunk` is called with it. Raises Interrupted between
    batches when the card is to be given back, and the out-of-memory error itself when one row alone
    does not fit an empty card.
    """
    results, at, emptied = [], 0, False
    while at < len(order):
        control.check()
        control.rows_done(at, len(order))
        try:
            results.append(work(list(order[at : at + size])))
            at += size
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or (size == 1 and emptied):
                raise
            if size > 1:
                size = math.ceil(size / 2)
                shrunk(size)
        else:
            continue
        torch.cuda.empty_cache()  # outside `except`, where the error's frames hold no tensors
        emptied = True
    control.rows_done(len(order), len(order))
    return results


def score_rows(
    model: nn.Module,
    rows: Dataset,
    *,
    pad_id: int,
    batch_size: int,
    precision: str,
    control: Control,
    shrunk: Callable[[int], None] = lambda size: None,
) -> RowLosses:
    """Return the held-out loss of every row.

    `model` is the transformers model, with or without adapter layers inside. Rows are sorted by
    length; models that decode/ knows read them without padding, a few thousand tokens at a time,
    all others `batch_size` rows at a time, which decides nothing but rounding. Logits are never
    held whole. Raises Interrupted when the card is to be given back.
    """
    lengths = list(rows["length"])
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    fault_points.at("worker.evaluating")
    try:
        with fast_forward(model, DTYPES[precision], for_steps=False) as forward:
            return losses_of_rows(
                forward, rows, order, control, rows_at_once=batch_size, shrunk=shrunk
            )
    except CannotFuse:
        return score_padded(model, rows, order, pad_id, batch_size, precision, control, shrunk)


def score_padded(
    model: nn.Module,
    rows: Dataset,
    order: list[int],
    pad_id: int,
    batch_size: int,
    precision: str,
    control: Control,
    shrunk: Callable[[int], None],
) -> RowLosses:
    """Return the losses by the model's own forward, whose logits TRL's head makes in chunks."""
    if "forward" not in model.__dict__:  # else TRL's trainer has replaced it with the same head
        add_fused_lm_head(model, outputs=("log_probs", "is_top1"))
    with scoring_mode(model, precision) as device:

        def work(batch: list[int]) -> torch.Tensor:
            inputs = _padded(rows[batch], pad_id, device)
            out = model(**inputs, use_cache=False, fused_lm_head=True)
            each = (-out.log_probs.double(), out.is_top1, out.label_mask)
            return torch.stack([value.sum(1).double() for value in each])

        sums = torch.cat(in_batches(order, batch_size, control, work, shrunk), dim=1)
    by_row = sums[:, torch.tensor(order).argsort()].cpu()
    nats, right, targets = by_row.tolist()
    return RowLosses(nats=nats, right=[int(n) for n in right], targets=[int(n) for n in targets])


def _padded(columns: dict[str, Any], pad_id: int, device: str) -> dict[str, torch.Tensor]:
    """Return rows as one batch, padded on the right."""
    ids, labels = columns["input_ids"], columns["labels"]
    width = max(len(row) for row in ids)

    def fill(row: Sequence[int], value: int) -> list[int]:
        return [*row, *[value] * (width - len(row))]

    return {
        "input_ids": torch.tensor([fill(row, pad_id) for row in ids], device=device),
        "labels": torch.tensor([fill(row, -100) for row in labels], device=device),
        "attention_mask": torch.tensor([fill([1] * len(row), 0) for row in ids], device=device),
    }
