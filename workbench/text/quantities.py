"""Sizes, durations, times and numbers as short text for people.

Every function is pure and returns one line of plain text. `workbench.formatting` gives these to
front ends, together with the words for settings and trials; training, which may not know the
store, takes them from here.
"""

from __future__ import annotations

import math
import time

UNKNOWN = "-"
"""Stands for a value that was not measured or does not exist."""
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

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


def whole_gib_of_total(used_bytes: int | None, total_bytes: int) -> str:
    """Return `8/24G` for the narrowest places; the first half is `-` while the use is unknown."""
    used = UNKNOWN if used_bytes is None else f"{used_bytes / GIB:.0f}"
    return f"{used}/{total_bytes / GIB:.0f}G"


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
        return not_finite(value)
    text = f"{value:.{digits}g}"
    if "e" not in text:
        return text
    return f"{value:.0f}" if 1 <= abs(value) < 1e7 else short_exponent(text)


def not_finite(value: float) -> str:
    """Return `NaN`, `inf` or `-inf`."""
    return "NaN" if math.isnan(value) else "inf" if value > 0 else "-inf"


def short_exponent(text: str) -> str:
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
        return not_finite(value)
    return f"{value:+.3f}" if sign else f"{value:.3f}"


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
