"""The nine optimizations of the step, and the report of which of them run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

OPTIMIZATIONS = {
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
"""The effect of each optimization, in order of worth; docs/step.md#optimizations has more. The
keys are the names that StepOptions.off takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimization:
    """One optimization of a step, on or off, with the reason."""

    name: str
    on: bool
    why: str
    """The way it runs, or the reason why it is off."""


class OptimizationReport:
    """A report of the optimizations of one step, filled while the step is put together."""

    def __init__(self, switched_off: Iterable[str]) -> None:
        """`switched_off` names those that the options leave out."""
        self._switched_off = frozenset(switched_off)
        self._found: dict[str, Optimization] = {}

    def turn_on(self, name: str, why: str) -> None:
        """Note that an optimization runs, and on what."""
        self._found[name] = Optimization(name=name, on=True, why=why)

    def turn_off(self, name: str, why: str) -> None:
        """Note that an optimization does not run, and why."""
        self._found[name] = Optimization(name=name, on=False, why=why)

    def is_requested(self, name: str) -> bool:
        """Return whether the options leave an optimization on; note it as off where they do not."""
        if name in self._switched_off:
            self.turn_off(name, "switched off")
            return False
        return True

    def is_on(self, name: str) -> bool:
        """Return whether an optimization runs."""
        return self._found[name].on

    def entries(self) -> list[Optimization]:
        """Return all nine, in order of worth."""
        return [self._found[name] for name in OPTIMIZATIONS]
