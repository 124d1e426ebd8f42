"""A trial drilled into: each section as lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tui import present
from tui.chart import Spark
from tui.paint import Line, Part, bar, cut_to, join, plain
from tui.tables.cards import short_name
from tui.view_state import ViewState
from tui.widgets.rowlist import Column, Row
from workbench.service import Attempt, CardRow, MoveRow, Point, Sample, TrialDetail, TrialRow
from workbench.trial import Kind, State

_BAR = 14
_NAME = 20


def head(
    detail: TrialDetail, row: TrialRow, cards: Sequence[CardRow], view_state: ViewState
) -> list[Line]:
    """State, how far, how fast, how long; where; and what went wrong."""
    now = view_state.now()
    name = "the untouched base" if row.kind is Kind.BASE else f"trial {row.id}"
    settings = present.settings(row.settings)
    lines: list[Line] = [
        join(
            (
                present.state(row),
                ((name, "bold"),),
                (plain(detail.experiment.name, "dim"),),
                (plain(settings),) if settings else (),
            ),
            ("   ", ""),
        ),
        *([] if row.kind is Kind.BASE else [_progress(row, view_state.pace.left_s(row, now))]),
        _where(detail, row, cards, now),
    ]
    if row.warm_trial is not None:
        lines.append((("starts from the adapter of trial ", "dim"), (str(row.warm_trial), "")))
    if row.desired_card is not None:
        lines.append((("goes to ", "dim"), plain(row.desired_card)))
    if row.state is State.QUEUED and row.waiting:
        lines.append((("waits: ", "dim"), plain(row.waiting.removeprefix("waits "))))
    if row.reason:
        tone = "bad" if row.state is State.FAILED else ""
        lines.append((("why:   ", "dim"), plain(row.reason, tone, 2_000)))
    if row.hint:
        lines.append((("hint:  ", "dim"), plain(row.hint, "accent", 2_000)))
    return lines


def _progress(row: TrialRow, left_s: float | None) -> Line:
    done = present.share(row)
    steps = f"step {row.step:,}" + (f" of {row.total_steps:,}" if row.total_steps else "")
    facts = [(f"{done:.0%}", "bold") if done is not None else ("", ""), (steps, "")]
    if row.loss is not None:
        facts.append((f"loss {present.number(row.loss)}", ""))
    if row.tokens_per_s is not None:
        facts.append((f"{present.rate(row.tokens_per_s)} tok/s", ""))
    if row.state is State.RUNNING:
        facts.append((f"{present.eta(left_s)} left", "") if left_s is not None else ("", ""))
    return join(
        (
            bar(done, _BAR, "live" if row.state.live else "dim"),
            *((fact,) for fact in facts if fact[0]),
        ),
        ("   ", ""),
    )


def _where(detail: TrialDetail, row: TrialRow, cards: Sequence[CardRow], now: float) -> Line:
    parts: list[Part] = []
    if row.card:
        known = next((card for card in cards if card.uuid == row.card), None)
        card = f"{short_name(known.name)} {present.short_uuid(row.card)}" if known else row.card
        began = "" if row.started_utc is None else f" since {present.span(now - row.started_utc)}"
        parts.append(plain(f"on {card}{began}" if row.state.live else f"last on {card}"))
    if row.checkpoint_step is not None:
        parts.append((f"last checkpoint: step {row.checkpoint_step:,}", ""))
    if row.score is not None:
        score = present.score(row.score, detail.experiment.rank_by)
        parts.append((f"score {score} ({present.ranked_by(detail.experiment.rank_by)})", ""))
    drawn = [one.energy_wh for one in detail.attempts if one.energy_wh is not None]
    if drawn:
        parts.append((f"drew {present.energy(sum(drawn))}", ""))
    if row.attempts > 1:
        parts.append((f"attempt {row.attempts}", ""))
    return join(tuple((part,) for part in parts), (" · ", "faint")) or (("not started yet", "dim"),)


METRICS = (
    Column(title="", width=1),
    Column(title="", width=14, most=22, grow=1),
    Column(title="", width=9, right=True),
    Column(title="", width=8, most=60, grow=4),
)


def metrics(names: Sequence[str], series: Mapping[str, tuple[Point, ...]], shown: str) -> list[Row]:
    """Each metric's newest value and its course in blocks; the one on the chart is pointed at."""
    return [
        Row(
            name,
            (
                (("▸" if name == shown else " ", "accent"),),
                (plain(name, "bold" if name == shown else "dim"),),
                ((_newest(name, series.get(name, ())), ""),),
                Spark(series.get(name, ())),
            ),
        )
        for name in names
    ]


def _newest(name: str, points: Sequence[Point]) -> str:
    if not points:
        return present.NONE
    value = (points[-1].low + points[-1].high) / 2
    if name.endswith("_bytes"):
        return present.gib(int(value))
    return present.rate(value) if value >= 1_000 else present.number(value)


def _fact(name: str, *parts: Part) -> Line:
    """A label as wide as all labels, and what it names; names may be foreign text."""
    return ((f"{cut_to(plain(name)[0], _NAME - 1):<{_NAME}}", "dim"), *parts)


def plan(attempt: Attempt | None, card: CardRow | None) -> list[Line]:
    """How it is run, and predicted against measured bytes."""
    from workbench.footprint.plan import shown  # pydantic: 0.1 s of a start that has no plan

    if attempt is None:
        return [(("made when a card is free", "dim"),)]
    given = attempt.plan
    lines = [
        _fact("precision", plain(given.get("precision", present.NONE))),
        _fact(
            "attention",
            plain(given.get("attention", present.NONE)),
            ("  ", ""),
            plain(given.get("attention_why", ""), "dim"),
        ),
        _fact("optimizer", plain(given.get("optimizer", present.NONE))),
        *(_fact(name, plain(text)) for name, text in shown(given).items()),
        *_memory(attempt, card),
    ]
    buckets = given.get("buckets")
    if isinstance(buckets, dict):
        known = [(str(k), v) for k, v in buckets.items() if isinstance(v, int) and v > 0]
        for name, size in sorted(known, key=lambda pair: -pair[1]):
            lines.append(_fact(f"· {name.replace('_', ' ')}", (f"{present.gib(size):>9}", "")))
    return lines


def _memory(attempt: Attempt, card: CardRow | None) -> list[Line]:
    total = card.total_bytes if card else max(attempt.predicted_bytes, attempt.peak_bytes or 0)
    lines = [
        _fact(
            "predicted peak",
            (f"{present.gib(attempt.uncorrected_bytes):>9}  ", ""),
            *bar(attempt.uncorrected_bytes / max(1, total), 10, "dim"),
        )
    ]
    if attempt.predicted_bytes != attempt.uncorrected_bytes:
        more = attempt.predicted_bytes / max(1, attempt.uncorrected_bytes) - 1
        lines.append(
            _fact(
                "corrected peak",
                (f"{present.gib(attempt.predicted_bytes):>9}  ", ""),
                *bar(attempt.predicted_bytes / max(1, total), 10, "dim"),
                (f" {more:+.0%} by what was measured here", "dim"),
            )
        )
    if attempt.peak_bytes is not None:
        off = (attempt.peak_bytes - attempt.predicted_bytes) / max(1, attempt.predicted_bytes)
        lines.append(
            _fact(
                "measured peak",
                (f"{present.gib(attempt.peak_bytes):>9}  ", "bold"),
                *bar(attempt.peak_bytes / max(1, total), 10, "live"),
                (f" {off:+.0%}", "dim"),
            )
        )
    if card is not None:
        lines.append(_fact("the card has", (f"{present.gib(card.total_bytes):>9}", "")))
    return lines


def settings(row: TrialRow, recipe: Mapping[str, object]) -> list[Line]:
    """What this trial sets, then the recipe's own where one would look for it."""
    lines = [_fact(key, plain(present.value(v), "bold")) for key, v in row.settings.items()]
    for section in ("model", "data", "lora", "train"):
        part = recipe.get(section)
        for key, value in part.items() if isinstance(part, dict) else ():
            if f"{section}.{key}" in row.settings or value in (None, {}, []):
                continue
            lines.append(_fact(f"{section}.{key}", plain(present.value(value), "dim")))
    return lines


def attempts(tries: Sequence[Attempt], cards: Sequence[CardRow], now: float) -> list[Line]:
    names = {card.uuid: short_name(card.name) for card in cards}
    lines: list[Line] = []
    for place, one in enumerate(tries, start=1):
        took = present.span((one.ended_utc or now) - one.started_utc)
        outcome: Part = ("● running", "live") if one.outcome is None else _outcome(one.outcome)
        lines.append(
            (
                (f"{place}  ", "dim"),
                outcome,
                ("  ", ""),
                plain(f"{names.get(one.card, '')} {present.short_uuid(one.card)}"),
                (f"  steps {one.from_step:,}–{one.last_step:,}  {took}", "dim"),
                *(((f"  {present.energy(one.energy_wh)}", "dim"),) if one.energy_wh else ()),
                *((("  ", ""), plain(one.reason, "dim")) if one.reason else ()),
            )
        )
    return lines or [(("none yet", "dim"),)]


def _outcome(word: str) -> Part:
    glyphs: dict[str, Part] = {
        "done": ("✓ done", "good"),
        "failed": ("✗ failed", "bad"),
        "lost": ("! lost", "warn"),
    }
    return glyphs.get(word, plain(f"■ {word}", "dim", 14))


def history(moves: Sequence[MoveRow]) -> list[Line]:
    """Every move, the newest first."""
    return [
        (
            (f"{present.clock(move.at_utc)}  ", "faint"),
            *present.state_word(move.after),
            (" " * max(1, 10 - len(move.after)), ""),
            plain(move.why),
        )
        for move in reversed(moves)
    ] or [(("queued, and nothing since", "dim"),)]


def samples(kept: Sequence[Sample]) -> list[Line]:
    """What it answers to held-out questions."""
    lines: list[Line] = []
    for sample in kept:
        verdict: Part = {
            True: ("✓ right", "good"),
            False: ("✗ wrong", "bad"),
            None: ("· not judged", "dim"),
        }[sample.correct]
        lines += [
            (("asked     ", "dim"), plain(sample.question, "", 1_000)),
            (("expected  ", "dim"), plain(sample.expected, "", 1_000)),
            (("answered  ", "dim"), plain(sample.answer, "", 1_000), ("  ", ""), verdict),
            (),
        ]
    return lines[:-1] or [(("none yet: they come with an evaluation", "dim"),)]
