"""The report's HTML: plain markup with its style sheet inside, and no scripts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files

from workbench import __version__, formatting
from workbench.report.facts import ReportFacts
from workbench.report.plots import Curve, Dot, curve_plot, interval_plot, setting_plot
from workbench.store.rows import AnswerSample, BoardRow
from workbench.text import safe_line, safe_text

# A browser then loads and runs nothing, even if some text escaped its escaping.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
MOST_RECIPE = 40_000
"""Characters of a recipe that are shown; a longer one is cut."""
LABELLED = 3
"""Curves that are drawn in front with a label: more labels would cover one another."""


def build_page(facts: ReportFacts) -> str:
    """Return the whole report as one HTML document of UTF-8 text."""
    name = _text(facts.experiment.name)
    style = (files("workbench.report") / "style.css").read_text(encoding="utf-8")
    made = formatting.date_time(facts.made_utc)
    sections = [
        f"<h1>{name}</h1>",
        f'<p class="soft">{_counts(facts)} · made {made} by workbench {__version__}</p>',
        f'<p class="verdict">{_text(facts.verdict, 2_000)}</p>',
        *(f'<p class="soft">{_text(note)}</p>' for note in facts.notes),
        _section("Finals", _finals_table(facts)),
        _section("Scores", interval_plot(_dots(facts), name=facts.experiment.rank_by)),
        _section("Board", _board_table(facts)),
        _section("Curves", curve_plot(_curves(facts), name=facts.curve_name.replace("_", " "))),
        *_setting_sections(facts),
        _section("Data and model", _facts_table(facts)),
        _section("Sample answers", "".join(_samples(facts))),
        _section("Recipe", _recipe(facts)),
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


def _counts(facts: ReportFacts) -> str:
    counts = formatting.counts_line(facts.experiment.outcomes)
    return f"{_text(counts)} · ranked by {_text(formatting.ranking_rule(facts.experiment.rank_by))}"


def _label(row: BoardRow) -> str:
    return "base" if row.kind == "base" else f"trial {row.trial}"


def _is_first(row: BoardRow) -> bool:
    """Return True for a row that is tied for first, or leads a board without a verdict."""
    return row.rank == 1 if row.tied_for_first is None else row.tied_for_first


def _dots(facts: ReportFacts, key: str | None = None) -> list[Dot]:
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
        for row in facts.rows
        if row.score is not None and (key is None or key in row.settings)
    ]


def _curves(facts: ReportFacts) -> list[Curve]:
    found = []
    for row in facts.rows:
        points = [(float(p.step), (p.low + p.high) / 2) for p in facts.curves.get(row.trial, [])]
        best = row.rank is not None and row.rank <= LABELLED
        found.append(Curve(label=_label(row), points=points, best=best))
    return found


def _setting_sections(facts: ReportFacts) -> list[str]:
    """Return a plot of the score for each setting of which several values were tried."""
    keys = sorted({key for row in facts.rows if row.kind == "tune" for key in row.settings})
    name = facts.experiment.rank_by
    plots = {key: setting_plot(_dots(facts, key), key=key, name=name) for key in keys}
    return [_section(f"{name} against {key}", plot) for key, plot in plots.items()]


_HEADS = ("rank", "trial", "state", "score", "95 % interval", "vs base", "step", "settings")
_NUMBERS = ("rank", "trial", "score", "95 % interval", "vs base", "step")


def _board_table(facts: ReportFacts) -> str:
    lines = [(_is_first(row) and row.rank is not None, _cells(row)) for row in facts.rows]
    return _table(_HEADS, lines, numbers=_NUMBERS)


def _cells(row: BoardRow) -> list[str]:
    settings = formatting.brief_settings(row.settings)
    return [
        "tied 1" if row.tied_for_first and row.rank != 1 else str(row.rank or "-"),
        str(row.trial),
        formatting.outcome_word(row.state, row.reason),
        formatting.score(row.score),
        _interval_cell(row.score_low, row.score_high),
        formatting.score(row.gain, sign=True),
        formatting.number(row.score_step),
        "the base, untrained" if row.kind == "base" else settings,
    ]


_FINAL_HEADS = ("rank", "finalist", "seeds", "mean", "95 % interval", "ships", "settings", "")
_FINAL_NUMBERS = ("rank", "finalist", "seeds", "mean", "95 % interval", "ships")


def _finals_table(facts: ReportFacts) -> str:
    """Return the table of the finals; empty where there were none."""
    lines = [
        (
            bool(one.tied_for_first),
            (
                "tied 1" if one.tied_for_first and one.rank != 1 else str(one.rank or "-"),
                str(one.trial),
                f"{len(one.seeds)} of {one.asked}",
                formatting.score(one.mean),
                _interval_cell(one.low, one.high),
                "-" if one.shipped is None else f"trial {one.shipped}",
                formatting.brief_settings(one.settings),
                "; ".join(one.notes),
            ),
        )
        for one in facts.finals
    ]
    return _table(_FINAL_HEADS, lines, numbers=_FINAL_NUMBERS) if lines else ""


def _interval_cell(low: float | None, high: float | None) -> str:
    return formatting.UNKNOWN if low is None or high is None else f"{low:.3f} to {high:.3f}"


def _table(
    heads: Sequence[str],
    lines: Iterable[tuple[bool, Sequence[str]]],
    *,
    numbers: Sequence[str] = (),
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


def _facts_table(facts: ReportFacts) -> str:
    prepared, recipe = facts.experiment.prepared or {}, facts.experiment.recipe
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
    names = {row.trial: _label(row) for row in facts.rows}
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


def _recipe(facts: ReportFacts) -> str:
    """Return the recipe as YAML with every default; as JSON if this build cannot read it."""
    from pydantic import ValidationError  # 0.1 s, and only a report needs it

    from workbench.recipe import Recipe
    from workbench.recipe.dump import to_yaml

    try:
        text = to_yaml(Recipe.model_validate(facts.experiment.recipe))
    except ValidationError:
        text = json.dumps(facts.experiment.recipe, indent=2)
    shown = escape(safe_text(text, MOST_RECIPE))
    return f"<details><summary>as it was submitted</summary><pre>{shown}</pre></details>"
