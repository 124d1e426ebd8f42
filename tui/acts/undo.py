"""The request that reverts another one, for all requests that act without a question."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tui.messages import Wish
from workbench.service import Experiment, Snapshot, TrialRow

_OPPOSITES = {"pause": "resume", "resume": "pause", "undrain": "drain", "drain": "undrain"}


def undo_request(wish: Wish, snapshot: Snapshot | None) -> Wish | None:
    """Return the request that reverts `wish`, as things are before it; None where there is none."""
    args = wish.args
    if wish.verb in _OPPOSITES and not args.get("quarantine"):
        named = {key: args[key] for key in ("trial", "card") if key in args}
        return Wish(_OPPOSITES[wish.verb], {**named, **_drain_now(wish.verb)})
    if wish.verb in ("hold", "release"):
        return Wish("release" if wish.verb == "hold" else "hold", args)
    if snapshot is None:
        return None
    if wish.verb in ("order", "move"):
        row = next((row for row in snapshot.trials if row.id == args["trial"]), None)
        return None if row is None else _place_again(wish.verb, row)
    if wish.verb in ("priority", "max-parallel"):
        known = (one for one in snapshot.experiments if one.id == args["experiment"])
        one = next(known, None)
        return None if one is None else _setting_again(wish.verb, one)
    return None


def _drain_now(verb: str) -> Mapping[str, Any]:
    return {"now": False} if verb == "undrain" else {}


def _place_again(verb: str, row: TrialRow) -> Wish:
    if verb == "order":
        return Wish("order", {"trial": row.id, "to": "place", "rank": row.rank})
    before = row.card if row.state.live else row.desired_card
    return Wish("move", {"trial": row.id, "card": before or "any"})


def _setting_again(verb: str, one: Experiment) -> Wish:
    if verb == "priority":
        return Wish("priority", {"experiment": one.id, "priority": one.priority})
    return Wish("max-parallel", {"experiment": one.id, "limit": one.max_parallel})
