"""Predicted → corrected → measured, on the trial's page and on its screen."""

from pathlib import Path

import pytest

from tests.engine.test_measured_peaks import finish, gpu, make
from tests.support.tick_contexts import Bench, make_bench, recipe
from tui.paint import Line
from tui.tables import plan_bars
from workbench import formatting
from workbench.cli.trials import trial_page
from workbench.store.rows import AttemptRow


@pytest.fixture
def attempt(tmp_path: Path) -> AttemptRow:
    """One whose prediction three others of its kind have raised by a tenth."""
    bench: Bench = make_bench(tmp_path, [gpu()])
    bench.submit(recipe())
    for _ in range(3):
        finish(bench, make(bench), 1.1)
    plan = make(bench)
    id = bench.store.add_attempt(2, "GPU-0", plan.to_json(), plan.predicted_bytes, 0)
    bench.store.touch_attempt(id, peak_bytes=int(1.09 * plan.predicted_bytes))
    found = bench.store.attempt(id)
    bench.store.close()
    return found


def text(lines: list[Line]) -> list[str]:
    return ["".join(part[0] for part in line) for line in lines]


def test_a_corrected_prediction_keeps_what_was_predicted_first(attempt: AttemptRow) -> None:
    assert attempt.predicted_bytes == int(attempt.uncorrected_bytes * 1.1)


def test_the_screen_shows_all_three(attempt: AttemptRow) -> None:
    shown = text(plan_bars.plan_lines(attempt, None))
    heads = [line.split("  ")[0] for line in shown if " peak" in line]
    assert heads == ["predicted peak", "corrected peak", "measured peak"]
    assert any("+10% by earlier measurements" in line for line in shown)
    assert any("+9%" in line for line in shown if line.startswith("measured"))


def test_the_page_shows_all_three(
    attempt: AttemptRow, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    trial_page._attempts([attempt])
    said = capsys.readouterr().out
    first, last, peak = (
        formatting.size(size)
        for size in (attempt.uncorrected_bytes, attempt.predicted_bytes, attempt.peak_bytes)
    )
    assert f"{first} → {last}" in said
    assert peak in said
