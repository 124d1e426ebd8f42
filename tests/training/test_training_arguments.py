"""Every training setting of a recipe reaches the trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.training.trials import CARD, plan, recipe
from workbench.training import libraries
from workbench.training.checkpoints.background_writer import BackgroundWriter
from workbench.training.checkpoints.checkpoint import Provenance
from workbench.training.control import Control
from workbench.training.memory.card_memory import Meter
from workbench.training.row_order import EpochOrder
from workbench.training.training_arguments import TrainingContext, sft_config


def context(folder: Path, cut: dict[str, Any], **settings: Any) -> TrainingContext:
    return TrainingContext(
        recipe=recipe(**settings),
        plan=plan(**cut),
        device="cpu",
        checkpoints=folder,
        scratch=folder,
        belongs=Provenance(recipe="", data="", precision="", optimizer="", versions={}),
        emit=lambda *_, **__: None,
        control=Control(),
        meter=Meter(CARD),
        held_out=dict,
        writer=BackgroundWriter(),
    )


@pytest.mark.parametrize(
    ("settings", "name", "value"),
    [
        ({"train__epochs": 2.5}, "num_train_epochs", 2.5),
        ({"train__max_steps": 7}, "max_steps", 7),
        ({"train__learning_rate": 1e-3}, "learning_rate", 1e-3),
        ({"train__weight_decay": 0.5}, "weight_decay", 0.5),
        ({"train__schedule": "cosine"}, "lr_scheduler_type", "cosine"),
        ({"train__schedule": "constant"}, "lr_scheduler_type", "constant_with_warmup"),
        ({"train__warmup": 0.1}, "warmup_steps", 0.1),
        ({"train__seed": 9}, "seed", 9),
    ],
)
def test_a_setting_reaches_the_trainer(
    settings: dict[str, Any], name: str, value: object, tmp_path: Path
) -> None:
    libraries.import_libraries(threads=1)
    assert getattr(sft_config(context(tmp_path, {}, **settings)), name) == value


@pytest.mark.parametrize(
    ("cut", "name", "value"),
    [
        ({"rows_per_step": 6, "tokens_per_micro": 192}, "per_device_train_batch_size", 6),
        ({"rows_per_step": 6, "tokens_per_micro": 192}, "gradient_accumulation_steps", 1),
        ({"precision": "bf16"}, "bf16", False),
        ({"recompute_layers": 5}, "activation_checkpointing", False),
    ],
)
def test_the_trainer_leaves_cut_precision_and_recompute_to_the_step(
    cut: dict[str, Any], name: str, value: object, tmp_path: Path
) -> None:
    libraries.import_libraries(threads=1)
    assert getattr(sft_config(context(tmp_path, cut)), name) == value


def order(epoch: int, *, grouped: bool, seed: int = 1, rows_per_step: int = 4) -> list[int]:
    lengths = [(37 * n) % 50 + 1 for n in range(64)]
    return list(EpochOrder(lengths, rows_per_step, seed, lambda: epoch, grouped=grouped))


@pytest.mark.parametrize("grouped", [True, False])
def test_an_epochs_order_follows_from_seed_and_epoch_alone(grouped: bool) -> None:
    assert order(1, grouped=grouped) == order(1, grouped=grouped)
    assert order(1, grouped=grouped) != order(0, grouped=grouped)
    assert order(1, grouped=grouped, seed=2) != order(1, grouped=grouped)
    assert sorted(order(1, grouped=grouped)) == list(range(64))


def test_grouped_rows_of_a_batch_are_of_similar_length() -> None:
    lengths = [(37 * n) % 50 + 1 for n in range(64)]

    def spread(rows: list[int]) -> int:
        batches = [[lengths[i] for i in rows[n : n + 4]] for n in range(4, 64, 4)]
        return sum(max(batch) - min(batch) for batch in batches)

    assert spread(order(0, grouped=True)) < spread(order(0, grouped=False)) / 2
