"""The fast step against plain transformers and PEFT, in fp32: same loss, same gradients."""

from __future__ import annotations

import copy
import math
import weakref
from typing import Any

import pytest
import torch
from peft import PeftModel

from tests.training.step.conftest import (
    FUSED_FAMILIES,
    SEEING,
    ModelOf,
    assert_same_gradients,
    options,
    pack_weights,
    plain_gradients,
)
from workbench.errors import HostMemory
from workbench.footprint import ModelShape
from workbench.training.step import Rows, Step
from workbench.training.step.attention import choice
from workbench.training.step.kernels import triton_support
from workbench.training.step.lora.group import ProjectionGroup
from workbench.training.step.offload import Offload


@pytest.fixture(autouse=True)
def _attention_of_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under Triton's interpreter the step attends as on a card."""
    if triton_support.is_usable(torch.device("cpu")):
        kernel = choice.AttentionChoice(kind="triton", why="as on a card")
        monkeypatch.setattr(choice, "choose_attention", lambda *_, **__: kernel)


def test_every_family_has_the_plain_gradients(
    fused_model: PeftModel, fused_plain: tuple[float, Any], rows: Rows
) -> None:
    step = Step(fused_model, options())
    assert {entry.name for entry in step.optimizations() if not entry.on} <= {
        "graphs",
        "small_kernels",
    }
    assert_same_gradients(fused_model, rows, step, plain=fused_plain)


@pytest.mark.parametrize("family", ["gemma4_text", "gemma4_unified_text"])
def test_rounding_costs_what_it_costs_transformers(
    family: str, model_of: ModelOf, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the `rms_norm_eps` that is published, both are 2e-5 to 1e-4 from float64."""
    model = model_of(family, {"rms_norm_eps": 1e-6})
    double = copy.deepcopy(model).double()
    step = Step(model, options())
    step.forward_backward(rows)
    names = {id(param): name for name, param in model.named_parameters()}
    ours = {names[id(param)]: step.flat.grad(param).clone() for param in step.flat.params}
    step.restore()
    _, plain = plain_gradients(model, rows, [])
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # which models cast to
    _, exact = plain_gradients(double, rows, [])

    def error(found: dict[str, torch.Tensor]) -> float:
        apart = [found[name].double() - exact[name] for name in exact]
        return math.sqrt(sum(float(one.norm()) ** 2 for one in apart))

    whole = math.sqrt(sum(float(one.norm()) ** 2 for one in exact.values()))
    assert error(ours) / whole < 1e-4
    assert error(ours) < 2 * error(plain)


LORAS: dict[str, dict[str, Any]] = {
    "dropout": {"lora_dropout": 0.3},
    "bias of the adapted": {"bias": "lora_only"},
    "all biases": {"bias": "all"},
    "rslora": {"use_rslora": True},
    "rank patterns": {
        "rank_pattern": {"q_proj": 2, "down_proj": 7},
        "alpha_pattern": {"k_proj": 3},
    },
    "q and v": {"target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.3},
    "q alone": {"target_modules": ["q_proj"]},
    "q alone, dropout": {"target_modules": ["q_proj"], "lora_dropout": 0.5},
    "down alone": {"target_modules": ["down_proj"]},
    "wider than the kernels": {"r": 300},
    "one layer": {"target_modules": ["v_proj", "up_proj"], "layers_to_transform": [1]},
}


@pytest.mark.parametrize("case", LORAS)
def test_every_kind_of_adapter_has_the_plain_gradients(
    case: str, model_of: ModelOf, rows: Rows
) -> None:
    model = model_of("qwen2", **LORAS[case])  # its projections have biases
    assert_same_gradients(model, rows, Step(model, options()))


@pytest.mark.skipif(
    not triton_support.is_usable(torch.device("cpu")), reason="it needs TRITON_INTERPRET=1"
)
@pytest.mark.parametrize(("family", "read_by_a_norm"), [("llama", False), ("gemma2", True)])
def test_a_recomputing_layer_makes_its_last_product_again_only_for_a_norm(
    family: str,
    read_by_a_norm: bool,
    model_of: ModelOf,
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = model_of(family, lora_dropout=0.3)
    mlp = model.get_base_model().model.layers[0].mlp
    made: list[tuple[int, int]] = []

    def multiply(group: ProjectionGroup, *args: Any) -> list[torch.Tensor]:
        if torch._C._current_graph_task_id() >= 0:
            made.append(group.projections[0].weight.shape_NK)
        return original(group, *args)

    original = ProjectionGroup.multiply
    monkeypatch.setattr(ProjectionGroup, "multiply", multiply)
    assert_same_gradients(model, rows, Step(model, options(recompute_layers=2)))
    layers = made.count(mlp.gate_proj.weight.shape)
    assert layers > 0
    assert made.count(mlp.down_proj.weight.shape) == (layers if read_by_a_norm else 0)


@pytest.mark.parametrize("layers", [1, 2])
def test_recomputing_layers_draw_the_same_masks(layers: int, model_of: ModelOf, rows: Rows) -> None:
    model = model_of(lora_dropout=0.3)
    assert_same_gradients(model, rows, Step(model, options(recompute_layers=layers)))


def test_inputs_that_left_the_card_change_no_number(
    fused_model: PeftModel, fused_plain: tuple[float, Any], rows: Rows
) -> None:
    step = Step(fused_model, options(recompute_layers=2, offload=True))
    assert_same_gradients(fused_model, rows, step, plain=fused_plain)


@pytest.mark.parametrize("offload", [False, True])
def test_layers_that_recompute_read_the_keys_of_others(
    offload: bool, model_of: ModelOf, rows: Rows
) -> None:
    model = model_of("gemma4_text", {"use_double_wide_mlp": True}, lora_dropout=0.3)
    assert_same_gradients(model, rows, Step(model, options(recompute_layers=4, offload=offload)))


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


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize(
    "off",
    ["padding_free", "whole_batch", "no_recompute", "fused_lora", "chunked_head", "small_kernels"],
)
def test_an_optimization_switched_off_changes_no_number(
    off: str, family: str, model_of: ModelOf, rows: Rows
) -> None:
    model = model_of(family)
    step = Step(model, options(off=frozenset({off})))
    assert_same_gradients(model, rows, step)


def test_cutting_the_batch_changes_no_number(model_of: ModelOf, rows: Rows) -> None:
    model = model_of()
    assert_same_gradients(model, rows, Step(model, options(rows_per_micro=3, tokens_per_micro=20)))


def test_in_a_row_that_goes_alone_more_layers_recompute(model_of: ModelOf, rows: Rows) -> None:
    model = model_of(sizes={"num_hidden_layers": 3})
    how = options(tokens_per_micro=16, recompute_layers=1, long_recompute_layers=3)
    step, calls = Step(model, how), []
    hooks = [
        module.register_forward_pre_hook(lambda *_: calls.append(1))
        for name, module in model.named_modules()
        if name.endswith("mlp")
    ]
    step.forward_backward(rows)
    assert rows.lengths == (5, 17, 9, 12)
    assert len(calls) == 4 + 6 + 4 + 4
    assert step.optimizations()[2].why == "1 layers recompute, 3 in a longer row"
    for hook in hooks:
        hook.remove()
    assert_same_gradients(model, rows, step)


@pytest.mark.parametrize("lora", [{}, {"use_dora": True}], ids=str)
def test_layers_that_draw_masks_of_their_own_draw_the_same_again(
    lora: dict[str, Any], model_of: ModelOf, rows: Rows
) -> None:
    """PEFT's own dropout is meant, where the projections are not fused."""
    off = frozenset() if lora else frozenset({"fused_lora"})

    def gradients(recompute: int) -> torch.Tensor:
        model = model_of(lora_dropout=0.3, **lora)
        step = Step(model, options(off=off, recompute_layers=recompute))
        torch.manual_seed(5)
        step.forward_backward(rows)
        return step.flat.grads.clone()

    torch.testing.assert_close(gradients(2), gradients(0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("setting", ["attention_dropout", "resid_pdrop"])
def test_a_model_with_a_dropout_of_its_own_trains_plainly_and_says_why(
    setting: str, model_of: ModelOf, rows: Rows
) -> None:
    model = model_of("phi3", {setting: 0.1})
    step = Step(model, options())
    why = {entry.name: entry.why for entry in step.optimizations() if not entry.on}
    assert setting in why["fused_lora"]
    assert math.isfinite(float(step.forward_backward(rows)))
    config = {**model.config.to_dict(), "model_type": "phi3"}
    assert not ModelShape.of(config).fused


SCALED: dict[str, tuple[str, dict[str, Any]]] = {
    "fused": ("llama", {}),
    "not fused": ("llama", {"off": frozenset({"fused_lora"})}),
    "whole head": ("gemma2", {"off": frozenset({"chunked_head"})}),
    "plain": ("stablelm", {}),
}


@pytest.mark.parametrize("case", SCALED)
def test_gradients_carry_the_loss_scale_on_every_path(
    case: str, model_of: ModelOf, rows: Rows
) -> None:
    family, changes = SCALED[case]
    step = Step(model_of(family), options(**changes))
    loss = step.forward_backward(rows)
    plain = step.flat.grads.clone()
    step.optimizer.scale.fill_(1024.0)
    torch.testing.assert_close(step.forward_backward(rows), loss)
    torch.testing.assert_close(step.flat.grads, 1024 * plain, rtol=1e-5, atol=1e-6)


def test_16_bit_copies_follow_the_masters(model_of: ModelOf, rows: Rows) -> None:
    """The fourth step uses what three steps have taught adapters and biases."""
    model = model_of("qwen2", bias="all")
    for param in model.parameters():
        if not param.requires_grad:
            param.data = param.data.bfloat16()
    step = Step(model, options(precision="bf16", learning_rate=0.01))
    for _ in range(3):
        step.forward_backward(rows)
        step.optimizer_step()
    loss = step.forward_backward(rows)
    step.restore()
    afresh = Step(model, options(precision="bf16"))
    assert torch.equal(loss, afresh.forward_backward(rows))


def test_the_first_layers_are_those_that_recompute(model_of: ModelOf) -> None:
    """The last would stand on top of the peak."""
    model = model_of(sizes={"num_hidden_layers": 4})
    Step(model, options(recompute_layers=1))
    layers = model.get_base_model().model.layers
    assert [layer.gradient_checkpointing for layer in layers] == [True, False, False, False]


def test_a_pass_that_failed_between_projections_holds_nothing(
    model_of: ModelOf, rows: Rows
) -> None:
    model = model_of("qwen3")
    step = Step(model, options())

    def refuse(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    hook = model.get_base_model().model.layers[0].self_attn.q_norm.register_forward_hook(refuse)
    with pytest.raises(torch.OutOfMemoryError):
        step.forward_backward(rows)
    hook.remove()
    assert step._fused is not None
    assert any(group.outputs for group in step._fused.groups)
    step.release_graphs()
    assert not any(group.outputs for group in step._fused.groups)
    assert_same_gradients(model, rows, step)


def test_a_step_that_cannot_be_made_leaves_the_model_as_it_was(model_of: ModelOf) -> None:
    model = model_of()
    before = [dict(module.__dict__) for module in model.modules()]
    beyond_any = options(offload=True, recompute_layers=2, max_length=1 << 40)
    with pytest.raises(HostMemory):
        Step(model, beyond_any)
    for module, was in zip(model.modules(), before, strict=True):
        assert module.__dict__.keys() == was.keys()
        assert "forward" not in module.__dict__


@pytest.mark.parametrize("family", ["stablelm", "gemma"])
def test_a_model_outside_the_list_trains_plainly_and_says_why(
    family: str, model_of: ModelOf, rows: Rows
) -> None:
    model = model_of(family)
    step = Step(model, options())
    why = {entry.name: entry.why for entry in step.optimizations() if not entry.on}
    assert f"{family} is not in the allow-list" in why["fused_lora"]
    assert_same_gradients(model, rows, step, limit=1e-4)  # rows are padded: other sums


def test_all_layers_of_a_model_outside_the_list_recompute_or_none(
    model_of: ModelOf, rows: Rows
) -> None:
    model, calls = model_of("stablelm"), []
    count = (
        model.get_base_model()
        .model.layers[0]
        .mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    )
    step = Step(model, options(recompute_layers=1))
    assert_same_gradients(model, rows, step, limit=1e-4)
    count.remove()
    assert len(calls) == 2 + len(rows.lengths)  # once more in our pass, and once for each plain row


AS_LLAMA = {
    *("qwen3", "mistral", "gemma3_text", "cwm", "granite", "ministral3", "olmo3", "seed_oss"),
    "smollm3",
}
"""Families whose packed layers are those of a Llama or of a family below; in what else they differ,
`test_every_family_has_the_plain_gradients` shows."""
NF4_CASES = [(one, 1) for one in FUSED_FAMILIES if one not in {*SEEING, *AS_LLAMA}] + [("llama", 0)]
WIDE = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
"""Sizes of which each weight is whole blocks of 64."""


@pytest.mark.parametrize(("family", "layers"), NF4_CASES)
def test_nf4_weights_give_the_gradients_of_bitsandbytes(
    family: str, layers: int, rows: Rows, model_of: ModelOf
) -> None:
    model = pack_weights(model_of(family, WIDE))
    assert_same_gradients(model, rows, Step(model, options(dequantised_layers=layers)))


def test_nf4_weights_without_an_adapter_give_the_gradients_of_bitsandbytes(
    rows: Rows, model_of: ModelOf
) -> None:
    """As with the projections that LoRA's paper adapts; one of two layers is dequantised."""
    model = pack_weights(model_of("qwen2", WIDE, target_modules=["q_proj", "v_proj"]))
    step = Step(model, options(dequantised_layers=1))
    assert step._fused is not None
    assert all(
        part.weight.is_packed for group in step._fused.groups[:4] for part in group.projections
    )
    assert_same_gradients(model, rows, step)
