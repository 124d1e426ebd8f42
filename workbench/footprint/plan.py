"""How a trial will be run on a given card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a trial will be run on a given card. The batch is the recipe's, however it is cut."""

    precision: str
    """bf16, fp16 or fp32."""
    attention: str
    """What transformers is told: flash_attention_2, sdpa, eager. The step has kernels of its own
    for training, which `attention_why` names first."""
    attention_why: str
    optimizer: str
    """One of the recipe's optimizers, never `auto`."""
    rows_per_step: int
    """That decide one update: the recipe's batch_size × accumulation."""
    tokens_per_micro: int
    """In one forward at most: so many of the step's rows go together; a longer row goes alone."""
    longest: int
    """Tokens of the longest row there is."""
    recompute_layers: int = 0
    """The first so many layers recompute their activations in the backward pass."""
    long_recompute_layers: int = 0
    """The same in the pass of a row that is longer than tokens_per_micro, so at least as many."""
    offload: bool = False
    """The inputs of those layers wait in the machine's memory."""
    host_bytes: int = 0
    """Of the machine's memory, that this takes."""
    resident_layers: int = 0
    """The last so many layers keep NF4's values unpacked in the compute precision."""
    layers: int
    """Of the model."""
    predicted_bytes: int
    """Peak bytes on the card, CUDA context included."""
    buckets: dict[str, int] = field(default_factory=dict)
    """predicted_bytes, by what takes them."""
    off: tuple[str, ...] = ()
    """Levers of the step that are switched off, by the names of training/step/options.py."""
    eval_batch: int = 1
    """Rows in one evaluation or generation step: the recipe's, or as many as fit."""

    @property
    def micro_batch(self) -> int:
        """Rows of the longest kind in one micro-step."""
        return min(self.rows_per_step, max(1, self.tokens_per_micro // self.longest))

    @property
    def micro_steps(self) -> int:
        """Of an optimizer step at most: when every row is as long as the longest."""
        return -(-self.rows_per_step // self.micro_batch)

    def to_json(self) -> dict[str, Any]:
        """With micro_steps, for people; plain as it comes back from a file."""
        return {**asdict(self), "off": list(self.off), "micro_steps": self.micro_steps}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        told = {**data, "off": tuple(data.get("off", ()))}
        micro_steps = told.pop("micro_steps", 1)
        if "longest" not in told:  # as it was written while rows were only cut by their number
            told["longest"] = told["tokens_per_micro"] * micro_steps // told["rows_per_step"]
            told["long_recompute_layers"] = told.get("recompute_layers", 0)
        return cls(**told)


def shown(plan: Mapping[str, Any]) -> dict[str, str]:
    """What a plan (as plain data) decides, in words; a dash for what it does not tell."""
    tokens, rows, cuts = (
        plan.get(key) for key in ("tokens_per_micro", "rows_per_step", "micro_steps")
    )
    step = "-"
    if isinstance(rows, int) and isinstance(cuts, int):
        step = f"{rows} row{'s' * (rows != 1)} in "
        step += "one micro-step" if cuts == 1 else f"{cuts} micro-steps at most"
    return {
        "micro-step": f"{tokens:,} tokens{_alone(plan)}" if isinstance(tokens, int) else "-",
        "step": step,
        "recompute": _again(plan) + _away(plan),
        "unpacked": _share(plan.get("resident_layers"), plan.get("layers")),
    }


def _alone(plan: Mapping[str, Any]) -> str:
    return ", longer rows alone" if _has_longer(plan) else " at most"


def _has_longer(plan: Mapping[str, Any]) -> bool:
    longest, tokens = plan.get("longest"), plan.get("tokens_per_micro")
    return isinstance(longest, int) and isinstance(tokens, int) and longest > tokens


def _again(plan: Mapping[str, Any]) -> str:
    count, longer, layers = (
        plan.get(key) for key in ("recompute_layers", "long_recompute_layers", "layers")
    )
    if not _has_longer(plan) or longer == count:
        return _share(count, layers)
    if not count:
        return f"{_share(longer, layers)} in longer rows"
    return f"{_share(count, layers)}, {longer} in longer rows"


def _away(plan: Mapping[str, Any]) -> str:
    size = plan.get("host_bytes")
    if not plan.get("offload") or not isinstance(size, int):
        return ""
    return f", inputs in host memory ({size / (1 << 30):.1f} GiB)"


def _share(count: object, layers: object) -> str:
    """`none`, `12 of 32 layers`, `every layer`."""
    if not isinstance(count, int) or not isinstance(layers, int):
        return "-"
    if count == 0:
        return "none"
    return "every layer" if count >= layers else f"{count} of {layers} layers"
