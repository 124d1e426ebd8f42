"""Peak bytes of the fast step (workbench.training.step), by what takes them.

Everything that lives is counted; what is not is the allocator's: blocks that lie between others.
docs/notes/2026-11-24-footprint.md has it against measured peaks.
"""

from __future__ import annotations

from dataclasses import dataclass

from workbench.footprint.layers import VALUE_BYTES, Layer, layer, one_buffer
from workbench.footprint.micro import bucket
from workbench.footprint.shape import ModelShape
from workbench.recipe.schema import Lora, Recipe

MIB = 1 << 20
GIB = 1 << 30
NF4_BYTES = {True: 0.5 + 1 / 64 + 4 / (64 * 256), False: 0.5 + 4 / 64}
"""Per parameter, with and without double quantisation: Dettmers et al. 2023, arXiv 2305.14314, §3
(blocks of 64; scales in 8 bits with an fp32 scale per 256 of them, or in 32 bits)."""
OPTIMIZER_BYTES = {
    "adamw_torch": 8,  # two fp32 moments; the flat AdamW updates in place
    "adamw_8bit": 2.04,  # two 8-bit moments with an fp32 scale per 256 (arXiv 2110.02861)
    "paged_adamw_8bit": 2.04,
    "paged_adamw_32bit": 8,
    "sgd": 0,
}
HEAD_CHUNK_BYTES = 256 * MIB
"""Logits held at once (training/step/head.py)."""
PAGE_BYTES = 20 * MIB
"""What PyTorch's allocator asks of the driver at a time, with expandable segments."""
BLAS_WORKSPACE_BYTES = {9: 32 * MIB, 10: 32 * MIB, 12: 32 * MIB}
"""Of each pair of thread and stream that multiplies: 32 MiB from Hopper on, 8 MiB before
(aten/src/ATen/cuda/CublasHandlePool.cpp)."""
BLAS_PAIRS = 3
"""Forward and backward thread on the graphs' stream, and the main stream."""
CONTEXT_BYTES = 3 * GIB // 4
"""CUDA context and kernels on an H100 (benchmarks/footprint_h100.py)."""
FRAGMENTS = 0.02
"""Of what comes and goes: free blocks between others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to run a recipe on a card: what the planner varies."""

    precision: str
    kernel: str
    """Attention: package, torch, efficient or dense (training/step/attention.py)."""
    optimizer: str
    tokens: int
    """In one micro-step at most."""
    recompute_layers: int = 0
    resident_layers: int = 0
    major: int = 8
    """Of the card's compute capability."""


def predict(shape: ModelShape, recipe: Recipe, way: Way) -> dict[str, int]:
    """Peak bytes by bucket; all but `context` is what PyTorch's allocator reserves."""
    adapter = adapter_params(shape, recipe.lora)
    value = VALUE_BYTES[way.precision]
    still = {
        **resident(shape, recipe, way),
        "adapter": adapter * (4 + (value if value < 4 else 0)),  # masters, and in 16 bits
        "gradients": adapter * 4,
        "optimizer": int(adapter * OPTIMIZER_BYTES[way.optimizer]),
        "dequantisation": _workspace(shape, recipe, way),
        "workspaces": BLAS_PAIRS * BLAS_WORKSPACE_BYTES.get(way.major, 8 * MIB + 128 * 1024),
    }
    moving = micro_step(shape, recipe, way)
    slack = 4 * PAGE_BYTES // 2 + int(FRAGMENTS * sum(moving.values()))
    return {**still, **moving, "slack": slack, "context": CONTEXT_BYTES}


def resident(shape: ModelShape, recipe: Recipe, way: Way) -> dict[str, int]:
    """The loaded base, and the layers of it that are kept unpacked as well."""
    value = VALUE_BYTES[way.precision]
    per_param = float(value)
    unpacked = 0
    if recipe.model.quantization == "nf4":
        per_param = NF4_BYTES[recipe.model.double_quantization]
        each = sum(i * o for i, o in shape.projections.values())
        unpacked = min(way.resident_layers, shape.layers) * each * value
    return {
        "base": int(shape.linear_params * per_param),
        "unpacked": unpacked,
        "embeddings": (shape.other_params + shape.width) * value,
    }


def micro_step(shape: ModelShape, recipe: Recipe, way: Way) -> dict[str, int]:
    """What comes and goes with each micro-step, at its worst moment."""
    packed = recipe.model.quantization == "nf4"
    tokens = bucket(way.tokens)
    value = VALUE_BYTES[way.precision]
    width = tokens * shape.width * value

    def of(unpacked: bool) -> Layer:
        buffer = one_buffer(shape, packed=packed and not unpacked)
        return layer(shape, recipe.lora, way.precision, way.kernel, one_buffer=buffer)

    again = min(way.recompute_layers, shape.layers)
    unpacked = min(way.resident_layers, shape.layers) if packed else 0
    one, other = of(False), of(True)
    kept_one = _kept(one, tokens)
    kept = again * one.input * tokens
    kept += max(0, shape.layers - again - unpacked) * kept_one
    kept += min(unpacked, shape.layers - again) * _kept(other, tokens)
    shared = width  # the final norm's output, which the loss was computed from
    shared += tokens * 2 * shape.head_dim * value * (2 if shape.kind.startswith("gemma3") else 1)
    chunk = _head_chunk(shape, tokens, value)
    peak = one.peak * tokens + one.peak_pairs * tokens**2
    moments = {
        "logits": kept + 2 * width + chunk,  # beside the final norm's input and the gradient
        "transient": kept + peak,
    }
    if again:
        first = again * one.input * tokens + (kept_one - one.input * tokens)
        if first > kept:
            kept = first
        moments["transient"] = max(moments["transient"], first + peak)
    worst = max(moments, key=lambda name: moments[name])
    on_top = {"transient": 0, "logits": 0} | {worst: int(moments[worst] - kept)}
    return {"activations": int(kept + shared), **on_top}


def adapter_params(shape: ModelShape, lora: Lora) -> int:
    from workbench.footprint.layers import lora_names

    names = lora_names(shape, lora)
    each = sum(i + o for name, (i, o) in shape.projections.items() if name in names)
    return shape.layers * lora.rank * each


def _kept(one: Layer, tokens: int) -> float:
    return one.kept * tokens + one.kept_pairs * tokens**2


def _head_chunk(shape: ModelShape, tokens: int, value: int) -> int:
    each = max(1, HEAD_CHUNK_BYTES // (shape.vocab * value))
    each = each // 64 * 64 or each
    return min(tokens, each) * shape.vocab * value


def _workspace(shape: ModelShape, recipe: Recipe, way: Way) -> int:
    """The largest weight, or those of q, k and v together, unpacked."""
    if recipe.model.quantization == "none" or way.resident_layers >= shape.layers:
        return 0
    sizes = {name: i * o for name, (i, o) in shape.projections.items()}
    together = sum(sizes.get(name, 0) for name in ("q_proj", "k_proj", "v_proj"))
    return max(together, *sizes.values()) * VALUE_BYTES[way.precision]
