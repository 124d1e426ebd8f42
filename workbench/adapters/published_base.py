"""The name and commit under which a stranger can load a base that is a folder on this machine."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from workbench.errors import NotThere
from workbench.recipe.names import local_path

_SNAPSHOT = re.compile(
    r".*/models--(?P<owner>[\w.-]+?)--(?P<name>[\w.-]+)/snapshots/(?P<commit>[0-9a-f]{40})/?\Z"
)
"""A folder of the hub's cache; see huggingface.co/docs/huggingface_hub/guides/manage-cache."""


@dataclass(frozen=True, slots=True)
class PublishedBase:
    """A base as PEFT loads it."""

    name: str
    """A hub id, or a folder of this machine where no hub id is known."""
    revision: str | None
    """The commit on the hub; None for a folder."""


def published_base(name: str, revision: str | None = None) -> PublishedBase:
    """Return the base as others can load it.

    A hub id stays as it is. A folder of the hub's cache names its repository and its commit; any
    other folder, and a shipped model, can only be loaded on this machine. A folder's config.json
    is not asked: it names what its weights were trained from, which may be another model.
    """
    try:
        folder = local_path(name)
    except NotThere:
        return PublishedBase(name, revision)
    if folder is None:
        return PublishedBase(name, revision)
    whole = os.path.abspath(folder)  # not its real path: the cache's files are links, not folders
    if found := _SNAPSHOT.match(whole):
        return PublishedBase(f"{found['owner']}/{found['name']}", found["commit"])
    return PublishedBase(str(folder), None)
