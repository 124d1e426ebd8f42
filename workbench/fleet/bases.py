"""Labels of bases, by which the scheduler and the machines of a cluster speak of their weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workbench.recipe.names import is_shipped


def base_label(model: Mapping[str, Any], prepared: Mapping[str, Any] | None) -> str:
    """Return the text that is equal for equal weights: `org/model@commit`, or a folder of the head.

    `model` is the recipe's section, `prepared` what preparation found of the experiment. Empty for
    a model that ships, which every machine has. It decides where a trial starts soonest; which
    files a trial gets is decided by their digests.
    """
    name = str(model["name"])
    if is_shipped(name):
        return ""
    return hub_label(name, ((prepared or {}).get("model") or {}).get("revision"))


def hub_label(name: str, revision: str | None) -> str:
    """Return the label of a model of the hub; of a folder, which has no revision, its path."""
    return f"{name}@{revision}" if revision else name
