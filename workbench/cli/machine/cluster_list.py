"""`workbench cluster ls`: the boxes of a cluster as the engine's loop saw them last."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from workbench import formatting
from workbench.cli.arguments import Json
from workbench.cli.tables import as_json, out_table, print_answer, print_note
from workbench.cluster import settings
from workbench.errors import UsageError
from workbench.machine.cards import machine_of
from workbench.service import Service
from workbench.text import safe_line

STALE_S = 10.0
"""Age of the loop's list of boxes, in seconds, from which it is shown as old."""


def cluster_ls_command(as_data: Json = False) -> None:
    """List the boxes of the cluster. On a box, show whether it is connected."""
    home = Service().home
    if (joined := settings.read_joined(home)) is not None:
        state = settings.read_state(home)
        if as_data:
            as_json({"box": joined.box, "head": joined.head, **state})
        else:
            print_answer(f"{joined.box}: {state.get('state')}, {safe_line(state.get('text', ''))}")
        return
    head = settings.read_head(home)
    if head is None:
        raise UsageError("this machine is in no cluster", hint="workbench cluster up ADDRESS")
    listed = settings.read_json(settings.boxes_file(home))
    drained = Counter(machine_of(card.uuid) for card in Service().snapshot().cards if card.drained)
    boxes: list[dict[str, Any]] = [
        {**one, "drained": drained[one["box"]]} for one in listed.get("boxes", [])
    ]
    if as_data:
        as_json({"address": head.address, "boxes": boxes, "at_utc": listed.get("at_utc")})
        return
    if time.time() - listed.get("at_utc", 0.0) > STALE_S:
        print_note("the engine does not answer: this list is old")
    _print_boxes(boxes)


def _print_boxes(boxes: list[dict[str, Any]]) -> None:
    if not boxes:
        print_note("no box has joined yet; `workbench cards` lists this machine's cards")
        return
    heads = ["box", "address", "state", "cards", "free disk", "clock", "files"]
    rows = [
        (
            safe_line(one["box"]),
            safe_line(one["address"]),
            safe_line(one["state"]),
            _cards(one),
            formatting.size(one.get("free_bytes")),
            _skew(one.get("skew_s")),
            _moving(one),
        )
        for one in boxes
    ]
    out_table(heads, rows, right=("cards", "free disk"), flexible=heads[0])
    for one in boxes:
        if text := one.get("problem") or one.get("skewed"):
            print_answer(f"{safe_line(one['box'])}: {safe_line(text)}")


def _cards(one: dict[str, Any]) -> str:
    cards, drained = one.get("cards", "-"), one["drained"]
    return f"{cards}, {drained} drained" if drained else str(cards)


def _skew(skew_s: float | None) -> str:
    if skew_s is None:
        return "-"
    return "agrees" if abs(skew_s) < formatting.SKEW_S else f"{skew_s:+.0f} s"


def _moving(one: dict[str, Any]) -> str:
    if not one.get("to_send_bytes"):
        return "-"
    sent, all_bytes = formatting.size(one["sent_bytes"]), formatting.size(one["to_send_bytes"])
    return f"{sent} of {all_bytes} sent"
