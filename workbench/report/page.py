"""The report's HTML: plain markup with its style sheet inside, and no scripts."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterable, Sequence
from html import escape
from importlib.resources import files

from workbench import formatting
from workbench.judging import board_words, finals_words
from workbench.report.facts import ReportFacts
from workbench.report.plots import Curve, Dot, curve_plot, interval_plot, setting_plot
from workbench.store.board_rows import BoardRow, JudgedBoard
from workbench.store.rows import AnswerSample, Experiment
from workbench.text import safe_line, safe_text
from workbench.trial import up_is_better

# Importing it would be a cycle, because the package's public API writes reports.
_VERSION: str = sys.modules["workbench"].__version__
# A browser then loads and runs nothing, even if some text escaped its escaping.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
MOST_RECIPE = 40_000
"""Characters of a recipe that are shown; a longer one is cut."""
LABELLED = 3
"""Curves that are drawn in front with a label: more labels would cover one another."""


def build_page(facts: ReportFacts) -> str:
    """Return the whole report as one HTML document of UTF-8 text."""
    board, experiment = facts.board, facts.board.experiment
    name = _text(experiment.name)
    style = (files("workbench.report") / "style.css").read_text(encoding="utf-8")
    made = formatting.date_time(facts.made_utc)
    sections = [
        f"<h1>{name}</h1>",
        f'<p class="soft">{_counts(experiment)} · made {made} by workbench {_VERSION}</p>',
        f'<p class="verdict">{_text(board.verdict, 2_000)}</p>',
        _section("Finals", _finals_table(board)),
        _section("Scores", interval_plot(_dots(board), name=experiment.rank_by)),
        _section("Board", _board_table(board) + _notes(board_words.footnotes(board))),
        _section("Curves", curve_plot(_curves(facts), name=facts.curve_name.replace("_", " "))),
        *_setting_sections(board),
        _section("Data and model", _facts_table(experiment)),
        _section("Sample answers", "".join(_samples(facts))),
        _section("Recipe", _recipe(experiment)),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name}: report</title><style>{style}</style></head>\n"
        f"<body>{''.join(sections)}</body></html>\n"
    )


def _text(value: object, limit: int = 400) -> str:
    """Return foreign text on one line, without control characters and as HTML."""
    return escape(safe_line(value, limit))


def _section(title: str, content: str) -> str:
    return f"\n<section><h2>{escape(title)}</h2>{content}</section>" if content else ""


def _notes(sentences: Iterable[str]) -> str:
    """Return sentences below a table, one on each line."""
    return "".join(f'<p class="soft note">{_text(one, 1_000)}</p>' for one in sentences)


def _counts(experiment: Experiment) -> str:
    counts = formatting.counts_line(experiment.outcomes)
    return f"{_text(counts)} · ranked by {_text(formatting.ranking_rule(experiment.rank_by))}"


def _label(row: BoardRow) -> str:
    return "base" if row.kind == "base" else f"trial {row.trial}"


def _is_first(row: BoardRow) -> bool:
    """Return True for a row that is tied for first, or leads a board without a verdict."""
    return row.rank == 1 if row.tied_for_first is None else row.tied_for_first


def _dots(board: JudgedBoard, key: str | None = None) -> list[Dot]:
    """Return the scored rows as dots; with `key` only trials, each at its value of that setting."""
    return [
        Dot(
            label=_label(row),
            score=row.score,
            low=row.score_low,
            high=row.score_high,
            best=_is_first(row),
            at=None if key is None else row.settings.get(key),
        )
        for row in board.rows
        if row.score is not None and (key is None or key in row.settings)
    ]


def _curves(facts: ReportFacts) -> list[Curve]:
    found = []
    for row in facts.board.rows:
        points = [(float(p.step), (p.low + p.high) / 2) for p in facts.curves.get(row.trial, [])]
        best = row.rank is not None and row.rank <= LABELLED
        found.append(Curve(label=_label(row), points=points, best=best))
    return found


def _setting_sections(board: JudgedBoard) -> list[str]:
    """Return a plot of the score for each setting of which several values were tried."""
    keys = sorted({key for row in board.rows if row.kind == "tune" for key in row.settings})
    name = board.experiment.rank_by
    plots = {key: setting_plot(_dots(board, key), key=key, name=name) for key in keys}
    return [_section(f"{name} against {key}", plot) for key, plot in plots.items()]


_HEADS = ("rank", "trial", "state", "score", "95 %", "vs base", "vs best", "step", "settings")
_NUMBERS = frozenset(_HEADS) - {"state", "settings"}


def _board_table(board: JudgedBoard) -> str:
    up = up_is_better(board.experiment.rank_by)
    lines = [
        (_is_first(row) and row.rank is not None, _cells(row, board, up)) for row in board.rows
    ]
    return _table(_HEADS, lines, numbers=_NUMBERS)


def _cells(row: BoardRow, board: JudgedBoard, up: bool) -> list[str]:
    gain = formatting.score(row.gain, sign=True)
    if row.vs_base is not None:
        gain = board_words.gain_text(row.vs_base, up, interval=True)
    return [
        board_words.rank_text(row, board.rows),
        str(row.trial),
        formatting.outcome_word(row.state, row.reason),
        board_words.score_text(row),
        board_words.interval_text(row),
        gain,
        board_words.gain_text(row.vs_leader, up, interval=True),
        formatting.number(row.score_step),
        "the base, untrained"
        if row.kind == "base"
        else formatting.brief_settings(row.settings, short_keys=True),
    ]


_FINAL_NUMBERS = frozenset(finals_words.HEADS) - {"settings"}


def _finals_table(board: JudgedBoard) -> str:
    """Return the table of the finals with its notes; empty where there were none."""
    if not board.finals:
        return ""
    up = up_is_better(board.experiment.rank_by)
    lines = [
        (
            bool(row.tied_for_first),
            [
                str(cell)
                for cell in finals_words.finalist_cells(
                    row, board.finals, higher_is_better=up, short_keys=True
                )
            ],
        )
        for row in board.finals
    ]
    table = _table(finals_words.HEADS, lines, numbers=_FINAL_NUMBERS)
    about = "Means over new seeds; the adapter that ships is that of the median seed."
    return f'<p class="soft">{about}</p>{table}{_notes(finals_words.seed_notes(board.finals))}'


def _table(
    heads: Sequence[str],
    lines: Iterable[tuple[bool, Sequence[str]]],
    *,
    numbers: Collection[str] = (),
) -> str:
    """Return a table; lines whose first value is True are emphasised."""
    marks = ['class="number"' if head in numbers else "" for head in heads]
    top = "".join(f"<th {mark}>{escape(h)}</th>" for mark, h in zip(marks, heads, strict=True))
    body = "".join(
        ('<tr class="first">' if first else "<tr>")
        + "".join(f"<td {mark}>{_text(c)}</td>" for mark, c in zip(marks, cells, strict=True))
        + "</tr>"
        for first, cells in lines
    )
    table = f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide">{table}</div>'


_DATA_FACTS = {
    "train_rows": "training rows",
    "eval_rows": "held-out rows",
    "target_tokens": "training tokens that carry loss",
    "median_length": "tokens of the median training row",
    "max_length": "tokens of the longest training row",
    "cut_rows": "training rows that were cut",
    "dropped_rows": "training rows without a token to learn",
}


def _facts_table(experiment: Experiment) -> str:
    prepared, recipe = experiment.prepared or {}, experiment.recipe
    data, model = prepared.get("data") or {}, prepared.get("model") or {}
    lines = [
        ("base model", recipe.get("model", {}).get("name", "-")),
        ("revision", model.get("revision") or "-"),
        ("quantisation", recipe.get("model", {}).get("quantization", "-")),
        *((words, f"{data[key]:,}") for key, words in _DATA_FACTS.items() if key in data),
        ("evaluation set", prepared.get("evaluation_digest", "-")),
        *(("note", note) for note in prepared.get("notes") or []),
    ]
    return _table(("", ""), [(False, (words, str(value))) for words, value in lines])


def _samples(facts: ReportFacts) -> list[str]:
    names = {row.trial: _label(row) for row in facts.board.rows}
    return [
        _sample(names.get(trial, f"trial {trial}"), sample)
        for trial, samples in facts.samples.items()
        for sample in samples
    ]


def _sample(name: str, sample: AnswerSample) -> str:
    judged = {True: "right", False: "wrong", None: "not judged"}[sample.correct]
    parts = (("asked", sample.question), ("expected", sample.expected), ("answer", sample.answer))
    lines = "".join(
        f"<p class=soft>{word}</p><pre>{escape(safe_text(text))}</pre>" for word, text in parts
    )
    head = f"{escape(name)}, {judged}: {_text(sample.question, 90)}"
    return f"<details><summary>{head}</summary>{lines}</details>"


def _recipe(experiment: Experiment) -> str:
    """Return the recipe as YAML with every default; as JSON if this build cannot read it."""
    from pydantic import ValidationError  # 0.1 s, and only a report needs it

    from workbench.recipe import Recipe
    from workbench.recipe.dump import to_yaml

    try:
        text = to_yaml(Recipe.model_validate(experiment.recipe))
    except ValidationError:
        text = json.dumps(experiment.recipe, indent=2)
    shown = escape(safe_text(text, MOST_RECIPE))
    return f"<details><summary>as it was submitted</summary><pre>{shown}</pre></details>"
