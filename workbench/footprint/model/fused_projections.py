"""Projections that some models compute as one, and the meaning of a recipe's targets there."""

from __future__ import annotations

from collections.abc import Collection, Iterable

_QKV, _GATE_UP = frozenset({"q_proj", "k_proj", "v_proj"}), frozenset({"gate_proj", "up_proj"})
FUSED_PROJECTIONS = {
    "qkv_proj": _QKV,
    "query_key_value": _QKV,
    "Wqkv": _QKV,
    "W_pack": _QKV,
    "gate_up_proj": _GATE_UP,
}
"""Projections in which a model computes several of Llama's at once, and the names of those."""


def with_fused(targets: Iterable[str], present: Collection[str]) -> list[str]:
    """Return the targets with a fused projection of the model in place of all its parts, in order.

    `present` holds the names of the model's projections. A Phi-3 has `qkv_proj` where a Llama has
    q_proj, k_proj and v_proj: an adapter on all three is one on `qkv_proj` there. A target that is
    only one of the parts stays as it is, because an adapter on it alone cannot be had.
    """
    found = list(dict.fromkeys(targets))
    for fused, parts in FUSED_PROJECTIONS.items():
        if fused in present and parts <= set(found) and not parts & set(present):
            first = min(found.index(part) for part in parts)
            found[first] = fused
            found = [name for name in found if name not in parts]
    return list(dict.fromkeys(found))
