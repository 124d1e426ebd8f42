"""The bytes that the plan has for the decode path's own tensors, against those that are live."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.training.step.conftest import ModelOf, model_of, options, pack_weights
from workbench.footprint.model.shape import ModelShape
from workbench.footprint.peak.scoring_bytes import (
    cache_bytes,
    kept_weights_bytes,
    low_rank_bytes,
    mean_rank,
    pass_bytes,
    scales_bytes,
    workspace_bytes,
)
from workbench.recipe.schema import Recipe
from workbench.training.control import Control
from workbench.training.decode.forward import FastForward, fast_forward
from workbench.training.decode.lanes import Lanes
from workbench.training.scoring.held_out_loss import score_rows
from workbench.training.scoring.packed_losses import losses_of_rows
from workbench.training.step import Step
from workbench.training.step.kernels import triton_support

__all__ = ["model_of"]

pytestmark = pytest.mark.skipif(
    triton_support.is_usable(torch.device("cpu")), reason="Triton's interpreter makes tensors, too"
)
NEW = 24
"""New tokens of an answer."""


def live_bytes(known: frozenset[int] = frozenset()) -> int:
    """Return the bytes behind all live fp32 tensors, each storage counted once.

    Storages at the addresses `known` are left out: objects that were frozen are not seen, and views
    of them would look new.
    """
    gc.collect()
    alive = [one for one in gc.get_objects() if isinstance(one, torch.Tensor)]
    each = {
        one.untyped_storage().data_ptr(): one.untyped_storage().nbytes()
        for one in alive
        if one.dtype is torch.float32
    }
    return sum(size for place, size in each.items() if place not in known)


@contextmanager
def forward_of(model: Any, **how: Any) -> Iterator[tuple[FastForward, int]]:
    """Give the model's FastForward and the bytes that it made live."""
    own = (*model.parameters(), *model.buffers())
    known = frozenset(one.untyped_storage().data_ptr() for one in own)
    before = live_bytes(known)
    forward = FastForward(model, torch.float32, **how)
    try:
        yield forward, live_bytes(known) - before
    finally:
        forward.restore()


def recipe_of(**lora: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "tiny",
            "model": {"name": "a/b", "precision": "fp32"},
            "data": {"train": "a/b", "max_tokens": 64},
            "lora": lora,
            "evaluate": {"answer_pattern": "(.*)", "max_new_tokens": NEW},
        }
    )


def shape_of(model: Any) -> ModelShape:
    return ModelShape.of(model.config.to_dict())


@pytest.mark.parametrize("family", ["llama", "phi3", "gemma4_text"])
def test_low_rank_matrices_of_several_adapters_take_what_the_plan_says(
    family: str, model_of: ModelOf
) -> None:
    model: Any = model_of(family)
    ranks = (8, 16, 24)  # no columns are added to multiples of 8
    for rank in ranks:
        config = replace(model.peft_config["default"], r=rank)
        model.add_adapter(f"rank_{rank}", config)
    names = [f"rank_{rank}" for rank in ranks]
    parameters = sum(
        param.numel() for name, param in model.named_parameters() if "lora_" in name
        and any(f".{one}." in name for one in names)
    )  # fmt: skip
    shape = shape_of(model)
    assert mean_rank(shape, parameters) == sum(ranks)
    with forward_of(model, adapters=names) as (_, made):
        assert low_rank_bytes(shape, "fp32", rank=mean_rank(shape, parameters)) == made


def test_low_rank_matrices_of_every_family_take_what_the_plan_says(
    decoded_model: PeftModel,
) -> None:
    with forward_of(decoded_model) as (_, made):
        assert low_rank_bytes(shape_of(decoded_model), "fp32", rank=16) == made


@pytest.mark.parametrize("family", ["llama", "phi3", "gemma4_text"])
def test_low_rank_matrices_that_are_filled_up_take_what_the_plan_says(
    family: str, model_of: ModelOf
) -> None:
    """Columns come in multiples of 8."""
    model = model_of(family, r=4)
    with forward_of(model) as (_, made):
        assert low_rank_bytes(shape_of(model), "fp32", rank=4) == made


class Watch(Control):
    """A control that notes the live bytes before each batch of rows."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def check(self) -> None:
        super().check()
        self.seen.append(live_bytes())


def test_losses_beside_a_step_hold_no_copies_of_the_adapter(model_of: ModelOf) -> None:
    """They are computed with the optimizer and the step's own copies in memory."""
    model, watch = model_of("llama", r=16), Watch()
    ids = [[5 + n, 7, 11] for n in range(4)]
    rows = Dataset.from_dict({"input_ids": ids, "labels": ids, "length": [3] * 4})
    step = Step(model, options())
    before = live_bytes()
    score_rows(model, rows, pad_id=0, batch_size=1, precision="fp32", control=watch)
    step.restore()
    assert watch.seen == [before] * 4


class PeakOfTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the most bytes of tensors that live at once of those that are made inside it."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._there = {param.untyped_storage().data_ptr() for param in model.parameters()}
        self._live: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor.untyped_storage())
        return out

    def _note(self, storage: Any) -> None:
        place = storage.data_ptr()
        if place in self._there or place in self._live:
            return
        self._live[place] = storage.nbytes()
        weakref.finalize(storage, self._live.pop, place, None)
        self.peak = max(self.peak, sum(self._live.values()))


@pytest.mark.parametrize("rows", [4, 16])
@pytest.mark.parametrize("vocabulary", [256, 4096], ids=["a-layer-is-widest", "the-head-is-widest"])
def test_a_pass_for_losses_takes_what_the_plan_says(
    vocabulary: int, rows: int, model_of: ModelOf
) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 224, "vocab_size": vocabulary}
    model = model_of("llama", sizes, r=8).to(torch.bfloat16)
    ids = [[5 + (n * 7 + at) % 200 for at in range(128)] for n in range(rows)]
    data = Dataset.from_dict({"input_ids": ids, "labels": ids, "length": [128] * rows})
    with (
        fast_forward(model, torch.bfloat16, for_steps=False) as forward,
        PeakOfTensors(model) as seen,
    ):
        losses_of_rows(forward, data, list(range(rows)), Control(), rows_at_once=rows)
    said = pass_bytes(shape_of(model), recipe_of(rank=8), "bf16", tokens=128 * rows)
    assert -0.03 <= said / seen.peak - 1 <= 0.02


@pytest.mark.parametrize("family", ["llama", "gemma4_text"])
def test_a_cache_takes_what_the_plan_says(family: str, model_of: ModelOf) -> None:
    model = model_of(family)
    shape, taken, said = shape_of(model), list[int](), list[int]()
    with forward_of(model) as (forward, _):
        for lanes in (1, 5, 16):
            before = live_bytes()
            held = Lanes(forward, lanes, positions=40 + NEW, most=NEW, ends=[2])
            taken.append(live_bytes() - before - held._temperature_L.nbytes)
            said.append(cache_bytes(shape, recipe_of(), "fp32", lanes=lanes, tokens=40))
            del held
    assert taken == said


@pytest.mark.parametrize("family", ["llama", "phi3", "gemma4_text"])
def test_dequantised_weights_take_what_the_plan_says(family: str, model_of: ModelOf) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "hidden_size_per_layer_input": 64}
    model = model_of(family, sizes)
    pack_weights(model)
    shape, recipe = shape_of(model), recipe_of(rank=16)
    low_rank = low_rank_bytes(shape, "fp32", rank=16)
    for kept, weights in ((False, workspace_bytes), (True, kept_weights_bytes)):
        with forward_of(model, dequantised=kept) as (_, made):
            pass
        multiplied = not kept and triton_support.is_usable(torch.device("cpu"))
        scales = scales_bytes(shape, "bf16") if multiplied else 0
        assert made == weights(shape, recipe, "fp32") + low_rank + scales
