"""Peak bytes of a trial, split into buckets by what takes them.

Everything that lives at the worst moment of training is counted. What the allocator wastes between
blocks is estimated from measured runs (`slack`). The bytes that an evaluation takes beyond training
are a bucket of their own. docs/notes/2026-11-24-footprint.md compares it with measured peaks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from workbench.footprint.micro_steps import most_chunk_rows, padded_tokens
from workbench.footprint.model.shape import ModelShape
from workbench.footprint.peak import layers
from workbench.footprint.peak.attention_path import SHORT_TOKENS
from workbench.footprint.peak.layers import (
    VALUE_BYTES,
    Layer,
    lora_params,
    targeted_projections,
)
from workbench.footprint.peak.scoring_bytes import (
    LOSS_TOKENS,
    evaluation_bytes,
    generates,
    kept_weights_bytes,
    lanes_bytes,
    low_rank_bytes,
    pass_bytes,
    pass_tokens,
    scales_bytes,
    workspace_bytes,
)
from workbench.recipe.schema import Lora, Recipe

MIB = 1 << 20
GIB = 1 << 30
NF4_BYTES = {True: 0.5 + 1 / 64 + 4 / (64 * 256), False: 0.5 + 4 / 64}
"""Bytes of a parameter with and without double quantisation: Dettmers et al. 2023, arXiv
2305.14314, §3 (blocks of 64; scales in 8 bits with an fp32 scale per 256 of them, or in 32)."""
OPTIMIZER_BYTES = {
    "adamw_torch": 8,  # two fp32 moments; the flat AdamW updates in place
    "adamw_8bit": 2.04,  # two 8-bit moments with an fp32 scale per 256 (arXiv 2110.02861)
    "paged_adamw_8bit": 2.04,
    "paged_adamw_32bit": 8,
    "sgd": 0,
}
TOGETHER = (
    ("q_proj", "k_proj", "v_proj"),
    ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a"),
)
"""Projections whose weights are dequantised beside each other (lora.group)."""
GAPS_BYTES = 140 * MIB
"""Pages of 20 MiB that are not full, in PyTorch's pools of the main stream, the graphs' stream and
the graphs: 36 to 170 MiB in most of 66 runs, 80 to 115 in the middle."""
LOSSES_GAPS_BYTES = 70 * MIB
"""The same where losses alone are computed, on one stream and without graphs: 55 to 87 MiB."""
FUSED_GAPS_BYTES = 110 * MIB
"""Gaps that loading the weights of fused projections leaves, which graphs cannot use: Phi-3 keeps
197 MiB of them."""
WORKSPACE_BYTES = {True: 32 * MIB, False: 8 * MIB + 128 * 1024}
"""A cuBLAS workspace of one thread on one stream: from Hopper on, and before
(aten/src/ATen/cuda/CUDABlas, getChosenWorkspaceSize)."""
WORKSPACES = 3
"""cuBLAS workspaces: forward and backward thread on the graphs' stream, and the main stream."""
CONTEXT_BYTES = {"cuda": 870 * MIB, "cpu": GIB}
"""CUDA context (0.61 GiB on an H200) with kernels and graphs (0.85 GiB together); on a CPU card the
process with its libraries."""
FRAGMENTS, DENSE_FRAGMENTS, MIXED_FRAGMENTS = 0.005, 0.05, 0.06
"""Allocator fragmentation as a share of transient bytes: of most models, of one with dense
attention, and of one whose attention differs in size from layer to layer, so that one layer's
blocks do not fit the next (Gemma 4)."""
CPU_SLACK_BYTES = 3 * GIB // 10
"""The same on a CPU card, as a fixed size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A way to run a recipe: what the planner varies, and what the card decides."""

    precision: str
    kernel: str
    """The step's attention: package, torch, triton, efficient or dense; on a CPU loop or dense."""
    optimizer: str
    tokens_per_micro: int
    """The most tokens in one micro-step."""
    longest: int
    """Tokens of the longest row."""
    scored: int
    """Tokens of the longest held-out row."""
    recompute_layers: int = 0
    long_recompute_layers: int = 0
    """Recomputing layers in the pass of a row that is longer than tokens_per_micro."""
    offload: bool = False
    """True if the inputs of recomputing layers wait in the machine's memory."""
    host_tables: bool = False
    """True if tables of embeddings stay in the machine's memory (ModelShape.table_params)."""
    dequantised_layers: int = 0
    eval_rows: int = 1
    eval_dequantised: bool = False
    """True if answers are generated with dequantised copies of all 4-bit weights."""
    keeps_graphs: bool = False
    """True if captured graphs and their buffers stay while rows are scored."""
    card_kind: str = "cuda"
    major: int = 8
    """Major number of the card's compute capability."""
    eager: bool = False
    """True if attention holds heads × tokens² scores in scoring and in families that the fused step
    does not know."""

    def decodes(self, shape: ModelShape) -> bool:
        """Return whether training/decode/ scores the model, not transformers and PEFT."""
        return shape.decoded and not (self.card_kind == "cuda" and self.kernel == "dense")


def predict(shape: ModelShape, recipe: Recipe, run: Run) -> dict[str, int]:
    """Return the peak bytes by bucket; takes some 50 µs.

    On a GPU the sum of all buckets but `context` is what PyTorch's allocator reserves.
    """
    constant = constant_bytes(shape, recipe, run)
    transient = transient_bytes(shape, recipe, run)
    scored = _scored_bytes(shape, recipe, run, constant)
    # An evaluation begins when a step's tensors are gone, so that only its excess counts; graphs
    # that stay hold their memory all the time.
    beside = 0 if run.keeps_graphs else sum(transient.values())
    transient["evaluation"] = max(0, scored - beside)
    slack = GAPS_BYTES if run.card_kind == "cuda" else CPU_SLACK_BYTES
    if run.card_kind == "cuda" and "gate_up_proj" in shape.projections:
        slack += FUSED_GAPS_BYTES
    slack += int(_fragments(shape, run) * sum(transient.values()))
    found = {**constant, **transient, "slack": slack, "context": CONTEXT_BYTES[run.card_kind]}
    if run.host_tables:  # they pass the card on their way from the file
        found["loading"] = max(0, loading_peak(shape, recipe, run) - sum(found.values()))
    return found


def _fragments(shape: ModelShape, run: Run) -> float:
    if run.kernel == "dense":
        return DENSE_FRAGMENTS
    mixed = len(shape.kinds) > 1 and all(kind.delta is None for kind in shape.kinds)
    return MIXED_FRAGMENTS if mixed else FRAGMENTS


def _scored_bytes(shape: ModelShape, recipe: Recipe, run: Run, constant: Mapping[str, int]) -> int:
    """Return the bytes that scoring a trial takes at most beside what is there all the time."""
    adapter, value = lora_params(shape, recipe.lora), VALUE_BYTES[run.precision]
    scored = losses_bytes(shape, recipe, run)
    if run.decodes(shape) and generates(recipe):
        # Answers come last: the step is gone, with its copies, gradients and optimizer; one that
        # is kept for the next trial has let go its optimizer alone.
        freed = constant["optimizer"]
        if not run.keeps_graphs:
            halves = adapter * value if value < 4 else 0
            freed += constant["unpacked"] + constant["gradients"] + halves
        copies = trained_low_rank_bytes(shape, recipe.lora, run.precision)
        scored = max(scored, answers_bytes(shape, recipe, run) + copies - freed)
    if run.keeps_graphs:
        # The next trial's adapter is made beside the kept buffers, before there is an optimizer.
        scored = max(scored, adapter * 4 - constant["optimizer"])
    return scored


def trained_low_rank_bytes(shape: ModelShape, lora: Lora, precision: str) -> int:
    """Return the bytes of the low-rank matrices with which decode/ answers by a trained adapter."""
    adapted = None if lora.targets == "all-linear" else targeted_projections(shape, lora)
    return low_rank_bytes(shape, precision, rank=lora.rank, adapted=adapted)


def can_keep_graphs(shape: ModelShape, recipe: Recipe, run: Run) -> bool:
    """Return whether there are captured graphs that can stay (training/step/kept/)."""
    captured = run.card_kind == "cuda" and shape.fused
    return captured and recipe.lora.bias == "none" and not run.offload


def loading_peak(shape: ModelShape, recipe: Recipe, run: Run) -> int:
    """Return the bytes on a GPU while the base is loaded, with its tables.

    transformers quantises one weight after another, so that one in 16 bits is there beside them.
    """
    run = replace(run, host_tables=False, dequantised_layers=0)
    whole = sum(_base(shape, recipe, run).values()) + _dequantisation(shape, recipe, run)
    return whole + GAPS_BYTES + CONTEXT_BYTES["cuda"]


def losses_bytes(shape: ModelShape, recipe: Recipe, run: Run) -> int:
    """Return the bytes of a pass for held-out losses, beside what is there all the time.

    For models outside decode/ they include those of generating answers. In decode/ the adapter's
    matrices are laid together for one group of projections after another; those of gate and up are
    gone when the pass is widest.
    """
    if not run.decodes(shape):
        return evaluation_bytes(
            shape, recipe, run.precision, rows=run.eval_rows, tokens=run.scored, eager=run.eager
        )
    tokens = pass_tokens(run.eval_rows, run.scored, LOSS_TOKENS)
    one = pass_bytes(shape, recipe, run.precision, tokens=tokens)
    return one + _decode_workspace(shape, recipe, run)


def answers_bytes(shape: ModelShape, recipe: Recipe, run: Run) -> int:
    """Return the bytes of generating answers by decode/, beside the base and the adapter."""
    lanes, precision = run.eval_rows, run.precision
    held = lanes_bytes(shape, recipe, precision, lanes=lanes, tokens=run.scored)
    held += pass_bytes(shape, recipe, precision, tokens=pass_tokens(lanes, run.scored))
    if run.eval_dequantised:
        return held + kept_weights_bytes(shape, recipe, precision)
    if _quantised(recipe) and run.card_kind == "cuda":
        held += scales_bytes(shape, precision)
    return held + _decode_workspace(shape, recipe, run)


def _decode_workspace(shape: ModelShape, recipe: Recipe, run: Run) -> int:
    return workspace_bytes(shape, recipe, run.precision) if _quantised(recipe) else 0


def constant_bytes(shape: ModelShape, recipe: Recipe, run: Run) -> dict[str, int]:
    """Return the buckets that are there all the time: weights, adapter, optimizer, workspaces."""
    adapter = lora_params(shape, recipe.lora)
    value = VALUE_BYTES[run.precision]
    workspaces = WORKSPACES * WORKSPACE_BYTES[run.major >= 9] if run.card_kind == "cuda" else 0
    return {
        **_base(shape, recipe, run),
        "adapter": adapter * (4 + (value if value < 4 else 0)),  # masters, and in 16 bits
        "gradients": adapter * 4,
        "optimizer": int(adapter * OPTIMIZER_BYTES[run.optimizer]),
        "dequantisation": _dequantisation(shape, recipe, run),
        "workspaces": workspaces,
    }


def transient_bytes(shape: ModelShape, recipe: Recipe, run: Run) -> dict[str, int]:
    """Return the buckets that come and go with each micro-step, at the worst moment of the worst.

    The candidates are: the loss stands on all activations; the last layer goes backward; the first
    recomputing layer stands on the inputs of those before it.
    """
    # The worst is a full micro-step, or the longest row alone, which has a recompute of its own.
    if run.longest > run.tokens_per_micro:
        again = run.long_recompute_layers
        alone = replace(run, tokens_per_micro=run.longest, recompute_layers=again)
        together = replace(run, longest=run.tokens_per_micro)
        both = (transient_bytes(shape, recipe, one) for one in (together, alone))
        return max(both, key=lambda found: sum(found.values()))
    graphs = run.card_kind == "cuda" and shape.fused
    tokens = padded_tokens(run.tokens_per_micro) if graphs else run.tokens_per_micro
    longest = tokens if graphs else run.longest  # dense attention sees the whole row of rows
    value = VALUE_BYTES[run.precision]
    width = tokens * shape.width * value
    again = min(run.recompute_layers, shape.layers)
    one = _layer(shape, recipe, run)
    there = min(again, 2) if run.offload else again  # one in use, one on its way
    inputs = (there * one.input + again * one.lasting) * tokens
    if shape.fused:
        inputs += layers.reused_bytes(shape, run.precision, again) * tokens
    whole = one.kept_bytes(tokens, longest)
    kept = inputs + (shape.layers - again) * whole
    backward = one.backward_bytes(tokens, longest)
    # The final norm's input and output, and the output's gradient.
    loss = 3 * width + _logits(shape, run, tokens, value)
    moments: list[tuple[str, float, float]] = [("logits", kept, loss)]
    if again < shape.layers:
        moments.append(("transient", kept, backward))
    if again:
        top = max(backward, one.again * tokens)
        moments.append(("transient", inputs - (one.input + one.lasting) * tokens + whole, top))
    name, kept, top = max(moments, key=lambda moment: moment[1] + moment[2])
    # Cosine and sine of the positions, for each kind of attention.
    head_dim = max((kind.head_dim for kind in shape.kinds), default=shape.head_dim)
    kept += tokens * 2 * head_dim * value * shape.rotary_tables
    return {"activations": int(kept), "transient": 0, "logits": 0, name: int(top)}


def host_bytes(shape: ModelShape, run: Run) -> int:
    """Return the bytes of the machine's memory that offloaded inputs take.

    The last recomputing layer's input stays on the card: it is the first one needed.
    """
    if not run.offload:
        return 0
    away = max(0, min(run.recompute_layers, shape.layers) - 1)
    return away * padded_tokens(run.tokens_per_micro) * shape.width * VALUE_BYTES[run.precision]


def table_bytes(shape: ModelShape, run: Run) -> int:
    """Return the bytes of the machine's memory that tables of embeddings take there."""
    return shape.table_params * VALUE_BYTES[run.precision] if run.host_tables else 0


def _layer(shape: ModelShape, recipe: Recipe, run: Run) -> Layer:
    if not shape.fused or run.card_kind == "cpu":
        dense = run.eager or run.kernel == "dense"
        lora = recipe.lora
        if shape.fused:  # the step draws dropout's masks again instead of keeping them
            lora = lora.model_copy(update={"dropout": 0.0})
        return layers.plain_layer(shape, lora, run.precision, quadratic=dense)
    longest, kernel = padded_tokens(recipe.data.max_tokens), run.kernel
    if shape.unscaled is not None and longest <= shape.unscaled:
        # All rows are so short that query_scale.py in step/attention leaves queries as they are.
        shape = replace(shape, unscaled=None)
    if kernel in ("package", "torch") and longest <= SHORT_TOKENS:
        kernel = "triton"  # attention/interface.py does the same
    return layers.mean_layer(shape, recipe.lora, run.precision, kernel)


def _base(shape: ModelShape, recipe: Recipe, run: Run) -> dict[str, int]:
    value = VALUE_BYTES[run.precision]
    per_param, dequantised = float(value), 0
    if _quantised(recipe):
        per_param = NF4_BYTES[recipe.model.double_quantization]
        each = shape.block_params / shape.layers
        dequantised = int(min(run.dequantised_layers, shape.layers) * each * value)
    return {
        "base": int(shape.linear_params * per_param),
        "unpacked": dequantised,
        "embeddings": (shape.other_params + shape.width) * value - table_bytes(shape, run),
    }


def _quantised(recipe: Recipe) -> bool:
    return recipe.model.quantization == "nf4"


def _logits(shape: ModelShape, run: Run, tokens: int, value: int) -> int:
    """Return the bytes of the logits held at once.

    The fused step holds a chunk, which becomes its own gradient; in torch's operations (a CPU) it
    takes three in fp32. The model's own head holds all, in fp32, with logarithms and gradients.
    """
    if not shape.fused:
        return tokens * shape.vocab * (2 * value + 12)
    each = most_chunk_rows(shape.vocab * value)
    per_logit = value if run.card_kind == "cuda" else 12
    return min(tokens, each) * shape.vocab * per_logit


def _dequantisation(shape: ModelShape, recipe: Recipe, run: Run) -> int:
    """Return the bytes of the largest weight, or of those dequantised together."""
    each = [
        {name: i * o for name, (i, o) in kind.projections.items()}
        for kind in shape.kinds or [shape]
    ]
    together = max(
        sum(sizes.get(name, 0) for name in names) for names in TOGETHER for sizes in each
    )
    # Gemma 4's product for the embeddings of all layers.
    tables = shape.all_tables_width * shape.width
    value = VALUE_BYTES[run.precision]
    if not _quantised(recipe) or (shape.fused and run.dequantised_layers >= shape.layers):
        return 0
    if shape.counts and not shape.fused:
        return shape.counts.largest * value
    return max(together, tables, *(size for sizes in each for size in sizes.values())) * value
