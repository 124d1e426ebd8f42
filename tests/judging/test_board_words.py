"""Short text about boards where numbers are few, equal or none."""

from __future__ import annotations

import math
from dataclasses import replace

from tests.support.tick_contexts import Bench
from workbench.judging.board_words import gain_text, interval_text
from workbench.store.board import rank_adapters
from workbench.store.board_rows import ScoreDifference
from workbench.verdict.types import Interval
from workbench.verdict.words import interval_words


def test_no_difference_has_no_sign_of_a_loss() -> None:
    none = ScoreDifference(difference=0.0, low=0.0, high=0.0, p=1.0)
    assert gain_text(none, higher_is_better=False, interval=True) == "+0.000 [+0.000, +0.000]"


def test_one_row_has_no_interval(judged: Bench) -> None:
    one = Interval(value=1.05, low=math.nan, high=math.nan, rows=1, approximate=True)
    assert interval_words(one, 3) == "1.050 (one row, no interval)"
    few = replace(one, low=0.4, high=1.2, rows=5)
    assert interval_words(few, 3) == "1.050 [about 0.400, 1.200]"
    row = rank_adapters(judged.store, judged.store.experiment(1), 0.0)[0]
    assert interval_text(replace(row, score_low=math.nan, score_high=math.nan)) == "-"
