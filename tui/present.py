"""Words for people: numbers, times, states and settings as they stand on the screen."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

from tui.paint import Line, Part, plain
from workbench.formatting import energy as energy
from workbench.formatting import guards_line as guards_line
from workbench.formatting import heat_limits as heat_limits
from workbench.formatting import power as power
from workbench.formatting import xid_watch as xid_watch
from workbench.service import TrialRow
from workbench.trial import DesiredState, Kind, State, up_is_better

NONE = "—"
GIB = 1 << 30

_STATES: dict[State, Part] = {
    State.QUEUED: ("○", "dim"),
    State.STARTING: ("◐", "live"),
    State.RUNNING: ("●", "live"),
    State.PAUSED: ("‖", "warn"),
    State.DONE: ("✓", "good"),
    State.STOPPED: ("■", "dim"),
    State.PRUNED: ("⊘", "dim"),
    State.FAILED: ("✗", "bad"),
}
_GOING = {
    DesiredState.PAUSE: "pausing",
    DesiredState.STOP: "stopping",
    DesiredState.KILL: "killing",
}
_LEVELS: dict[str, Part] = {
    "debug": ("·", "faint"),
    "info": ("·", "dim"),
    "warning": ("!", "warn"),
    "error": ("✗", "bad"),
}


def gib(n: int | None) -> str:
    """1 decimal, binary: `7.9 GiB`; small things in MiB or KiB."""
    if n is None:
        return NONE
    if 0 < abs(n) < 1 << 20:
        return f"{n / 1024:.0f} KiB"
    if abs(n) < GIB // 10:
        return f"{n / (1 << 20):.0f} MiB"
    return f"{n / GIB:.1f} GiB"


def gib_of(used: int | None, total: int) -> str:
    """`7.9/24.0 GiB`; the used half is a dash while nobody has measured it."""
    return f"{NONE if used is None else f'{used / GIB:.1f}'}/{total / GIB:.1f} GiB"


def span(seconds: float | None) -> str:
    """Two units at most: `42 s`, `3 min`, `1 h 05 min`, `2 d 3 h`."""
    if seconds is None or not math.isfinite(seconds):
        return NONE
    s = max(0, int(seconds))
    if s < 60:
        return f"{s} s"
    if s < 3_600:
        return f"{s // 60} min"
    if s < 86_400:
        return f"{s // 3_600} h {s % 3_600 // 60:02d} min"
    return f"{s // 86_400} d {s % 86_400 // 3_600} h"


def eta(seconds_left: float | None) -> str:
    """`~12 min`, `almost done`, or a dash while there is nothing to go by."""
    if seconds_left is None or not math.isfinite(seconds_left):
        return NONE
    return "almost done" if seconds_left < 1 else f"~{span(seconds_left)}"


def ago(seconds: float | None) -> str:
    if seconds is None:
        return NONE
    return "just now" if seconds < 2 else f"{span(seconds)} ago"


def clock(at_utc: float) -> str:
    """Local time of day."""
    return time.strftime("%H:%M:%S", time.localtime(at_utc))


def rate(tokens_per_s: float | None) -> str:
    """Tokens a second with thousands marked: `1,960`."""
    return NONE if tokens_per_s is None else f"{tokens_per_s:,.0f}"


def number(value: float | None, digits: int = 4) -> str:
    """A loss or a score, `digits` significant where it is small, plain where it is not."""
    if value is None or not math.isfinite(value):
        return NONE
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 100_000 or size < 0.001:
        return _tidy(f"{value:.{max(0, digits - 2)}e}")
    places = max(0, digits - 1 - math.floor(math.log10(size)))
    return f"{value:.{min(places, digits - 1)}f}"


def gain(value: float | None) -> str:
    """Signed; `+0.125` is better than the base by so much."""
    return NONE if value is None else f"{value:+.3f}"


def score(value: float | None, rank_by: str) -> str:
    if value is None:
        return NONE
    return f"{value:.1%}" if up_is_better(rank_by) else number(value)


def score_gain(value: float | None, rank_by: str) -> str:
    """Of shares in points of a hundred, of a loss in nats; up is better in both."""
    if value is None:
        return NONE
    return f"{value * 100:+.1f} pt" if up_is_better(rank_by) else gain(value)


def ranked_by(rank_by: str) -> str:
    way = "up" if up_is_better(rank_by) else "down"
    return f"{rank_by.replace('_', ' ')}, {way} is better"


def value(thing: object) -> str:
    """A setting's value as one would type it: `2e-4`, `16`, `auto`."""
    if isinstance(thing, bool) or thing is None:
        return {True: "yes", False: "no", None: NONE}[thing]
    if isinstance(thing, float):
        if thing == 0 or 0.01 <= abs(thing) < 100_000:
            return f"{thing:g}"
        return _tidy(f"{thing:.3e}")
    if isinstance(thing, list | tuple):
        return ",".join(value(one) for one in thing)
    if isinstance(thing, dict):
        return ", ".join(f"{plain(key)[0]}: {value(one)}" for key, one in thing.items())
    return plain(thing)[0]


def _tidy(text: str) -> str:
    """`2.000e-04` → `2e-4`."""
    mantissa, _, power = text.partition("e")
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{int(power)}"


_SHORT = {
    "learning_rate": "lr",
    "batch_size": "batch",
    "accumulation": "accum",
    "weight_decay": "decay",
    "max_tokens": "tokens",
    "gradient_checkpointing": "recompute",
}


def short_key(key: str) -> str:
    """The last word of a dotted key, or the shorter one people say for it."""
    last = plain(key.rpartition(".")[2])[0]
    return _SHORT.get(last, last)


def settings(values: Mapping[str, object]) -> str:
    """`lr 2e-4 · rank 16`."""
    return " · ".join(f"{short_key(key)} {value(v)}" for key, v in values.items())


def short_uuid(uuid: str) -> str:
    """`GPU-6f1a` of `GPU-6f1a2b3c-…`; others as they are."""
    return plain(uuid[:8] if uuid.startswith("GPU-") else uuid, limit=16)[0]


def trial_name(row: TrialRow) -> str:
    return "base" if row.kind is Kind.BASE else f"#{row.id}"


def state(row: TrialRow) -> Line:
    """Glyph and word; what it is about to become, or what it does just now, where that is told."""
    glyph, tone = _STATES[row.state]
    word = str(row.state)
    if not row.state.final and row.desired_state in _GOING:
        word = _GOING[row.desired_state] if row.state is not State.PAUSED else word
    elif row.state is State.PAUSED and row.desired_state is DesiredState.RUN:
        word = "resuming"
    elif row.state is State.RUNNING and row.phase not in ("", "training"):
        word = row.phase
    return ((glyph, tone), (" ", ""), plain(word, tone, limit=12))


def state_word(word: str) -> Line:
    """The same for a state known by its name alone."""
    try:
        glyph, tone = _STATES[State(word)]
    except ValueError:
        return (plain(word),)
    return ((glyph, tone), (" ", ""), (word, tone))


def level(word: str) -> Part:
    """The glyph of an event's level."""
    return _LEVELS.get(word, ("·", "dim"))


def share(row: TrialRow) -> float | None:
    """Done of all its steps, from 0 to 1; None while nobody knows how many there are."""
    if not row.total_steps:
        return None
    return min(1.0, row.step / row.total_steps)


def count(n: int, one: str, many: str = "") -> str:
    """`1 trial`, `3 trials`."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"
