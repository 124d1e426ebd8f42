"""What the fast step holds of one layer, tensor by tensor.

Counted from the autograd functions of workbench.training.step (lora, kernels, attention) and
transformers' decoder layers, on a card where Triton runs. One tensor that two functions save
counts once. tests/training/step/test_saved.py counts the same tensors in a real step.
"""

from __future__ import annotations

from dataclasses import dataclass

from workbench.footprint.shape import ModelShape
from workbench.recipe.schema import Lora

VALUE_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}
GROUPS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Bytes a token of the micro-step; those of `pairs` a pair of tokens (dense attention)."""

    input: float
    """Of what is kept, the layer's own input: all that a layer which recomputes keeps."""
    kept: float
    """Saved in the forward pass until the layer goes backward."""
    peak: float
    """On top of `kept` while the layer goes backward."""
    kept_pairs: float = 0
    peak_pairs: float = 0


def layer(shape: ModelShape, lora: Lora, precision: str, kernel: str, *, one_buffer: bool) -> Layer:
    """`kernel`: package, torch, efficient or dense attention. `one_buffer`: q, k and v come out of
    one product, whose whole output lives as long as v, a slice of it.
    """
    value = VALUE_BYTES[precision]
    width, ffn, q, kv = shape.width, shape.ffn, shape.q_width, shape.kv_width
    shared = kv == q
    widths = 2 * shape.norms  # each norm's input and output: the next product's input, or added
    if shape.norms == 4:
        widths -= 2  # the outputs of the two norms behind the products are added, not kept
    low = value * lora.rank * sum(name in lora_names(shape, lora) for name in shape.projections)
    mixed = (q + 2 * kv) if one_buffer else kv  # v, or all that v is a slice of
    mixed += q + kv  # turned q and k
    if kernel in ("efficient", "dense") and not shared:
        mixed = q + 2 * q  # turned q; k and v once for every query head
    if shape.head_norms:
        mixed += q + kv  # the inputs of the norms on queries and keys
    mixed += q  # attention's output, which the next product reads
    numbers = 4 * shape.norms + 4 * shape.heads  # fp32: a norm's one a row, attention's log-sums
    if shape.head_norms:
        numbers += 4 * (shape.heads + shape.kv_heads)
    kept = value * (widths * width + mixed + 3 * ffn) + low + numbers
    # Going backward through the gated activation: its gradient came in, those of gate and up go
    # out, while its output has gone; besides them the gradient of the residual stream.
    gated = value * (width + 2 * ffn)
    # Through attention, when the feed-forward half has gone: gradients of its output, of q, k, v,
    # an fp32 accumulator of dq, and dk and dv for every query head before they are summed.
    half = value * (widths // 2 * width + 3 * ffn)
    attended = value * (width + 2 * q + 2 * kv + (0 if shared else 2 * q)) + 4 * q - half
    pairs = peak_pairs = 0.0
    if kernel == "dense":
        cast = value if value < 4 else 0
        pairs = shape.heads * (4 + cast + (4 if shape.softcap else 0)) + 1
        peak_pairs = shape.heads * 12
    return Layer(
        input=value * width,
        kept=kept,
        peak=max(gated, attended),
        kept_pairs=pairs,
        peak_pairs=peak_pairs,
    )


def lora_names(shape: ModelShape, lora: Lora) -> set[str]:
    """The projections that get an adapter; all of them where none of the names is known."""
    every = set(shape.projections)
    if lora.targets == "all-linear":
        return every
    return {name for name in every if name in {t.rsplit(".", 1)[-1] for t in lora.targets}} or every


def one_buffer(shape: ModelShape, *, packed: bool) -> bool:
    """Whether q, k and v are slices of one tensor: a fused projection, or three packed ones without
    bias, which the step multiplies as one (lora.Group.products)."""
    if "qkv_proj" in shape.projections:
        return True
    return packed and not shape.biased
