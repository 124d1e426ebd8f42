"""`workbench show`: one trial as a page of text."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence

from workbench import formatting
from workbench.cli.tables import STATE_COLOURS, out_table, print_answer
from workbench.home import find_home
from workbench.judging import board_words
from workbench.library.trash import list_trash
from workbench.service import TrialDetail
from workbench.store.board_rows import BoardRow
from workbench.store.rows import AttemptRow, TrialRow
from workbench.text import safe_line, safe_text
from workbench.trial import DesiredState, State


def print_page(detail: TrialDetail, row: BoardRow | None, board: Sequence[BoardRow]) -> None:
    """Print a trial's facts, attempts, moves and sampled answers; `row` is its row of `board`."""
    trial = detail.trial
    name = safe_line(detail.experiment.name)
    word = formatting.outcome_word(trial.state, trial.reason)
    print_answer(
        f"{formatting.trial_name(trial)} of {name}: {word}",
        STATE_COLOURS.get(trial.state, "bold"),
    )
    for head, text in _facts(detail, row, board):
        print_answer(f"  {head:<12}{text}")
    if detail.attempts:
        _attempts(detail.attempts)
    if detail.moves:
        print_answer("\nmoves", "bold")
        rows = [(formatting.date_time(m.at_utc), m.before, m.after, m.why) for m in detail.moves]
        out_table(("when", "from", "to", "why"), rows)
    for sample in detail.samples:
        correctness = {True: "right", False: "wrong", None: "not judged"}[sample.correct]
        print_answer(f"\nsample, {correctness}", "bold")
        for head, text in (
            ("question", sample.question),
            ("expected", sample.expected),
            ("answer", sample.answer),
        ):
            print_answer(f"  {head:<10}" + safe_text(text).replace("\n", "\n" + " " * 12))


def _facts(
    detail: TrialDetail, row: BoardRow | None, board: Sequence[BoardRow]
) -> Iterator[tuple[str, str]]:
    trial = detail.trial
    yield "settings", formatting.settings_line(trial.settings) or "the recipe's own"
    if trial.warm_trial is not None:
        yield "warm start", f"from the adapter of trial {trial.warm_trial}"
    if trial.desired_card is not None:
        yield "goes to", safe_line(trial.desired_card)
    if trial.state == "queued" and trial.waiting:
        yield "waits", safe_line(trial.waiting.removeprefix("waits "))
    if trial.reason:
        yield "why", safe_line(trial.reason)
    if trial.hint:
        yield "hint", "→ " + safe_line(trial.hint)
    if _is_pending(trial):
        yield "desired", f"{trial.desired_state}, requested, not done yet"
    if trial.attempts:
        mean = trial.tokens_per_s if row is None else row.tokens_per_s  # as the board has it
        rate = f", {formatting.rate(mean)} tokens/s" if mean else ""
        loss = f", loss {formatting.number(trial.loss)}" if trial.loss is not None else ""
        phase = f", {safe_line(trial.phase)}" if trial.phase else ""
        left = trial.seconds_left(time.time())
        to_go = "" if left is None else f", {formatting.time_left_phrase(left)}"
        steps = formatting.steps(trial.step, trial.total_steps)
        yield "step", f"{steps}{loss}{rate}{phase}{to_go}"
    if row is not None and row.energy_wh is not None:
        yield "energy", formatting.energy(row.energy_wh)
    if trial.checkpoint_step is not None:
        yield "checkpoint", _checkpoint(trial)
    if row is not None and row.scores:
        yield "scores", ", ".join(_scores(row, detail.experiment.rank_by))
    if row is not None and row.score_low is not None:
        yield "verdict", board_words.row_line(row, board, detail.experiment.rank_by)
    if row is not None and row.adapter:
        of = f", the weights of step {row.score_step}" if row.score_step else ""
        yield "adapter", f"{safe_line(row.adapter)} ({formatting.size(row.adapter_bytes)}{of})"
    if detail.metric_names:
        yield "metrics", safe_line(", ".join(detail.metric_names))


def _is_pending(trial: TrialRow) -> bool:
    """Return True until a trial that has not ended is in the state that a person requested."""
    if trial.state.final:
        return False
    paused = trial.state is State.PAUSED
    return trial.desired_state is not (DesiredState.PAUSE if paused else DesiredState.RUN)


def _checkpoint(trial: TrialRow) -> str:
    """Return the step of the trial's newest checkpoint, and where it is if it was pruned."""
    home, step = find_home(), f"step {trial.checkpoint_step}"
    folder = home.trial(trial.id) / "checkpoints"
    if folder.is_dir():
        return step
    name = folder.relative_to(home.root).as_posix()
    for record in list_trash(home):
        if name in record.folders:
            return f"{step}, in the trash as {safe_line(record.entry)}"
    return f"none left; the last one was of {step}"


def _scores(row: BoardRow, rank_by: str) -> Iterator[str]:
    """Yield each score with its name; the one that ranks comes first, with its gain."""
    for name in sorted(row.scores, key=lambda name: (name != rank_by, name)):
        gain = f" ({formatting.score(row.gain, sign=True)} against the base)" if row.gain else ""
        text = formatting.named_score(name, row.scores[name])
        yield f"{safe_line(name)} {text}" + (gain if name == rank_by else "")


def _attempts(attempts: list[AttemptRow]) -> None:
    print_answer("\nattempts", "bold")
    rows = [
        (
            a.id,
            a.card,
            f"{a.from_step}-{a.last_step}",
            a.outcome or "live",
            _predicted(a),
            formatting.size(a.peak_bytes),
            formatting.duration((a.ended_utc or time.time()) - a.started_utc),
            formatting.energy(a.energy_wh),
            a.reason or "-",
        )
        for a in attempts
    ]
    heads = ("id", "card", "steps", "outcome", "predicted", "measured", "time", "energy", "why")
    right = ("id", "steps", "predicted", "measured", "time", "energy")
    out_table(heads, rows, right=right, optional=("energy",))
    for attempt in attempts:
        print_answer(f"  plan of {attempt.id}: {_plan(attempt)}")


def _predicted(attempt: AttemptRow) -> str:
    """Return `9.8 GiB`, or `9.8 GiB → 10.3 GiB` where earlier peaks corrected the prediction."""
    first, last = attempt.uncorrected_bytes, attempt.predicted_bytes
    return (
        formatting.size(last)
        if first == last
        else f"{formatting.size(first)} → {formatting.size(last)}"
    )


def _plan(attempt: AttemptRow) -> str:
    """Return the plan's settings in a line. Its bytes by bucket are in the JSON."""
    plan = {k: v for k, v in attempt.plan.items() if k not in ("buckets", "predicted_bytes")}
    told = (f"{key}={v if isinstance(v, str) else json.dumps(v)}" for key, v in plan.items())
    return safe_line(" ".join(told)) or "none"
