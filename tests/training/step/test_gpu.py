"""The step on a card: attention, 16-bit gradients against PEFT's, replays, the T4 path."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from workbench.recipe.schema import LLAMA_PROJECTIONS
from workbench.training.step import Rows, Step, StepOptions, collate_rows
from workbench.training.step.attention.implementations import IMPLEMENTATIONS
from workbench.training.step.attention.interface import as_attention_function
from workbench.training.step.kernels.lora_down import (
    GatedInput,
    lora_down,
    lora_down_backward,
)
from workbench.training.step.rows import IGNORE

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card"),
]
CUDA = torch.device("cuda", 0)


def model(dtype: torch.dtype = torch.bfloat16, dropout: float = 0.0) -> Any:
    from nf4_model import make_nf4_model

    base = make_nf4_model("tiny", CUDA, dtype)
    torch.manual_seed(1)
    config = LoraConfig(
        r=8, lora_dropout=dropout, target_modules=list(LLAMA_PROJECTIONS), task_type="CAUSAL_LM"
    )
    adapted = get_peft_model(base, config)
    for name, param in adapted.named_parameters():
        if param.requires_grad and "lora_B" in name:
            torch.nn.init.normal_(param, 0.0, 0.05)
    return adapted


@pytest.fixture
def long_rows() -> Rows:
    chance = torch.Generator().manual_seed(1)
    rows = [torch.randint(3, 2000, (n,), generator=chance).tolist() for n in (130, 7, 221, 64)]
    return collate_rows([{"input_ids": ids} for ids in rows])


def options(**changes: Any) -> StepOptions:
    settings: dict[str, Any] = {"precision": "bf16", "max_length": 256}
    return StepOptions(**(settings | changes))


@pytest.mark.parametrize("window", [None, 48])
@pytest.mark.parametrize("kind", ["torch", "triton", "efficient", "dense"])
@pytest.mark.parametrize("width", [64, 96, 128, 256])
def test_kernels_of_attention_agree_with_sdpa_row_by_row(
    kind: str, width: int, window: int | None
) -> None:
    torch.manual_seed(0)
    cu = torch.tensor([0, 130, 137, 358, 422, 448, 448], device=CUDA)
    inputs = [
        torch.randn(448, heads, width, device=CUDA).half().requires_grad_() for heads in (8, 2, 2)
    ]
    grad = torch.randn(448, 8, width, device=CUDA).half()
    more: dict[str, Any] = {"max_length": 256, "window": window, "softcap": None}
    more["scale"] = width**-0.5
    found = []
    for name in ("loop", kind):
        out = IMPLEMENTATIONS[name](*inputs, cu=cu, **more)
        found.append([out.detach(), *torch.autograd.grad(out, inputs, grad)])
    for want, got in zip(*found, strict=True):
        assert float((want - got).float().norm() / want.float().norm()) < 5e-3


@pytest.mark.parametrize("window", [None, 48])
@pytest.mark.parametrize("width", [256, 512])
@pytest.mark.parametrize("longest", [256, 1088], ids=["short rows", "long rows"])
def test_heads_of_any_width_attend_by_a_kernel_that_has_them(
    longest: int, width: int, window: int | None
) -> None:
    """Gemma 4 has heads of 256 and of 512 values; Flash Attention 2 has none beyond 256."""
    torch.manual_seed(0)
    ends = [0, 130, 137, 358, 422, 448 if longest < 448 else longest]
    cu = torch.tensor([*ends, ends[-1]], device=CUDA)
    inputs = [
        torch.randn(1, heads, ends[-1], width, device=CUDA).bfloat16().requires_grad_()
        for heads in (8, 2, 2)
    ]
    grad = torch.randn(1, ends[-1], 8, width, device=CUDA).bfloat16()
    found = []
    for kind in ("loop", "torch"):
        attend = as_attention_function(IMPLEMENTATIONS[kind])
        out, _ = attend(
            torch.nn.Module(), *inputs, None, cu_seq_lens_q=cu, max_length_q=longest,
            scaling=width**-0.5, sliding_window=window,
        )  # fmt: skip
        found.append([out.detach(), *torch.autograd.grad(out, inputs, grad)])
    for want, got in zip(*found, strict=True):
        assert float((want - got).float().norm() / want.float().norm()) < 2e-2


@pytest.mark.parametrize("window", [None, 48])
def test_capped_scores_are_nearer_to_fp32_than_dense_attention_is(window: int | None) -> None:
    torch.manual_seed(0)
    cu = torch.tensor([0, 130, 137, 358, 422, 448, 448], device=CUDA)
    inputs = [(4 * torch.randn(448, heads, 256, device=CUDA)).bfloat16() for heads in (8, 4, 4)]
    grad = torch.randn(448, 8, 256, device=CUDA).bfloat16()
    more: dict[str, Any] = {"max_length": 256, "window": window, "softcap": 50.0, "scale": 1 / 16}

    def attended(kind: str, dtype: torch.dtype) -> list[torch.Tensor]:
        leaves = [each.to(dtype).requires_grad_() for each in inputs]
        out = IMPLEMENTATIONS[kind](*leaves, cu=cu, **more)
        return [out.detach(), *torch.autograd.grad(out, leaves, grad.to(dtype))]

    exact, dense = attended("dense", torch.float32), attended("dense", torch.bfloat16)
    for want, near, got in zip(exact, dense, attended("triton", torch.bfloat16), strict=True):
        assert float((want - got).norm()) < float((want - near).norm()) < 0.03 * float(want.norm())


def test_fused_16_bit_gradients_are_pefts(long_rows: Rows) -> None:
    grads = {}
    for off in (frozenset[str](), frozenset({"fused_lora", "small_kernels", "chunked_head"})):
        step = Step(model(), options(off=off | {"graphs"}))
        grads[off] = (float(step.forward_backward(long_rows)), step.flat.grads.clone())
    (loss, fused), (plain_loss, plain) = grads.values()
    assert loss == pytest.approx(plain_loss, rel=5e-3)
    assert float(torch.cosine_similarity(fused, plain, dim=0)) > 0.998
    assert float(fused.norm()) == pytest.approx(float(plain.norm()), rel=0.02)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("recompute", [0, 1])
def test_a_replay_gives_what_an_eager_run_gives(
    dropout: float, recompute: int, long_rows: Rows
) -> None:
    found = []
    for off in (frozenset[str](), frozenset({"graphs"})):
        step = Step(model(dropout=dropout), options(off=off, recompute_layers=recompute))
        for _ in range(4):
            loss = step.forward_backward(long_rows)
        assert step._runner is not None
        assert step._runner.captured == (0 if off else 1), step.optimizations()
        found.append((float(loss), step.flat.grads.clone()))
    (replay_loss, replayed), (eager_loss, eager) = found
    assert replay_loss == pytest.approx(eager_loss, rel=1e-3)
    assert float((replayed - eager).norm() / eager.norm()) < 1e-2


def test_batches_in_which_other_shares_carry_loss_have_graphs_of_their_own(long_rows: Rows) -> None:
    asked = long_rows.targets_T.clone()
    asked[: sum(long_rows.lengths) * 2 // 3] = IGNORE
    answers = replace(long_rows, targets_T=asked)
    found = []
    for off in (frozenset[str](), frozenset({"graphs"})):
        step, grads = Step(model(), options(off=off)), []
        for rows in (answers, answers, answers, long_rows, answers):
            step.forward_backward(rows)
            grads.append(step.flat.grads.clone())
        assert step._runner is not None
        assert step._runner.captured == (0 if off else 2), step.optimizations()
        found.append(grads)
    for replayed, eager in zip(*found, strict=True):  # fewer positions, more of 16 bits' noise
        assert float((replayed - eager).norm() / eager.norm()) < 3e-2


def test_inputs_that_left_the_card_give_the_same_gradients_with_less_memory() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {
        "hidden_size": 1024, "intermediate_size": 512, "num_hidden_layers": 12, "vocab_size": 512,
        "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64,
    }  # fmt: skip
    row = torch.randint(3, 500, (2048,), generator=torch.Generator().manual_seed(1)).tolist()
    long = collate_rows([{"input_ids": row}])
    found = []
    for offload in (False, True):
        torch.manual_seed(0)
        base = LlamaForCausalLM(LlamaConfig(**sizes)).to(CUDA, torch.bfloat16)
        adapted = get_peft_model(
            base, LoraConfig(r=4, lora_dropout=0.1, target_modules=list(LLAMA_PROJECTIONS))
        )
        settings = options(recompute_layers=12, offload=offload, max_length=2048, rows_per_micro=1)
        step = Step(adapted, settings)
        peaks, losses, grads = [], [], []
        for _ in range(6):  # two eagerly, then a capture and its replays
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            losses.append(float(step.forward_backward(long)))
            grads.append(step.flat.grads.clone())
            peaks.append(torch.cuda.max_memory_allocated() - before)
            step.micro_steps = 0
        assert step._runner is not None
        assert step._runner.captured == 1, step.optimizations()
        assert losses == pytest.approx([losses[0]] * 6, rel=1e-3)
        for grad in grads[1:]:
            assert float((grad - grads[0]).norm() / grads[0].norm()) < 1e-2
        found.append((peaks[1], losses[0], grads[0]))
        step.restore()
    (kept, loss, grad), (away, same_loss, same_grad) = found
    assert kept - away > 9 * 2048 * 1024 * 2  # of twelve inputs at most two are there, and one more
    assert same_loss == pytest.approx(loss, rel=1e-3)
    assert float((same_grad - grad).norm() / grad.norm()) < 1e-2


@pytest.mark.parametrize("capability", [(7, 5), None])
def test_fp16_trains_200_steps_without_a_nan(
    capability: tuple[int, int] | None, long_rows: Rows
) -> None:
    step = Step(
        model(torch.float16, dropout=0.05),
        options(precision="fp16", pretend_capability=capability, log_every=60, learning_rate=2e-3),
    )
    for _ in range(200):
        step.forward_backward(long_rows)
        step.optimizer_step()
    rows = step.measured()
    assert all(math.isfinite(row["loss"]) for row in rows)
    assert rows[-1]["skipped"] < 10
    assert rows[-1]["loss"] < 0.9 * math.log(2048)
    assert bool(torch.isfinite(step.flat.values).all())


def test_low_rank_kernels_reach_beyond_two_billion_elements() -> None:
    """A context of 131,072 tokens has so many in the feed-forward blocks of Qwen 2.5 7B."""
    tokens, width = 70_000, 32_768
    keys = torch.tensor([[5, 7]], device=CUDA)
    a_1RK = torch.randn(1, 16, width, device=CUDA).bfloat16()
    dlow_1TR = torch.randn(1, tokens, 16, device=CUDA).bfloat16()
    x_TK = torch.randn(1, width, device=CUDA).bfloat16().expand(tokens, width)
    dx_TK, grad = torch.empty(tokens, width, device=CUDA, dtype=torch.bfloat16), a_1RK.float()
    how: dict[str, Any] = {"add": False, "add_dx": False}
    lora_down_backward(x_TK, dx_TK, dlow_1TR, a_1RK, grad, keys, 0.0, 2.0, **how)
    want_TK = 2 * dlow_1TR[0, -64:].float() @ a_1RK[0].float()
    assert float((dx_TK[-64:].float() - want_TK).norm() / want_TK.norm()) < 1e-2
    gate_TK, up_TK = dx_TK.copy_(x_TK), torch.ones_like(dx_TK)
    made_TK, gated = torch.empty_like(dx_TK), GatedInput(up_TK=up_TK, gelu=False)
    lora_down(gate_TK, a_1RK, keys, 0.0, 2.0, gated=gated, made_TK=made_TK)
    want_K = torch.nn.functional.silu(x_TK[0].float())
    assert float((made_TK[-1].float() - want_K).norm() / want_K.norm()) < 1e-2
