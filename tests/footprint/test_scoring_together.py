"""Plans of answering several adapters in one pass."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.footprint.test_footprint import BIG, LLAMA, card, with_
from workbench.footprint import ModelShape, Plan
from workbench.footprint.peak import buckets
from workbench.footprint.peak.buckets import Run
from workbench.footprint.peak.scoring_bytes import low_rank_bytes, pass_tokens
from workbench.footprint.plan_search import PlanSearch
from workbench.footprint.row_lengths import Lengths
from workbench.footprint.scoring_plan import Beside, plan_scoring, scoring_buckets

LENGTHS: Lengths = {"longest": 512, "sample": [], "scored": 150}
PARAMETERS = 41_943_040
"""Values of an adapter of rank 16 on all linear layers of an 8B."""


def planned(gib: float, others: int) -> Plan:
    recipe = with_(evaluate__answer_pattern="(.*)", evaluate__batch_size=64)
    beside = Beside(parameters=others * PARAMETERS, lanes=256) if others else None
    return plan_scoring(
        recipe, LLAMA, card(gib, (9, 0)), lengths=LENGTHS, adapter_parameters=PARAMETERS,
        beside=beside,
    )  # fmt: skip


def test_lanes_and_adapters_of_a_pass_are_in_the_plans_bytes() -> None:
    alone, together = planned(80, 0), planned(80, 3)
    assert (alone.eval_batch, alone.eval_lanes) == (64, 0)
    assert (together.eval_batch, together.eval_lanes) == (64, 256)
    more = together.buckets["adapter"] - alone.buckets["adapter"]
    assert more == 3 * PARAMETERS * 4  # in fp32, as they are saved
    assert together.buckets["evaluation"] > alone.buckets["evaluation"]


def test_matrices_of_more_adapters_are_in_the_bytes_of_their_answers() -> None:
    search = PlanSearch.of(with_(evaluate__answer_pattern="(.*)"), LLAMA, BIG, LENGTHS)
    run = replace(search.run, eval_rows=64)
    one, four = (scoring_buckets(search, run, count * PARAMETERS) for count in (1, 4))
    # A and B with blocks of zeros, and the room for A below the largest group's weights.
    more = four["evaluation"] - one["evaluation"]
    room = 3 * 32 * 4096 * 2
    assert more == low_rank_bytes(search.shape, "bf16", rank=48) + room + more_columns(search, run)


def more_columns(search: PlanSearch, run: Run) -> int:
    """Return the bytes of three more adapters' low-rank inputs in the pass that reads prompts."""
    return pass_tokens(run.eval_rows, run.scored) * 2 * 3 * 32


def test_a_card_without_room_for_more_adapters_scores_one() -> None:
    assert planned(11, 0).eval_batch > 1
    assert planned(11, 100).eval_lanes == 0


@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("rank", [16, 64])
def test_a_training_trial_has_room_for_its_low_rank_matrices_when_it_answers(
    rank: int, keeps: bool
) -> None:
    recipe = with_(evaluate__answer_pattern="(.*)", evaluate__batch_size=256, lora__rank=rank)
    run = PlanSearch.of(recipe, LLAMA, BIG, LENGTHS).run
    run = replace(run, eval_rows=256, eval_dequantised=True, keeps_graphs=keeps)
    shape, parameters = ModelShape.of(LLAMA), PARAMETERS * rank // 16
    found = buckets.predict(shape, recipe, run)
    copies = low_rank_bytes(shape, "bf16", rank=rank)
    assert copies - 2 * parameters == pytest.approx(42e6 * rank / 16, rel=0.05)
    there = found["optimizer"]
    if not keeps:  # the step's graphs, gradients and copies in 16 bits are gone
        there += found["unpacked"] + found["gradients"] + 2 * parameters
        there += sum(found[name] for name in ("activations", "transient", "logits"))
    needed = buckets.answers_bytes(shape, recipe, run) + copies
    assert found["evaluation"] == needed - there > 0


@pytest.mark.parametrize(("targets", "rank", "copies_mb"), [
    ("all-linear", 16, 126), ("all-linear", 64, 504), (["q_proj", "v_proj"], 16, 21),
])  # fmt: skip
def test_answers_of_a_training_trial_take_the_matrices_of_its_own_targets(
    targets: str | list[str], rank: int, copies_mb: int
) -> None:
    lora = with_(lora__rank=rank, lora__targets=targets).lora
    copies = buckets.trained_low_rank_bytes(ModelShape.of(LLAMA), lora, "bf16")
    assert copies == pytest.approx(copies_mb * 1e6, rel=0.01)
