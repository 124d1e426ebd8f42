"""The fast step against plain transformers and PEFT, in fp32: same loss, same gradients."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch

from tests.training.step.conftest import ModelOf, assert_same_gradients, options
from workbench.training.step import Rows, Step
from workbench.training.step.offload import Offload

FAMILIES = ["llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "phi3"]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_the_plain_gradients(family: str, model_of: ModelOf, rows: Rows) -> None:
    model = model_of(family)
    step = Step(model, options())
    assert {lever.name for lever in step.levers() if not lever.on} <= {"graphs", "small_kernels"}
    assert_same_gradients(model, rows, step)


LORAS: dict[str, dict[str, Any]] = {
    "dropout": {"lora_dropout": 0.3},
    "bias of the adapted": {"bias": "lora_only"},
    "all biases": {"bias": "all"},
    "rslora": {"use_rslora": True},
    "rank patterns": {
        "rank_pattern": {"q_proj": 2, "down_proj": 7},
        "alpha_pattern": {"k_proj": 3},
    },
    "q alone": {"target_modules": ["q_proj"]},
    "q alone, dropout": {"target_modules": ["q_proj"], "lora_dropout": 0.5},
    "one layer": {"target_modules": ["v_proj", "up_proj"], "layers_to_transform": [1]},
}


@pytest.mark.parametrize("case", LORAS)
def test_every_kind_of_adapter_has_the_plain_gradients(
    case: str, model_of: ModelOf, rows: Rows
) -> None:
    model = model_of("qwen2", **LORAS[case])  # its projections have biases
    assert_same_gradients(model, rows, Step(model, options()))


@pytest.mark.parametrize("layers", [1, 2])
def test_recomputing_layers_draw_the_same_masks(layers: int, model_of: ModelOf, rows: Rows) -> None:
    model = model_of(lora_dropout=0.3)
    assert_same_gradients(model, rows, Step(model, options(recompute_layers=layers)))


@pytest.mark.parametrize("family", FAMILIES)
def test_inputs_that_left_the_card_change_no_number(
    family: str, model_of: ModelOf, rows: Rows
) -> None:
    model = model_of(family)
    assert_same_gradients(model, rows, Step(model, options(recompute_layers=2, offload=True)))


def test_all_inputs_but_the_last_leave_the_card(
    model_of: ModelOf, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(sizes={"num_hidden_layers": 4})
    put, inputs, moved, there = Offload.put, [], [], []

    def note(offload: Offload, index: int, tensor: torch.Tensor) -> None:
        put(offload, index, tensor)
        moved.append(offload.moved)
        inputs.append(weakref.ref(tensor))
        there.append([ref() is not None for ref in inputs])

    monkeypatch.setattr(Offload, "put", note)
    step = Step(model, options(recompute_layers=4, offload=True))
    assert_same_gradients(model, rows, step)
    assert moved == [1, 2, 3, 3]
    assert there[-1][1:] == [False, False, True]  # the decoder holds the first while it runs
    step.restore()


def test_a_pass_that_failed_leaves_nothing_to_the_next(model_of: ModelOf, rows: Rows) -> None:
    model = model_of(lora_dropout=0.3)
    step = Step(model, options(recompute_layers=2, offload=True))
    assert step._recompute is not None
    assert step._recompute.offload is not None
    for index in range(2):
        step._recompute.offload.put(index, torch.full((1, 4, 8), torch.nan))
    assert_same_gradients(model, rows, step)


@pytest.mark.parametrize(
    "off", ["padding_free", "whole_batch", "no_recompute", "fused_lora", "chunked_head"]
)
def test_a_lever_switched_off_changes_no_number(off: str, model_of: ModelOf, rows: Rows) -> None:
    model = model_of()
    step = Step(model, options(off=frozenset({off})))
    assert_same_gradients(model, rows, step)


def test_cutting_the_batch_changes_no_number(model_of: ModelOf, rows: Rows) -> None:
    model = model_of()
    assert_same_gradients(model, rows, Step(model, options(rows_per_micro=3, tokens_per_micro=20)))


def test_a_model_outside_the_list_trains_plainly_and_says_why(
    model_of: ModelOf, rows: Rows
) -> None:
    model = model_of("olmo2")
    step = Step(model, options())
    why = {lever.name: lever.why for lever in step.levers() if not lever.on}
    assert "olmo2 is not in the allow-list" in why["fused_lora"]
    assert_same_gradients(model, rows, step)


@pytest.mark.parametrize("resident", [0, 1])
def test_nf4_weights_give_the_gradients_of_bitsandbytes(
    resident: int, rows: Rows, model_of: ModelOf
) -> None:
    bnb = pytest.importorskip("bitsandbytes")
    model = model_of(sizes={"hidden_size": 64, "intermediate_size": 128, "head_dim": 16})
    for module in list(model.modules()):
        base = getattr(module, "base_layer", None)
        if isinstance(base, torch.nn.Linear):
            packed = bnb.nn.Linear4bit(
                base.in_features, base.out_features, bias=False,
                compute_dtype=torch.float32, quant_type="nf4",
            )  # fmt: skip
            packed.weight = bnb.nn.Params4bit(
                base.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True
            )
            packed.support_avx512bf16_for_cpu = False
            module.base_layer = packed.to("cpu")
    assert_same_gradients(model, rows, Step(model, options(resident_layers=resident)))
