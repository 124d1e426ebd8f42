"""A plan: how a trial runs on a given card, and how it is stored and described."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

_STORED_NAMES = {"dequantised_layers": "resident_layers"}
"""Fields whose JSON key differs. Homes of every version hold attempts with the key on the right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A way to run a trial on a given card. The batch is always the recipe's, however it is cut."""

    precision: str
    """bf16, fp16 or fp32."""
    attention: str
    """The implementation that transformers uses for scoring: flash_attention_2, sdpa or eager. The
    training step has attention kernels of its own, which `attention_why` names first."""
    attention_why: str
    optimizer: str
    """One of the recipe's optimizers, never `auto`."""
    rows_per_step: int
    """Rows that decide one update: the recipe's batch_size × accumulation."""
    tokens_per_micro: int
    """The most tokens in one forward pass. Rows of the batch share a micro-step up to this number;
    a longer row gets a micro-step to itself."""
    longest: int
    """Tokens of the longest row of the data."""
    recompute_layers: int = 0
    """This many first layers recompute their activations in the backward pass."""
    long_recompute_layers: int = 0
    """The same for the pass of a row that is longer than tokens_per_micro; never fewer layers."""
    offload: bool = False
    """True if the inputs of recomputing layers wait in the machine's memory."""
    host_bytes: int = 0
    """Bytes of the machine's memory that those inputs take."""
    host_tables: bool = False
    """True if tables of embeddings stay in the machine's memory, where the card reads their rows.
    """
    table_bytes: int = 0
    """Bytes of the machine's memory that those tables take."""
    dequantised_layers: int = 0
    """This many last layers keep a copy of their NF4 weights in the compute precision."""
    layers: int
    """Layers of the model."""
    predicted_bytes: int
    """Peak bytes on the card, CUDA context included, corrected by measured peaks."""
    buckets: dict[str, int] = field(default_factory=dict)
    """The predicted peak before correction, split by what takes the bytes."""
    off: tuple[str, ...] = ()
    """Optimizations of the step that are switched off, by their names in training/step/options.py.
    """
    eval_batch: int = 1
    """Rows in one evaluation or generation step: the recipe's number, or as many as fit."""
    eval_lanes: int = 0
    """Rows of several adapters that are answered at once in a score trial that has others beside
    it; 0 where there are none."""
    eval_dequantised: bool = False
    """True if answers are generated with dequantised copies of all 4-bit weights, because their
    reading bounds the time of a step and the card has room."""

    keeps_graphs: bool = False
    """True if captured graphs and their buffers stay while rows are scored, and for the next trial,
    because the card has room."""

    @property
    def micro_batch(self) -> int:
        """Rows in one micro-step when every row is as long as the longest."""
        return min(self.rows_per_step, max(1, self.tokens_per_micro // self.longest))

    @property
    def micro_steps(self) -> int:
        """Micro-steps in one optimizer step when every row is as long as the longest: the most."""
        return -(-self.rows_per_step // self.micro_batch)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON-ready values, with `micro_steps` added for people."""
        stored = {
            _STORED_NAMES.get(one.name, one.name): getattr(self, one.name) for one in fields(self)
        }
        changed = {"buckets": dict(self.buckets), "off": list(self.off)}
        return {**stored, **changed, "micro_steps": self.micro_steps}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the plan that `to_json` of this or an older version wrote."""
        stored = {**data, "off": tuple(data.get("off", ()))}
        for name, key in _STORED_NAMES.items():
            if key in stored:
                stored[name] = stored.pop(key)
        micro_steps = stored.pop("micro_steps", 1)
        if "longest" not in stored:
            # An older version cut batches by rows alone: all micro-steps held equally many.
            tokens = stored["tokens_per_micro"] * micro_steps
            stored["longest"] = tokens // stored["rows_per_step"]
            stored["long_recompute_layers"] = stored.get("recompute_layers", 0)
        return cls(**stored)


def uncorrected_bytes(plan: Mapping[str, Any]) -> int:
    """Return the predicted peak of a stored plan before its correction by measured peaks."""
    buckets = plan.get("buckets") or {}
    return sum(int(size) for size in buckets.values()) or int(plan.get("predicted_bytes") or 0)


def describe_plan(plan: Mapping[str, Any]) -> dict[str, str]:
    """Return what a stored plan decides, by label, in words; a dash for what the plan lacks."""
    tokens, rows, count = (
        plan.get(key) for key in ("tokens_per_micro", "rows_per_step", "micro_steps")
    )
    step = "-"
    if isinstance(rows, int) and isinstance(count, int):
        step = f"{rows} row{'s' * (rows != 1)} in "
        step += "one micro-step" if count == 1 else f"{count} micro-steps at most"
    tables = {"tables": _table_words(plan)} if plan.get("host_tables") else {}
    graphs = {"graphs": "stay for the next trial"} if plan.get("keeps_graphs") else {}
    return {
        "micro-step": f"{tokens:,} tokens{_alone(plan)}" if isinstance(tokens, int) else "-",
        "step": step,
        "recompute": _recompute_words(plan) + _offload_words(plan),
        **tables,
        "unpacked": _share(plan.get("resident_layers"), plan.get("layers")),
        **graphs,
    }


def summarize_plan(plan: Plan | Mapping[str, Any]) -> str:
    """Return a plan's cut and recompute on one line: `2 rows × 2, recomputing every layer`.

    An out-of-memory fallback changes these two and little else, so that they name its steps.
    """
    known = plan if isinstance(plan, Plan) else Plan.from_json(plan)
    rows, tokens = known.micro_batch, known.tokens_per_micro
    cut = f"{rows} row{'s' if rows > 1 else ''} × {known.micro_steps}"
    if tokens != rows * known.longest:
        cut = f"{tokens:,} tokens at a time"
    if not known.long_recompute_layers:
        return cut
    return f"{cut}, recomputing {describe_plan(known.to_json())['recompute']}"


def _alone(plan: Mapping[str, Any]) -> str:
    return ", longer rows alone" if _has_longer(plan) else " at most"


def _has_longer(plan: Mapping[str, Any]) -> bool:
    longest, tokens = plan.get("longest"), plan.get("tokens_per_micro")
    return isinstance(longest, int) and isinstance(tokens, int) and longest > tokens


def _recompute_words(plan: Mapping[str, Any]) -> str:
    count, longer, layers = (
        plan.get(key) for key in ("recompute_layers", "long_recompute_layers", "layers")
    )
    if not _has_longer(plan) or longer == count:
        return _share(count, layers)
    if not count:
        return f"{_share(longer, layers)} in longer rows"
    return f"{_share(count, layers)}, {longer} in longer rows"


def _offload_words(plan: Mapping[str, Any]) -> str:
    size = plan.get("host_bytes")
    if not plan.get("offload") or not isinstance(size, int):
        return ""
    return f", inputs in host memory ({size / (1 << 30):.1f} GiB)"


def _table_words(plan: Mapping[str, Any]) -> str:
    size = int(plan.get("table_bytes") or 0)
    return f"embeddings in host memory ({size / (1 << 30):.1f} GiB)"


def _share(count: object, layers: object) -> str:
    """Return `none`, `12 of 32 layers` or `every layer`."""
    if not isinstance(count, int) or not isinstance(layers, int):
        return "-"
    if count == 0:
        return "none"
    return "every layer" if count >= layers else f"{count} of {layers} layers"
