"""Attention: the choice for a card, the planner's prediction of it, and its interface."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AttentionInterface

from workbench.footprint import ModelShape, named_config
from workbench.footprint.peak.attention_path import SHORT_TOKENS, kernel_for
from workbench.machine.cards import Card
from workbench.training.model.base import DTYPES
from workbench.training.step.attention.choice import AttentionChoice, choose_attention
from workbench.training.step.attention.implementations import (
    IMPLEMENTATIONS,
    UnsupportedAttention,
)

CPU = torch.device("cpu")
LLAMA = named_config("llama-3.2-1b") or {}


@pytest.mark.parametrize("capability", [(7, 0), (7, 5), (8, 0), (8, 6), (9, 0), (12, 0)])
@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("softcap", [False, True])
@pytest.mark.parametrize("head_width", [64, 256, 320])
def test_the_planner_knows_which_attention_a_card_will_use(
    capability: tuple[int, int], precision: str, softcap: bool, head_width: int
) -> None:
    card = Card(uuid="GPU-1", kind="cuda", name="x", total_bytes=1, capability=capability)
    shape = replace(ModelShape.of(LLAMA), softcap=softcap, head_dim=head_width)
    taken = choose_attention(
        torch.device("cuda"), DTYPES[precision], capability=capability, softcap=softcap,
        head_width=head_width,
    )  # fmt: skip
    assert kernel_for(card, precision, shape, 512)[0] == taken.kind
    cpu = Card(uuid="cpu-0", kind="cpu", name="x", total_bytes=1)
    taken = choose_attention(CPU, torch.float32, softcap=softcap)
    assert kernel_for(cpu, "fp32", shape, 512)[0] == taken.kind


def test_every_card_gets_a_kernel_and_a_reason() -> None:
    cuda, half = torch.device("cuda"), torch.float16
    assert choose_attention(CPU, torch.float32).kind == "loop"
    assert choose_attention(CPU, torch.float32, softcap=True).kind == "dense"
    assert choose_attention(cuda, half, capability=(7, 5)).kind == "efficient"
    assert choose_attention(cuda, half, capability=(8, 6)).kind in ("torch", "package")
    assert "7, 5" in choose_attention(cuda, half, capability=(7, 5)).why


@pytest.mark.parametrize("softcap", [None, 0.5])
@pytest.mark.parametrize("window", [None, 4])
def test_row_by_row_and_dense_attention_agree(window: int | None, softcap: float | None) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(14, 4, 8), torch.randn(14, 2, 8), torch.randn(14, 2, 8)
    more: dict[str, Any] = {"cu": torch.tensor([0, 3, 12, 14, 14]), "max_length": 9, "scale": 0.3}
    # PyTorch's memory-efficient kernel, which needs a card, has neither a window nor a soft cap.
    others = ["loop", "efficient"] if window or softcap else ["loop"]
    dense, *found = (
        IMPLEMENTATIONS[kind](q, k, v, window=window, softcap=softcap, **more)
        for kind in ("dense", *others)
    )
    for out in found:
        torch.testing.assert_close(out, dense, rtol=1e-5, atol=1e-6)


def test_attention_refuses_what_it_does_not_know() -> None:
    attend = AttentionInterface()[AttentionChoice(kind="loop", why="").name]
    x, cu = torch.randn(1, 2, 4, 8), torch.tensor([0, 4])
    known: dict[str, Any] = {"cu_seq_lens_q": cu, "max_length_q": 4, "position_ids": cu}
    attend(nn.Module(), x, x, x, None, **known)
    for more in ({"s_aux": cu}, {"dropout": 0.1}, {"is_causal": False}):
        with pytest.raises(UnsupportedAttention):
            attend(nn.Module(), x, x, x, None, **known, **more)
    attend = AttentionInterface()[AttentionChoice(kind="torch", why="").name]
    known["max_length_q"] = SHORT_TOKENS + 1  # our own kernel, which computes shorter rows, has it
    with pytest.raises(UnsupportedAttention, match="soft cap"):
        attend(nn.Module(), x, x, x, None, **known, softcap=50.0)
