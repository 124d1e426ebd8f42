"""The layers of a base that an adapter reaches, and those that it leaves out."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from torch import nn

from workbench.training.model.linear_layers import adaptable, decoder_layers


def adapted_layers(model: nn.Module, targets: list[str]) -> dict[str, int]:
    """Return the number of linear layers that get an adapter, by the last part of their name.

    `targets` is the first result of `find_targets`.
    """
    return dict(
        Counter(
            name.rpartition(".")[2] for name, _, _ in adaptable(model) if _is_target(name, targets)
        )
    )


def reach_notes(model: nn.Module, targets: list[str]) -> list[str]:
    """Return notes about parts of some layers that get no adapter, though their like in others do.

    In Qwen 3.5 the attention of every fourth layer has q_proj; the linear attention of the others
    has projections of other names, which targets named after a Llama's never reach.
    """
    count = len(decoder_layers(model))
    parts: dict[str, _Part] = defaultdict(_Part)
    for name, _, layer in adaptable(model):
        if layer is None:
            continue
        path = name.split(".")
        part = parts[path[-2] if len(path) > 1 else ""]
        part.layers.add(layer)
        part.names.setdefault(path[-1])
        part.adapted |= {layer} if _is_target(name, targets) else set()
    notes = []
    # A part that all layers have is left out by intention: `targets: [q_proj, v_proj]`.
    for title, part in parts.items():
        if not part.adapted and len(part.layers) < count:
            where = _numbered(part.layers, count)
            notes.append(
                f"lora.targets: {where} have a {title} that gets no adapter "
                f"({', '.join(part.names)}); write targets: all-linear, or name these"
            )
    bare = set(range(count)).difference(*(part.adapted for part in parts.values()))
    if bare:
        notes.append(f"lora.targets: {_numbered(bare, count)} get no adapter at all")
    return notes


@dataclass(slots=True)
class _Part:
    """A part of decoder layers, for example their attention."""

    layers: set[int] = field(default_factory=set)
    adapted: set[int] = field(default_factory=set)
    names: dict[str, None] = field(default_factory=dict)


def _is_target(name: str, targets: list[str]) -> bool:
    """Return True if PEFT's LoRA puts an adapter on a linear layer of that full name."""
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _numbered(layers: set[int], count: int) -> str:
    """Return `6 of 8 layers (0-2, 4-6)`, with the layers counted from 0."""
    runs: list[list[int]] = []
    for number in sorted(layers):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    words = [str(first) if first == last else f"{first}-{last}" for first, last in runs]
    return f"{len(layers)} of {count} layers ({', '.join(words)})"
