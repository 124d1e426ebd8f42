"""Held-out loss of the model as it is: every row, nats per target token."""

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
from workbench.training.failure import diverged, is_out_of_memory
from workbench.training.model.base import DTYPES

Result = TypeVar("Result")


def autocast(device: str, precision: str) -> AbstractContextManager[Any]:
    """The compute dtype of 16-bit precisions; nothing for fp32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device, dtype=DTYPES[precision])


@contextmanager
def scoring(model: nn.Module, precision: str) -> Iterator[str]:
    """Eval mode, no gradients, compute dtype; gives the device. The mode is as before after."""
    was = model.training
    device = next(model.parameters()).device.type
    model.eval()
    try:
        with torch.no_grad(), autocast(device, precision):
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
    """`work` on `size` of `order` at a time, on fewer when the card has no room for more.

    `shrunk` is told a new size. Raises Interrupted between batches when the card is wanted back,
    and what work raised when not even one row fits an emptied card.
    """
    results, at, emptied = [], 0, False
    while at < len(order):
        control.check()
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
        torch.cuda.empty_cache()  # here, where the error's frames hold nothing any more
        emptied = True
    return results


def held_out(
    model: nn.Module,
    rows: Dataset,
    *,
    pad_id: int,
    batch_size: int,
    precision: str,
    control: Control,
    shrunk: Callable[[int], None] = lambda size: None,
) -> dict[str, float]:
    """loss (nats per target token, over all tokens), perplexity, token_accuracy, targets.

    `model` is the transformers model, adapter layers inside or not. Logits are never held whole:
    TRL's head scores them in chunks. Diverged when the loss is no number.
    """
    if "forward" not in model.__dict__:  # TRL's trainer has put the same head on
        add_fused_lm_head(model, outputs=("log_probs", "is_top1"))
    lengths = list(rows["length"])
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    fault_points.at("worker.evaluating")
    with scoring(model, precision) as device:

        def work(batch: list[int]) -> torch.Tensor:
            inputs = _padded(rows[batch], pad_id, device)
            out = model(**inputs, use_cache=False, fused_lm_head=True)
            sums = (-out.log_probs.double().sum(), out.is_top1.sum(), out.label_mask.sum())
            return torch.stack([value.double() for value in sums])

        sums = torch.stack(in_batches(order, batch_size, control, work, shrunk)).sum(0)
    nats, right, targets = sums.tolist()
    loss = nats / max(targets, 1)
    if not math.isfinite(loss):
        raise diverged("became NaN or infinite on the held-out rows")
    return {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "token_accuracy": right / max(targets, 1),
        "targets": targets,
    }


def _padded(columns: dict[str, Any], pad_id: int, device: str) -> dict[str, torch.Tensor]:
    """Right-padded batch of rows."""
    ids, labels = columns["input_ids"], columns["labels"]
    width = max(len(row) for row in ids)

    def fill(row: Sequence[int], value: int) -> list[int]:
        return [*row, *[value] * (width - len(row))]

    return {
        "input_ids": torch.tensor([fill(row, pad_id) for row in ids], device=device),
        "labels": torch.tensor([fill(row, -100) for row in labels], device=device),
        "attention_mask": torch.tensor([fill([1] * len(row), 0) for row in ids], device=device),
    }
