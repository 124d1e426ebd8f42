"""The page of one trial: each of its sections as lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tui import present
from tui.card_names import Naming, card_name, card_naming
from tui.keys.hints import hinted_row
from tui.paint import Line, Part, cut_text, done_bar, join_lines, plain_part
from tui.view_state import ViewState
from workbench import formatting
from workbench.service import (
    AnswerSample,
    AttemptRow,
    MoveRow,
    Snapshot,
    TrialDetail,
    TrialRow,
)
from workbench.trial import Kind, State

_BAR = 14
"""Cells of the progress bar."""
_NAME = 20
"""Cells of a label with the space behind it."""
_OTHERS = 4
"""Values of other trials that are listed; of more, the ends are shown."""
SETTING_NAME = 30
"""The same for the dotted keys of settings, the longest of which has 28 characters."""


def head_lines(
    detail: TrialDetail, row: TrialRow, snapshot: Snapshot, view_state: ViewState
) -> list[Line]:
    """Return the lines at the top: state and settings, progress, place, and what went wrong."""
    now = view_state.now()
    name = "the untouched base" if row.kind is Kind.BASE else f"trial {row.id}"
    settings = formatting.brief_settings(row.settings)
    lines: list[Line] = [
        join_lines(
            (
                present.trial_state(row),
                ((name, "bold"),),
                (plain_part(detail.experiment.name, "dim"),),
                (plain_part(settings),) if settings else (),
            ),
            ("   ", ""),
        ),
        *([] if row.kind is not Kind.TUNE else [_progress(row, row.seconds_left(now))]),
        _where(detail, row, snapshot, now),
    ]
    if row.warm_trial is not None:
        lines.append((("starts from the adapter of trial ", "dim"), (str(row.warm_trial), "")))
    if row.desired_card is not None:
        card = card_name(row.desired_card, snapshot.cards, snapshot.slots)
        lines.append((("is to run on ", "dim"), plain_part(card)))
    if row.state is State.QUEUED and row.waiting:
        lines.append((("waits:  ", "dim"), plain_part(row.waiting.removeprefix("waits "))))
    if row.reason:
        tone = "bad" if row.state is State.FAILED else ""
        lines.append((("reason: ", "dim"), plain_part(row.reason, tone, 2_000)))
    if row.hint:
        lines.append((("hint:   ", "dim"), plain_part(row.hint, "accent", 2_000)))
        lines += _hint_key(row, view_state)
    return lines


def _hint_key(row: TrialRow, view_state: ViewState) -> list[Line]:
    """Return the key that does what the hint advises, where there is one."""
    found = hinted_row(row.hint) if row.kind is Kind.TUNE else None
    key = view_state.keymap.shown_key(found[0]) if found else ""
    return [((" " * 8, ""), (key, "accent"), (f" {found[1]}", "dim"))] if found and key else []


def _progress(row: TrialRow, left_s: float | None) -> Line:
    done = present.done_share(row)
    facts: list[Part] = [] if done is None else [(formatting.percent(done), "bold")]
    facts.append((f"step {formatting.steps(row.step, row.total_steps)}", ""))
    if row.loss is not None:
        facts.append((f"loss {formatting.number(row.loss)}", ""))
    if row.tokens_per_s is not None:
        facts.append((f"{formatting.rate(row.tokens_per_s)} tok/s", ""))
    if left_s is not None:
        facts.append((formatting.time_left_phrase(left_s), ""))
    bar = done_bar(done, _BAR, "live" if row.state.live else "dim")
    return join_lines((bar, *((fact,) for fact in facts)), ("   ", ""))


def _where(detail: TrialDetail, row: TrialRow, snapshot: Snapshot, now: float) -> Line:
    parts: list[Part] = []
    if row.card:
        card = card_name(row.card, snapshot.cards, snapshot.slots)
        began = row.started_utc
        since = "" if began is None else f" for {formatting.rough_duration(now - began)}"
        parts.append(plain_part(f"on {card}{since}" if row.state.live else f"last on {card}"))
    if row.checkpoint_step is not None:
        parts.append((f"last checkpoint: step {row.checkpoint_step}", ""))
    if row.score is not None:
        rule = formatting.ranking_rule(detail.experiment.rank_by)
        parts.append((f"score {formatting.score(row.score)} by {rule}", ""))
    drawn = [one.energy_wh for one in detail.attempts if one.energy_wh is not None]
    if drawn:
        parts.append((f"energy {formatting.energy(sum(drawn))}", ""))
    if row.attempts > 1:
        parts.append((f"attempt {row.attempts}", ""))
    return join_lines(tuple((part,) for part in parts), (" · ", "faint")) or (
        ("not started yet", "dim"),
    )


def named_fact(name: str, *parts: Part, cells: int = _NAME) -> Line:
    """Return a label of fixed width with what it names; a name may be foreign text."""
    return ((f"{cut_text(plain_part(name)[0], cells - 1):<{cells}}", "dim"), *parts)


def settings_lines(
    row: TrialRow, recipe: Mapping[str, object], others: Sequence[TrialRow] = ()
) -> list[Line]:
    """Return the settings in which this trial differs from its experiment.

    Behind each setting of the trial stand the recipe's value and those of the `others`, which are
    the other trials of the experiment.
    """
    cells = min(SETTING_NAME, 2 + max(map(len, row.settings), default=0))
    return [
        named_fact(
            key,
            plain_part(formatting.setting_text(value), "bold"),
            *_elsewhere(key, value, recipe, others),
            cells=cells,
        )
        for key, value in row.settings.items()
    ] or [(("as in the recipe", "dim"),)]


def recipe_lines(row: TrialRow, recipe: Mapping[str, object]) -> list[Line]:
    """Return the recipe's settings that hold for this trial too."""
    lines = []
    for section in ("model", "data", "lora", "train"):
        part = recipe.get(section)
        for key, value in part.items() if isinstance(part, dict) else ():
            if f"{section}.{key}" in row.settings or value in (None, {}, []):
                continue
            text = plain_part(formatting.setting_text(value), "dim")
            lines.append(named_fact(f"{section}.{key}", text, cells=SETTING_NAME))
    return lines


def _elsewhere(
    key: str, value: object, recipe: Mapping[str, object], others: Sequence[TrialRow]
) -> tuple[Part, ...]:
    """Return the recipe's value of a setting and the other trials' values, where they differ."""
    section, _, name = key.partition(".")
    part = recipe.get(section)
    own = part.get(name) if isinstance(part, dict) else None
    words = [] if own is None or own == value else [f"recipe {formatting.setting_text(own)}"]
    found = {formatting.setting_text(one.settings[key]) for one in others if key in one.settings}
    found -= {formatting.setting_text(value)}
    if found:
        shown = sorted(found, key=_by_size)
        ends = f"{shown[0]} … {shown[-1]}" if len(shown) > _OTHERS else ", ".join(shown)
        words.append(f"others {ends}")
    return (("  ", ""), plain_part("; ".join(words), "dim", 120)) if words else ()


def _by_size(text: str) -> tuple[float, str]:
    try:
        return (float(text), text)
    except ValueError:
        return (float("inf"), text)


def attempt_lines(attempts: Sequence[AttemptRow], snapshot: Snapshot, now: float) -> list[Line]:
    """Return a line for each attempt: outcome, card, steps, duration, energy, reason."""
    named = card_naming(snapshot)
    lines: list[Line] = []
    for place, one in enumerate(attempts, start=1):
        took = (
            formatting.rough_duration(now - one.started_utc)
            if one.ended_utc is None
            else formatting.duration(one.ended_utc - one.started_utc)
        )
        outcome: Part = ("● running", "live") if one.outcome is None else _outcome(one.outcome)
        lines.append(
            (
                (f"{place}  ", "dim"),
                outcome,
                ("  ", ""),
                plain_part(named(one.card)),
                (f"  steps {one.from_step}-{one.last_step}  {took}", "dim"),
                *(((f"  {formatting.energy(one.energy_wh)}", "dim"),) if one.energy_wh else ()),
                *((("  ", ""), plain_part(named(one.reason), "dim")) if one.reason else ()),
            )
        )
    return lines or [(("none yet", "dim"),)]


def _outcome(word: str) -> Part:
    glyphs: dict[str, Part] = {
        "done": ("✓ done", "good"),
        "failed": ("✗ failed", "bad"),
        "lost": ("! lost", "warn"),
    }
    return glyphs.get(word, plain_part(f"■ {word}", "dim", 14))


def history_lines(moves: Sequence[MoveRow], named: Naming) -> list[Line]:
    """Return every change of state with its reason, the newest last; `named` names the cards."""
    return [
        (
            (f"{formatting.clock(move.at_utc)}  ", "faint"),
            *present.named_state(move.after),
            (" " * max(1, 10 - len(move.after)), ""),
            plain_part(named(move.why)),
        )
        for move in moves
    ] or [(("queued; no change of state since", "dim"),)]


def sample_lines(kept: Sequence[AnswerSample], base: Sequence[AnswerSample] = ()) -> list[Line]:
    """Return the answers to held-out questions that were kept, with the expected answers.

    `base` are the answers of the untrained base, shown below those to the same question.
    """
    untrained = {sample.question: sample for sample in base}
    lines: list[Line] = []
    for sample in kept:
        before = untrained.get(sample.question)
        lines += [
            (("asked     ", "dim"), plain_part(sample.question, "", 1_000)),
            (("expected  ", "dim"), plain_part(sample.expected, "", 1_000)),
            _answered("answered  ", sample),
            *([] if before is None or before is sample else [_answered("the base  ", before)]),
            (),
        ]
    return lines[:-1] or [(("none yet: they come with an evaluation", "dim"),)]


def _answered(who: str, sample: AnswerSample) -> Line:
    verdicts: dict[bool | None, Part] = {
        True: ("✓ right", "good"),
        False: ("✗ wrong", "bad"),
        None: ("· not judged", "dim"),
    }
    answer = plain_part(sample.answer, "", 1_000)
    return ((who, "dim"), answer, ("  ", ""), verdicts[sample.correct])
