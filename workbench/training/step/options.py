"""What the step is told, and what it tells: which levers are on, and why the others are off."""

from __future__ import annotations

from dataclasses import dataclass

LEVERS = {
    "padding_free": "rows are concatenated; no token is padding",
    "whole_batch": "one micro-step per optimizer batch where the plan lets it",
    "no_recompute": "only as many layers recompute as the plan says",
    "fused_lora": "one function per projection group over the packed weights",
    "graphs": "forward and backward are captured and replayed",
    "chunked_head": "logits are never held whole",
    "flat_adamw": "one fused update of a flat fp32 buffer",
    "small_kernels": "Triton kernels for norms, rotary and gated activations",
    "ring": "nothing is read from the card between log lines",
}
"""Design §8, in order of worth; the names that `off` takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOptions:
    """How the step runs; made from the plan and the recipe, never written by hand."""

    precision: str = "bf16"
    """Compute dtype: bf16, fp16 (with loss scaling) or fp32."""
    rows_per_micro: int = 4
    """Rows in one forward at most."""
    tokens_per_micro: int | None = None
    """Tokens in one forward at most (a longer row goes alone)."""
    max_length: int = 512
    """No row is longer (data.max_tokens)."""
    recompute_layers: int = 0
    """The first so many layers recompute their activations."""
    long_recompute_layers: int = 0
    """The same in the pass of a row that is longer than tokens_per_micro."""
    offload: bool = False
    """Inputs of layers that recompute wait in the machine's memory."""
    resident_layers: int = 0
    """The last so many layers keep NF4's values unpacked: no unpacking, 2 bytes a weight more."""
    optimizer: str = "adamw_torch"
    """By the recipe's name of it; every one steps over the flat buffer."""
    learning_rate: float = 2e-4
    weight_decay: float = 0.001
    max_grad_norm: float | None = 0.3
    seed: int = 42
    """Of the dropout masks."""
    log_every: int = 25
    pretend_capability: tuple[int, int] | None = None
    """Choose attention as on another card (tests of the T4 path)."""
    max_graphs: int = 48
    """Kept at most; one more takes the place of the one that was not used for longest."""
    off: frozenset[str] = frozenset()
    """Levers switched off, to measure what each gives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lever:
    name: str
    on: bool
    why: str
    """What it runs on, or why it is off."""
