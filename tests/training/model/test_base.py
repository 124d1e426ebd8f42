"""A base is restored after each trial, whatever the trial did to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.training.trials import Bench, plan, recipe, spec
from workbench.attempts.events import Outcome
from workbench.errors import ModelError
from workbench.training import libraries
from workbench.training.model.base import ResidentBase
from workbench.training.scoring.held_out_loss import score_rows

KINDS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"train__seed": 1}, {}),
    ({"lora__rank": 8, "lora__dropout": 0.0, "lora__bias": "all"}, {"recompute_layers": 5}),
    ({"train__optimizer": "sgd", "lora__rslora": True}, {"optimizer": "sgd"}),
    ({"train__learning_rate": 1e30}, {}),  # ends in an exception
    ({"lora__targets": ["q_proj", "v_proj"]}, {"precision": "bf16"}),
]


def digest(model: nn.Module) -> list[tuple[str, str, bool, float]]:
    """Return names, dtypes, gradient flags and sums of a model's tensors."""
    params = [
        (name, str(p.dtype), p.requires_grad, float(p.detach().double().sum()))
        for name, p in model.named_parameters()
    ]
    return params + [
        (n, str(b.dtype), False, float(b.double().sum())) for n, b in model.named_buffers()
    ]


def state(model: nn.Module) -> list[tuple[str, str, int, bool, int]]:
    return [
        (name, type(m).__name__, len(m._forward_hooks), m.training, len(m.__dict__))
        for name, m in model.named_modules()
    ]


def trial(home: Path, kind: int, quantization: str) -> Bench:
    settings, cut = KINDS[kind]
    made = recipe(model__quantization=quantization, train__max_steps=2, **settings)
    return Bench(home, made, plan=plan(**cut))


def base_and_state(resident: ResidentBase) -> tuple[Any, ...]:
    """Return the base of four bits, and everything of it that a trial can change."""
    with resident.acquire(spec(quantization="nf4")) as base:
        return base, digest(base), state(base), dict(base.config.__dict__)


@pytest.mark.filterwarnings("ignore:.*`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("turns", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_many_trials_on_one_base_are_as_good_as_fresh_ones_and_leave_it_as_it_was(
    turns: int, tmp_path: Path
) -> None:
    fresh = [
        trial(tmp_path / f"fresh-{n}", n, "nf4").run(ResidentBase()) for n in range(len(KINDS))
    ]
    assert [log.outcome for log in fresh] == [Outcome.DONE] * 3 + [Outcome.DIVERGED, Outcome.DONE]
    shared = ResidentBase()
    for turn in range(turns):
        kind = turn % len(KINDS)
        if kind == 0:
            before = base_and_state(shared)
        elif kind == 4:  # it takes another base
            assert base_and_state(shared) == before
        log = trial(tmp_path / f"turn-{turn}", kind, "nf4").run(shared)
        assert log.losses == fresh[kind].losses
        assert log.outcome == fresh[kind].outcome
        assert (log.of("score") or [{}])[0] == (fresh[kind].of("score") or [{}])[0]


def test_trained_biases_of_the_base_are_put_back() -> None:
    libraries.import_libraries(threads=1)
    resident = ResidentBase()
    with resident.acquire(spec()) as base:
        held = resident._held
        assert held is not None
        norm = base.get_submodule("model.norm")
        norm.__dict__["extra"] = 1
        norm.weight.requires_grad_(True)
        assert held.state.differences()
    assert not held.state.differences()
    assert resident.spec is not None


def test_a_base_that_was_written_to_is_released() -> None:
    libraries.import_libraries(threads=1)
    resident = ResidentBase()
    with resident.acquire(spec()) as base, torch.no_grad():
        next(base.parameters()).add_(1)
    assert resident.spec is None


def test_another_base_takes_the_place_of_the_resident_one() -> None:
    libraries.import_libraries(threads=1)
    resident = ResidentBase()
    with resident.acquire(spec()) as first:
        dtype = next(first.parameters()).dtype
    with resident.acquire(spec(precision="bf16")) as second:
        assert next(second.parameters()).dtype is torch.bfloat16
    assert dtype is torch.float32


def test_a_folder_without_a_model_is_refused_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as refused, ResidentBase().acquire(spec(path=str(tmp_path))):
        pass
    assert "safetensors" in refused.value.hint


def test_evaluation_leaves_four_bit_weights_as_they_are(tokenizer: Any, tmp_path: Path) -> None:
    """bitsandbytes would repack them on some CPUs, after which training has no gradient."""
    from datasets import Dataset

    from workbench.training.control import Control

    rows = Dataset.from_list([{"input_ids": [1, 2, 3], "labels": [-100, 2, 3], "length": 3}])
    with ResidentBase().acquire(spec(quantization="nf4")) as base:
        before = digest(base)
        score_rows(base, rows, pad_id=0, batch_size=1, precision="fp32", control=Control())
        assert digest(base) == before
