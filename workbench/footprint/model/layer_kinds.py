"""The kinds of layers of a model whose layers are unlike, each as the shape of a model of its own.

Bytes and weights are then counted kind by kind, with the formulas of models whose layers are alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from workbench.footprint.model.extra_weights import (
    Gemma4Layer,
    kinds_of,
    layer_of_gemma4,
)

Changes = dict[str, Any]
"""Fields of a ModelShape in which a kind of layer differs from the model's."""


def layer_kinds(shape: Any, config: Mapping[str, Any]) -> list[Changes]:
    """Return the changes of each kind of layer, with the number of layers; [] if all are alike.

    `shape` is the model's ModelShape without kinds, `config` the text model's config.json.
    """
    if shape.kind.startswith("gemma4"):
        each = [layer_of_gemma4(config, shape.layers, at) for at in range(shape.layers)]
        return [_gemma4(shape, one, count) for one, count in Counter(each).items()]
    if shape.kind.startswith("qwen3_5"):
        return _qwen3_5(shape, config)
    return []


def _gemma4(shape: Any, layer: Gemma4Layer, count: int) -> Changes:
    """Return those of layers of Gemma 4 that are like this one."""
    width, ffn = shape.width, layer.ffn
    q, kv = shape.heads * layer.head_dim, layer.kv_heads * layer.head_dim
    stated = {"q_proj": (width, q), "k_proj": (width, kv), "v_proj": (width, kv)}
    for name in ("v_proj", "k_proj")[: 2 - layer.own]:
        del stated[name]
    stated |= {"o_proj": (q, width), "gate_proj": (width, ffn), "up_proj": (width, ffn)}
    stated["down_proj"] = (ffn, width)
    if layer.table:
        stated["per_layer_input_gate"] = (width, layer.table)
        stated["per_layer_projection"] = (layer.table, width)
    return {
        "layers": count,
        "head_dim": layer.head_dim,
        "kv_heads": layer.kv_heads,
        "ffn": ffn,
        "table_width": layer.table,
        "stated": stated,
    }


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
