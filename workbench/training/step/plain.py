"""The path of models outside the allow-list: a padded batch through the model's own forward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from workbench.training.step.rows import IGNORE, Rows


def run_plain_micro_step(
    model: Any, part: Rows, divisor: int, dtype: torch.dtype, device: torch.device, scale: Tensor
) -> Tensor:
    """Run one micro-step by the model's own code, and return its share of the batch's loss.

    The loss is in nats, divided by `divisor`, the batch's target tokens. Gradients times `scale`
    (the loss scale) are added where the parameters have them.
    """
    ids = _pad(part.ids_T, part.lengths, 0).to(device)
    targets = _pad(part.targets_T, part.lengths, IGNORE).to(device)
    mask = _pad(torch.ones_like(part.ids_T), part.lengths, 0).to(device)
    half = dtype is not torch.float32
    with torch.autocast(device.type, dtype=dtype if half else None, enabled=half):
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
    nats = nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum"
    )
    loss = nats / max(divisor, 1)
    torch.autograd.backward(loss * scale)
    return loss.detach()


def _pad(row_T: Tensor, lengths: tuple[int, ...], value: int) -> Tensor:
    """Return the rows below each other, padded on the right to the longest."""
    return nn.utils.rnn.pad_sequence(
        list(torch.split(row_T, list(lengths))), batch_first=True, padding_value=value
    )
