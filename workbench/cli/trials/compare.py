"""`workbench compare`: two or more trials side by side, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from workbench import formatting
from workbench.cli.arguments import Json, trial_id
from workbench.cli.revival import revive_engine
from workbench.cli.tables import as_json, out_table, print_answer, print_note
from workbench.cli.trials.chat import Talk, show_piece
from workbench.cli.trials.control import need_engine
from workbench.errors import UsageError
from workbench.service import Comparison, Service
from workbench.store.answers import RowAnswer
from workbench.store.rows import TrialRow
from workbench.text import safe_line
from workbench.trial import Kind, up_is_better

STEPS = 8
"""Most steps of the curves that are printed."""
SHOWN_CHARACTERS = 600
"""Characters of a question or an answer that are printed."""


def compare_command(
    trials: Annotated[
        list[int],
        typer.Argument(metavar="TRIAL", help="Two or more ids, as `ls` shows.", parser=trial_id),
    ],
    rows: Annotated[
        int, typer.Option(min=0, help="Rows to show, those where they disagree first.")
    ] = 5,
    prompts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Let all of them answer these lines as well."),
    ] = None,
    as_data: Json = False,
) -> None:
    """Compare trials: settings that differ, scores on the same rows, and where they disagree.

    Differences are a trial's score minus the first one's, with their 95 % interval. With
    --prompts, a card answers each line of the file with every trial's adapter.
    """
    service = Service()
    asked = None if prompts is None else read_prompts(prompts)
    if asked is None:
        revive_engine(service)
    found = service.compare(trials)
    if asked is not None:
        need_engine(service)
    if as_data:
        answers = [] if asked is None else _ask(service, found, asked, show=False)
        as_json({**comparison_data(found, rows), "prompts": answers})
        return
    _print_settings(found)
    _print_scores(found)
    _print_curves(found)
    _print_rows(found, rows)
    if asked is not None:
        _ask(service, found, asked, show=True)


def read_prompts(path: Path) -> list[str]:
    """Return the file's lines that are not blank. Raises UsageError where it cannot be read."""
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as unreadable:
        reason = getattr(unreadable, "strerror", None) or "it is no UTF-8 text"
        raise UsageError(
            f"{path} cannot be read: {reason}", hint="give a text file with a prompt on each line"
        ) from unreadable
    if not lines:
        raise UsageError(f"{path} has no prompt", hint="write one prompt on each line")
    return lines


def comparison_data(found: Comparison, rows: int) -> dict[str, Any]:
    """Return the comparison as JSON values, with at most `rows` of its rows."""
    return {
        "trials": [trial.id for trial in found.trials],
        "settings": found.settings,
        "scores": found.scores,
        "rows": found.rows[:rows],
        "disagreements": found.disagreements,
        "curves": found.curves,
        "notes": found.notes,
    }


def _names(found: Comparison) -> list[str]:
    return ["base" if t.kind is Kind.BASE else f"trial {t.id}" for t in found.trials]


def _print_settings(found: Comparison) -> None:
    rows = [
        (key, *(_setting_cell(t, value) for t, value in zip(found.trials, values, strict=True)))
        for key, values in found.settings.items()
    ]
    if rows:
        out_table(("setting", *_names(found)), rows)
    else:
        print_answer(found.no_settings_words)


def _setting_cell(trial: TrialRow, value: object) -> str:
    return formatting.UNKNOWN if trial.kind is Kind.BASE else formatting.setting_text(value)


def _print_scores(found: Comparison) -> None:
    for note in found.notes:
        print_answer(note)
    if not found.scores:
        return
    print_answer()
    names = _names(found)
    rows = [(s.name, *(formatting.score(value) for value in s.values)) for s in found.scores]
    out_table(("score", *names), rows, right=names, flexible="score")
    print_answer()
    differences = [
        (score.name, name, *_difference_cells(one))
        for score in found.scores
        for name, one in zip(names[1:], score.differences[1:], strict=True)
    ]
    heads = ("score", f"minus {names[0]}", "difference", "95 % interval", "p")
    out_table(heads, differences, right=heads[2:], flexible="score")
    better = "higher" if up_is_better(found.scores[0].name) else "lower"
    print_answer(f"{better} {found.scores[0].name} is better")


def _difference_cells(one: Any) -> tuple[str, str, str]:
    """Return difference, interval and p-value; dashes where the two cannot be compared."""
    if one is None:
        return formatting.UNKNOWN, formatting.UNKNOWN, formatting.UNKNOWN
    low, high = (formatting.score(end, sign=True) for end in (one.low, one.high))
    return (
        formatting.score(one.difference, sign=True),
        f"{low} to {high}",
        formatting.p_value(one.p),
    )


def _print_curves(found: Comparison) -> None:
    """Print the held-out loss at the steps that every curve has."""
    curves = [
        {point.step: point.low for point in found.curves.get(trial.id, [])}
        for trial in found.trials
        if trial.kind is not Kind.BASE
    ]
    shared = sorted(set.intersection(*map(set, curves))) if curves else []
    if len(shared) < 2:
        return
    print_answer()
    some = _spread(shared, STEPS)
    names = [f"trial {t.id}" for t in found.trials if t.kind is not Kind.BASE]
    rows = [
        (name, *(formatting.number(curve[step]) for step in some))
        for name, curve in zip(names, curves, strict=True)
    ]
    heads = ("held-out loss at step", *(str(step) for step in some))
    out_table(heads, rows, right=heads[1:], flexible=heads[0])


def _spread(steps: list[int], most: int) -> list[int]:
    """Return at most `most` of the steps, evenly spread, the first and the last among them."""
    if len(steps) <= most:
        return steps
    return [steps[round(n * (len(steps) - 1) / (most - 1))] for n in range(most)]


def _print_rows(found: Comparison, count: int) -> None:
    if not found.rows or not count:
        return
    print_answer()
    print_answer(found.rows_words, "bold")
    for row in found.rows[:count]:
        print_answer()
        print_answer(f"row {row.row}: {safe_line(row.question, SHOWN_CHARACTERS)}")
        if row.expected:
            print_answer(f"  expected: {safe_line(row.expected, SHOWN_CHARACTERS)}")
        for name, answer in zip(_names(found), row.answers, strict=True):
            print_answer(f"  {name}{_judged(answer)}: {answer_words(answer)}")


def _judged(answer: RowAnswer) -> str:
    loss = f"loss {formatting.score(answer.loss_sum / answer.targets)}" if answer.targets else ""
    word = {True: "right", False: "wrong", None: ""}[answer.right]
    about = ", ".join(part for part in (word, loss) if part)
    return f" ({about})" if about else ""


def answer_words(answer: RowAnswer) -> str:
    """Return a model's answer on one line, or why there is none."""
    if answer.text is None:
        return "(no answer was generated)"
    return safe_line(answer.text, SHOWN_CHARACTERS) or "(empty)"


def _ask(
    service: Service, found: Comparison, prompts: Sequence[str], *, show: bool
) -> list[dict[str, Any]]:
    """Let every compared model answer each prompt, and return the answers as JSON values."""
    from workbench.chat.client import ChatSession

    subjects = [None if t.kind is Kind.BASE else t.id for t in found.trials]
    answers = []
    with ChatSession.open(service, subjects) as session:
        session.wait_until_ready(print_note)
        talk = Talk(session, None, {})
        for prompt in prompts:
            if show:
                print_answer()
                print_answer(safe_line(prompt, SHOWN_CHARACTERS), "bold")
            answers.append(talk.ask_all(prompt, show=show_piece if show else None))
            talk.forget()
    return answers
