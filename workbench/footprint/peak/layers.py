"""The bytes that one layer of the model holds in a training step, tensor by tensor.

`fused_layer` is counted from the autograd functions of workbench.training.step (lora, kernels,
attention) and transformers' decoder layers, on a card where Triton runs; a tensor that two
functions save counts once. tests/training/step/test_saved.py counts the same tensors in a real
step. `plain_layer` describes PEFT's own modules under autocast, with which other families train.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from workbench.footprint.model.fused_projections import with_fused
from workbench.footprint.model.linear_attention import DeltaLayers
from workbench.footprint.model.shape import PAIRED_ROTARY, ModelShape
from workbench.footprint.model.target_names import adapts_tables
from workbench.footprint.model.weight_counts import WeightCounts
from workbench.footprint.peak.attention_path import (
    WIDEST_HEAD,
    WIDEST_RANK,
    WIDEST_SHORT_HEAD,
)
from workbench.recipe.schema import Lora

QKV = ("q_proj", "k_proj", "v_proj", "qkv_proj")
VALUE_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Bytes of one layer for one token of the micro-step, or for a pair of tokens (`*_pairs`)."""

    input: float
    """The layer's own input, a part of `kept`: a recomputing layer keeps nothing else."""
    kept: float
    """Saved in the forward pass until the layer goes backward."""
    peak: float
    """On top of `kept` while the feed-forward half goes backward."""
    attended: float
    """On top of `kept` while attention goes backward, after the feed-forward half has gone."""
    again: float = 0.0
    """While a recomputing layer comes to its last product."""
    kept_pairs: float = 0
    """Saved for each pair of tokens; only dense attention has any."""
    peak_pairs: float = 0
    """On top of `kept_pairs` while attention goes backward."""
    delta: DeltaLayers | None = None
    """The gated delta rule that goes backward in attention's place."""
    lasting: float = 0
    """A part of `kept` that a recomputing layer keeps, too, beside its input."""
    delta_rest: float = 0
    """On top of `kept` and the rule's own tensors then."""

    def kept_bytes(self, tokens: int, longest: int) -> float:
        """Return the bytes kept for `tokens` tokens, each of which sees `longest` at most."""
        return tokens * (self.kept + self.kept_pairs * longest)

    def backward_bytes(self, tokens: int, longest: int) -> float:
        """Return the bytes on top of `kept_bytes` at the worst moment of the backward pass."""
        most = tokens * max(self.peak, self.attended + self.peak_pairs * longest)
        if self.delta is None:
            return most
        return max(most, tokens * self.delta_rest + self.delta.rule_bytes(tokens))


def mean_layer(shape: ModelShape, lora: Lora, precision: str, kernel: str) -> Layer:
    """Return the mean of a model's layers in the fused step, with the worst of their peaks."""
    if not shape.kinds:
        return fused_layer(shape, lora, precision, kernel)
    each = [(one.layers, fused_layer(one, lora, precision, kernel)) for one in shape.kinds]
    kept = sum(count * one.kept for count, one in each) / shape.layers
    pairs = sum(count * one.kept_pairs for count, one in each) / shape.layers
    # A layer that keeps more than the mean does so beside its own peak, where it recomputes.
    more = max(one.kept for _, one in each) - kept
    return Layer(
        input=each[0][1].input,
        kept=kept,
        lasting=max(one.lasting for _, one in each),
        peak=more + max(one.peak for _, one in each),
        attended=more + max(one.attended for _, one in each),
        again=more + max(one.again for _, one in each),
        kept_pairs=pairs,
        peak_pairs=max(one.peak_pairs for _, one in each),
        delta=shape.delta,
        delta_rest=more + max(one.delta_rest for _, one in each),
    )


def reused_bytes(shape: ModelShape, precision: str, recompute_layers: int) -> int:
    """Return the bytes of keys and values of a token that recomputing layers keep for others.

    Gemma 4's last layers may reuse those of one layer of each kind, which are there from its
    forward pass on, whether it recomputes or not.
    """
    kinds = [kind for kind in shape.kinds if kind.delta is None]
    reusing = [kind for kind in kinds if "k_proj" not in kind.projections]
    if recompute_layers < shape.layers - sum(kind.layers for kind in reusing):
        return 0
    each = {(kind.head_dim, kind.kv_heads) for kind in reusing}
    return 2 * VALUE_BYTES[precision] * sum(width * heads for width, heads in each)


def fused_layer(shape: ModelShape, lora: Lora, precision: str, kernel: str) -> Layer:
    """Return the bytes of a layer in the fused step.

    `kernel` is its attention: package, torch, triton, efficient or dense.
    """
    if shape.delta is not None:
        return _delta_layer(shape, shape.delta, lora, precision)
    widest = WIDEST_SHORT_HEAD if kernel == "triton" else WIDEST_HEAD
    if shape.head_dim > widest and kernel in ("package", "torch", "triton"):
        kernel = "efficient"  # attention/interface.py does the same
    value = VALUE_BYTES[precision]
    width, ffn, dense = shape.width, shape.ffn, kernel == "dense"
    low = value * lora.rank * len(targeted_projections(shape, lora))
    numbers = 4 * shape.norms + 4 * shape.heads  # fp32: a norm's one a row, attention's log-sums
    numbers += 4 * shape.head_norm_rows if shape.head_norms else 0
    cast = value if value < 4 else 0
    kept = value * (_norm_values(shape) + _attention_values(shape, kernel) + 2 * ffn)
    return Layer(
        input=value * width,
        kept=kept + low + numbers + _table_bytes(shape, value),
        lasting=value * 2 * shape.table_width,  # the sum and the part added, see _table_bytes
        peak=_gated_bytes(shape, lora, value),
        attended=_attended_bytes(shape, value),
        again=_again_bytes(shape, lora, value),
        kept_pairs=shape.heads * (4 + cast + (4 if shape.softcap else 0)) + 1 if dense else 0,
        peak_pairs=shape.heads * 12 if dense else 0,
    )


def _norm_values(shape: ModelShape) -> int:
    """Return the values of a token that norms keep.

    They are the inputs alone: outputs, and the gated activation, are computed again in the backward
    pass (remake.py). A block that no norm precedes keeps the residual stream itself as its input.
    """
    return (4 if shape.norms_after else shape.norms) * shape.width


def _attention_values(shape: ModelShape, kernel: str) -> int:
    """Return the values of a token that attention keeps, from its projections to its output."""
    q, kv = shape.q_width, shape.kv_width
    # Of the projections of queries, keys and values; it lives as long as any slice of it.
    product = sum(out for name, (_, out) in shape.projections.items() if name in QKV) or q + 2 * kv
    renewed = shape.head_norms or not shape.turns_in_place  # queries and keys are new tensors
    keys = kv if renewed else 0
    if shape.norms_values:  # which are new tensors then; reused ones are another layer's
        keys = 2 * kv if product > q else 0
    if kernel not in ("efficient", "dense"):  # q and k are turned where they are, or were normed
        values = product + keys + (q if renewed else 0)
        values += q if shape.unscaled is not None else 0
    elif kv == q:
        values = product + q + (keys if shape.norms_values else kv)  # turned q and k
    else:
        values = 3 * q  # turned q; k and v once for every query head
        values += product if shape.head_norms else 0  # whose norms keep q and k as they came
    values += q  # attention's output, which the next product reads
    if shape.gated:  # what the gates are between 0 and 1, and the product
        values += 2 * q
    if shape.kind in PAIRED_ROTARY:
        values += shape.head_dim  # cosines and sines of half a head, which each layer makes
    return values


def _table_bytes(shape: ModelShape, value: int) -> int:
    """Return the bytes of a token that Gemma 4's embeddings for a layer add; 0 for other models.

    They are what is added to the table's rows and the sum, which all layers' recomputing leaves;
    the gate before and after its activation, and their product; the residual stream that the gate
    reads, and what the last norm reads; and the numbers of two more norms.
    """
    if not shape.table_width:
        return 0
    return value * (5 * shape.table_width + 2 * shape.width) + 8


def _gated_bytes(shape: ModelShape, lora: Lora, value: int) -> int:
    """Return the bytes of a token on top of what is kept while the feed-forward half goes backward.

    Gradients take the place of the gated activation, made again, and of what it was made of;
    besides is the residual stream's.
    """
    gated = value * (shape.width + shape.ffn)
    if lora.rank > WIDEST_RANK:  # torch's masks hold 64-bit integers; dx needs memory of its own
        gated += (48 if lora.dropout > 0 else 2 * value) * shape.ffn
    return gated


def _again_bytes(shape: ModelShape, lora: Lora, value: int) -> int:
    """Return the bytes of a token while a layer that recomputes comes to its last product.

    They are the gated activation; the output of the norm before, which a caller holds; the residual
    stream's gradient. The product itself is left out where nothing reads it, and where a norm does
    its output is kept; without the fused kernels it is made for nothing.
    """
    made = lora.rank > WIDEST_RANK and shape.norms == 2 and not shape.norms_after
    return value * (shape.ffn + (3 if made else 2) * shape.width)


def _attended_bytes(shape: ModelShape, value: int) -> int:
    """Return the bytes of a token on top of what is kept while attention goes backward.

    The feed-forward half has gone by then. There are gradients of attention's output, of q, k, v,
    an fp32 accumulator of dq, and dk and dv for every query head before they are summed.
    """
    q, kv = shape.q_width, shape.kv_width
    half = value * (_norm_values(shape) // 2 + 2 * shape.ffn)
    spread = 0 if kv == q else 2 * q
    gates = 2 * q if shape.gated else 0
    return value * (shape.width + 2 * q + 2 * kv + spread + gates) + 4 * q - half


def _delta_layer(shape: ModelShape, delta: DeltaLayers, lora: Lora, precision: str) -> Layer:
    """Return the bytes of a gated delta layer in the fused step (training/step/delta)."""
    value = VALUE_BYTES[precision]
    width, ffn, values = shape.width, shape.ffn, delta.value_heads * delta.value_width
    sizes = shape.projections
    read = sum(out for name, (_, out) in sizes.items() if name.startswith("in_proj"))
    low = value * lora.rank * len(_named_projections(shape, lora))
    half = value * (shape.norms // 2 * width + 2 * ffn)
    return Layer(
        input=value * width,
        # Norms' inputs, what the rule reads, and what it gives.
        kept=value * (shape.norms * width + read + values + 2 * ffn) + low + 4 * shape.norms,
        peak=value * (width + ffn),
        attended=0,
        again=_again_bytes(shape, lora, value),
        # Gradients of the residual stream, of what the rule gives and of what it reads.
        delta_rest=value * (width + values + read) - half,
    )


def plain_layer(shape: ModelShape, lora: Lora, precision: str, *, quadratic: bool) -> Layer:
    """Return the bytes of a layer in PEFT's own modules.

    `quadratic` says that attention holds all its scores.
    """
    value = VALUE_BYTES[precision]
    sizes = targeted_projections(shape, lora)
    # Their fp32 inputs; Cohere's one norm keeps them with and without their mean.
    norms = max(shape.norms, 2) * 4 * shape.width
    mixer, widest = _mixer_bytes(shape, value)
    low = len(sizes) * lora.rank * value
    if lora.dropout > 0:  # each projection keeps its own mask and its own dropped input
        low += sum(i for i, _ in sizes.values()) * (value + 1)
    inputs = (2 * shape.width + shape.ffn) * value
    if not shape.fused and lora.dropout == 0:
        inputs = _cast_inputs(shape, sizes, value)
    scores = shape.heads * (4 + value + 2) if quadratic else 0  # fp32 softmax, its cast, its mask
    peak: float = 2 * (shape.ffn + shape.width) * value + shape.width * (value + 4)
    if shape.delta is not None:  # the worst layer keeps more than the mean
        peak = max(peak, shape.delta.peak_bytes) + widest - mixer
    return Layer(
        input=shape.width * value,
        kept=norms + mixer + 3 * shape.ffn * value + low + inputs,
        peak=peak,
        attended=peak,
        kept_pairs=scores,
        peak_pairs=scores / 2,
    )


def _cast_inputs(shape: ModelShape, sizes: Mapping[str, tuple[int, int]], value: int) -> int:
    """Return the bytes of a token's inputs of adapters, each of which PEFT casts by itself.

    Three bytes more for each value of the residual stream were measured
    (tests/footprint/test_plain_layers.py).
    """
    attended = shape.q_width if "o_proj" in sizes else 0  # counted with attention
    return (sum(i for i, _ in sizes.values()) - attended) * value + 3 * shape.width


def _mixer_bytes(shape: ModelShape, value: int) -> tuple[float, float]:
    """Return the bytes that attention, or what stands in its place, keeps of a token.

    The first number is the mean of all layers, the second that of the layer with the most.
    """
    head_norms = 4 * (shape.q_width + shape.kv_width) if shape.head_norms else 0
    # q, k, v (repeated), out twice; log-sums.
    attention: float = head_norms + 5 * shape.q_width * value + 4 * shape.heads
    if shape.delta is None:
        return attention, attention
    attention += 2 * shape.q_width * value  # the gate of its output
    share, delta = shape.delta.count / shape.layers, shape.delta.kept_bytes
    return attention * (1 - share) + delta * share, max(attention, delta)


def targeted_projections(shape: ModelShape, lora: Lora) -> Mapping[str, tuple[int, int]]:
    """Return (in, out) of the projections with an adapter; all where no name is known."""
    return _named_projections(shape, lora) or shape.projections


def _named_projections(shape: ModelShape, lora: Lora) -> Mapping[str, tuple[int, int]]:
    every = shape.projections
    if lora.targets == "all-linear":
        return every
    ends = with_fused([name.rsplit(".", 1)[-1] for name in lora.targets], every)
    return {name: size for name, size in every.items() if name in ends}


def lora_params(shape: ModelShape, lora: Lora) -> int:
    """Return the number of parameters of the adapter."""
    if shape.counts and not shape.fused:
        return lora.rank * _counted_sides(shape.counts, lora)
    if shape.kinds:
        named = sum(_adapted_sides(one, lora) for one in shape.kinds)
        sides = named or sum(_sides(one, one.projections) for one in shape.kinds)
    else:
        sides = _adapted_sides(shape, lora) or _sides(shape, shape.projections)
    extra = shape.extra.sides if lora.targets == "all-linear" else 0
    table = shape.vocab + shape.width if adapts_tables(lora) else 0
    return lora.rank * (sides + extra + table)


def _adapted_sides(shape: ModelShape, lora: Lora) -> int:
    """Return inputs plus outputs of all linear layers with an adapter, layers being alike."""
    return _sides(shape, _named_projections(shape, lora))


def _sides(shape: ModelShape, sizes: Mapping[str, tuple[int, int]]) -> int:
    return shape.layers * sum(i + o for i, o in sizes.values())


def _counted_sides(counts: WeightCounts, lora: Lora) -> int:
    """Return inputs plus outputs of all linear layers with an adapter; of all if none is named."""
    every = counts.projections
    ends = set(every)
    if lora.targets != "all-linear":
        ends = set(with_fused([name.rsplit(".", 1)[-1] for name in lora.targets], every))
    found = [one.sides for name, one in every.items() if name in ends]
    return sum(found) or sum(one.sides for one in every.values())
