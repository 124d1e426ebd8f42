"""The paths that need a CUDA card: NF4 in bf16 and fp16, the cap, the peak.

python -m pytest tests/training/test_gpu.py -m gpu
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from tests.training.trials import Bench, halt_at, plan, recipe
from workbench.cards import Card
from workbench.events import Outcome
from workbench.fleet import Halt

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card"),
]

ANSWERS = {"evaluate__answer_pattern": r"####\s*(\S+)", "evaluate__max_new_tokens": 24}


def card(cap_bytes: int | None = None) -> Card:
    about = torch.cuda.get_device_properties(0)
    return Card(
        uuid=f"GPU-{about.uuid}",
        kind="cuda",
        name=about.name,
        total_bytes=about.total_memory,
        capability=(about.major, about.minor),
        cap_bytes=cap_bytes,
    )


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("optimizer", ["adamw_torch", "paged_adamw_8bit"])
def test_a_quantised_trial_trains_scores_and_leaves(
    optimizer: str, precision: str, tmp_path: Path
) -> None:
    made = recipe(model__quantization="nf4", train__epochs=2, evaluate__every=4, **ANSWERS)
    cut = plan(precision=precision, optimizer=optimizer, recompute_layers=5)
    log = Bench(tmp_path, made, plan=cut, card=card()).run()
    assert log.outcome is Outcome.DONE, log.end
    told = [row["values"]["eval_loss"] for row in log.of("metric") if "eval_loss" in row["values"]]
    assert told[-1] < told[0]
    assert all(math.isfinite(loss) for loss, _ in log.losses.values())
    assert (tmp_path / "trials/1/adapter/adapter_model.safetensors").is_file()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_resumed_trial_repeats_the_uninterrupted_one(precision: str, tmp_path: Path) -> None:
    made = recipe(model__quantization="nf4", train__epochs=2, train__log_every=1)
    cut = plan(precision=precision)
    expected = Bench(tmp_path / "a", made, plan=cut, card=card()).run()
    broken = Bench(tmp_path / "b", made, plan=cut, card=card())
    first = broken.run(on=halt_at(7, Halt.YIELD))
    losses = {**first.losses, **broken.run().losses}
    for step, (loss, norm) in expected.losses.items():
        assert losses[step] == pytest.approx((loss, norm), rel=1e-2, abs=1e-3)


def test_the_peak_stays_below_the_cap(tmp_path: Path) -> None:
    made = recipe(model__quantization="nf4")
    cap = 4 << 30
    log = Bench(tmp_path, made, plan=plan(precision="bf16"), card=card(cap)).run()
    peaks = [row["values"]["peak_bytes"] for row in log.of("metric") if "loss" in row["values"]]
    assert 0 < max(peaks) < cap


def test_too_little_memory_is_told_as_such(tmp_path: Path) -> None:
    made = recipe(model__quantization="none", train__batch_size=24)
    cut = plan(
        precision="bf16", rows_per_step=24, tokens_per_micro=24 * 96, predicted_bytes=123 << 20
    )
    log = Bench(tmp_path, made, plan=cut, card=card(1)).run()
    torch.cuda.set_per_process_memory_fraction(1.0)
    assert log.outcome is Outcome.FAILED
    assert log.end["cause"] == "out_of_memory", os.fspath(tmp_path)
