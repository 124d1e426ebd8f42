"""The look at adapters before a card is needed: once, while their experiment is prepared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from workbench.adapters.adapter_folder import (
    TEMPLATE,
    AdapterFolder,
    adapter_digest,
    read_adapter,
)
from workbench.adapters.base_names import check_base_name, is_mirror
from workbench.adapters.subjects import Subjects
from workbench.errors import NotThere, WorkbenchError
from workbench.text import safe_line
from workbench.training.model.saved_adapter import check_fits_base

_MOST_TEMPLATE_BYTES = 1 << 20


def describe_subjects(
    subjects: Subjects, base_name: str, base: nn.Module | None, templates: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the subjects with what was found in each folder; see `adapters.subjects`.

    `base` is the model without data, None where its files are not here yet; `templates` are chat
    templates that make the prompts of its rows. A folder that cannot be scored gets `error` and
    `hint`: its own trial fails with them, and the others are scored. Reads the weights of each
    folder once, for their digest.
    """
    found: list[dict[str, Any]] = []
    for one in subjects.adapters:
        if isinstance(one, int):
            found.append({"trial": one})
            continue
        about: dict[str, Any] = {"folder": one}
        try:
            read = read_adapter(Path(one))
            if not subjects.same_base:
                check_base_name(read, base_name)
            if base is not None:
                check_fits_base(base, read)
            about |= {
                "digest": adapter_digest(read.folder),
                "parameters": read.parameters,
                "rank": read.rank,
                "notes": _notes(read, base_name, templates),
            }
        except NotThere as gone:
            hint = "put the folder back, and evaluate it again"
            about |= {"error": f"the adapter is gone: {gone.what}", "hint": hint}
        except WorkbenchError as refused:
            about |= {"error": refused.what, "hint": refused.hint}
        found.append(about)
    return found


def _notes(found: AdapterFolder, base_name: str, templates: Sequence[str]) -> list[str]:
    notes = []
    theirs = found.settings.base
    if theirs != base_name and is_mirror(theirs):
        notes.append(
            f"it was trained on {safe_line(theirs, 160)}, a copy of {safe_line(base_name, 160)}, "
            "and is scored on the latter"
        )
    own = own_template(found.folder)
    if own is not None and own.strip() not in {one.strip() for one in templates or [""]}:
        notes.append(
            "its folder has another chat template than the base: its scores are for prompts that "
            "it was not trained on"
        )
    return notes


def own_template(folder: Path) -> str | None:
    """Return the chat template in an adapter's folder; None without one, or where it is unreadable.

    Newer versions of transformers write a file, older ones a key of tokenizer_config.json.
    """
    try:
        for name in (TEMPLATE, "tokenizer_config.json"):
            file = folder / name
            if not file.is_file() or file.stat().st_size > _MOST_TEMPLATE_BYTES:
                continue
            text = file.read_text(encoding="utf-8")
            if name.endswith(".jinja"):
                return text
            found = json.loads(text).get("chat_template")
            if isinstance(found, str):
                return found
    except (OSError, ValueError, AttributeError):
        return None
    return None
