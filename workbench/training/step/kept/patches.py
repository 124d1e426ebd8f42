"""The changes that a step makes to a model's modules, taken off and put on again as one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from torch import nn

_ABSENT = object()
Attributes = dict[str, Any]


class Patches:
    """The attributes that changed on a model's modules, and in the modules of its code.

    Make it before the changes and call `note` after them. Both walk all modules, which takes some
    milliseconds.
    """

    def __init__(self, model: nn.Module) -> None:
        self._before: list[tuple[Attributes, Attributes]] = [
            (attributes, dict(attributes)) for attributes in _attributes_of(model)
        ]
        self._changed: list[tuple[Attributes, str, Any]] = []
        """Attributes, a name in them, and the value that is put back at the next exchange."""

    def note(self) -> None:
        """Take what has changed since the construction as the patches, which are on."""
        self._changed = [
            (attributes, name, before.get(name, _ABSENT))
            for attributes, before in self._before
            for name in {**before, **attributes}
            if attributes.get(name, _ABSENT) is not before.get(name, _ABSENT)
        ]
        self._before = []

    def exchange(self) -> None:
        """Take the patches off where they are on, and put them on where they are off."""
        found = []
        # Backwards: what was put on last is taken off first.
        for attributes, name, value in reversed(self._changed):
            found.append((attributes, name, attributes.get(name, _ABSENT)))
            if value is _ABSENT:
                attributes.pop(name, None)
            else:
                attributes[name] = value
        self._changed = found


def _attributes_of(model: nn.Module) -> Iterator[Attributes]:
    """Yield the dictionary of each module, and of each Python module of transformers they are from.

    Functions such as apply_rotary_pos_emb are replaced in the latter.
    """
    sources = set()
    for module in model.modules():
        yield module.__dict__
        sources.add(type(module).__module__)
    for name in sorted(sources):
        if name.startswith("transformers."):
            yield sys.modules[name].__dict__
