"""A real step keeps between forward and backward what footprint.peak.layers predicts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.training.step.conftest import MORE, SIZES, ModelOf, options
from workbench.footprint import ModelShape
from workbench.footprint.model.shape import FUSED_FAMILIES
from workbench.footprint.peak.layers import mean_layer
from workbench.recipe.schema import Lora
from workbench.training.step import Rows, Step, collate_rows
from workbench.training.step.kernels import triton_support

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda", 0) if CUDA else torch.device("cpu")
PRECISION = "bf16" if CUDA else "fp32"
pytestmark = pytest.mark.skipif(
    not triton_support.is_usable(DEVICE), reason="Triton needs a CUDA card or TRITON_INTERPRET=1"
)
TOKENS, RANK = 64, 4
REUSED = "gemma4_text, whose last layers reuse keys and values"
UNLIKE_LAYERS = {
    "gemma4_text": ["sliding_attention", "full_attention"],
    "gemma4_unified_text": ["sliding_attention", "full_attention"],
    "qwen3_5_text": ["linear_attention", "full_attention"],
}


def kept_bytes(step: Step, rows: Rows) -> int:
    """Return the bytes of all tensors that one micro-step saves, without parameters."""
    seen: dict[int, int] = {}
    held: list[torch.Tensor] = []
    constant = {param.untyped_storage().data_ptr() for param in step._model.parameters()}
    constant |= {buffer.untyped_storage().data_ptr() for buffer in step._model.buffers()}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        going_back = torch._C._current_graph_task_id() >= 0  # what is made again there is not kept
        if storage.data_ptr() not in constant and not going_back:
            seen[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        step.forward_backward(rows)
    return sum(seen.values())


@pytest.mark.parametrize("dropout", [0.0, 0.25])
@pytest.mark.parametrize("family", [*sorted(FUSED_FAMILIES), REUSED])
def test_one_more_layer_keeps_what_is_predicted(
    family: str, dropout: float, model_of: ModelOf
) -> None:
    rows = collate_rows([{"input_ids": [5] * TOKENS}])
    family, _, reuses = family.partition(",")
    more: dict[str, Any] = {"layer_types": None} if family == "olmo3" else {}
    more |= {"sliding_window": 1_000} if "sliding_window" in MORE.get(family, {}) else {}
    kinds = UNLIKE_LAYERS.get(family)
    kept, added = [], len(kinds or "1")
    for layers in (2, 2 + added):
        sizes = {"num_hidden_layers": layers, **more}
        if kinds:
            sizes["layer_types"] = (kinds * 2)[:layers]
        if family == "gemma4_text":
            sizes["num_kv_shared_layers"] = layers - 2 if reuses else 0
        model = model_of(family, sizes, r=RANK, lora_dropout=dropout).to(DEVICE)
        for param in model.parameters():
            if CUDA and not param.requires_grad:
                param.data = param.data.bfloat16()
        step = Step(model, options(precision=PRECISION))
        kept.append(kept_bytes(step, rows))
        step.restore()
    config: dict[str, Any] = {**SIZES, **MORE.get(family, {}), "model_type": family}
    if kinds:
        config |= {"layer_types": kinds, "num_hidden_layers": added, "num_kv_shared_layers": 0}
        if reuses:
            config |= {"layer_types": kinds * 2, "num_hidden_layers": 4, "num_kv_shared_layers": 2}
    if family == "gemma2":
        config["attn_logit_softcapping"] = 50.0
    shape = ModelShape.of(config)
    if reuses:
        kinds_of_shape = tuple(one for one in shape.kinds if "k_proj" not in one.projections)
        shape = replace(shape, layers=2, kinds=kinds_of_shape)
    lora = Lora(rank=RANK, targets=list(shape.projections), dropout=dropout)
    kernel = "dense" if family == "gemma2" else "efficient"
    if CUDA:
        kernel = "triton" if family == "gemma2" else "torch"
    layer = mean_layer(shape, lora, PRECISION, kernel)
    predicted = added * layer.kept_bytes(TOKENS, TOKENS)
    if kernel == "efficient":  # row by row on a CPU: the rows' outputs, and then all together
        predicted += sum(
            4 * one.layers * one.q_width * TOKENS for one in shape.kinds if one.delta is None
        )
        predicted += 0 if shape.kinds else 4 * shape.q_width * TOKENS
    assert kept[1] - kept[0] == pytest.approx(predicted, rel=0.03)
