"""Weights of a vision tower beside the text model, which text never passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from workbench.footprint.model.extra_weights import ExtraWeights

Measure = Callable[..., int]
_PIXTRAL = {
    "hidden_size": 1_024, "intermediate_size": 4_096, "num_hidden_layers": 24, "patch_size": 16,
    "num_channels": 3,
}  # fmt: skip
"""Defaults of transformers' PixtralVisionConfig."""


def vision_weights(config: Mapping[str, Any], width: int, measure: Measure) -> ExtraWeights:
    """Return the weights beside a text model of that width; none without a tower.

    A Pixtral tower with Mistral 3's projector is counted as it is. Of any other tower the matrices
    of its layers are counted, in 16 bits, though bitsandbytes quantises them.
    """
    vision = config.get("vision_config")
    if not isinstance(vision, Mapping):
        return ExtraWeights()
    if config.get("model_type") == "mistral3":
        return _pixtral({**_PIXTRAL, **vision}, config, width, measure)
    wide = measure(vision, "embed_dim", "hidden_size", "width")
    ffn = measure(vision, "intermediate_size", default=4 * wide)
    layers = measure(vision, "num_hidden_layers", "depth", "layers", most=4_096)
    return ExtraWeights(other=layers * (4 * wide * wide + 2 * wide * ffn))


def _pixtral(
    vision: Mapping[str, Any], config: Mapping[str, Any], width: int, measure: Measure
) -> ExtraWeights:
    """Return those of transformers' PixtralVisionModel and Mistral3MultiModalProjector."""
    wide, ffn = measure(vision, "hidden_size"), measure(vision, "intermediate_size")
    layers = measure(vision, "num_hidden_layers", most=4_096)
    merged = measure(config, "spatial_merge_size", default=2) ** 2
    taken = config.get("vision_feature_layer")
    features = len(taken) if isinstance(taken, list) else 1
    patch = measure(vision, "num_channels") * measure(vision, "patch_size") ** 2
    tower = layers * (4 * wide * wide + 3 * wide * ffn)
    projector = merged * wide * wide + features * wide * width + width * width
    biases = 2 * width if config.get("multimodal_projector_bias") else 0
    norms = (2 * layers + 2) * wide
    return ExtraWeights(linear=tower + projector, other=patch * wide + norms + biases)
