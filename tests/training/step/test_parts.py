"""Rows, masks, attention, the head, the ring: each alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import AttentionInterface, AutoConfig

from workbench.footprint import ModelShape, Plan, named_config
from workbench.footprint.attention_path import kernel_for
from workbench.footprint.micro_steps import bucket, chunk_rows, parts
from workbench.footprint.model.shape import FAMILIES
from workbench.machine.cards import Card
from workbench.training.model.base import DTYPES
from workbench.training.step import Rows, collate
from workbench.training.step.attention import KERNELS, Choice, Unsupported, choose
from workbench.training.step.head import Head
from workbench.training.step.masks import hashed_mask, keep_mask, keys_for
from workbench.training.step.ring import Ring
from workbench.training.step.rows import IGNORE, Micro, examples_of, fill, size_of

CPU = torch.device("cpu")
LLAMA = named_config("llama-3.2-1b") or {}


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=24),
    most=st.integers(1, 900),
)
def test_the_planner_cuts_as_the_step_does(lengths: list[int], most: int) -> None:
    rows = collate({"input_ids": [7] * length} for length in lengths)
    told = [part.tokens for part in rows.cut(len(lengths), most)]
    assert list(parts(lengths, most)) == told
    planned = Plan(
        precision="bf16", attention="sdpa", attention_why="", optimizer="sgd", layers=1,
        rows_per_step=len(lengths), tokens_per_micro=most, longest=max(lengths), predicted_bytes=1,
    )  # fmt: skip
    assert len(told) <= planned.micro_steps <= len(lengths)


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=24),
    cuts=st.integers(1, 24),
    padded=st.booleans(),
)
def test_any_rows_are_cut_into_no_more_micro_steps_than_planned(
    lengths: list[int], cuts: int, padded: bool
) -> None:
    each = -(-len(lengths) // cuts)
    budget = each * max(lengths)
    rows = collate({"input_ids": [7] * length} for length in lengths)
    parts = rows.cut(len(lengths), budget, padded=padded)
    assert sum((part.lengths for part in parts), ()) == tuple(lengths)
    assert len(parts) <= -(-len(lengths) // each)
    for part in parts:
        taken = len(part.lengths) * max(part.lengths) if padded else part.tokens
        assert taken <= budget


@pytest.mark.parametrize("capability", [(7, 0), (7, 5), (8, 0), (8, 6), (9, 0), (12, 0)])
@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("softcap", [False, True])
@pytest.mark.parametrize("head_width", [64, 256, 320])
def test_the_planner_knows_which_attention_a_card_will_use(
    capability: tuple[int, int], precision: str, softcap: bool, head_width: int
) -> None:
    card = Card(uuid="GPU-1", kind="cuda", name="x", total_bytes=1, capability=capability)
    shape = replace(ModelShape.of(LLAMA), softcap=softcap, head_dim=head_width)
    taken = choose(
        torch.device("cuda"), DTYPES[precision], capability=capability, softcap=softcap,
        head_width=head_width,
    )  # fmt: skip
    assert kernel_for(card, precision, shape, 512)[0] == taken.kind
    cpu = Card(uuid="cpu-0", kind="cpu", name="x", total_bytes=1)
    taken = choose(CPU, torch.float32, softcap=softcap)
    assert kernel_for(cpu, "fp32", shape, 512)[0] == taken.kind


def test_targets_are_the_next_token_inside_a_row() -> None:
    rows = collate([{"input_ids": [5, 6, 7], "labels": [IGNORE, 6, 7]}, {"input_ids": [8, 9]}])
    assert rows.targets_T.tolist() == [6, 7, IGNORE, 9, IGNORE]
    assert (rows.tokens, rows.targets, rows.lengths) == (5, 3, (3, 2))
    assert examples_of(rows)[0] == {"input_ids": [5, 6, 7], "labels": [IGNORE, 6, 7]}


def test_a_batch_is_cut_by_rows_and_by_tokens(rows: Rows) -> None:
    assert [part.lengths for part in rows.cut(3)] == [(5, 17, 9), (12,)]
    assert [part.lengths for part in rows.cut(4, 16)] == [(5,), (17,), (9,), (12,)]
    assert [part.lengths for part in rows.cut(4, 27)] == [(5, 17), (9, 12)]
    assert sum(part.targets for part in rows.cut(1)) == rows.targets


def test_the_tail_of_a_bucket_is_a_sequence_without_loss(rows: Rows) -> None:
    host = fill(rows, 64, 6, 64, divisor=30, seed=1, counter=2)
    assert host.numel() == size_of(64, 6, 64)
    micro = Micro.over(host, tokens=64, rows=6, carrying=64, max_length=64)
    assert micro.cu_lengths.tolist() == [0, 5, 22, 31, 43, 64, 64, 64]
    assert micro.positions_1T[0, 43:].tolist() == list(range(21))
    assert micro.at_L is None
    assert int((micro.targets_L[43:] != IGNORE).sum()) == 0
    assert (int(micro.divisor), int(micro.seed), int(micro.counter)) == (30, 1, 2)


def test_positions_without_loss_are_left_out(rows: Rows) -> None:
    host = fill(rows, 64, 6, 48, divisor=30, seed=1, counter=2)
    micro = Micro.over(host, tokens=64, rows=6, carrying=48, max_length=64)
    assert micro.at_L is not None
    carry = [at for at, target in enumerate(rows.targets_T.tolist()) if target != IGNORE]
    assert micro.at_L.tolist() == carry + [63] * (48 - len(carry))
    assert micro.targets_L.tolist() == [
        *rows.targets_T[carry].tolist(), *[IGNORE] * (48 - len(carry))
    ]  # fmt: skip


def test_chunks_of_the_head_are_about_equal() -> None:
    llama = 128_256 * 2  # at most 512 rows at once
    assert [chunk_rows(llama, rows) for rows in (64, 512, 576, 960, 1088)] == [
        64,
        512,
        320,
        512,
        384,
    ]
    assert chunk_rows(2**28, 3) == 1
    assert chunk_rows(2**21 // 5 * 32, 40) == 10


def test_buckets_are_tight() -> None:
    assert [bucket(n) for n in (1, 64, 65, 920, 2049, 8193)] == [64, 64, 128, 960, 2304, 9216]


@pytest.mark.parametrize("draw", [keep_mask, hashed_mask])
def test_masks_are_fair_and_independent_and_repeat(draw: Any) -> None:
    seed, counter, sites = torch.tensor(42), torch.tensor(9), torch.arange(3)
    keys_S2 = keys_for(seed, counter, sites)
    masks = torch.stack([draw((256, 512), key, 0.25).float() for key in keys_S2])
    assert (masks.mean((1, 2)) - 0.75).abs().max() < 0.005
    assert (masks.mean(1) - 0.75).abs().max() < 0.16  # no column is special (6 sigma)
    correlation = torch.corrcoef(masks.flatten(1))
    assert (correlation - torch.eye(3)).abs().max() < 0.012
    flat = masks[0].flatten()
    for lag in (1, 2, 64, 512):
        assert torch.corrcoef(torch.stack([flat[lag:], flat[:-lag]]))[0, 1].abs() < 0.012
    assert torch.equal(keys_S2, keys_for(seed, counter, sites))
    for other in (keys_for(seed + 1, counter, sites), keys_for(seed, counter + 1, sites)):
        assert not torch.equal(keys_S2, other)


@pytest.mark.parametrize("window", [None, 4])
def test_row_by_row_and_dense_attention_agree(window: int | None) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(14, 4, 8), torch.randn(14, 2, 8), torch.randn(14, 2, 8)
    more: dict[str, Any] = {"cu": torch.tensor([0, 3, 12, 14, 14]), "max_length": 9, "scale": 0.3}
    loop, dense = (
        KERNELS[kind](q, k, v, window=window, softcap=None, **more) for kind in ("loop", "dense")
    )
    torch.testing.assert_close(loop, dense, rtol=1e-5, atol=1e-6)


def test_attention_refuses_what_it_does_not_know() -> None:
    attend = AttentionInterface()[Choice(kind="loop", why="").name]
    x, cu = torch.randn(1, 2, 4, 8), torch.tensor([0, 4])
    known: dict[str, Any] = {"cu_seq_lens_q": cu, "max_length_q": 4, "position_ids": cu}
    attend(nn.Module(), x, x, x, None, **known)
    for more in ({"s_aux": cu}, {"dropout": 0.1}, {"softcap": 50.0}, {"is_causal": False}):
        with pytest.raises(Unsupported):
            attend(nn.Module(), x, x, x, None, **known, **more)


def test_every_card_gets_a_kernel_and_a_reason() -> None:
    cuda, half = torch.device("cuda"), torch.float16
    assert choose(CPU, torch.float32).kind == "loop"
    assert choose(CPU, torch.float32, softcap=True).kind == "dense"
    assert choose(cuda, half, capability=(7, 5)).kind == "efficient"
    assert choose(cuda, half, capability=(8, 6)).kind in ("torch", "package")
    assert "7, 5" in choose(cuda, half, capability=(7, 5)).why


@pytest.mark.parametrize("softcap", [None, 5.0])
def test_the_head_in_chunks_is_cross_entropy(
    softcap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workbench.footprint.micro_steps.CHUNK_BYTES", 3 * 31 * 4)
    torch.manual_seed(0)
    hidden, weight = torch.randn(11, 6, requires_grad=True), torch.randn(31, 6)
    targets = torch.tensor([3, IGNORE, 30, 0, 1, IGNORE, 7, 8, 9, 2, 2])
    logits = hidden @ weight.T
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    want = nn.functional.cross_entropy(logits, targets, reduction="sum") / 20
    (want_grad,) = torch.autograd.grad(want, hidden)
    head = Head(weight_VD=weight, bias_V=None, softcap=softcap)
    at = torch.tensor([0, 2, 3, 4, 6, 7, 8, 9, 10, 5, 5])  # the last two fill up
    for at_L, targets_L in ((None, targets), (at, targets[at])):
        loss = head.loss(hidden, at_L, targets_L, torch.tensor(20), torch.tensor(8.0))
        (grad,) = torch.autograd.grad(loss, hidden)
        torch.testing.assert_close(loss, want.detach(), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(grad, 8 * want_grad, rtol=1e-5, atol=1e-6)


def test_the_ring_gives_each_step_once_and_forgets_the_oldest() -> None:
    ring = Ring(3, ("loss",), CPU)
    for value in (1.0, 2.0):
        ring.write(torch.tensor(value))
    assert [row["loss"] for row in ring.read()] == [1.0, 2.0]
    assert ring.read() == []
    for value in range(5):
        ring.write(torch.tensor(float(value)))
    assert [row["loss"] for row in ring.read()] == [2.0, 3.0, 4.0]


@pytest.mark.parametrize("kind", sorted({*FAMILIES, "smollm3"}))
def test_measures_that_a_config_leaves_out_are_those_of_transformers(kind: str) -> None:
    told = {"hidden_size": 4096, "intermediate_size": 64, "num_hidden_layers": 2}
    told |= {"num_attention_heads": 32, "vocab_size": 97}
    whole = AutoConfig.for_model(kind, **told)
    shape = ModelShape.of({"model_type": kind, **told})
    assert shape.kv_heads == whole.num_key_value_heads
    assert shape.head_dim == (getattr(whole, "head_dim", None) or 128)
    assert shape.tied == whole.tie_word_embeddings
