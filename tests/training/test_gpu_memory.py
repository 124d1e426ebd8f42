"""Memory of a CUDA card: released after each trial, and the fallbacks when it runs out.

python -m pytest tests/training/test_gpu_memory.py -m gpu
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest

from tests.training.test_gpu import card
from tests.training.trials import Bench, plan, recipe_of_two_layers
from workbench.attempts.events import Outcome
from workbench.footprint import Plan
from workbench.footprint.oom_fallback import next_fallback
from workbench.machine.cards import CAP_SLACK_BYTES
from workbench.training.memory.card_memory import Meter
from workbench.training.model.base import ResidentBase

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card"),
]

MIB = 1 << 20
PAGE_BYTES = 20 * MIB
ROWS, TOKENS = 128, 96
WIDE: dict[str, Any] = {
    "lora__dropout": 0.0,
    "data__max_rows": 3 * ROWS,
    "train__batch_size": ROWS,
    "train__save_every": 1,
    "train__log_every": 1,
}
"""Three steps of so many rows that the rows at a time decide the memory."""


def emptied() -> tuple[int, int]:
    """Return the bytes that tensors hold and the free bytes of the card, with nothing cached."""
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    return int(torch.cuda.memory_allocated()), int(torch.cuda.mem_get_info()[0])


def test_fifty_trials_on_one_worker_leave_the_card_as_the_first_left_it(tmp_path: Path) -> None:
    """Each trial takes the resident base, trains with graphs, scores and saves an adapter."""
    resident, left = ResidentBase(), []
    for turn in range(50):
        made = recipe_of_two_layers(
            model__quantization="nf4", train__max_steps=4, train__save_every=2, train__seed=turn
        )
        bench = Bench(tmp_path / str(turn), made, plan=plan(precision="bf16"), card=card())
        assert bench.run(resident).outcome is Outcome.DONE
        left.append(emptied())
    (held, free), (held_last, free_last) = left[0], left[-1]
    assert held_last <= held + 2 * MIB, left
    assert free_last >= free - PAGE_BYTES, left


def test_trials_of_a_large_rank_on_kept_graphs_take_no_more_than_the_first(tmp_path: Path) -> None:
    """The next adapter is written into the kept buffers and gone before there is an optimizer."""
    resident, most = ResidentBase(), []
    for turn in range(3):
        made = recipe_of_two_layers(train__max_steps=4, train__seed=turn, lora__rank=1024)
        kept = plan(precision="bf16", keeps_graphs=True)
        bench = Bench(tmp_path / str(turn), made, plan=kept, card=card())
        assert bench.run(resident, rehearse=False).outcome is Outcome.DONE
        assert resident.keeper.holds
        most.append(int(torch.cuda.max_memory_allocated()))
    assert max(most[1:]) <= most[0] + 2 * MIB, most


@pytest.mark.parametrize("rehearse", [True, False])
def test_a_capped_card_that_runs_out_ends_on_a_fallback_step_that_fits(
    rehearse: bool, tmp_path: Path
) -> None:
    """All rows at once exceed the cap and one row at a time fits; a step in between must hold."""
    wide = plan(
        precision="bf16",
        rows_per_step=ROWS,
        tokens_per_micro=ROWS * TOKENS,
        longest=TOKENS,
    )
    narrow = plan(precision="bf16", rows_per_step=ROWS, tokens_per_micro=TOKENS, longest=TOKENS)
    straight = Bench(tmp_path / "wide", recipe_of_two_layers(**WIDE), plan=wide, card=card()).run()
    most = int(torch.cuda.max_memory_reserved())
    emptied()
    assert (
        Bench(tmp_path / "narrow", recipe_of_two_layers(**WIDE), plan=narrow, card=card())
        .run()
        .scores
    )
    least = int(torch.cuda.max_memory_reserved())
    emptied()
    assert most - least > 3 * PAGE_BYTES, "else no rung lies between them"
    cap = (most + least) // 2 + Meter(card()).context_bytes + CAP_SLACK_BYTES
    bench = Bench(tmp_path / "capped", recipe_of_two_layers(**WIDE), plan=wide, card=card(cap))
    tried: list[Plan] = []
    losses: dict[int, Any] = {}
    try:
        while True:
            tried.append(bench.plan)
            log = bench.run(rehearse=rehearse)
            losses |= log.losses
            emptied()
            if log.outcome is Outcome.DONE:
                break
            assert log.end["cause"] == "out_of_memory", log.end
            lower = next_fallback(bench.plan, log.end["stage"])
            assert lower is not None, log.end
            bench.plan = lower
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert len(tried) > 1
    assert tried[-1].micro_batch * tried[-1].micro_steps == ROWS
    assert set(losses) == set(straight.losses)
    for step, (loss, _) in straight.losses.items():
        assert losses[step][0] == pytest.approx(loss, rel=0.02), step
