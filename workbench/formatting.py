"""The one place where values become short text for people, on the command line and on the screen.

Sizes, durations, times, numbers, rates, scores, settings and states. Every function is pure and
returns one line of plain text; colour and column widths belong to the callers. JSON output never
passes through here: it keeps the values themselves.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from workbench.store.rows import TrialRow
from workbench.text import safe_line
from workbench.trial import KILLED as KILLED
from workbench.trial import DesiredState, Kind, State, up_is_better
from workbench.trial import outcome_word as outcome_word

UNKNOWN = "-"
"""Stands for a value that was not measured or does not exist."""
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

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
_SHORT_KEYS = {
    "learning_rate": "lr",
    "batch_size": "batch",
    "accumulation": "accum",
    "weight_decay": "decay",
    "max_tokens": "tokens",
    "gradient_checkpointing": "recompute",
}

# --- sizes, durations, times ---


def size(n_bytes: int | None) -> str:
    """Return a byte count in binary units: `5.3 GiB`, `312 MiB`, `4 KiB`, `12 B`."""
    if n_bytes is None:
        return UNKNOWN
    magnitude = abs(n_bytes)
    # Half a MiB below 1 GiB would round to "1024 MiB".
    if magnitude >= GIB - MIB // 2:
        return f"{n_bytes / GIB:.1f} GiB"
    if magnitude >= MIB - KIB // 2:
        return f"{n_bytes / MIB:.0f} MiB"
    return f"{n_bytes / KIB:.0f} KiB" if magnitude >= KIB else f"{n_bytes} B"


def size_of_total(used_bytes: int | None, total_bytes: int) -> str:
    """Return `7.9/24.0 GiB`; the first half is `-` while the use is not known."""
    used = UNKNOWN if used_bytes is None else f"{used_bytes / GIB:.1f}"
    return f"{used}/{total_bytes / GIB:.1f} GiB"


def duration(seconds: float | None) -> str:
    """Return a measured duration in two units at most: `42 s`, `3 min 20 s`, `5 h 02 min`."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    whole = max(0, round(seconds))
    if 60 <= whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return rough_duration(whole)


def rough_duration(seconds: float | None) -> str:
    """Return the same text as `duration`, without the seconds from one minute on.

    For estimates, and for ages: an age with seconds would have the screen repaint each of its
    lines once a second, which costs the most over a slow SSH connection.
    """
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def time_left(seconds: float | None) -> str:
    """Return an estimate: `~12 min`, `almost done`, or `-` without one."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    return "almost done" if seconds < 1 else f"~{rough_duration(seconds)}"


def time_left_phrase(seconds: float) -> str:
    """Return the same estimate within a sentence: `~12 min left`, `almost done`."""
    text = time_left(seconds)
    return text if text == "almost done" else f"{text} left"


def age(seconds: float | None) -> str:
    """Return how long ago something was: `just now`, `12 min ago`."""
    if seconds is None:
        return UNKNOWN
    return "just now" if seconds < 2 else f"{rough_duration(seconds)} ago"


def clock(at_utc: float) -> str:
    """Return the local time of day of a Unix time."""
    return time.strftime("%H:%M:%S", time.localtime(at_utc))


def date_time(at_utc: float) -> str:
    """Return the local date and time of a Unix time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_utc))


# --- numbers, rates, scores ---


def number(value: float | None, digits: int = 4) -> str:
    """Return `value` with `digits` significant digits: `0.9123`, `1048576`, `2e-5`, `NaN`.

    Whole parts are never rounded below ten million, so that no exponent hides a count.
    """
    if value is None:
        return UNKNOWN
    if not math.isfinite(value):
        return _not_finite(value)
    text = f"{value:.{digits}g}"
    if "e" not in text:
        return text
    return f"{value:.0f}" if 1 <= abs(value) < 1e7 else _short_exponent(text)


def _not_finite(value: float) -> str:
    return "NaN" if math.isnan(value) else "inf" if value > 0 else "-inf"


def _short_exponent(text: str) -> str:
    """Return `2e-5` for `2e-05`; both are valid in a recipe."""
    mantissa, _, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}"


def percent(share: float | None) -> str:
    """Return a share between 0 and 1 as `70%`."""
    return UNKNOWN if share is None else f"{share:.0%}"


def relative_change(value: float, reference: float) -> str:
    """Return how far `value` is from `reference`: `+9%`, `-3%`, `12 times`.

    Empty without a positive reference. From ten times on a percentage is hard to read.
    """
    if reference <= 0:
        return ""
    ratio = value / reference
    return f"{ratio:.0f} times" if ratio >= 10 else f"{ratio - 1:+.0%}"


def p_value(p: float) -> str:
    """Return a p-value with three decimals: `0.021`, `< 0.001`."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def not_significant(p_value: float) -> str:
    """Return the words for a difference that a significance test did not confirm."""
    return f"not statistically significant (p {p_value:.2f})"


def score(value: float | None, *, sign: bool = False) -> str:
    """Return a score with three decimals; with `sign`, a gain that shows its direction.

    A loss is in nats per target token and a match rate is a share, both as the recipe names them.
    """
    if value is None:
        return UNKNOWN
    if not math.isfinite(value):
        return _not_finite(value)
    return f"{value:+.3f}" if sign else f"{value:.3f}"


def ranking_rule(rank_by: str) -> str:
    """Return the metric that ranks and its direction: `loss (lower is better)`."""
    return f"{rank_by} ({'higher' if up_is_better(rank_by) else 'lower'} is better)"


def rate(tokens_per_s: float | None) -> str:
    """Return tokens per second, without the unit: `1,960`."""
    return UNKNOWN if tokens_per_s is None else f"{tokens_per_s:,.0f}"


def steps(step: int, total: int | None) -> str:
    """Return `420/600`, or `420` while the number of steps is not known."""
    return f"{step}/{total}" if total else str(step)


def ordinal(n: int) -> str:
    """Return `1st`, `2nd`, `11th`."""
    teens = 10 < n % 100 < 14
    return f"{n}{'th' if teens else {1: 'st', 2: 'nd', 3: 'rd'}.get(n % 10, 'th')}"


def plural(n: int, word: str) -> str:
    """Return `1 trial`, `3 trials`."""
    return f"{n} {word}" if n == 1 else f"{n} {word}s"


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
    floor = f"disk floor {size(guards['disk_floor'])}, ballast {size(guards['ballast'])}"
    shares = "shares cards in use" if guards["share"] else "leaves cards in use alone"
    gaps = "2 s between GPU starts" if gap is None else f"{gap:g} s between starts"
    return f"{heat_limits(guards)}; {gaps}; {shares}; {floor}"


def xid_watch(watched: bool | None) -> str:
    """Return whether the driver reports Xid errors of a card; empty for a card without them."""
    if watched is None:
        return ""
    return "watched" if watched else "not reported by its driver (see dmesg for Xid)"


def short_uuid(uuid: str) -> str:
    """Return `GPU-6f1a` of `GPU-6f1a2b3c-…`; other ids as they are, 16 characters at most."""
    return safe_line(uuid[:8] if uuid.startswith("GPU-") else uuid, limit=16)


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
        return _not_finite(value)
    if value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    text = repr(value)
    return _short_exponent(text) if "e" in text else text


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
    """Return the settings with those of a score trial in words: `scores=trial 5`."""
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


def sweep_size(count: int | None) -> str:
    """Return `6 trials`, or the words for a sweep that runs until its budget is spent."""
    return "trials until its budget is spent" if count is None else plural(count, "trial")


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
