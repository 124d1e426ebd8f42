"""Losses of rows without padding: passes of a few thousand tokens, and a head in chunks."""

# T tokens of a pass, L positions that carry loss, D width, V vocabulary

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from datasets import Dataset
from torch import Tensor

from workbench.footprint.peak.scoring_bytes import HEAD_ROWS, LOSS_TOKENS, pass_tokens
from workbench.training.control import Control
from workbench.training.decode.forward import FastForward, Pass
from workbench.training.failure import is_out_of_memory
from workbench.training.scoring.row_losses import RowLosses
from workbench.training.step.rows import IGNORE, Rows, collate_rows


def losses_of_rows(
    forward: FastForward,
    rows: Dataset,
    order: list[int],
    control: Control,
    *,
    rows_at_once: int,
    shrunk: Callable[[int], None] = lambda size: None,
) -> RowLosses:
    """Return the loss of every row, in the rows' order; `order` is that in which they are read.

    A pass has the tokens of `rows_at_once` of the longest rows at most. On out of memory the number
    is halved, and `shrunk` is called with it. Raises Interrupted between passes when the card is to
    be given back.
    """
    lengths = list(rows["length"])
    nats, right, targets = ([0.0] * len(order) for _ in range(3))
    longest, at = max(lengths, default=1), 0
    while at < len(order):
        control.check()
        control.rows_done(at, len(order))
        most = pass_tokens(rows_at_once, longest, LOSS_TOKENS)
        batch = _one_pass([lengths[row] for row in order[at:]], most)
        try:
            found = _losses_of_pass(forward, _rows(rows, order[at : at + batch]))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or rows_at_once == 1:
                raise
            rows_at_once = math.ceil(rows_at_once / 2)
            shrunk(rows_at_once)
            found = []
        if not found:
            torch.cuda.empty_cache()  # outside `except`, where the error's frames hold no tensors
            continue
        for row, values in zip(order[at : at + batch], found, strict=True):
            nats[row], right[row], targets[row] = values
        at += batch
    control.rows_done(len(order), len(order))
    return RowLosses(nats=nats, right=[int(n) for n in right], targets=[int(n) for n in targets])


def _one_pass(lengths: list[int], most: int) -> int:
    """Return how many of the next rows one pass takes: at least one."""
    tokens = 0
    for count, length in enumerate(lengths):
        tokens += length
        if count and tokens > most:
            return count
    return len(lengths)


def _rows(rows: Dataset, batch: list[int]) -> Rows:
    columns = rows[batch]
    pairs = zip(columns["input_ids"], columns["labels"], strict=True)
    return collate_rows({"input_ids": ids, "labels": labels} for ids, labels in pairs)


def _losses_of_pass(forward: FastForward, part: Rows) -> list[tuple[float, float, float]]:
    """Return (nats, targets ranked first, targets) of each row of one pass."""
    device, lengths = forward.device, torch.tensor(part.lengths)
    cu = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    positions_T = torch.cat([torch.arange(length) for length in part.lengths]).to(device)
    read = Pass(
        cache=None,
        slots_T=positions_T,
        positions_T=positions_T,
        adapter_T=None,
        cu=cu.to(device, torch.int32),
        max_length=max(part.lengths),
    )
    hidden_TD = forward.hidden(part.ids_T.to(device), read)
    carries_T = part.targets_T != IGNORE
    at_L = carries_T.nonzero().squeeze(1)
    row_L = torch.bucketize(at_L, cu[1:], right=True)
    nats_L, right_L = _losses(forward, hidden_TD, at_L, part.targets_T[at_L])
    # Summed on the host in double precision, in the order of the tokens: the same digits always.
    sums = torch.zeros(3, len(part.lengths), dtype=torch.float64)
    for into, values in zip(sums, (nats_L, right_L, torch.ones_like(nats_L)), strict=True):
        into.index_add_(0, row_L, values)
    return [(a, b, c) for a, b, c in sums.T.tolist()]


def _losses(
    forward: FastForward, hidden_TD: Tensor, at_L: Tensor, targets_L: Tensor
) -> tuple[Tensor, Tensor]:
    """Return (nats, 1 where the target is ranked first) of each position, in fp64 on the host."""
    nats, right = [], []
    with torch.no_grad():
        each = zip(torch.split(at_L, HEAD_ROWS), torch.split(targets_L, HEAD_ROWS), strict=True)
        for at, targets in each:
            wanted = targets.to(hidden_TD.device)
            logits_CV = forward.logits(hidden_TD.index_select(0, at.to(hidden_TD.device)))
            own = logits_CV.gather(1, wanted[:, None]).squeeze(1)
            nats.append((logits_CV.logsumexp(-1) - own).double())
            right.append((logits_CV.argmax(-1) == wanted).double())
    if not nats:
        return torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
    return torch.cat(nats).cpu(), torch.cat(right).cpu()
