"""The one place where values become short text for people, on the command line and on the screen.

Sizes, durations, times, numbers, rates and scores are those of `text.quantities`; settings, cards
and states are added here. Every function is pure and returns one line of plain text; colour and
column widths belong to the callers. JSON output never passes through here: it keeps the values
themselves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from workbench.machine.cards import GPU_START_GAP_S
from workbench.store.rows import CardRow, TrialRow
from workbench.text import safe_line
from workbench.text.quantities import UNKNOWN as UNKNOWN
from workbench.text.quantities import age as age
from workbench.text.quantities import clock as clock
from workbench.text.quantities import date_time as date_time
from workbench.text.quantities import duration as duration
from workbench.text.quantities import not_finite, short_exponent
from workbench.text.quantities import not_significant as not_significant
from workbench.text.quantities import number as number
from workbench.text.quantities import ordinal as ordinal
from workbench.text.quantities import p_value as p_value
from workbench.text.quantities import percent as percent
from workbench.text.quantities import plural as plural
from workbench.text.quantities import rate as rate
from workbench.text.quantities import relative_change as relative_change
from workbench.text.quantities import rough_duration as rough_duration
from workbench.text.quantities import score as score
from workbench.text.quantities import size as size
from workbench.text.quantities import size_of_total as size_of_total
from workbench.text.quantities import steps as steps
from workbench.text.quantities import time_left as time_left
from workbench.text.quantities import time_left_phrase as time_left_phrase
from workbench.text.quantities import whole_gib_of_total as whole_gib_of_total
from workbench.trial import KILLED as KILLED
from workbench.trial import DesiredState, Kind, State, up_is_better
from workbench.trial import outcome_word as outcome_word

STATE_ORDER = (
    "running",
    "starting",
    "queued",
    "paused",
    "done",
    "pruned",
    "stopped",
    KILLED,
    "failed",
)
_PENDING_WORDS = {
    DesiredState.PAUSE: "pausing",
    DesiredState.STOP: "stopping",
    DesiredState.KILL: "killing",
}
_COUNTS = ("answers", "rows", "targets")
"""Scores that say how much was scored, and not how well."""
_SHORT_KEYS = {
    "learning_rate": "lr",
    "batch_size": "batch",
    "accumulation": "accum",
    "weight_decay": "decay",
    "max_tokens": "tokens",
    "gradient_checkpointing": "recompute",
}

# --- cards ---


def energy(watt_hours: float | None) -> str:
    """Return `0.42 Wh`, `37 Wh` or `1.24 kWh`."""
    if watt_hours is None:
        return UNKNOWN
    if watt_hours >= 1_000:
        return f"{watt_hours / 1_000:.2f} kWh"
    return f"{watt_hours:.0f} Wh" if watt_hours >= 10 else f"{watt_hours:.2g} Wh"


def temperature(degrees_c: float | None) -> str:
    """Return `61 °C`."""
    return UNKNOWN if degrees_c is None else f"{degrees_c:.0f} °C"


def power(watts: float | None, limit_w: float | None = None) -> str:
    """Return `212 W`, or `212 of 350 W` where the card's limit is known."""
    if watts is None:
        return UNKNOWN
    return f"{watts:.0f} W" if limit_w is None else f"{watts:.0f} of {limit_w:.0f} W"


def heat_limits(guards: Mapping[str, Any]) -> str:
    """Return the temperatures at which the engine reacts; empty without an engine's guards."""
    if not guards:
        return ""
    start, pause = guards["no_start_above_c"], guards["pause_above_c"]
    return f"no new trial above {start:g} °C, pauses above {pause:g} °C"


def guards_line(guards: Mapping[str, Any]) -> str:
    """Return every limit the engine keeps to, on one line; empty without an engine's guards."""
    if not guards:
        return ""
    gap = guards["start_gap_s"]
    floor = f"disk floor {size(guards['disk_floor'])}, reserve file {size(guards['ballast'])}"
    shares = "shares cards in use" if guards["share"] else _idle_sharing(guards.get("idle_below"))
    gaps = (
        f"{GPU_START_GAP_S:g} s between starts of GPUs at rest"
        if gap is None
        else f"{gap:g} s between starts of cards at rest"
    )
    return f"{heat_limits(guards)}; {gaps}; {shares}; {floor}"


def _idle_sharing(idle_below: int | None) -> str:
    """Return beside whose programs trials run, by guards.idle_below."""
    if idle_below == 0:
        return "leaves cards in use alone"
    most = "" if idle_below is None else f" below {size(idle_below)}"
    return f"shares cards with idle programs{most}"


def describe_programs(programs: Sequence[Mapping[str, Any]]) -> str:
    """Return `pid 4711 (python, 0.5 GiB) and 2 more`, the largest first; empty without any.

    `programs` are those of `CardRow.processes`.
    """
    if not programs:
        return ""
    first = max(programs, key=lambda one: int(one.get("bytes") or 0))
    held = first.get("bytes")
    facts = [str(first.get("name") or ""), "" if held is None else f"{held / 2**30:.1f} GiB"]
    shown = ", ".join(fact for fact in facts if fact)
    more = f" and {len(programs) - 1} more" if len(programs) > 1 else ""
    return f"pid {first.get('pid')}" + (f" ({shown})" if shown else "") + more


SKEW_S = 1.0
"""Difference of two machines' clocks, in seconds, from which it is shown and corrected."""


def clock_skew(seconds: float) -> str:
    """Return `+1.5 s from the head's`: how far the clock of another machine of a cluster is off."""
    return f"{seconds:+.1f} s from the head's"


def cards_used(cards: Sequence[CardRow], slots: Mapping[str, tuple[int, str]]) -> str:
    """Return `1 of 2 cards used: card 1 is in use by pid 4711 (python, 0.5 GiB)`.

    Empty while every card may get trials. `slots` has the cards' numbers in nvidia-smi; a card
    without one is called by its id.
    """
    here = [card for card in cards if card.present]
    left_out = [(card, why) for card in here if (why := _left_out_because(card))]
    if not left_out:
        return ""
    reasons = "; ".join(
        f"{f'card {slots[card.uuid][0]}' if card.uuid in slots else short_uuid(card.uuid)} {why}"
        for card, why in left_out
    )
    return f"{len(here) - len(left_out)} of {plural(len(here), 'card')} used: {reasons}"


def _left_out_because(card: CardRow) -> str:
    """Return why the card has no trial and gets none; empty for a card that may get one."""
    if card.trial is not None:
        return ""
    if card.quarantined:
        return "is quarantined"
    if card.drained:
        return "is drained"
    if card.problem:
        return f"has a problem: {safe_line(card.problem)}"
    return safe_line(f"is {card.guard}" if card.guard.startswith("in use") else card.guard)


def xid_watch(watched: bool | None) -> str:
    """Return whether the driver reports Xid errors of a card; empty for a card without them."""
    if watched is None:
        return ""
    return "watched" if watched else "not reported by its driver (see dmesg for Xid)"


def short_uuid(uuid: str) -> str:
    """Return `GPU-6f1a` of `GPU-6f1a2b3c-…`, behind the name of its box if it has one; other ids as
    they are. 16 characters at most.
    """
    box, colon, own = uuid.rpartition(":")
    own = own[:8] if own.startswith("GPU-") else own
    # The end of the id tells cards apart, so a long name of a box gives way.
    return safe_line(f"{box[: max(1, 15 - len(own))]}{colon}{own}", limit=16)


def named_score(name: str, value: float | None) -> str:
    """Return a score with three decimals, and a count of rows, answers or tokens without any."""
    return number(value) if name in _COUNTS else score(value)


def ranking_rule(rank_by: str) -> str:
    """Return the metric that ranks and its direction: `loss (lower is better)`."""
    return f"{rank_by} ({'higher' if up_is_better(rank_by) else 'lower'} is better)"


# --- settings ---


def setting_text(value: object) -> str:
    """Return a value as it can be typed in a recipe: `true`, `null`, `0.0002`, `[a, b]`.

    A float keeps all its digits, so that the text read back gives the same number.
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _float_setting(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(setting_text(one) for one in value) + "]"
    if isinstance(value, Mapping):
        pairs = (f"{safe_line(key)}: {setting_text(one)}" for key, one in value.items())
        return "{" + ", ".join(pairs) + "}"
    return safe_line(value)


def _float_setting(value: float) -> str:
    if not math.isfinite(value):
        return not_finite(value)
    if value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    text = repr(value)
    return short_exponent(text) if "e" in text else text


def settings_line(settings: Mapping[str, object]) -> str:
    """Return what distinguishes a trial, in full: `lora.rank=8 train.learning_rate=0.001`."""
    return " ".join(f"{safe_line(key)}={setting_text(value)}" for key, value in settings.items())


def brief_settings(settings: Mapping[str, object], *, short_keys: bool = False) -> str:
    """Return the settings for a table: `rank=8 learning_rate=0.001`.

    Sections are left out where the last word of a key is unambiguous. With `short_keys` the usual
    abbreviations stand for long words (`lr=0.001`), for columns of a few cells.
    """
    settings = _scored_words(settings)
    last = [key.rpartition(".")[2] for key in settings]
    named = {
        (short_key(key) if short_keys else word) if last.count(word) == 1 else key: value
        for word, (key, value) in zip(last, settings.items(), strict=True)
    }
    return settings_line(named)


def _scored_words(settings: Mapping[str, object]) -> dict[str, object]:
    """Return the settings with those of a chat or a score trial in words: `scores=trial 5`."""
    if isinstance(models := settings.get("chat.models"), Sequence):
        return {"chat": ", ".join(map(scored_name, models))}
    if "score.rows" not in settings:
        return dict(settings)
    name = scored_name(settings.get("score.adapter"))
    on = " on test rows" if settings["score.rows"] == "test" else ""
    rest = {key: value for key, value in settings.items() if not key.startswith("score.")}
    return {"scores": f"{name}{on}", **rest}


def scored_name(adapter: object) -> str:
    """Return the name of a scored adapter: `trial 5`, `the base`, or the last part of a folder."""
    if isinstance(adapter, str):
        return safe_line(adapter.rstrip("/").rpartition("/")[2])
    return "the base" if adapter is None else f"trial {adapter}"


def short_key(key: str) -> str:
    """Return the last word of a dotted key, or its usual abbreviation: `lr`, `rank`."""
    last = safe_line(key.rpartition(".")[2])
    return _SHORT_KEYS.get(last, last)


# --- trials ---


def trial_name(trial: TrialRow) -> str:
    """Return `trial 7`, or `trial 1 (the base)` for the trial that scores the untouched model."""
    return f"trial {trial.id}" + (" (the base)" if trial.kind == "base" else "")


def trial_label(trial: TrialRow) -> str:
    """Return a trial's name for a column: `#7`, or `base`."""
    return "base" if trial.kind is Kind.BASE else f"#{trial.id}"


def sweep_size(count: int | None, finals: int = 0) -> str:
    """Return `6 trials`, or the words for a sweep that runs until its budget is spent.

    `finals` is the number of trials of its finals: `6 trials, then 9 in finals`.
    """
    swept = "trials until its budget is spent" if count is None else plural(count, "trial")
    return f"{swept}, then {finals:,} in finals" if finals else swept


def state_word(trial: TrialRow) -> str:
    """Return a trial's state, or the change of state or the phase it is in.

    `stopping` and the like stand while the desired state differs from the observed one.
    """
    if trial.state is State.PAUSED:
        return "resuming" if trial.desired_state is DesiredState.RUN else "paused"
    if not trial.state.final and trial.desired_state in _PENDING_WORDS:
        return _PENDING_WORDS[trial.desired_state]
    if trial.state is State.RUNNING and trial.phase not in ("", "training"):
        return safe_line(trial.phase, limit=12)
    return outcome_word(trial.state, trial.reason)


def word_and_reason(word: str, reason: str) -> list[str]:
    """Return a state's word and its reason; the reason alone where it begins with the word."""
    shown = safe_line(reason)
    return [shown] if reason.startswith(word) else [word, shown]


def counts_line(counts: Mapping[str, int]) -> str:
    """Return `2 running, 1 queued, 3 done` for numbers of trials by state or outcome."""
    known = [f"{counts[state]} {state}" for state in STATE_ORDER if counts.get(state)]
    return ", ".join(known) or "no trials yet"


def used_trials(used: int, left_out: Mapping[str, int]) -> str:
    """Return `12 of 16 trials counted (not counted: 4 failed)`, or `16 trials counted`."""
    if not left_out:
        return f"{plural(used, 'trial')} counted"
    total = plural(used + sum(left_out.values()), "trial")
    return f"{used} of {total} counted (not counted: {counts_line(left_out)})"


# --- the terminal ---


def desktop_notice(text: str) -> str:
    """Return the bytes that ring a terminal's bell and ask it for a desktop notification.

    The request is OSC 9, which iTerm2, WezTerm, Windows Terminal and others show.
    """
    return f"\x1b]9;{safe_line(text, 200)}\x1b\\\x07"
