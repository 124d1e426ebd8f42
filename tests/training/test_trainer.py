"""The trial's trainer gives the losses of TRL's own, and skips steps without finite gradients."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from tests.training.trials import Bench, Log, plan, recipe, recipe_of_two_layers, spec
from workbench.attempts.events import Outcome
from workbench.recipe import Recipe
from workbench.training import libraries
from workbench.training.dataset.prepared import load_prepared, prepare_data
from workbench.training.model import adapter
from workbench.training.model.base import ResidentBase
from workbench.training.model.tokenizer import load_tokenizer
from workbench.training.row_order import EpochOrder
from workbench.training.step import Step
from workbench.training.trainer import CHECK_EVERY


class Stock(SFTTrainer):  # type: ignore[misc]
    """TRL's trainer over rows in the trial's order."""

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochOrder:
        lengths = list(self.train_dataset["length"])
        return EpochOrder(lengths, 4, self.args.seed, lambda: 0, grouped=False)


def losses_of_trl(
    made: Recipe, folder: Path, *, device: str = "cpu"
) -> dict[int, tuple[float, float]]:
    """Return loss and gradient norm at each log line of TRL's trainer on padded batches."""
    card = device == "cuda"
    tokenizer = load_tokenizer(made.model.name, None)
    rows, _ = load_prepared(prepare_data(made, tokenizer, folder / "cache", lambda *_: None))
    train = made.train
    args = SFTConfig(
        output_dir=str(folder),
        use_cpu=not card,
        bf16=card,
        per_device_train_batch_size=4,
        learning_rate=train.learning_rate,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=train.warmup,
        num_train_epochs=train.epochs,
        max_steps=train.max_steps or -1,
        seed=train.seed,
        logging_steps=train.log_every,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        activation_checkpointing=False,
        dataloader_pin_memory=False,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
    )
    precision = "bf16" if card else "fp32"
    way = spec(
        path=made.model.name,
        quantization=made.model.quantization,
        device=device,
        precision=precision,
    )
    with ResidentBase().acquire(way) as base:
        model = adapter.add_adapter(base, made, lambda *_, **__: None)
        masters = {n: p.data for n, p in model.named_parameters() if p.requires_grad}
        trainer = Stock(
            model=model,
            args=args,
            data_collator=DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id),
            train_dataset=rows,
            processing_class=tokenizer,
        )
        for name, param in model.named_parameters():  # TRL casts them to bf16
            if param.requires_grad:
                param.data = masters[name]
        trainer.train()
        history = [row for row in trainer.state.log_history if "loss" in row]
    return {row["step"]: (row["loss"], row["grad_norm"]) for row in history}


EVERY_STEP: dict[str, Any] = {
    "model__quantization": "nf4",
    "lora__dropout": 0.0,
    "train__max_steps": 4,
    "train__log_every": 1,
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[float, float]]:
    libraries.import_libraries(threads=1)
    return losses_of_trl(recipe_of_two_layers(**EVERY_STEP), tmp_path_factory.mktemp("trl"))


@pytest.mark.parametrize("cut", [{}, {"tokens_per_micro": 192}, {"recompute_layers": 3}], ids=str)
def test_losses_and_gradients_are_those_of_trl(
    cut: dict[str, Any], expected: dict[int, tuple[float, float]], tmp_path: Path
) -> None:
    log = Bench(tmp_path, recipe_of_two_layers(**EVERY_STEP), plan=plan(layers=2, **cut)).run()
    assert log.outcome is Outcome.DONE
    assert log.losses.keys() == expected.keys()
    for step, row in expected.items():
        assert log.losses[step] == pytest.approx(row, rel=1e-3)


def spoilt(monkeypatch: pytest.MonkeyPatch, steps: range) -> None:
    """Make the gradients of these steps NaN."""
    forward_backward = Step.forward_backward
    seen = iter(range(10**6))

    def spoil(self: Step, rows: Any) -> torch.Tensor:
        loss = forward_backward(self, rows)
        if next(seen) in steps:
            self.flat.grads[0] = math.nan
            return loss * math.nan
        return loss

    monkeypatch.setattr(Step, "forward_backward", spoil)


@pytest.mark.parametrize("optimizer", ["adamw_torch", "adamw_8bit"])
def test_a_step_without_a_finite_gradient_is_skipped_and_counted(
    optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoilt(monkeypatch, range(1, 3))
    log = Bench(tmp_path, recipe(), plan=plan(optimizer=optimizer)).run()
    assert log.outcome is Outcome.DONE
    skipped = [row["values"].get("skipped_steps") for row in log.of("metric")]
    assert skipped[:3] == [1.0, 2.0, 2.0]
    rows = [row["values"] for row in log.of("metric") if "learning_rate" in row["values"]]
    assert all("loss" in row for row in rows)
    assert math.isfinite(log.scores["loss"])


def test_twenty_skipped_steps_in_a_row_end_the_trial_with_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoilt(monkeypatch, range(4, 10**6))
    log: Log = Bench(tmp_path, recipe(train__epochs=5)).run()
    assert log.outcome is Outcome.DIVERGED
    assert log.end["cause"] == "recipe"
    assert "learning_rate" in log.end["hint"]
    assert {row["step"] for row in log.of("checkpoint")} >= {4}


def test_skipped_steps_are_noticed_however_rarely_metrics_are_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoilt(monkeypatch, range(10**6))
    settings = recipe(train__epochs=20, train__log_every=1000, train__save_every=1000)
    log = Bench(tmp_path, settings).run()
    assert log.outcome is Outcome.DIVERGED
    assert log.end["step"] <= 2 * CHECK_EVERY
