"""A step that outlives its trial: the next adapter in its buffers, nothing else of the last one."""

from __future__ import annotations

import gc
import sys
import warnings
import weakref
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from tests.training.step.conftest import ModelOf, options
from workbench.training.model.base import BaseState
from workbench.training.model.targets import all_linear
from workbench.training.step import Rows, Step, StepOptions
from workbench.training.step.kept.keeper import StepKeeper
from workbench.training.step.optimizer.adamw import FlatAdamW

OPTIONS = options(learning_rate=1e-2)


class Card:
    """A base on which adapters train one after another, with a keeper or without."""

    def __init__(self, base: nn.Module, keeper: StepKeeper | None = None) -> None:
        self.base, self.keeper = base, keeper
        self.state = BaseState(base)
        self.step: Step | None = None

    def adapter(self, seed: int, **lora: Any) -> PeftModel:
        """Return the base with a new adapter, in the place of the one before."""
        self.state.restore()
        torch.manual_seed(seed)
        settings = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.2} | lora
        settings.setdefault("target_modules", all_linear(self.base))
        config = LoraConfig(task_type="CAUSAL_LM", **settings)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT asks by an old name
            model = get_peft_model(self.base, config)
        for name, param in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(param, 0.0, 0.3)
        return model

    def train(
        self, rows: Rows, seed: int, made: StepOptions = OPTIONS, *, steps: int = 2, **lora: Any
    ) -> list[Tensor]:
        """Return the loss of each step, and the trained weights."""
        model = self.adapter(seed, **lora)
        if self.keeper is None:
            self.step = Step(model, made)
        else:
            self.keeper.begin(made)
            self.step = self.keeper.make(model, made)
        found = []
        for _ in range(steps):
            found.append(self.step.forward_backward(rows))
            self.step.optimizer_step()
        found += [self.step.optimizer.norm.clone(), self.step.optimizer.skipped.clone()]
        weights = [p.detach().clone() for p in model.parameters() if p.requires_grad]
        if self.keeper is None:
            self.step.restore()
        else:
            self.keeper.put(self.step)
        self.state.restore()
        return [*found, *weights]


@pytest.fixture
def kept(model_of: ModelOf) -> Card:
    return Card(model_of().unload(), StepKeeper())


def addresses(step: Step) -> list[int]:
    flat, fused = step.flat, step._fused
    assert fused is not None
    places = [flat.values, flat.grads, flat.compute, step._loss, step.optimizer.scale]
    places += [stack.a_PRK for group in fused.groups for stack in group.stacks]
    return [place.data_ptr() for place in places]


@pytest.mark.parametrize("family", ["llama", "gemma2", "olmo2", "phi3", "qwen3_5_text"])
def test_a_kept_step_gives_the_next_trial_the_numbers_of_a_new_one(
    family: str, model_of: ModelOf, rows: Rows
) -> None:
    base = model_of(family).unload()
    card, fresh = Card(base, StepKeeper()), Card(base)
    other = replace(OPTIONS, seed=3, learning_rate=3e-2, weight_decay=0.1, log_every=2)
    kept_steps, found, expected = [], [], []
    for seed, made in ((1, OPTIONS), (2, other), (3, OPTIONS)):
        found.append(card.train(rows, seed, made))
        kept_steps.append(card.step)
    for seed, made in ((1, OPTIONS), (2, other), (3, OPTIONS)):
        expected.append(fresh.train(rows, seed, made))
    assert kept_steps[0] is kept_steps[1] is kept_steps[2]
    for one, two in zip(found, expected, strict=True):
        assert all(torch.equal(left, right) for left, right in zip(one, two, strict=True))


def test_no_address_changes_that_a_captured_pass_reads_or_writes(kept: Card, rows: Rows) -> None:
    seen = []
    for seed in (1, 2, 3):
        model = kept.adapter(seed)
        assert kept.keeper is not None
        kept.keeper.begin(OPTIONS)
        step = kept.keeper.make(model, OPTIONS)
        seen.append(addresses(step))
        step.forward_backward(rows)
        step.optimizer_step()
        assert addresses(step) == seen[-1]
        kept.keeper.put(step)
    assert seen[0] == seen[1] == seen[2]


@pytest.mark.parametrize(
    ("changed", "lora"),
    [
        ({"rows_per_micro": 2}, {}),
        ({"recompute_layers": 1}, {}),
        ({"off": frozenset({"chunked_head"})}, {}),
        ({}, {"r": 2}),
        ({}, {"lora_alpha": 4}),
        ({}, {"lora_dropout": 0.1}),
        ({}, {"exclude_modules": ["o_proj"]}),
    ],
    ids=str,
)
def test_what_a_captured_pass_holds_makes_a_new_step(
    changed: dict[str, Any], lora: dict[str, Any], kept: Card, rows: Rows
) -> None:
    kept.train(rows, 1)
    first = weakref.ref(kept.step)
    kept.step = None
    made = replace(OPTIONS, **changed)
    found = kept.train(rows, 2, made, **lora)
    assert first() is None, "its buffers are released before the new ones are made"
    expected = Card(kept.base).train(rows, 2, made, **lora)
    assert all(torch.equal(left, right) for left, right in zip(found, expected, strict=True))


def test_between_trials_no_module_and_no_function_stays_changed(kept: Card, rows: Rows) -> None:
    import transformers.models.llama.modeling_llama as llama

    rotary = llama.apply_rotary_pos_emb
    for seed in (1, 2):
        model = kept.adapter(seed)
        step = StepKeeper.make(kept.keeper, model, OPTIONS)  # type: ignore[arg-type]
        assert any("forward" in module.__dict__ for module in model.modules())
        kept.keeper.begin(OPTIONS)  # type: ignore[union-attr]
        kept.keeper.put(step)  # type: ignore[union-attr]
        assert not any({"forward", "zero_grad"} & set(one.__dict__) for one in model.modules())
        assert llama.apply_rotary_pos_emb is rotary
        kept.state.restore()
        assert kept.state.differences() == []


def test_scaled_losses_begin_again_with_the_first_scale(kept: Card, rows: Rows) -> None:
    made = replace(OPTIONS, precision="fp16")
    assert kept.keeper is not None
    kept.keeper.begin(made)
    step = kept.keeper.make(kept.adapter(1), made)
    place = step.optimizer.scale
    first = place.item()
    place.fill_(4.0)
    kept.keeper.put(step)
    again = kept.keeper.make(kept.adapter(2), made)
    assert again is step
    assert again.optimizer.scale is place
    assert again.optimizer.state_dict()["state"]["scale"].item() == first
    again.restore()


def test_an_adapter_of_the_embedding_is_no_other_trials(kept: Card, rows: Rows) -> None:
    kept.train(rows, 1, target_modules=["q_proj", "embed_tokens"])
    assert kept.keeper is not None
    assert not kept.keeper.holds


def test_a_plan_without_room_keeps_nothing(kept: Card, rows: Rows) -> None:
    kept.train(rows, 1)
    held = weakref.ref(kept.step)
    kept.step = None
    assert kept.keeper is not None
    assert kept.keeper.holds
    kept.keeper.begin(None)
    assert not kept.keeper.holds
    assert held() is None


def test_as_much_lives_after_many_trials_as_after_two(kept: Card, rows: Rows) -> None:
    alive = []
    for seed in range(4):
        kept.train(rows, seed, steps=1)
        kept.step = None
        gc.collect()
        counts = Counter(type(one).__name__ for one in gc.get_objects())
        alive.append((counts["Tensor"], counts["Parameter"], counts["Linear"], counts["Step"]))
    assert alive[1] == alive[-1]
    assert kept.keeper is not None
    kept.keeper.release()
    assert not any(isinstance(one, Step) for one in gc.get_objects())


def test_the_new_adapter_is_released_before_the_optimizer_takes_memory(
    kept: Card, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adapter of a big rank takes gigabytes; the plan counts none for it beside the state."""
    kept.train(rows, 1)
    assert kept.keeper is not None
    model, alive = kept.adapter(2), []
    trained = [param for param in model.parameters() if param.requires_grad]
    new = [StorageWeakRef(param.untyped_storage()) for param in trained]  # type: ignore[no-untyped-call]
    del trained
    make = FlatAdamW.__init__

    def made(self: FlatAdamW, *args: Any, **settings: Any) -> None:
        alive.append(sum(not storage.expired() for storage in new))  # type: ignore[no-untyped-call]
        make(self, *args, **settings)

    monkeypatch.setattr(FlatAdamW, "__init__", made)
    gc.disable()  # a collection may come too late
    try:
        kept.keeper.make(model, OPTIONS)
    finally:
        gc.enable()
    assert new
    assert alive == [0]


def test_python_modules_of_the_model_are_looked_through(kept: Card) -> None:
    """A patched function of a family lies there (`apply_rotary_pos_emb`)."""
    from workbench.training.step.kept.patches import Patches

    names = sys.modules[type(kept.base).__module__].__dict__
    patches = Patches(kept.base)
    before, names["apply_rotary_pos_emb"] = names["apply_rotary_pos_emb"], print
    patches.note()
    patches.exchange()
    assert names["apply_rotary_pos_emb"] is before
    patches.exchange()
    assert names["apply_rotary_pos_emb"] is print
    patches.exchange()


def test_a_trial_that_cannot_begin_leaves_no_function_changed(
    kept: Card, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the card has no room for the optimizer."""
    import transformers.models.llama.modeling_llama as llama

    from workbench.training.step.optimizer.flat_optimizer import FlatOptimizer

    def has_no_room(self: FlatOptimizer, scale: Tensor) -> None:
        raise torch.OutOfMemoryError("no room")

    kept.train(rows, 1)
    assert kept.keeper is not None
    assert kept.step is not None
    original = llama.apply_rotary_pos_emb
    # Small kernels change it on a GPU, where no CPU's step does.
    kept.step._patches._changed.append((llama.__dict__, "apply_rotary_pos_emb", print))
    monkeypatch.setattr(FlatOptimizer, "use_scale", has_no_room)
    model = kept.adapter(2)
    with pytest.raises(torch.OutOfMemoryError):
        kept.keeper.make(model, OPTIONS)
    assert llama.apply_rotary_pos_emb is original
    assert not any("forward" in one.__dict__ for one in model.modules())
    assert not kept.keeper.holds
