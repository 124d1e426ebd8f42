"""Words for people: numbers, times, settings and states as short plain text."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from workbench.store.rows import TrialRow
from workbench.text import safe_line

GIB = 1 << 30
MIB = 1 << 20

STATE_ORDER = (
    "running",
    "starting",
    "queued",
    "paused",
    "done",
    "pruned",
    "stopped",
    "failed",
)


def size(n_bytes: int | None) -> str:
    """`5.3 GiB`, `312 MiB`, `4 KiB`, `-` for what is not known."""
    if n_bytes is None:
        return "-"
    if n_bytes >= GIB:
        return f"{n_bytes / GIB:.1f} GiB"
    if n_bytes >= MIB:
        return f"{n_bytes / MIB:.0f} MiB"
    return f"{n_bytes / 1024:.0f} KiB" if n_bytes >= 1024 else f"{n_bytes} B"


def duration(seconds: float | None) -> str:
    """`42 s`, `3 min 20 s`, `5 h 02 min`, `3 d 4 h`."""
    if seconds is None:
        return "-"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def notice(text: str) -> str:
    """For a terminal: its bell, and OSC 9, which many show as a desktop notice."""
    return f"\x1b]9;{safe_line(text, 200)}\x1b\\\x07"


def clock(at_utc: float) -> str:
    """The local time of day."""
    return time.strftime("%H:%M:%S", time.localtime(at_utc))


def moment(at_utc: float) -> str:
    """The local date and time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_utc))


def number(value: float | None, digits: int = 4) -> str:
    """Few digits, no exponent where none is needed."""
    if value is None:
        return "-"
    return f"{value:.{digits}g}" if math.isfinite(value) else "not a number"


def score(value: float | None, *, sign: bool = False) -> str:
    """Three digits behind the point; a gain (`sign`) shows its direction."""
    if value is None:
        return "-"
    return f"{value:+.3f}" if sign else f"{value:.3f}"


def energy(watt_hours: float | None) -> str:
    """`0.42 Wh`, `37 Wh`, `1.24 kWh`, `-` for what was not measured."""
    if watt_hours is None:
        return "-"
    if watt_hours >= 1_000:
        return f"{watt_hours / 1_000:.2f} kWh"
    return f"{watt_hours:.0f} Wh" if watt_hours >= 10 else f"{watt_hours:.2g} Wh"


def temperature(degrees: float | None) -> str:
    return "-" if degrees is None else f"{degrees:.0f} °C"


def power(watts: float | None, limit_w: float | None = None) -> str:
    """`212 W`, `212 of 350 W`."""
    if watts is None:
        return "-"
    return f"{watts:.0f} W" if limit_w is None else f"{watts:.0f} of {limit_w:.0f} W"


def heat_limits(guards: Mapping[str, Any]) -> str:
    """`no new trial above 84 °C, pauses above 90 °C`; empty where no engine told its guards."""
    if not guards:
        return ""
    start, pause = guards["no_start_above_c"], guards["pause_above_c"]
    return f"no new trial above {start:g} °C, pauses above {pause:g} °C"


def guards_line(guards: Mapping[str, Any]) -> str:
    """What the guards hold to, on one line."""
    if not guards:
        return ""
    gap = guards["start_gap_s"]
    floor = f"disk floor {size(guards['disk_floor'])}, ballast {size(guards['ballast'])}"
    shares = "shares cards in use" if guards["share"] else "leaves cards in use alone"
    gaps = "2 s between GPU starts" if gap is None else f"{gap:g} s between starts"
    return f"{heat_limits(guards)}; {gaps}; {shares}; {floor}"


def xid_watch(watched: bool | None) -> str:
    """Whether failures of a card would be told; empty for one that has none."""
    if watched is None:
        return ""
    return "watched" if watched else "its driver tells of none (see dmesg for Xid)"


def rate(tokens_per_s: float | None) -> str:
    return "-" if tokens_per_s is None else f"{tokens_per_s:,.0f}"


def setting(value: object) -> str:
    """A value as a recipe would have it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return "[" + ", ".join(setting(one) for one in value) + "]"
    return safe_line(value)


def settings_line(settings: Mapping[str, object]) -> str:
    """`lora.rank=8 train.learning_rate=0.001`; what a trial is told apart by."""
    return " ".join(f"{safe_line(key)}={setting(value)}" for key, value in settings.items())


def brief(settings: Mapping[str, object]) -> str:
    """The same for a table: `rank=8 learning_rate=0.001`, sections left out where that is clear."""
    last = [key.rpartition(".")[2] for key in settings]
    return settings_line(
        {
            short if last.count(short) == 1 else key: value
            for short, (key, value) in zip(last, settings.items(), strict=True)
        }
    )


def counts_line(counts: Mapping[str, int]) -> str:
    """`2 running, 1 queued, 3 done`."""
    told = [f"{counts[state]} {state}" for state in STATE_ORDER if counts.get(state)]
    return ", ".join(told) or "no trials yet"


def steps(step: int, total: int | None) -> str:
    return f"{step}/{total}" if total else str(step)


def who(trial: TrialRow) -> str:
    """`trial 7`, or `the base` for the trial that scores the untouched model."""
    return f"trial {trial.id}" + (" (the base)" if trial.kind == "base" else "")


def trials(count: int | None) -> str:
    """`6 trials`, or what ends a sweep that has no number of them."""
    return "trials until its budget is spent" if count is None else plural(count, "trial")


def ordinal(n: int) -> str:
    """`1st`, `2nd`, `11th`."""
    teens = 10 < n % 100 < 14
    return f"{n}{'th' if teens else {1: 'st', 2: 'nd', 3: 'rd'}.get(n % 10, 'th')}"


def plural(n: int, word: str) -> str:
    return f"{n} {word}" if n == 1 else f"{n} {word}s"
