"""The sections of a trial's page as lines, without an app."""

from __future__ import annotations

from dataclasses import replace

from tests.tui.filled import NOW
from tui.paint import line_text
from tui.tables.detail import sample_lines, settings_lines
from workbench.home import Home
from workbench.service import AnswerSample, Service, TrialRow


def trials(home: Home) -> list[TrialRow]:
    return Service(home, lambda: NOW).snapshot().trials


def test_settings_stand_beside_the_recipe_s_and_the_other_trials_values(home: Home) -> None:
    known = trials(home)
    row = replace(known[0], settings={"train.learning_rate": 2e-4, "lora.rank": 8})
    others = [
        replace(row, id=90 + n, settings={"train.learning_rate": r})
        for n, r in enumerate((1e-3, 5e-5))
    ]
    recipe = {"train": {"learning_rate": 1e-4, "epochs": 1}, "lora": {"rank": 8}}
    lines = [line_text(line) for line in settings_lines(row, recipe, others)]
    assert lines[0].split(maxsplit=1) == [
        "train.learning_rate",
        "0.0002  recipe 0.0001; others 5e-5, 0.001",
    ]
    assert lines[1].split() == ["lora.rank", "8"]
    assert lines[2].split() == ["train.epochs", "1"]


def test_answers_stand_beside_the_base_s_to_the_same_question() -> None:
    mine = AnswerSample(question="2+2", expected="4", answer="4", correct=True)
    base = AnswerSample(question="2+2", expected="4", answer="two", correct=False)
    lines = [line_text(line) for line in sample_lines([mine], [base])]
    assert lines == [
        "asked     2+2",
        "expected  4",
        "answered  4  ✓ right",
        "the base  two  ✗ wrong",
    ]
    assert len(sample_lines([mine], [])) == 3
