"""Lines of the New run page: settings, mistakes, a bar of bytes for each card, the data check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tui.paint import Line, Part, cut_text, done_bar, plain_part
from tui.tables.cards import short_name
from tui.widgets.columns import Column
from tui.widgets.lazy_rows import ListRow
from workbench import formatting
from workbench.service import CardRow, Snapshot, TrialRow
from workbench.trial import State

Answer = Mapping[str, Any]
RECIPES = (Column(title="", width=12, grow=1),)
SETTINGS = (
    Column(title="", width=1),
    Column(title="setting", width=18, most=30, grow=1),
    Column(title="value", width=10, grow=3),
)
_BAR = 24
"""Cells of a card's bar."""
_NAME = 14


def recipe_rows(known: Sequence[Mapping[str, str]]) -> list[ListRow]:
    """Return a row for each recipe: its name, and its first sentence."""
    return [
        ListRow(
            str(place),
            ((plain_part(one["name"]), ("  ", ""), plain_part(one["about"], "dim", 120)),),
        )
        for place, one in enumerate(known)
    ]


def setting_rows(answer: Answer) -> list[ListRow]:
    """Return a row for each setting, the changed ones first and marked."""
    changed = set(answer.get("changed", ()))
    settings = [(str(key), str(value)) for key, value in answer.get("settings", ())]
    settings.sort(key=lambda pair: pair[0] not in changed)
    return [
        ListRow(
            key,
            (
                (("▸" if key in changed else " ", "accent"),),
                (plain_part(key, "" if key in changed else "dim"),),
                (plain_part(value, "bold" if key in changed else ""),),
            ),
        )
        for key, value in settings
    ]


def about_lines(answer: Answer) -> list[Line]:
    """Return the recipe's name, model and number of trials; or its mistakes with their hint."""
    if not answer:
        return [(("reading the recipe …", "dim"),)]
    if not answer["ok"]:
        wrong = _mistake_lines(answer["error"])
        hint = answer.get("hint") or ""
        return [*wrong[:6], *([(("  → ", "dim"), plain_part(hint, "accent", 300))] if hint else [])]
    many = formatting.sweep_size(answer["trials"])
    parallel = answer.get("max_parallel")
    limit = f", {parallel} at once at most" if parallel else ""
    line: Line = (
        plain_part(answer["name"], "bold", 60),
        ("  ", ""),
        plain_part(answer["model"], "", 80),
        (f"  {many}{limit}", "dim"),
    )
    return [line, *[(("! ", "warn"), plain_part(w, "warn", 300)) for w in answer["warnings"]]]


def card_lines(answer: Answer, snapshot: Snapshot | None, now: float) -> list[Line]:
    """Return for each card a bar of the predicted peak, and when a trial would begin there."""
    if not answer or not answer.get("ok"):
        return []
    if unplanned := answer.get("unplanned"):
        lines: list[Line] = [(("not planned: ", "dim"), plain_part(unplanned, "warn", 400))]
        advice = answer.get("advice")
        return lines + ([(("  → ", "dim"), plain_part(advice, "accent", 300))] if advice else [])
    lines = []
    numbers = {uuid: slot[0] for uuid, slot in snapshot.slots.items()} if snapshot else {}
    for one in sorted(answer["cards"], key=lambda one: numbers.get(one["uuid"], len(numbers))):
        lines.append(_card_line(one, snapshot, now))
        lines += [(("  → ", "dim"), plain_part(t, "accent", 200)) for t in one["suggestions"][:3]]
    if answer["cards"]:
        lines.append(_how(answer["cards"][0]))
    worst = answer.get("worst")
    if worst:
        words = "  ".join(f"{key}={value}" for key, value in worst.items())
        lines.append((("planned for what its sweep takes most: ", "dim"), plain_part(words)))
    return lines


def _card_line(one: Mapping[str, Any], snapshot: Snapshot | None, now: float) -> Line:
    peak, room = int(one["peak_bytes"]), int(one["room_bytes"])
    share = min(1.0, peak / max(1, room))
    tone = "bad" if not one["fits"] else "warn" if share > 0.95 else "live"
    number = snapshot.slots.get(one["uuid"]) if snapshot else None
    label = short_name(one["name"]) if number is None else f"{number[0]} {short_name(one['name'])}"
    name = cut_text(plain_part(label)[0], _NAME)
    fits: Part = ("fits", "good") if one["fits"] else ("does not fit", "bad")
    return (
        (f"{name:<{_NAME}} ", "bold"),
        *done_bar(share, _BAR, tone),
        (f" {formatting.size_of_total(peak, room):>15}  ", ""),
        fits,
        *((("  ", ""), _begins(one, snapshot, now)) if one["fits"] else ()),
    )


def _begins(one: Mapping[str, Any], snapshot: Snapshot | None, now: float) -> Part:
    """Return when a trial would begin on this card."""
    cards = snapshot.cards if snapshot else []
    card = next((card for card in cards if card.uuid == one["uuid"]), None)
    if snapshot is None or card is None:
        return ("", "")
    if why := _closed(card):
        return (why, "warn")
    waiting = sum(row.state is State.QUEUED for row in snapshot.trials)
    behind = f", behind {formatting.plural(waiting, 'waiting trial')}" if waiting else ""
    trial = next((row for row in snapshot.trials if row.id == card.trial), None)
    if trial is None:
        return (f"free now{behind}", "dim" if waiting else "good")
    return (f"after trial {trial.id}{_left(trial, now)}{behind}", "dim")


def _closed(card: CardRow) -> str:
    if not card.present:
        return "absent"
    if card.quarantined:
        return "quarantined"
    return "drained" if card.drained else card.guard


def _left(trial: TrialRow, now: float) -> str:
    left_s = trial.seconds_left(now)
    return "" if left_s is None else f" in {formatting.rough_duration(left_s)}"


def _how(one: Mapping[str, Any]) -> Line:
    words = [
        one["precision"],
        one["attention"],
        *(f"{name} {value}" for name, value in one["how"].items()),
    ]
    return (("how  ", "dim"), plain_part(" · ".join(map(str, words)), "dim", 300))


def _mistake_lines(error: str) -> list[Line]:
    """Return a line for each mistake, without the option -s that commands put before a setting."""
    return [
        (("✗ ", "bad"), plain_part(line.removeprefix("-s "), "bad", 600))
        for line in error.split("\n")
    ]


def check_lines(result: Answer | None, running_s: float | None) -> list[Line]:
    """Return what the data check found; `running_s` are the seconds it has run, if it runs."""
    if running_s is not None:
        return [((f"◐ checking the data … {formatting.rough_duration(running_s)}", "live"),)]
    if result is None:
        return [(("ctrl+k", "accent"), (" reads the data as training would see it", "dim"))]
    if not result.get("ok"):
        lines = _mistake_lines(result.get("error", ""))
        hint = result.get("hint")
        return lines + ([(("  → ", "dim"), plain_part(hint, "accent", 400))] if hint else [])
    data = result["data"]
    facts = (
        f"{data.get('packed_rows') or data['train_rows']:,} rows to train on, "
        f"{data['eval_rows']:,} held out, shape {data['shape']}; "
        f"{data['target_tokens']:,} tokens carry loss; "
        f"{data['median_length']:,} tokens in the median row, {data['max_length']:,} at most"
    )
    warned = [(("! ", "warn"), plain_part(w, "warn", 300)) for w in result.get("warnings", ())[:4]]
    return [(("✓ ", "good"), plain_part(facts)), *warned]
