"""Weights of towers for images and sound beside the text model, which text never passes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workbench.footprint.model.config_values import MOST_LAYERS, read_size
from workbench.footprint.model.extra_weights import ExtraWeights

_PIXTRAL = {
    "hidden_size": 1_024, "intermediate_size": 4_096, "num_hidden_layers": 24, "patch_size": 16,
    "num_channels": 3,
}  # fmt: skip
"""Defaults of transformers' PixtralVisionConfig."""
_GEMMA_4 = {
    "hidden_size": 768, "intermediate_size": 3_072, "num_hidden_layers": 16, "patch_size": 16,
    "head_dim": 64, "num_attention_heads": 12, "num_key_value_heads": 12,
    "position_embedding_size": 10_240,
}  # fmt: skip
"""Defaults of transformers' Gemma4VisionConfig."""
_GEMMA_4_SOUND = {
    "hidden_size": 1_024, "num_hidden_layers": 12, "output_proj_dims": 1_536,
    "conv_kernel_size": 5, "num_attention_heads": 8,
}  # fmt: skip
"""Defaults of transformers' Gemma4AudioConfig."""


def vision_weights(config: Mapping[str, Any], width: int) -> ExtraWeights:
    """Return the weights beside a text model of that width; none without a tower.

    A Pixtral tower with Mistral 3's projector and Gemma 4's are counted as they are. Of any other
    tower the matrices of its layers are counted, in 16 bits, though bitsandbytes quantises them.
    """
    vision, sound = config.get("vision_config"), config.get("audio_config")
    if config.get("model_type") in ("gemma4", "gemma4_unified"):
        whole = config.get("model_type") == "gemma4"
        images = _gemma4_images if whole else _gemma4_patches
        found = images(vision, width) if isinstance(vision, Mapping) else ExtraWeights()
        if isinstance(sound, Mapping):
            found += (_gemma4_sound if whole else _gemma4_waves)(sound, width)
        return found
    if not isinstance(vision, Mapping):
        return ExtraWeights()
    if config.get("model_type") == "mistral3":
        return _pixtral({**_PIXTRAL, **vision}, config, width)
    wide = read_size(vision, "embed_dim", "hidden_size", "width")
    ffn = read_size(vision, "intermediate_size", default=4 * wide)
    layers = read_size(vision, "num_hidden_layers", "depth", "layers", most=MOST_LAYERS)
    return ExtraWeights(other=layers * (4 * wide * wide + 2 * wide * ffn))


def _pixtral(vision: Mapping[str, Any], config: Mapping[str, Any], width: int) -> ExtraWeights:
    """Return those of transformers' PixtralVisionModel and Mistral3MultiModalProjector."""
    wide, ffn = read_size(vision, "hidden_size"), read_size(vision, "intermediate_size")
    layers = read_size(vision, "num_hidden_layers", most=MOST_LAYERS)
    merged = read_size(config, "spatial_merge_size", default=2) ** 2
    taken = config.get("vision_feature_layer")
    features = len(taken) if isinstance(taken, list) else 1
    patch = read_size(vision, "num_channels") * read_size(vision, "patch_size") ** 2
    tower = layers * (4 * wide * wide + 3 * wide * ffn)
    projector = merged * wide * wide + features * wide * width + width * width
    biases = 2 * width if config.get("multimodal_projector_bias") else 0
    norms = (2 * layers + 2) * wide
    return ExtraWeights(linear=tower + projector, other=patch * wide + norms + biases)


def _gemma4_images(given: Mapping[str, Any], width: int) -> ExtraWeights:
    """Return those of transformers' Gemma4VisionModel and its Gemma4MultimodalEmbedder."""
    vision = {**_GEMMA_4, **given}
    wide, ffn = read_size(vision, "hidden_size"), read_size(vision, "intermediate_size")
    layers = read_size(vision, "num_hidden_layers", most=MOST_LAYERS)
    head = read_size(vision, "head_dim")
    heads = read_size(vision, "num_attention_heads") + read_size(vision, "num_key_value_heads")
    patch = 3 * read_size(vision, "patch_size") ** 2
    positions = 2 * read_size(vision, "position_embedding_size") * wide
    return ExtraWeights(
        linear=layers * (2 * wide * heads * head + 3 * wide * ffn) + (patch + width) * wide,
        other=positions + layers * (4 * wide + 2 * head),
    )


def _gemma4_sound(given: Mapping[str, Any], width: int) -> ExtraWeights:
    """Return those of transformers' Gemma4AudioModel and its Gemma4MultimodalEmbedder.

    Of each layer 24 products as wide as the model: 16 of two feed-forward blocks, 5 of attention
    and 3 of the convolution.
    """
    sound = {**_GEMMA_4_SOUND, **given}
    wide, out = read_size(sound, "hidden_size"), read_size(sound, "output_proj_dims")
    layers = read_size(sound, "num_hidden_layers", most=MOST_LAYERS)
    head = wide // read_size(sound, "num_attention_heads")
    taken = sound.get("subsampling_conv_channels")
    first, last = taken if isinstance(taken, list) and len(taken) == 2 else (128, 32)
    kernels = 9 * first * (1 + last) + first + last
    return ExtraWeights(
        linear=layers * 24 * wide * wide + first // 4 * last * wide + wide * out + out * width,
        other=layers * ((9 + read_size(sound, "conv_kernel_size")) * wide + head) + kernels + out,
    )


def _gemma4_patches(given: Mapping[str, Any], width: int) -> ExtraWeights:
    """Return those of transformers' Gemma4UnifiedVisionEmbedder, which has no tower."""
    wide = read_size(given, "mm_embed_dim", default=3_840)
    edge = read_size(given, "patch_size", default=16) * read_size(
        given, "pooling_kernel_size", default=3
    )
    pixels = 3 * edge * edge
    positions = 2 * read_size(given, "mm_posemb_size", default=1_120) * wide
    out = read_size(given, "output_proj_dims", default=3_840)
    return ExtraWeights(linear=pixels * wide + out * width, other=positions + 2 * pixels + 5 * wide)


def _gemma4_waves(given: Mapping[str, Any], width: int) -> ExtraWeights:
    """Return those of transformers' Gemma4UnifiedMultimodalEmbedder for sound."""
    return ExtraWeights(linear=read_size(given, "audio_embed_dim", default=640) * width)
