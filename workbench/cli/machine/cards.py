"""`workbench cards` and `workbench doctor`: the cards and the health of this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from workbench import formatting
from workbench.cli.arguments import Json
from workbench.cli.revival import revive_engine
from workbench.cli.tables import (
    STATE_COLOURS,
    as_json,
    colour_text,
    out_table,
    print_answer,
    print_note,
)
from workbench.errors import WorkbenchError
from workbench.service import Service
from workbench.store.rows import CardRow
from workbench.text import safe_line

if TYPE_CHECKING:
    from workbench.doctor import Check
    from workbench.machine.sampler import CardReading, MachineReading

ASK_S = 3.0
"""Seconds that a command waits for the driver."""
MEASURED = ("free_bytes", "utilisation", "temperature_c", "power_w", "power_limit_w")
"""Fields of a card that are shown while its sample is new; JSON has them with `seen_utc`."""


def cards_command(as_data: Json = False) -> None:
    """List the cards, what runs on each, and which programs of others hold memory there."""
    service = Service()
    revive_engine(service)
    snapshot = service.snapshot()
    old = {card.uuid for card in snapshot.cards if card.is_old(time.time())}
    found = [asdict(card) for card in snapshot.cards]
    if not found:
        sample = cards_asked()
        if sample.problem and not sample.cards:
            raise WorkbenchError(sample.problem, hint="`workbench doctor` shows more")
        found = [_row(card) for card in sample.cards]
    if as_data:
        as_json(found)
    elif not found:
        print_note("no card was found; `workbench doctor` says why")
    else:
        _print([card | dict.fromkeys(MEASURED) if card["uuid"] in old else card for card in found])
        if line := formatting.guards_line(snapshot.guards):
            print_note(f"guards: {line}")


def cards_asked() -> MachineReading:
    """Return the cards that WORKBENCH_CARDS and the driver report, where no engine has run.

    A child process asks the driver, because a driver can hang. Raises the errors of detect_cards.
    """
    from workbench.doctor.libraries import reading_from
    from workbench.doctor.probes import probe_cards
    from workbench.machine.cards import detect_cards

    answer = probe_cards(os.environ, ASK_S)
    sample = reading_from(answer)
    if sample.problem and not answer.get("slow"):
        detect_cards(os.environ)  # cannot hang here, and raises the error with its hint
    return sample


def _row(card: CardReading) -> dict[str, Any]:
    """Return the card as a row of the store."""
    row: dict[str, Any] = dict.fromkeys(CardRow.__dataclass_fields__)
    row |= {"present": True, "drained": False, "quarantined": "", "guard": "", "heat": ""}
    row |= {key: value for key, value in card.to_json().items() if key in row}
    row["generation"] = 0
    if card.card.capability:
        row["capability"] = ".".join(str(part) for part in card.card.capability)
    return row


def _print(found: list[dict[str, Any]]) -> None:
    heads = ["card", "name", "cc", "usable", "free", "load", "temp", "power", "energy", "doing"]
    rows = [
        (
            card["uuid"],
            card["name"],
            card["capability"] or "-",
            formatting.size(card["cap_bytes"] or card["total_bytes"]),
            formatting.size(card["free_bytes"]),
            formatting.percent(None if (load := card["utilisation"]) is None else load / 100),
            formatting.temperature(card["temperature_c"]),
            formatting.power(card["power_w"], card["power_limit_w"]),
            formatting.energy(card["energy_wh"]),
            _doing(card),
        )
        for card in found
    ]
    right = ("cc", "usable", "free", "load", "temp", "power", "energy")
    optional = ("cc", "energy", "power", "temp")
    out_table(heads, rows, right=right, flexible=heads[0], optional=optional)
    for card in found:
        for text in _ailing(card):
            print_answer(f"{card['uuid']}: {text}")


def _ailing(card: dict[str, Any]) -> Iterator[str]:
    """Yield facts about a card for which the table has no column."""
    if card["quarantined"]:
        yield f"quarantined: {safe_line(card['quarantined'])}"
    if card["guard"] and not card["quarantined"]:
        yield safe_line(card["guard"])
    programs = [one for one in card["processes"] or () if not one.get("draws")]
    if programs and not card["guard"]:
        yield f"other programs hold memory: {safe_line(formatting.describe_programs(programs))}"
    if card["xid_watch"] is False:
        yield f"Xid errors: {formatting.xid_watch(False)}"


def _doing(card: dict[str, Any]) -> str:
    if not card["present"]:
        return "absent"
    if card["quarantined"]:
        return "quarantined"
    if card["problem"]:
        return f"problem: {safe_line(card['problem'])}"
    if card["trial"] is None and card["guard"]:
        return "in use by others"
    if card["trial"] is not None:
        return f"trial {card['trial']}" + (", then drained" if card["drained"] else "")
    return "drained" if card["drained"] else "idle"


def print_check(check: Check) -> None:
    """Print the result of a check, with its hint where there is something to do."""
    status = colour_text(f"{check.status:<4}", STATE_COLOURS[check.status])
    print(f"{status}  {safe_line(check.name)}: {safe_line(check.finding)}", flush=True)
    if check.hint and check.status != "ok":
        print_answer(f"      → {safe_line(check.hint, 2_000)}")


def doctor_command(as_data: Json = False) -> None:
    """Check this machine; every problem comes with its hint."""
    from workbench.doctor import run_checks

    rows = []
    for check in run_checks():
        rows.append(asdict(check))
        if not as_data:
            print_check(check)
    if as_data:
        as_json(rows)
    raise typer.Exit(1 if any(row["status"] == "fail" for row in rows) else 0)
