"""The paths that need a CUDA card: NF4 in bf16 and fp16, the cap, the peak.

python -m pytest tests/training/test_gpu.py -m gpu
"""

from __future__ import annotations

import math
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.training.test_checkpoint_writes import at, order, release
from tests.training.test_run import logits_of_saved
from tests.training.test_trainer import losses_of_trl
from tests.training.trials import Bench, Log, halt_at, plan, recipe_of_two_layers
from workbench import fault_points
from workbench.attempts.events import Outcome
from workbench.fleet import Halt
from workbench.machine.cards import Card
from workbench.recipe import Recipe
from workbench.training.checkpoints import checkpoint
from workbench.training.checkpoints.checkpoint import WEIGHTS
from workbench.training.memory.host_copy import copy_to_host, release_pinned_memory
from workbench.training.model.base import ResidentBase

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
    made = recipe_of_two_layers(
        model__quantization="nf4", train__epochs=2, evaluate__every=4, **ANSWERS
    )
    cut = plan(precision=precision, optimizer=optimizer, recompute_layers=5)
    log = Bench(tmp_path, made, plan=cut, card=card()).run()
    assert log.outcome is Outcome.DONE, log.end
    told = [row["values"]["eval_loss"] for row in log.of("metric") if "eval_loss" in row["values"]]
    assert told[-1] < told[0]
    assert all(math.isfinite(loss) for loss, _ in log.losses.values())
    assert (tmp_path / "trials/1/adapter/adapter_model.safetensors").is_file()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_resumed_trial_repeats_the_uninterrupted_one(precision: str, tmp_path: Path) -> None:
    made = recipe_of_two_layers(model__quantization="nf4", train__epochs=2, train__log_every=1)
    cut = plan(precision=precision)
    expected = Bench(tmp_path / "a", made, plan=cut, card=card()).run()
    broken = Bench(tmp_path / "b", made, plan=cut, card=card())
    first = broken.run(on=halt_at(7, Halt.YIELD))
    losses = {**first.losses, **broken.run().losses}
    for step, (loss, norm) in expected.losses.items():
        assert losses[step] == pytest.approx((loss, norm), rel=1e-2, abs=1e-3, nan_ok=True)


def test_the_peak_stays_below_the_cap(tmp_path: Path) -> None:
    made = recipe_of_two_layers(model__quantization="nf4")
    cap = 4 << 30
    log = Bench(tmp_path, made, plan=plan(precision="bf16"), card=card(cap)).run()
    peaks = [row["values"]["peak_bytes"] for row in log.of("metric") if "loss" in row["values"]]
    assert 0 < max(peaks) < cap


def test_too_little_memory_is_reported_as_such(tmp_path: Path) -> None:
    made = recipe_of_two_layers(model__quantization="none", train__batch_size=24, train__warmup=0)
    cut = plan(
        precision="bf16", rows_per_step=24, tokens_per_micro=24 * 96, predicted_bytes=123 << 20
    )
    log = Bench(tmp_path, made, plan=cut, card=card(1)).run()
    torch.cuda.set_per_process_memory_fraction(1.0)
    assert log.outcome is Outcome.FAILED
    assert log.end["cause"] == "out_of_memory", os.fspath(tmp_path)


def test_200_steps_lie_within_three_seeds_of_trl(tmp_path: Path) -> None:
    def made(seed: int) -> Recipe:
        return recipe_of_two_layers(
            model__quantization="nf4", data__max_rows=800, train__max_steps=200,
            train__log_every=1, train__seed=seed, train__learning_rate=1e-3,
        )  # fmt: skip

    def mean(losses: dict[int, tuple[float, float]], last: int) -> float:
        return statistics.mean(losses[step][0] for step in range(last - 49, last + 1))

    ours = Bench(tmp_path / "ours", made(1), plan=plan(precision="bf16"), card=card()).run()
    theirs = [losses_of_trl(made(seed), tmp_path / str(seed), device="cuda") for seed in (1, 2, 3)]
    for step in (50, 100, 150, 200):
        seeds = [mean(losses, step) for losses in theirs]
        spread = max(seeds) - min(seeds)
        loss = mean(ours.losses, step)
        print(f"step {step}: ours {loss:.4f}, TRL {[round(one, 4) for one in seeds]}")
        assert min(seeds) - spread <= loss <= max(seeds) + spread


def test_a_saved_adapter_gives_the_same_logits_in_plain_peft(tmp_path: Path) -> None:
    """bf16 has 8 bits of mantissa; the logits differ by the order in which layers are summed."""
    trained, loaded, plain = logits_of_saved(tmp_path, "bf16", card())
    moved = float((trained - plain).abs().max())
    assert float((trained - loaded).abs().max()) < 0.02 * float(trained.abs().max()) < moved


SPARE = """
import os, sys
from workbench.machine.cards import detect_cards
from workbench.training.libraries import cuda_is_initialised, import_libraries
from workbench.training.memory.card_memory import Meter, check_card
from workbench.training.worker import Worker

cards = detect_cards({})
os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = cards[0].uuid
unfit = Worker.import_ahead(cards[0].to_json())
del os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"]
os.environ["CUDA_VISIBLE_DEVICES"] = cards[-1].uuid
import_libraries(threads=None)
Meter(cards[-1])
check_card(cards[-1])
import bitsandbytes, torch
layer = bitsandbytes.nn.Linear4bit(64, 64, compute_dtype=torch.bfloat16, quant_type="nf4").cuda()
made = layer(torch.ones(1, 64, dtype=torch.bfloat16, device="cuda"))
print([unfit, torch.cuda.device_count(), cuda_is_initialised(), bool(made.isfinite().all())])
"""


def test_a_spare_that_has_imported_ahead_can_still_be_given_any_card() -> None:
    env = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    told = subprocess.run(
        [sys.executable, "-c", SPARE], env=env, capture_output=True, text=True, check=False
    )
    assert told.stdout.strip().endswith("['', 1, True, True]"), told.stderr


def test_copies_of_a_cards_tensors_are_pinned_and_left_alone_by_the_card() -> None:
    buffer = torch.arange(1 << 20, dtype=torch.float32, device="cuda")
    copied = copy_to_host({"left": buffer[:10], "right": buffer[10:]})
    buffer.zero_()
    assert copied["left"].is_pinned()
    assert copied["left"].tolist() == list(range(10))
    assert copied["right"][-1].item() == (1 << 20) - 1
    del copied
    release_pinned_memory()


@pytest.mark.parametrize("optimizer", ["adamw_torch", "paged_adamw_8bit"])
def test_a_checkpoint_written_beside_captured_steps_holds_its_own_step(
    optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other trial gives the card back after the step of that checkpoint."""
    made = recipe_of_two_layers(
        model__quantization="nf4", train__max_steps=8, train__epochs=2, train__log_every=3
    )
    cut = plan(precision="bf16", optimizer=optimizer)
    fault = tmp_path / "fault"
    monkeypatch.setenv(fault_points.VARIABLE, str(fault))
    fault.write_text("checkpoint.copied=hold")
    held = Bench(tmp_path / "held", made, plan=cut, card=card())
    log = held.run(on=at("metric", 6, lambda _: release(fault)))
    assert order(log).index("metric 6") < order(log).index("checkpoint 4")
    yielded = Bench(tmp_path / "yielded", made, plan=cut, card=card())
    assert yielded.run(on=halt_at(3, Halt.YIELD)).end["step"] == 4
    left, right = (
        load_file(checkpoint.verify(checkpoint.folder_of(bench.checkpoints, 4)).path / WEIGHTS)
        for bench in (held, yielded)
    )
    later = load_file(checkpoint.folder_of(held.checkpoints, 8) / WEIGHTS)
    for name, weight in right.items():
        torch.testing.assert_close(left[name], weight, rtol=1e-3, atol=1e-5)
    assert any(not torch.equal(left[name], later[name]) for name in left)


def captures_of(log: Log) -> tuple[int, int]:
    """Return the graphs that the trial captured, and those that it had from the one before."""
    [text] = [row["text"] for row in log.of("log") if "CUDA graphs captured" in row["text"]]
    captured, kept = re.findall(r"(\d+) (?:CUDA graphs|kept)", text)
    return int(captured), int(kept)


def test_trials_on_kept_graphs_capture_nothing_twice_and_repeat_fresh_ones(tmp_path: Path) -> None:
    cut = plan(precision="bf16", keeps_graphs=True, recompute_layers=1)

    def trial(name: str, worker: ResidentBase, seed: int) -> Log:
        made = recipe_of_two_layers(
            model__quantization="nf4", train__epochs=2, train__log_every=1, train__seed=seed,
            train__learning_rate=1e-3 * seed, lora__dropout=0.1, evaluate__every=5, **ANSWERS,
        )  # fmt: skip
        log = Bench(tmp_path / name, made, plan=cut, card=card()).run(worker)
        assert log.outcome is Outcome.DONE, log.end
        return log

    worker, kept, free = ResidentBase(), [], []
    for number, seed in enumerate((1, 2, 1, 2)):
        kept.append(trial(f"kept-{number}", worker, seed))
        free.append(torch.cuda.mem_get_info()[0])
    assert worker.keeper.holds
    assert captures_of(kept[0])[1] == 0
    assert captures_of(kept[1])[1] == captures_of(kept[0])[0] > 0
    assert [captures_of(log)[0] for log in kept[2:]] == [0, 0]
    assert free[2] == free[3]
    worker.release()
    for seed in (1, 2):
        fresh = trial(f"fresh-{seed}", ResidentBase(), seed)
        for log in kept[seed - 1 :: 2]:
            assert (log.losses, log.scores) == (fresh.losses, fresh.scores)
