"""A user's own scorer that kills the worker that runs it."""

from __future__ import annotations

import pytest

from tests.support.waiting import wait_for
from tests.support.whole import LIMIT_S, Whole, short_recipe
from workbench.trial import State

pytestmark = [pytest.mark.fault, pytest.mark.slow]  # four restarts of a worker

KILLER = """
import os, signal, time

HIGHER_IS_BETTER = True


def score(question, expected, answer):
    if answer != expected:  # so that the check, which gives the expected answer, passes
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)
    return 1.0
"""


def test_a_scorer_that_kills_its_worker_costs_two_restarts_and_no_trial(whole: Whole) -> None:
    whole.start()
    losses = whole.losses()
    whole.home.scorers.mkdir(exist_ok=True)
    (whole.home.scorers / "killer.py").write_text(KILLER)
    recipe = short_recipe(
        "train.max_steps=2", "evaluate.scorer=[f1, killer]", "evaluate.max_new_tokens=16"
    )
    with whole.unharmed(told=r"trial \d+: the worker of cpu-\d went away"):
        answer = whole.service.wait_for_answer(whole.service.submit(recipe), LIMIT_S)
        experiment = int(answer.data["experiment"])

        def ended() -> bool:
            trials = whole.service.trials(experiment)
            return bool(trials) and all(trial.state.final for trial in trials)

        wait_for(ended, "its trials end", LIMIT_S)
    for trial in whole.service.trials(experiment):
        found = whole.service.trial(trial.id)
        assert trial.state is State.DONE
        assert [attempt.outcome for attempt in found.attempts] == ["cut", "cut", "done"]
        assert "scorer killer: skipped, because its worker ended 2 times" in trial.reason
    _, rows = whole.service.board(experiment)
    assert all("f1" in row.scores and "killer" not in row.scores for row in rows)
    assert whole.losses() == losses
    assert not any(card.quarantined for card in whole.service.snapshot().cards)
