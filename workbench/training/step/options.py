"""The options of a step, made from a plan and a recipe."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOptions:
    """The way a step runs; in_trainer.options_from makes it, nobody writes it by hand."""

    precision: str = "bf16"
    """Compute dtype: bf16, fp16 (with loss scaling) or fp32."""
    rows_per_micro: int = 4
    """Rows in one micro-step at most."""
    tokens_per_micro: int | None = None
    """Tokens in one micro-step at most, None: no limit; a longer row goes alone."""
    max_length: int = 512
    """Tokens of the longest row that may come (data.max_tokens)."""
    longest: int | None = None
    """Tokens of the longest row that does come; None where that is not known."""
    recompute_layers: int = 0
    """The first so many layers recompute their activations."""
    long_recompute_layers: int = 0
    """The same in the pass of a row that is longer than tokens_per_micro."""
    offload: bool = False
    """The inputs of layers that recompute wait in the machine's memory."""
    dequantised_layers: int = 0
    """The last so many layers keep their NF4 weights dequantised: no pass unpacks them, for 2 bytes
    more a weight."""
    optimizer: str = "adamw_torch"
    """The recipe's name of the optimizer; every one steps over the flat buffer."""
    learning_rate: float = 2e-4
    weight_decay: float = 0.001
    max_grad_norm: float | None = 0.3
    """The norm to which gradients are clipped; None: no clipping."""
    seed: int = 42
    """Seed of the dropout masks."""
    log_every: int = 25
    """Steps between two readings of what steps measured."""
    pretend_capability: tuple[int, int] | None = None
    """Choose attention as on a card of this compute capability (tests of the T4 path)."""
    max_graphs: int = 48
    """Captured graphs kept at most; the least recently used one makes room for another."""
    off: frozenset[str] = frozenset()
    """Optimizations switched off, to measure what each gives."""
