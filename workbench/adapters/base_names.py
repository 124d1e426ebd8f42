"""Names of base models: whether an adapter was trained on the base that it is scored on."""

from __future__ import annotations

import os
import re

from workbench.adapters.adapter_folder import AdapterFolder
from workbench.adapters.published_base import published_base
from workbench.errors import CheckpointError, NotThere
from workbench.recipe.names import is_local, is_shipped, local_path
from workbench.text import safe_line

_MIRROR = re.compile(r"(-unsloth)?-bnb-4bit\Z|-unsloth\Z", re.IGNORECASE)
"""Ends of the names under which Unsloth publishes copies of models, in 4 bits and in 16."""
_MIRROR_OWNER = "unsloth"


def same_base(trained_on: str, scored_on: str) -> bool:
    """Return True where two names of base models mean one model.

    A folder is the same as itself by any path, and the same as a hub model of its name. A copy by
    Unsloth, in 4 bits or 16, is the same as the original: its weights' names and shapes are
    compared when the adapter is put on the base. A copy by another owner may be a fine-tuned one.
    """
    if trained_on == scored_on:
        return True
    if is_local(trained_on):
        trained_on = published_base(trained_on).name
    if is_local(scored_on):
        scored_on = published_base(scored_on).name
    if trained_on == scored_on:
        return True
    one, other = _folder(trained_on), _folder(scored_on)
    if one and other:
        return os.path.realpath(one) == os.path.realpath(other)
    if is_shipped(trained_on) or is_shipped(scored_on) or _own_name(trained_on) == "":
        return False
    if _own_name(trained_on) != _own_name(scored_on):
        return False
    owners = {_owner(trained_on), _owner(scored_on)}
    return len(owners - {"", _MIRROR_OWNER}) <= 1


def check_base_name(found: AdapterFolder, base_name: str) -> None:
    """Raise CheckpointError where the adapter's configuration names another base."""
    theirs = found.settings.base
    if same_base(theirs, base_name):
        return
    named = f"was trained on {safe_line(theirs, 160)}" if theirs else "does not name its base"
    raise CheckpointError(
        f"the adapter in {safe_line(found.folder, 200)} {named}, and is to be scored on "
        f"{safe_line(base_name, 160)}",
        hint="if both are the same weights, add --same-base; else evaluate it on its own base",
    )


def is_mirror(name: str) -> bool:
    """Return True for a name that Unsloth gives to its copies of other models."""
    return bool(_MIRROR.search(name)) or _owner(name) == _MIRROR_OWNER


def _folder(name: str) -> str:
    """Return the model's folder; an empty string for a hub id and a name that does not ship."""
    try:
        return str(local_path(name) or "")
    except NotThere:
        return ""


def _owner(name: str) -> str:
    if is_local(name) or _MIRROR.search(name):
        return ""
    return name.rpartition("/")[0].lower()


def _own_name(name: str) -> str:
    """Return the name without owner or folder, the mirror's ending, and Meta's prefix.

    Unsloth's llama-3-8b-bnb-4bit is Meta's Meta-Llama-3-8B.
    """
    last = name.rstrip("/").rpartition("/")[2]
    return _MIRROR.sub("", last).lower().removeprefix("meta-")
