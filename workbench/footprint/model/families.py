"""The trust in predictions for an architecture: measured on cards, counted, or neither."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.footprint.model.shape import FUSED_FAMILIES, MEASURED_FAMILIES, ModelShape

COUNTED_FAMILIES = frozenset(
    {
        "cohere", "cohere2", "diffllama", "ernie4_5", "exaone", "gemma", "glm", "granite_swa",
        "granitemoehybrid", "helium", "hyperclovax", "internlm3", "iquestcoder", "olmo",
        "stablelm", "vaultgemma",
    }
)  # fmt: skip
"""model_type of families beside the fused ones whose weights the formula counts: those of linear
layers exactly, all others within 0.1 % (tests/footprint/test_families.py)."""
UNCOUNTED_WEIGHTS = (0.3, 1.5)
"""Bytes of other families' weights as shares of the formula's. tests/footprint/test_families.py
builds all that transformers has, with two layers and as many as their configuration has by default:
those that share layers take 0.35 (hrm_text), embeddings without a formula 1.47 (roc_bert)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A model's architecture, and how far predictions for it can be trusted."""

    name: str
    """model_type, and why the fused step does not train it where that is no matter of family."""
    fused: bool
    """True if the fused step trains it."""
    measured: bool
    """True if its predicted peaks were compared with peaks that cards measured."""
    counted: bool
    """True if its weights are counted, on the model's class or by a formula that is held equal to
    it; else they are those of a Llama of its sizes."""

    def range_bytes(self, predicted_bytes: int, weight_bytes: int) -> tuple[int, int]:
        """Return the least and the most bytes of the peak, as far as the weights decide them.

        `weight_bytes` is the part of the predicted peak that weights take.
        """
        low, high = (1.0, 1.0) if self.counted else UNCOUNTED_WEIGHTS
        least = predicted_bytes - int(weight_bytes * (1 - low))
        return least, predicted_bytes + int(weight_bytes * (high - 1))

    def warning(self) -> str:
        """Return what a person should know before trusting the prediction; empty if nothing."""
        if self.measured:
            return ""
        formula = "the fused step" if self.fused else "PEFT's own modules"
        activations = (
            f"its activations by the formula for {formula}, which was not compared with "
            "measured peaks"
        )
        if self.counted:
            return f"{self.name} was not measured: its weights are counted, {activations}"
        low, high = UNCOUNTED_WEIGHTS
        return (
            f"there is no formula for {self.name}: its weights are predicted as those of a Llama "
            f"of its sizes and may take {low:g} to {high:g} times that, {activations}; "
            "`workbench check` counts its weights exactly"
        )


def family_of(shape: ModelShape) -> Family:
    """Return what is known of a model's architecture."""
    name = shape.kind
    if shape.kind in FUSED_FAMILIES and not shape.fused:  # say why it is not measured
        name += " with a dropout of its own" if shape.dropout else " inside a larger model"
    return Family(
        name=name,
        fused=shape.fused,
        measured=shape.fused and shape.kind in MEASURED_FAMILIES,
        counted=has_formula(shape) or shape.counts is not None,
    )


def has_formula(shape: ModelShape) -> bool:
    """Return whether the weights are those of a formula that is held equal to the model's."""
    known = shape.kind in FUSED_FAMILIES | COUNTED_FAMILIES
    return known and not shape.nested and not shape.hybrid
