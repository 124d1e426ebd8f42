"""The kinds of layers of a model whose layers are unlike, each as the shape of a model of its own.

Bytes and weights are then counted kind by kind, with the formulas of models whose layers are alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workbench.footprint.model.extra_weights import kinds_of

Changes = dict[str, Any]
"""Fields of a ModelShape in which a kind of layer differs from the model's."""


def layer_kinds(shape: Any, config: Mapping[str, Any]) -> list[Changes]:
    """Return the changes of each kind of layer, with the number of layers; [] if all are alike.

    `shape` is the model's ModelShape without kinds, `config` the text model's config.json.
    """
    if shape.kind.startswith("qwen3_5"):
        return _qwen3_5(shape, config)
    return []


def _qwen3_5(shape: Any, config: Mapping[str, Any]) -> list[Changes]:
    """Return those of Qwen 3.5: gated delta layers, and full attention with gated queries."""
    full = kinds_of(config, shape.layers, 4).count("full_attention")
    width, ffn, delta = shape.width, shape.ffn, shape.delta
    gates = {"gate_proj": (width, ffn), "up_proj": (width, ffn), "down_proj": (ffn, width)}
    found: list[Changes] = []
    if full:
        attention = {
            "q_proj": (width, 2 * shape.q_width),  # and the gates of attention's output
            "k_proj": (width, shape.kv_width),
            "v_proj": (width, shape.kv_width),
            "o_proj": (shape.q_width, width),
        }
        stated = {**attention, **gates}
        found.append({"layers": full, "delta": None, "gated": True, "stated": stated})
    if delta is not None:
        keys, values = delta.key_heads * delta.key_width, delta.value_heads * delta.value_width
        mixer = {
            "in_proj_qkv": (width, 2 * keys + values),
            "in_proj_z": (width, values),
            "in_proj_b": (width, delta.value_heads),
            "in_proj_a": (width, delta.value_heads),
            "out_proj": (values, width),
        }
        found.append({"layers": delta.count, "stated": {**mixer, **gates}})
    return found
