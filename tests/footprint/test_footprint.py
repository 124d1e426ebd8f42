"""Plans that fit a card: anchored to measured peaks, and never above the card's memory."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from workbench.errors import DoesNotFit, ModelError, WorkbenchError
from workbench.footprint import ModelShape, Plan, named_config, precision_for
from workbench.footprint.card_limits import limit_bytes
from workbench.footprint.choose import choose_plan, price_plan
from workbench.footprint.model.known_models import _SHAPES
from workbench.footprint.oom_fallback import FallbackStep, fallback_plan, hardware_key
from workbench.footprint.peak.layers import lora_params
from workbench.footprint.plan import describe_plan
from workbench.footprint.plan_search import DEQUANTISED_SHARE, PlanSearch
from workbench.footprint.row_lengths import Lengths, lengths_of, sampled_batches
from workbench.machine.cards import CAP_SLACK_BYTES, Card
from workbench.recipe import Recipe, apply_settings
from workbench.recipe.schema import Lora

GIB = 1 << 30
GUIDE = Recipe.model_validate(
    {"name": "guide", "model": {"name": "meta-llama/Meta-Llama-3-8B"}, "data": {"train": "a/b"}}
)


def config(name: str) -> dict[str, Any]:
    found = named_config(name)
    assert found is not None
    return found


LLAMA = config("meta-llama/Meta-Llama-3-8B")


def card(gib: float, capability: tuple[int, int] = (8, 6)) -> Card:
    return Card(
        uuid="GPU-1",
        kind="cuda",
        name=f"a {gib:g} GiB card",
        total_bytes=int(gib * GIB),
        capability=capability,
    )


CPU = Card(uuid="cpu-0", kind="cpu", name="CPU card 0", total_bytes=16 * GIB)
T4 = card(15, (7, 5))
BIG = card(640, (9, 0))


def known(longest: int | None = None, sample: Sequence[int] | None = None) -> Lengths:
    return {"longest": longest, "sample": sample, "scored": None}


def with_(**changes: object) -> Recipe:
    return apply_settings(GUIDE, {key.replace("__", "."): value for key, value in changes.items()})


class TestAnchors:
    """Peaks measured on an 8B Llama shape; the CUDA context is ours on top."""

    def test_the_loaded_base_is_as_measured(self) -> None:
        buckets = choose_plan(GUIDE, LLAMA, BIG).buckets
        assert (buckets["base"] + buckets["embeddings"]) / GIB == pytest.approx(5.32, abs=0.02)

    def test_the_guides_settings_fit_its_cards(self) -> None:
        assert choose_plan(GUIDE, LLAMA, card(24)).recompute_layers == 0
        assert choose_plan(GUIDE, LLAMA, T4).rows_per_step == 4


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("meta-llama/Meta-Llama-3-8B", 8.03),
        ("meta-llama/Llama-3.1-8B-Instruct", 8.03),
        ("meta-llama/Llama-3.2-1B", 1.24),
        ("meta-llama/Llama-3.2-3B", 3.21),
        ("meta-llama/Llama-3.1-70B", 70.55),
        ("Qwen/Qwen2.5-0.5B", 0.49),
        ("Qwen/Qwen2.5-7B-Instruct", 7.62),
        ("Qwen/Qwen2.5-32B", 32.76),
        ("Qwen/Qwen3-0.6B", 0.60),
        ("Qwen/Qwen3-4B", 4.02),
        ("Qwen/Qwen3-8B", 8.19),
        ("mistralai/Mistral-7B-v0.3", 7.25),
        ("google/gemma-2-2b-it", 2.61),
        ("google/gemma-2-9b", 9.24),
        ("google/gemma-3-1b-pt", 1.00),
        ("microsoft/Phi-3-mini-4k-instruct", 3.82),
        ("microsoft/phi-4", 14.66),
        ("Qwen/Qwen2.5-72B-Instruct", 72.71),
        ("Qwen/Qwen2.5-Coder-7B-Instruct", 7.62),
        ("Qwen/Qwen3-4B-Instruct-2507", 4.02),
        ("mistralai/Mistral-7B-Instruct-v0.2", 7.24),
        ("google/gemma-3-270m-it", 0.27),
        ("google/gemma-2-27b-it", 27.23),
        ("microsoft/Phi-3-medium-128k-instruct", 13.96),
        ("microsoft/Phi-4-mini-instruct", 3.84),
        ("HuggingFaceTB/SmolLM3-3B", 3.08),
        ("Qwen/Qwen3.5-4B", 4.21),
        ("Qwen/Qwen3.5-9B", 8.95),
        ("ibm-granite/granite-3.3-8b-instruct", 8.17),
        ("allenai/Olmo-3-7B-Instruct", 7.30),
        ("HuggingFaceTB/SmolLM-360M", 0.36),
        ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", 1.10),
        ("HuggingFaceTB/SmolLM2-135M", 0.13),
        ("HuggingFaceTB/SmolLM2-1.7B-Instruct", 1.71),
    ],
)
def test_a_named_shape_has_the_published_number_of_parameters(name: str, billions: float) -> None:
    assert ModelShape.of(config(name)).params / 1e9 == pytest.approx(billions, abs=0.006)


def test_a_model_that_sees_counts_its_eyes() -> None:
    shape = ModelShape.of(config("google/gemma-3-4b-it"))
    assert shape.params / 1e9 == pytest.approx(4.30, abs=0.02)
    assert shape.fused


def test_an_unknown_name_has_no_shape() -> None:
    assert named_config("acme/tiny") is None


class TestShape:
    def test_a_text_model_inside_a_larger_one_is_found(self) -> None:
        inner = {**config("google/gemma-3-1b"), "model_type": "gemma3_text"}
        outer = {"model_type": "gemma3", "text_config": inner}
        assert ModelShape.of(outer) == ModelShape.of(inner)
        another = ModelShape.of({**outer, "model_type": "llava"})
        assert another == replace(ModelShape.of(inner), nested=True)
        assert not another.fused

    def test_missing_measures_are_named(self) -> None:
        with pytest.raises(ModelError, match="no hidden_size"):
            ModelShape.of({"model_type": "llama", "num_attention_heads": 4})

    @pytest.mark.parametrize("value", ["4096", -1, 0, 2.5, True, 1 << 40])
    def test_measures_that_are_none_are_refused(self, value: object) -> None:
        with pytest.raises(ModelError, match="hidden_size"):
            ModelShape.of({**LLAMA, "hidden_size": value})

    @pytest.mark.parametrize(
        "found",
        [
            {"num_local_experts": 8},
            {"num_experts": 128},
            {"n_routed_experts": 256},
            {"moe_num_experts": 64},
            {"ffn_config": {"moe_num_experts": 16}},
        ],
        ids=str,
    )
    def test_a_mixture_of_experts_is_refused(self, found: dict[str, Any]) -> None:
        with pytest.raises(ModelError, match="mixture of experts"):
            ModelShape.of({**LLAMA, **found})
        with pytest.raises(ModelError, match="mixture of experts"):
            ModelShape.of({"model_type": "outer", "text_config": {**LLAMA, **found}})

    def test_one_expert_is_none(self) -> None:
        assert ModelShape.of({**LLAMA, "num_experts": 1}) == ModelShape.of(LLAMA)

    @pytest.mark.parametrize(
        "found", [{"num_hidden_layers": 1 << 30}, {"model_type": ["llama"]}], ids=str
    )
    def test_what_no_model_has_is_refused_with_a_hint(self, found: dict[str, Any]) -> None:
        with pytest.raises(ModelError) as refused:
            ModelShape.of({**LLAMA, **found})
        assert refused.value.hint

    def test_a_vision_tower_by_other_names_is_counted(self) -> None:
        seeing = {"depth": 32, "embed_dim": 1280, "hidden_size": 3584}  # as Qwen 2 VL has it
        shape = ModelShape.of({"text_config": LLAMA, "vision_config": seeing})
        assert shape.extra.other == 32 * 12 * 1280 * 1280

    def test_a_gemma_3_as_the_hub_has_it_is_that_known_by_its_name(self) -> None:
        """Its config.json leaves out what transformers' class has by itself."""
        known = config("google/gemma-3-4b-it")
        kept = ("hidden_size", "intermediate_size", "model_type", "num_hidden_layers")
        found = {name: known["text_config"][name] for name in (*kept, "sliding_window")}
        assert ModelShape.of({**known, "text_config": found}) == ModelShape.of(known)

    def test_what_old_configs_leave_out_is_derived(self) -> None:
        keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
        shape = ModelShape.of({key: LLAMA[key] for key in keys})
        assert (shape.kv_heads, shape.head_dim, shape.ffn) == (32, 128, 16384)


class TestChoice:
    def test_room_enough_means_one_micro_step_and_nothing_done_twice(self) -> None:
        plan = choose_plan(GUIDE, LLAMA, BIG)
        assert (plan.tokens_per_micro, plan.micro_steps) == (2048, 1)
        assert (plan.recompute_layers, plan.dequantised_layers) == (0, 32)

    def test_less_room_means_fewer_unpacked_layers_then_finer_steps_or_recompute(self) -> None:
        plans = [choose_plan(GUIDE, LLAMA, card(gib)) for gib in (48, 24, 16, 9, 8.5)]
        unpacked = [plan.dequantised_layers for plan in plans]
        assert unpacked == sorted(unpacked, reverse=True)
        assert [plan.recompute_layers for plan in plans[:3]] == [0, 0, 0]
        assert plans[-1].recompute_layers > plans[-2].recompute_layers > 0

    def test_what_is_done_again_is_as_little_as_the_card_asks(self) -> None:
        for gib in (8, 10, 12, 14):
            plan = choose_plan(GUIDE, LLAMA, card(gib))
            if plan.recompute_layers:
                less = replace(plan, recompute_layers=plan.recompute_layers - 1, eval_batch=1)
                taken = price_plan(less, GUIDE, LLAMA, card(gib)).predicted_bytes
                assert taken > limit_bytes(card(gib))

    def test_short_rows_are_what_the_cut_is_chosen_for(self) -> None:
        """Two whole rows fit; four of average length do too, and then one micro-step is best."""
        tight = card(8.5)
        long, short = (
            choose_plan(GUIDE, LLAMA, tight, lengths=known(sample=[mean])) for mean in (512, 64)
        )
        assert short.recompute_layers < long.recompute_layers
        assert short.tokens_per_micro >= 512

    def test_rows_that_are_seldom_long_do_not_decide_how_the_others_run(self) -> None:
        """One row in 64 is of 2,048 tokens, the others of 256."""
        recipe = with_(data__max_tokens=2048)
        unread = choose_plan(recipe, LLAMA, card(12))
        plan = choose_plan(recipe, LLAMA, card(12), lengths=known(sample=[256] * 63 + [2048]))
        assert unread.recompute_layers > 5
        assert plan.recompute_layers == 0
        assert 256 <= plan.tokens_per_micro < 2048
        assert plan.long_recompute_layers >= unread.recompute_layers
        assert plan.predicted_bytes <= limit_bytes(card(12))
        less = replace(plan, long_recompute_layers=plan.long_recompute_layers - 1, eval_batch=1)
        taken = price_plan(less, recipe, LLAMA, card(12)).predicted_bytes
        assert taken > limit_bytes(card(12)) * DEQUANTISED_SHARE
        for asked in ("on", "off"):
            fixed = with_(data__max_tokens=1024, train__gradient_checkpointing=asked)
            made = choose_plan(fixed, LLAMA, card(12), lengths=known(sample=[256] * 63 + [1024]))
            assert made.tokens_per_micro >= 1024

    def test_a_micro_step_is_as_large_as_batches_are(self) -> None:
        """Four rows of up to 512 tokens, but seldom more than 1,100 together."""
        lengths = [*range(150, 350, 5), 512]
        whole = choose_plan(GUIDE, LLAMA, card(24))
        plan = choose_plan(GUIDE, LLAMA, card(24), lengths=known(sample=lengths))
        assert whole.tokens_per_micro == 2048
        assert 900 < plan.tokens_per_micro < 1500
        assert plan.tokens_per_micro % 64 == 0
        assert plan.dequantised_layers > whole.dequantised_layers
        assert plan.micro_steps == 2

    def test_the_longest_rows_come_together_where_rows_are_grouped(self) -> None:
        lengths = [100] * 60 + [500] * 4
        mixed, grouped = (
            choose_plan(
                with_(data__group_by_length=group),
                LLAMA,
                card(12),
                lengths=known(longest=500, sample=lengths),
            )
            for group in (False, True)
        )
        assert grouped.tokens_per_micro > mixed.tokens_per_micro

    def test_a_family_that_trains_plainly_recomputes_all_layers_or_none(self) -> None:
        other = {**LLAMA, "model_type": "stablelm"}
        counts = {choose_plan(GUIDE, other, card(gib)).recompute_layers for gib in (9, 48)}
        assert counts == {0, 32}
        assert choose_plan(GUIDE, other, card(48)).dequantised_layers == 0
        padded = choose_plan(GUIDE, other, card(48)).predicted_bytes
        assert padded > choose_plan(GUIDE, LLAMA, card(16)).predicted_bytes

    def test_where_recomputing_all_is_not_enough_inputs_wait_in_host_memory(self) -> None:
        tight = card(8)
        long = with_(data__max_tokens=6144, train__batch_size=1)
        plan = choose_plan(long, LLAMA, tight)
        assert plan.recompute_layers == 32
        assert plan.host_bytes == 31 * 6144 * 4096 * 2
        there = price_plan(replace(plan, offload=False), long, LLAMA, tight)
        assert there.host_bytes == 0
        assert there.predicted_bytes > limit_bytes(tight) >= plan.predicted_bytes
        inputs = 30 * 6144 * 4096 * 2  # less what scoring takes in any case
        assert 0.6 * inputs < there.predicted_bytes - plan.predicted_bytes <= 1.01 * inputs
        assert choose_plan(long, LLAMA, card(12)).host_bytes == 0
        with pytest.raises(DoesNotFit):
            choose_plan(with_(train__gradient_checkpointing="off"), LLAMA, tight)

    def test_tables_stay_in_host_memory_before_inputs_do(self) -> None:
        tight, table = card(8), 128_256 * 4_096 * 2
        plan = choose_plan(GUIDE, LLAMA, tight)
        assert (plan.host_tables, plan.table_bytes) == (True, table)
        assert (plan.offload, plan.host_bytes) == (False, 0)
        assert 0 < plan.recompute_layers < 32  # the table's room serves layers
        here = price_plan(replace(plan, host_tables=False), GUIDE, LLAMA, tight)
        assert (here.host_tables, here.table_bytes) == (False, 0)
        assert here.predicted_bytes - plan.predicted_bytes == table
        assert here.predicted_bytes > limit_bytes(tight) >= plan.predicted_bytes
        assert not choose_plan(GUIDE, LLAMA, card(12)).host_tables
        assert not choose_plan(with_(data__max_tokens=64), LLAMA, CPU).host_tables

    def test_an_adapter_on_a_table_is_counted(self) -> None:
        shape = ModelShape.of(LLAMA)
        without, beside = (
            lora_params(shape, Lora(rank=16, targets=targets))
            for targets in (["q_proj"], ["q_proj", "embed_tokens"])
        )
        assert beside - without == 16 * (128_256 + 4_096)

    @pytest.mark.parametrize(
        ("more", "targets", "gib"),
        [({"tie_word_embeddings": True}, "all-linear", 7.5), ({}, ["q_proj", "embed_tokens"], 8)],
    )
    def test_a_table_that_the_head_or_an_adapter_needs_stays(
        self, more: dict[str, Any], targets: Any, gib: float
    ) -> None:
        recipe = with_(lora__targets=targets, data__max_tokens=5120, train__batch_size=1)
        config_, tight = {**LLAMA, **more}, card(gib)
        plan = choose_plan(recipe, config_, tight)
        assert plan.offload
        assert not plan.host_tables
        assert not price_plan(replace(plan, host_tables=True), recipe, config_, tight).host_tables

    def test_gemma_4s_tables_of_each_layer_leave_a_card_and_pass_it_while_loading(self) -> None:
        gemma = {
            "model_type": "gemma4_text", "hidden_size": 1536, "num_hidden_layers": 30,
            "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 256,
            "intermediate_size": 6144, "vocab_size": 262_144, "tie_word_embeddings": True,
        }  # fmt: skip
        plan = choose_plan(with_(data__max_tokens=256), gemma, card(7))
        assert (plan.host_tables, plan.table_bytes) == (True, 30 * 262_144 * 256 * 2)
        short = with_(data__max_tokens=8, train__batch_size=1)
        whole = choose_plan(short, gemma, BIG)
        away = price_plan(replace(whole, host_tables=True), short, gemma, BIG)
        loaded = sum(whole.buckets[name] for name in ("base", "embeddings", "context"))
        assert loaded < away.predicted_bytes < whole.predicted_bytes
        assert away.buckets["loading"] > 0

    @pytest.mark.parametrize(
        ("gib", "tokens"), [(8, 6_000), (12, 23_488), (16, 47_744), (24, 96_256)]
    )
    def test_long_rows_of_an_8b_fit_small_cards(self, gib: int, tokens: int) -> None:
        recipe = with_(lora__rank=32, train__batch_size=1, data__max_tokens=tokens)
        llama = {**LLAMA, "max_position_embeddings": 131_072}
        assert choose_plan(recipe, llama, card(gib)).micro_steps == 1

    def test_the_last_step_is_taken_only_where_inputs_can_leave_the_card(self) -> None:
        on_card = card(12)
        for config_, least in ((LLAMA, 1), ({**LLAMA, "model_type": "stablelm"}, 0)):
            plan = choose_plan(with_(data__max_tokens=512), config_, on_card)
            plan = replace(plan, tokens_per_micro=512, recompute_layers=32)
            plan = price_plan(replace(plan, dequantised_layers=0), GUIDE, config_, on_card)
            fall = FallbackStep(
                hardware=hardware_key(on_card), plan=plan.to_json(), stage="training"
            )
            lower = fallback_plan(
                plan,
                [fall],
                recompute=True,
                price=partial(price_plan, recipe=GUIDE, config=config_, card=on_card),
            )
            assert (lower is not None and lower.offload) == bool(least)

    def test_recompute_on_and_off_are_respected(self) -> None:
        on = with_(train__gradient_checkpointing="on")
        off = with_(train__gradient_checkpointing="off")
        assert choose_plan(on, LLAMA, BIG).recompute_layers == 32
        assert choose_plan(off, LLAMA, card(16)).recompute_layers == 0

    def test_short_rows_need_less_than_the_recipe_allows(self) -> None:
        short = choose_plan(GUIDE, LLAMA, BIG, lengths=known(longest=100))
        assert short.predicted_bytes < choose_plan(GUIDE, LLAMA, BIG).predicted_bytes

    def test_packing_fills_rows_whatever_the_longest_is(self) -> None:
        packed = with_(data__packing=True)
        assert choose_plan(packed, LLAMA, BIG, lengths=known(longest=100)) == choose_plan(
            packed, LLAMA, BIG
        )

    def test_free_bytes_bound_the_plan(self) -> None:
        assert choose_plan(GUIDE, LLAMA, card(24), free_bytes=9 * GIB).predicted_bytes <= 9 * GIB

    def test_a_persons_cap_bounds_the_plan(self) -> None:
        capped = Card.from_json({**card(24).to_json(), "cap_bytes": 8 * GIB})
        assert choose_plan(GUIDE, LLAMA, capped).predicted_bytes <= 8 * GIB - CAP_SLACK_BYTES

    def test_a_t4_computes_in_fp16_without_flash_attention(self) -> None:
        plan = choose_plan(GUIDE, LLAMA, T4)
        assert (plan.precision, plan.attention) == ("fp16", "sdpa")
        assert "7.5" in plan.attention_why

    def test_a_cpu_card_computes_in_fp32_with_a_plain_optimizer(self) -> None:
        plan = choose_plan(GUIDE, config("HuggingFaceTB/SmolLM2-135M"), CPU)
        assert (plan.precision, plan.optimizer) == ("fp32", "adamw_torch")

    def test_a_named_optimizer_is_taken(self) -> None:
        assert choose_plan(with_(train__optimizer="sgd"), LLAMA, BIG).optimizer == "sgd"

    @pytest.mark.parametrize(
        ("data", "rows"),
        [
            ({}, 64),
            ({"eval_rows": 1000}, 256),
            ({"test_rows": 100}, 100),
            ({"test": "a/b"}, 256),
        ],
    )
    def test_no_more_rows_are_scored_at_once_than_there_are(
        self, data: dict[str, Any], rows: int
    ) -> None:
        settings = {f"data__{name}": value for name, value in data.items()}
        assert choose_plan(with_(**settings), LLAMA, BIG).eval_batch == rows

    def test_evaluation_is_cut_to_what_fits(self) -> None:
        tied = {**LLAMA, "tie_word_embeddings": True}
        assert 1 <= choose_plan(GUIDE, tied, card(7.05)).eval_batch < 16
        four = with_(evaluate__batch_size=4)
        assert choose_plan(four, LLAMA, BIG).eval_batch == 4
        other = {**LLAMA, "model_type": "stablelm"}
        assert choose_plan(GUIDE, other, BIG).eval_batch == 16

    def test_answers_come_from_dequantised_copies_where_there_is_room(self) -> None:
        answers = with_(evaluate__answer_pattern=r"(\d+)", data__eval_rows=256)
        small, middle, big = (choose_plan(answers, LLAMA, one) for one in (card(12), card(24), BIG))
        assert big.eval_dequantised
        assert big.eval_batch == 256
        assert not small.eval_dequantised
        assert 16 < small.eval_batch < middle.eval_batch < 256
        for plan, one in ((small, card(12)), (middle, card(24))):
            assert plan.predicted_bytes <= limit_bytes(one)
        assert not choose_plan(GUIDE, LLAMA, BIG).eval_dequantised

    def test_graphs_stay_beside_scoring_where_there_is_room_for_both(self) -> None:
        answers = with_(evaluate__answer_pattern=r"(\d+)", data__eval_rows=64)
        small, big = (choose_plan(answers, LLAMA, one) for one in (card(12), BIG))
        assert (small.keeps_graphs, big.keeps_graphs) == (False, True)
        gone = price_plan(replace(big, keeps_graphs=False), answers, LLAMA, BIG)
        # Dequantised layers, gradients, and the activations in the graphs' memory.
        stays = ("unpacked", "gradients", "activations", "transient", "logits")
        kept = sum(gone.buckets[name] for name in stays)
        assert big.predicted_bytes - gone.predicted_bytes == pytest.approx(kept, rel=0.01)
        assert price_plan(big, answers, LLAMA, BIG) == big
        assert describe_plan(big.to_json())["graphs"] == "stay for the next trial"
        assert "graphs" not in describe_plan(small.to_json())

    def test_no_graphs_stay_where_none_are_captured(self) -> None:
        biases = with_(lora__bias="lora_only")
        other = {**LLAMA, "model_type": "stablelm"}
        cpu = replace(BIG, kind="cpu")
        plans = [choose_plan(GUIDE, other, BIG), choose_plan(biases, LLAMA, BIG)]
        assert not any(plan.keeps_graphs for plan in [*plans, choose_plan(GUIDE, LLAMA, cpu)])

    def test_a_stored_plan_reads_back_equal(self) -> None:
        plan = choose_plan(GUIDE, LLAMA, card(24))
        assert plan.dequantised_layers
        assert Plan.from_json(plan.to_json()) == plan

    def test_stored_plans_keep_the_keys_that_older_homes_hold(self) -> None:
        stored = choose_plan(GUIDE, LLAMA, card(24)).to_json()
        assert "dequantised_layers" not in stored
        assert stored["resident_layers"] == Plan.from_json(stored).dequantised_layers

    def test_the_longest_row_of_an_older_plan_follows_from_its_micro_steps(self) -> None:
        plan = choose_plan(with_(train__batch_size=8), LLAMA, card(16))
        found = replace(plan, recompute_layers=5).to_json()
        del found["longest"], found["long_recompute_layers"]
        assert found["micro_steps"] == plan.micro_steps > 1
        read = Plan.from_json(found)
        assert (read.longest, read.recompute_layers, read.long_recompute_layers) == (512, 5, 5)

    def test_a_trial_that_began_keeps_its_cut_while_it_fits(self) -> None:
        lengths = [*range(150, 350, 5), 512]

        def cuts(kept: int | None) -> set[int]:
            found = set()
            for step in range(40):
                free = 20 * GIB + step * GIB // 16
                plan = choose_plan(
                    GUIDE,
                    LLAMA,
                    card(24),
                    free,
                    lengths=known(sample=lengths),
                    previous_tokens_per_micro=kept,
                )
                assert plan.predicted_bytes <= free
                found.add(plan.tokens_per_micro)
            return found

        assert len(cuts(None)) > 1
        assert cuts(1024) == {1024}
        little = choose_plan(
            GUIDE,
            LLAMA,
            card(24),
            8 * GIB,
            lengths=known(sample=lengths),
            previous_tokens_per_micro=2048,
        )
        assert little.predicted_bytes <= 8 * GIB

    def test_large_batches_are_cut_finely_too(self) -> None:
        big = with_(train__batch_size=256, train__accumulation=2)
        for group in (False, True):
            recipe = apply_settings(big, {"data.group_by_length": group})
            plan = choose_plan(
                recipe, LLAMA, card(24), lengths=known(sample=[*range(100, 300, 4), 512])
            )
            assert plan.tokens_per_micro not in {512 << power for power in range(10)}

    def test_seldom_long_rows_recompute_no_more_than_they_must(self) -> None:
        """Plans without dequantised layers may use all of the room."""
        recipe = with_(data__max_tokens=1024)
        lengths = [*range(100, 400, 6), 1024]
        for eighths in range(68, 84):
            on = card(eighths / 8)
            plan = choose_plan(recipe, LLAMA, on, lengths=known(sample=lengths))
            if plan.tokens_per_micro < 1024 and plan.long_recompute_layers > plan.recompute_layers:
                count = plan.long_recompute_layers - 1
                less = replace(plan, long_recompute_layers=count, eval_batch=1)
                room = limit_bytes(on) * (DEQUANTISED_SHARE if plan.dequantised_layers else 1)
                found: Lengths = {"longest": None, "sample": lengths, "scored": None}
                assert price_plan(less, recipe, LLAMA, on, found).predicted_bytes > room

    def test_what_long_rows_recompute_costs_time(self) -> None:
        rows: Lengths = {"longest": 512, "sample": [100, 512], "scored": None}
        search = PlanSearch.of(GUIDE, LLAMA, card(12), rows)
        run = replace(search.run, tokens_per_micro=256)
        ways = [replace(run, long_recompute_layers=count) for count in (0, 32)]
        none, some = map(search.cost.passes, ways)
        assert some > 1.2 * none
        short_rows: Lengths = {"longest": 512, "sample": [100, 200], "scored": None}
        shorter = PlanSearch.of(GUIDE, LLAMA, card(12), short_rows)
        none, some = map(shorter.cost.passes, ways)
        assert some == none

    def test_heads_that_are_turned_in_part_are_copied(self) -> None:
        whole = config("microsoft/Phi-4-mini-instruct")
        assert whole["partial_rotary_factor"] == 0.75
        taken = [
            choose_plan(GUIDE, found, BIG).buckets["activations"]
            for found in (
                whole,
                {**whole, "partial_rotary_factor": 1.0},
                {**whole, "rope_parameters": {"partial_rotary_factor": 1.0}},
            )
        ]
        assert taken[1] == taken[2]
        assert taken[0] - taken[1] == 2048 * 32 * 2 * (24 + 8) * 128


class TestLengths:
    def test_batches_are_drawn_from_the_sample_and_always_the_same(self) -> None:
        sample = [10, 20, 30, 40]
        batches = sampled_batches(sample, 3, grouped=False)
        assert batches == sampled_batches(sample, 3, grouped=False)
        assert {len(batch) for batch in batches} == {3}
        drawn = [length for batch in batches for length in batch]
        assert set(drawn) == set(sample)
        assert len(drawn) > 500
        spread = {sum(batch) for batch in batches}
        assert min(spread) < 75 < max(spread)

    def test_rows_of_like_length_come_together_where_they_are_grouped(self) -> None:
        batches = sampled_batches([10, 20, 30, 40], 2, grouped=True)
        assert all(max(batch) - min(batch) <= 10 for batch in batches)
        for rows in (2, 12, 300, 600):
            drawn = sampled_batches([100] * 40 + [2000] * 24, rows, grouped=True)
            assert max(map(sum, drawn)) == 2000 * rows if rows <= 12 else 2000 in drawn[0]

    def test_what_an_older_workbench_prepared_counts_by_its_mean(self) -> None:
        found = lengths_of({"max_length": 90, "mean_length": 40.4})
        assert found == {"longest": 90, "sample": [40], "scored": None}
        assert sampled_batches([40], 4, grouped=False) == [[40] * 4]


class TestRefusal:
    def refusal(self, recipe: Recipe, on: Card) -> DoesNotFit:
        with pytest.raises(DoesNotFit) as refused:
            choose_plan(recipe, LLAMA, on)
        return refused.value

    def test_the_longest_rows_that_fit_are_named_and_do_fit(self) -> None:
        recipe = with_(data__max_tokens=8192, lora__rank=32)
        hint = self.refusal(recipe, card(8)).hint
        assert hint.startswith("lower data.max_tokens to ")
        tokens = int(hint.removeprefix("lower data.max_tokens to ").split(",")[0])
        choose_plan(with_(data__max_tokens=tokens, lora__rank=32), LLAMA, card(8))
        with pytest.raises(DoesNotFit):
            choose_plan(with_(data__max_tokens=tokens + 64, lora__rank=32), LLAMA, card(8))

    def test_a_smaller_rank_that_fits_is_named(self) -> None:
        assert "lower lora.rank to 32" in self.refusal(with_(lora__rank=64), card(8)).hint

    def test_recompute_is_named_where_it_would_fit(self) -> None:
        recipe = with_(train__gradient_checkpointing="off", data__max_tokens=4096)
        assert "train.gradient_checkpointing: auto" in self.refusal(recipe, card(16)).hint

    def test_four_bits_are_named_where_they_would_fit(self) -> None:
        recipe = with_(model__quantization="none")
        assert "model.quantization: nf4" in self.refusal(recipe, T4).hint

    def test_a_card_that_would_do_is_named_and_does(self) -> None:
        hint = self.refusal(GUIDE, card(4)).hint
        gib = int(hint.rsplit("use a card with ", 1)[1].removesuffix(" GiB"))
        choose_plan(GUIDE, LLAMA, card(gib))

    def test_the_whole_plan_is_described(self) -> None:
        assert self.refusal(GUIDE, card(4)).what.startswith("guide needs at least 6.4")


def test_precision_that_a_card_lacks_is_refused() -> None:
    with pytest.raises(WorkbenchError, match="bf16 needs compute capability"):
        precision_for(T4, "bf16")
    with pytest.raises(WorkbenchError, match="fp16 training needs a GPU"):
        precision_for(CPU, "fp16")


CONFIGS = st.sampled_from(sorted(_SHAPES)).map(config)
RECIPES = st.builds(
    lambda tokens, rank, rows, steps, mode, dropout: with_(
        data__max_tokens=tokens,
        lora__rank=rank,
        lora__dropout=dropout,
        train__batch_size=rows,
        train__accumulation=steps,
        train__gradient_checkpointing=mode,
    ),
    st.integers(8, 8192),
    st.integers(1, 256),
    st.integers(1, 32),
    st.integers(1, 8),
    st.sampled_from(["auto", "on", "off"]),
    st.sampled_from([0, 0.05]),
)
CARDS = st.one_of(
    st.builds(card, st.floats(1, 96), st.sampled_from([(7, 0), (7, 5), (8, 0), (9, 0)])),
    st.just(CPU),
)


def chosen(recipe: Recipe, model: dict[str, Any], on: Card) -> Plan | None:
    try:
        return choose_plan(recipe, model, on)
    except DoesNotFit as refused:
        assert refused.hint  # noqa: PT017
        return None


@settings(max_examples=100, deadline=None)
@given(recipe=RECIPES, model=CONFIGS, on=CARDS)
def test_no_plan_exceeds_its_card_or_changes_the_batch(
    recipe: Recipe, model: dict[str, Any], on: Card
) -> None:
    plan = chosen(recipe, model, on)
    assume(plan is not None)
    assert plan is not None
    assert plan.predicted_bytes <= limit_bytes(on)
    assert plan.predicted_bytes == sum(plan.buckets.values())
    batch = recipe.train.batch_size * recipe.train.accumulation
    assert plan.micro_batch * plan.micro_steps == plan.rows_per_step == batch
    assert plan.tokens_per_micro == plan.micro_batch * recipe.data.max_tokens
    assert 0 <= plan.recompute_layers <= plan.layers
    assert plan.recompute_layers == 0 or plan.dequantised_layers == 0
    again = price_plan(plan, recipe, model, on)
    assert again == plan


@settings(max_examples=100, deadline=None)
@given(recipe=RECIPES, model=CONFIGS, on=CARDS, sample=st.lists(st.integers(1, 8192), min_size=1))
def test_neither_does_one_that_knows_how_long_rows_are(
    recipe: Recipe, model: dict[str, Any], on: Card, sample: list[int]
) -> None:
    lengths: Lengths = {"longest": max(sample), "sample": sample, "scored": None}
    unread = chosen(recipe, model, on)
    try:
        plan = choose_plan(recipe, model, on, lengths=lengths)
    except DoesNotFit:
        assert unread is None
        return
    assert plan.predicted_bytes <= limit_bytes(on)
    assert plan.rows_per_step == recipe.train.batch_size * recipe.train.accumulation
    assert plan.longest == min(max(sample), recipe.data.max_tokens)
    assert plan.recompute_layers <= plan.long_recompute_layers <= plan.layers
    if plan.tokens_per_micro < plan.longest:
        assert recipe.train.gradient_checkpointing == "auto"
        assert not plan.offload
    else:
        assert plan.long_recompute_layers == plan.recompute_layers
    assert price_plan(plan, recipe, model, on, lengths) == plan
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


MENDS = re.compile(r"(?:set|lower) ([a-z_.]+)(?:: | to )(\w+)$")


@settings(max_examples=60, deadline=None)
@given(recipe=RECIPES, model=CONFIGS, on=CARDS, quantization=st.sampled_from(["nf4", "none"]))
def test_every_way_out_that_a_refusal_names_is_one(
    recipe: Recipe, model: dict[str, Any], on: Card, quantization: str
) -> None:
    asked = apply_settings(recipe, {"model.quantization": quantization})
    try:
        choose_plan(asked, model, on)
    except DoesNotFit as refused:
        *changes, bigger = refused.hint.split(", or ")
    else:
        assume(False)
    for change in changes:
        found = MENDS.match(change)
        assert found, change
        key, value = found.groups()
        setting = {key: int(value) if value.isdigit() else value}
        choose_plan(apply_settings(asked, setting), model, on)
    gib = int(bigger.removeprefix("use a card with ").removesuffix(" GiB"))
    choose_plan(asked, model, replace(on, total_bytes=gib * GIB, cap_bytes=None))


@settings(max_examples=60, deadline=None)
@given(recipe=RECIPES, model=CONFIGS, more=st.integers(1, 64))
def test_more_tokens_rank_or_layers_take_more(
    recipe: Recipe, model: dict[str, Any], more: int
) -> None:
    endless = card(1 << 30)
    recipe = apply_settings(recipe, {"evaluate.batch_size": 1})  # else scoring may take the most
    peak = choose_plan(recipe, model, endless).predicted_bytes
    tokens = recipe.data.max_tokens
    longer, longest = (
        apply_settings(recipe, {"data.max_tokens": n}) for n in (tokens + more, 2 * tokens + 1_024)
    )
    higher = apply_settings(recipe, {"lora.rank": recipe.lora.rank + more})
    deeper = {**model, "num_hidden_layers": model["num_hidden_layers"] + more}
    assert choose_plan(longer, model, endless).predicted_bytes >= peak
    assert choose_plan(longest, model, endless).predicted_bytes > peak
    assert choose_plan(higher, model, endless).predicted_bytes > peak
    assert choose_plan(recipe, deeper, endless).predicted_bytes > peak
