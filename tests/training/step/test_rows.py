"""Rows: how a batch is cut as the planner cuts it, and what a micro-step's inputs hold."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.footprint import Plan
from workbench.footprint.micro_steps import micro_step_tokens, padded_tokens
from workbench.training.step import Rows, collate_rows
from workbench.training.step.rows import (
    IGNORE,
    MicroInputs,
    input_size,
    pack_inputs,
    split_examples,
)


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=24),
    most=st.integers(1, 900),
)
def test_the_planner_cuts_as_the_step_does(lengths: list[int], most: int) -> None:
    rows = collate_rows({"input_ids": [7] * length} for length in lengths)
    cut = [part.tokens for part in rows.cut(len(lengths), most)]
    assert list(micro_step_tokens(lengths, most)) == cut
    planned = Plan(
        precision="bf16", attention="sdpa", attention_why="", optimizer="sgd", layers=1,
        rows_per_step=len(lengths), tokens_per_micro=most, longest=max(lengths), predicted_bytes=1,
    )  # fmt: skip
    assert len(cut) <= planned.micro_steps <= len(lengths)


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=24),
    cut_rows=st.integers(1, 24),
    padded=st.booleans(),
)
def test_any_rows_are_cut_into_no_more_micro_steps_than_planned(
    lengths: list[int], cut_rows: int, padded: bool
) -> None:
    each = -(-len(lengths) // cut_rows)
    budget = each * max(lengths)
    rows = collate_rows({"input_ids": [7] * length} for length in lengths)
    parts = rows.cut(len(lengths), budget, padded=padded)
    assert sum((part.lengths for part in parts), ()) == tuple(lengths)
    assert len(parts) <= -(-len(lengths) // each)
    for part in parts:
        taken = len(part.lengths) * max(part.lengths) if padded else part.tokens
        assert taken <= budget


def test_targets_are_the_next_token_inside_a_row() -> None:
    rows = collate_rows([{"input_ids": [5, 6, 7], "labels": [IGNORE, 6, 7]}, {"input_ids": [8, 9]}])
    assert rows.targets_T.tolist() == [6, 7, IGNORE, 9, IGNORE]
    assert (rows.tokens, rows.targets, rows.lengths) == (5, 3, (3, 2))
    assert split_examples(rows)[0] == {"input_ids": [5, 6, 7], "labels": [IGNORE, 6, 7]}


def test_a_batch_is_cut_by_rows_and_by_tokens(rows: Rows) -> None:
    assert [part.lengths for part in rows.cut(3)] == [(5, 17, 9), (12,)]
    assert [part.lengths for part in rows.cut(4, 16)] == [(5,), (17,), (9,), (12,)]
    assert [part.lengths for part in rows.cut(4, 27)] == [(5, 17), (9, 12)]
    assert sum(part.targets for part in rows.cut(1)) == rows.targets


def test_the_tail_of_a_bucket_is_a_sequence_without_loss(rows: Rows) -> None:
    host = pack_inputs(rows, 64, 6, 64, divisor=30, seed=1, counter=2)
    assert host.numel() == input_size(64, 6, 64)
    micro = MicroInputs.view_of(host, tokens=64, rows=6, carrying=64, max_length=64)
    assert micro.cu_lengths.tolist() == [0, 5, 22, 31, 43, 64, 64, 64]
    assert micro.positions_1T[0, 43:].tolist() == list(range(21))
    assert micro.at_L is None
    assert int((micro.targets_L[43:] != IGNORE).sum()) == 0
    assert (int(micro.divisor), int(micro.seed), int(micro.counter)) == (30, 1, 2)


def test_positions_without_loss_are_left_out(rows: Rows) -> None:
    host = pack_inputs(rows, 64, 6, 48, divisor=30, seed=1, counter=2)
    micro = MicroInputs.view_of(host, tokens=64, rows=6, carrying=48, max_length=64)
    assert micro.at_L is not None
    carry = [at for at, target in enumerate(rows.targets_T.tolist()) if target != IGNORE]
    assert micro.at_L.tolist() == carry + [63] * (48 - len(carry))
    assert micro.targets_L.tolist() == [
        *rows.targets_T[carry].tolist(), *[IGNORE] * (48 - len(carry))
    ]  # fmt: skip


def test_buckets_are_tight() -> None:
    assert [padded_tokens(n) for n in (1, 64, 65, 920, 2049, 8193)] == [
        64,
        64,
        128,
        960,
        2304,
        9216,
    ]
