"""Suggestions that make a recipe fit: each is computed, and holds."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from workbench.errors import DoesNotFit, UsageError
from workbench.footprint import History, ModelShape, named_config, plan_trial, predict
from workbench.footprint.model.known_models import _SHAPES
from workbench.footprint.outlook import outlook_on, smallest_card, usual_outlooks
from workbench.footprint.sweeps.worst_case import worst_case_recipe
from workbench.footprint.usual_cards import SIZES_GB, card_of_size, usual_card
from workbench.machine.cards import Card
from workbench.recipe import Recipe, apply_settings

GIB = 1 << 30
POSITIONS = "max_position_embeddings"
GUIDE = Recipe.model_validate(
    {"name": "guide", "model": {"name": "meta-llama/Meta-Llama-3-8B"}, "data": {"train": "a/b"}}
)


def config(name: str) -> dict[str, Any]:
    found = named_config(name)
    assert found is not None
    return found


def swept(**parameters: Any) -> Recipe:
    named = {key.replace("__", "."): value for key, value in parameters.items()}
    sweep = {"method": "random", "trials": 3, "parameters": named}
    return Recipe.model_validate({**GUIDE.model_dump(), "sweep": sweep})


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(sorted(_SHAPES)),
    gib=st.floats(2, 90),
    tokens=st.integers(64, 32_768),
    rank=st.integers(1, 512),
    mode=st.sampled_from(["auto", "on", "off"]),
    quantization=st.sampled_from(["nf4", "none"]),
    optimizer=st.sampled_from(["auto", "adamw_torch", "paged_adamw_32bit"]),
)
def test_every_setting_a_refusal_names_then_fits(
    name: str, gib: float, tokens: int, rank: int, mode: str, quantization: str, optimizer: str
) -> None:
    changes = {
        "data.max_tokens": tokens,
        "lora.rank": rank,
        "train.gradient_checkpointing": mode,
        "model.quantization": quantization,
        "train.optimizer": optimizer,
    }
    recipe, card = apply_settings(GUIDE, changes), card_of_size(int(gib * GIB), "a card")
    outlook = outlook_on(recipe, config(name), card)
    assume(not outlook.fits)
    assert outlook.suggestions
    for suggestion in outlook.suggestions:
        if suggestion.settings:
            assert suggestion.settings.get("data.max_tokens", 0) <= config(name)[POSITIONS]
            changed = plan_trial(apply_settings(recipe, suggestion.settings), config(name), card)
            assert changed.predicted_bytes == suggestion.peak_bytes
    needed = float(outlook.suggestions[-1].words.rsplit(" needs ")[1].removesuffix(" GiB"))
    plan_trial(recipe, config(name), card_of_size(int(needed * GIB) + 1, "the card named"))


class Always(dict[Any, float]):
    """Factors in which every class of plans took 1.3 times what was predicted."""

    def get(self, key: Any, default: Any = None) -> Any:
        return 1.3


def test_suggestions_hold_with_what_was_measured_too() -> None:
    history = History(factors=Always())
    llama = config("meta-llama/Meta-Llama-3-8B")
    long = apply_settings(GUIDE, {"data.max_tokens": 8_192, "lora.rank": 128})
    card = card_of_size(11 * GIB, "a card")
    outlook = outlook_on(long, llama, card, history=history)
    assert not outlook.fits
    assert len(outlook.suggestions) > 1
    for suggestion in outlook.suggestions[:-1]:
        changed = apply_settings(long, suggestion.settings)
        plan = plan_trial(changed, llama, card, history=history)
        assert plan.predicted_bytes == suggestion.peak_bytes <= outlook.room_bytes
    needed = float(outlook.suggestions[-1].words.rsplit(" needs ")[1].removesuffix(" GiB"))
    bigger = card_of_size(int(needed * GIB) + 1, "the card named")
    plan_trial(long, llama, bigger, history=history, measured_as=card)
    with pytest.raises(DoesNotFit, match="it takes 30% more than predicted") as refused:
        plan_trial(long, llama, card, history=history)
    gib = int(refused.value.hint.rsplit("use a card with ")[1].removesuffix(" GiB"))
    plan_trial(long, llama, card_of_size(gib * GIB, "the card named"), history=history)


def test_no_suggestion_is_longer_than_the_model_reads() -> None:
    """On a card of 16 GiB about 12,000 tokens would fit, but the model reads 8,192."""
    long = apply_settings(GUIDE, {"data.max_tokens": 131_072, "train.batch_size": 1})
    llama, card = config("meta-llama/Meta-Llama-3-8B"), card_of_size(16 * GIB, "a card")
    outlook = outlook_on(long, llama, card)
    assert not outlook.fits
    assert outlook.suggestions[0].settings == {"data.max_tokens": 8_192}
    with pytest.raises(DoesNotFit) as refused:
        plan_trial(long, llama, card)
    assert "lower data.max_tokens to 8192" in refused.value.hint


def test_every_known_model_says_how_many_tokens_it_reads() -> None:
    assert all(ModelShape.of(config(name)).positions for name in _SHAPES)
    assert ModelShape.of(config("google/gemma-3-4b-it")).positions == 131_072
    assert ModelShape.of(config("Qwen/Qwen3-4B-Instruct-2507")).positions == 262_144


@pytest.mark.parametrize("name", ["meta-llama/Llama-3.1-70B", "google/gemma-2-27b"])
def test_a_refusal_takes_a_bounded_number_of_predictions(name: str) -> None:
    """Some 20 µs each: `plan` answers within a second, whatever the recipe."""
    changes: dict[str, object] = {"train.batch_size": 240, "data.max_tokens": 131_072}
    recipe, made = apply_settings(GUIDE, changes), 0

    def count(frame: FrameType, event: str, arg: object) -> None:
        nonlocal made
        made += event == "call" and frame.f_code is predict.__code__

    sys.setprofile(count)
    try:
        outlook_on(recipe, config(name), usual_card("3090"))
        usual_outlooks(recipe, config(name))
    finally:
        sys.setprofile(None)
    assert made < 5_000


def test_the_leanest_way_takes_no_more_on_a_larger_card() -> None:
    """A row of 131,072 tokens takes more than any card where attention is quadratic."""
    long = apply_settings(GUIDE, {"data.max_tokens": 131_072, "train.batch_size": 1})
    gemma = config("google/gemma-2-27b")
    size, plan = smallest_card(long, gemma, usual_card("t4"))
    assert size > 1 << 42
    assert plan.recompute_layers == plan.layers
    assert size - plan.predicted_bytes < GIB


def test_settings_that_only_cost_speed_come_without_those_that_are_not_needed() -> None:
    slow = {"train.gradient_checkpointing": "off", "train.optimizer": "adamw_torch"}
    outlook = outlook_on(
        apply_settings(GUIDE, {**slow, "model.quantization": "none", "data.max_tokens": 2048}),
        config("meta-llama/Meta-Llama-3-8B"),
        usual_card("3060"),
    )
    assert outlook.suggestions[0].settings == {
        "train.gradient_checkpointing": "auto",
        "model.quantization": "nf4",
    }


def test_the_worst_case_takes_the_end_of_each_range_that_needs_most() -> None:
    recipe = swept(
        lora__rank=[64, 8],
        train__learning_rate={"min": 1e-5, "max": 1e-3},
        data__max_tokens={"min": 128, "max": 1024, "integer": True},
        train__gradient_checkpointing=["on", "off"],
    )
    point, found = worst_case_recipe(
        recipe, config("meta-llama/Meta-Llama-3-8B"), usual_card("3090")
    )
    assert found == {
        "lora.rank": 64,
        "data.max_tokens": 1024,
        "train.gradient_checkpointing": "off",
    }
    assert point.lora.rank == 64
    assert point.sweep is None


def test_the_worst_case_is_a_point_that_can_exist() -> None:
    """The long rows exist only with the small batch, and the big batch only without them."""
    recipe = swept(
        train__batch_size=[1, 64],
        data__max_tokens={"values": [1024, 2048], "when": {"train.batch_size": 1}},
        lora__rank={"min": 8, "max": 64, "integer": True, "when": {"train.batch_size": [64]}},
        train__learning_rate={"min": 1e-5, "max": 1e-3},
    )
    _, found = worst_case_recipe(recipe, config("meta-llama/Meta-Llama-3-8B"), usual_card("3090"))
    possible = [
        {"train.batch_size": 1, "data.max_tokens": 2048},
        {"train.batch_size": 64, "lora.rank": 64},
    ]
    assert found in possible


def test_usual_cards_are_found_by_their_everyday_names() -> None:
    assert usual_card("3090") == usual_card("NVIDIA GeForce RTX 3090")
    assert usual_card("A100-80GB").total_bytes == 80 * GIB
    assert usual_card("tesla t4").capability == (7, 5)
    with pytest.raises(UsageError, match="is not a known card") as refused:
        usual_card("h200x")
    assert "did you mean h200?" in refused.value.hint
    assert "--vram" in refused.value.hint


@pytest.mark.parametrize(
    ("name", "gib"),
    [("RTX 3090 Ti", 24), ("4070 Ti", 12), ("5060 ti", 8), ("5070Ti", 16), ("Tesla P40", 22)],
)
def test_cards_with_a_suffix_are_cards_of_their_own(name: str, gib: int) -> None:
    assert round(usual_card(name).total_bytes / GIB) == gib


def test_a_suffix_that_a_card_does_not_have_suggests_the_card_without_it() -> None:
    with pytest.raises(UsageError, match="is not a known card") as refused:
        usual_card("RTX 4090 Ti")
    assert "did you mean 4090?" in refused.value.hint


@pytest.mark.parametrize("name", ["6090", "7900 XTX", "9", "1080ti"])
def test_a_card_that_resembles_a_known_one_only_somewhat_suggests_none(name: str) -> None:
    with pytest.raises(UsageError, match="is not a known card") as refused:
        usual_card(name)
    assert "did you mean" not in refused.value.hint


def test_a_card_of_several_sizes_names_them() -> None:
    with pytest.raises(UsageError) as refused:
        usual_card("A100")
    hint = refused.value.hint
    assert "did you mean a100-40gb or a100-80gb?" in hint
    assert usual_card("a100-40gb").total_bytes < usual_card("a100-80gb").total_bytes


def test_the_usual_sizes_rise_and_each_takes_a_small_model() -> None:
    cards = [card_of_size(gb * GIB, f"{gb} GB") for gb in SIZES_GB]
    small = config("HuggingFaceTB/SmolLM2-135M")
    assert all(outlook_on(GUIDE, small, card).fits for card in cards)
    assert list(SIZES_GB) == sorted(SIZES_GB)


def test_a_cpu_card_is_planned_for_too() -> None:
    card = Card(uuid="cpu-0", kind="cpu", name="CPU card 0", total_bytes=2 * GIB)
    outlook = outlook_on(GUIDE, config("HuggingFaceTB/SmolLM2-135M"), card)
    assert (outlook.fits, outlook.plan.precision) == (True, "fp32")
