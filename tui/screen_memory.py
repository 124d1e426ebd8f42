"""The user's choices on the screen, kept between two visits in the home's `screen.json`.

The order and columns of the list of trials, and which failures were looked at. A file that is
missing, damaged or of another version counts as empty: it holds nothing that training needs.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from tui.tables.listing import SORTS
from tui.view_state import ViewState

_MOST = 10_000
"""Failures that are remembered, the newest by their trials' ids."""


def recall_choices(view_state: ViewState, path: Path) -> None:
    """Take over what the file remembers, and let `view_state.keep_choice` write it."""
    try:
        kept = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        kept = {}
    view_state.keep_choice = lambda: keep_choices(view_state, path)
    if not isinstance(kept, dict):
        return
    choice = view_state.choice
    choice.sort = kept["sort"] if kept.get("sort") in SORTS else ""
    choice.falling = kept.get("falling") is True
    choice.hides_ended = kept.get("hides_ended") is True
    choice.hidden |= {str(title) for title in _listed(kept, "hidden") if title in SORTS}
    view_state.seen_failures |= {id for id in _listed(kept, "seen_failures") if isinstance(id, int)}


def _listed(kept: dict[str, object], name: str) -> list[object]:
    found = kept.get(name)
    return found if isinstance(found, list) else []


def keep_choices(view_state: ViewState, path: Path) -> None:
    """Write the choices; a home that cannot be written, or is not there yet, keeps nothing."""
    choice = view_state.choice
    kept = {
        "sort": choice.sort,
        "falling": choice.falling,
        "hides_ended": choice.hides_ended,
        "hidden": sorted(choice.hidden),
        "seen_failures": sorted(view_state.seen_failures)[-_MOST:],
    }
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(json.dumps(kept))
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
