"""A chat on a real engine: answers beside training, a lost worker, a person who is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.support.waiting import wait_for
from tests.support.whole import LIMIT_S, Whole
from workbench.chat.client import ChatSession
from workbench.trial import State

pytestmark = pytest.mark.fault
ASK = [{"role": "user", "content": "Tom has 3 apples and buys 4. How many has he now?"}]


def _adapter_and_free_card(whole: Whole) -> int:
    """Stop one of two trials, so that its adapter can be asked on its card; return the trial."""
    trial = min(whole.two_running())
    whole.obeyed(whole.service.stop(trial))
    whole.until_state(trial, State.STOPPED)
    return trial


def _worker(whole: Whole, trial: int) -> int:
    return int(whole.service.trial(trial).attempts[-1].pid or 0)


@pytest.mark.begins_early
def test_an_answer_survives_the_loss_of_its_worker(whole: Whole) -> None:
    trial = _adapter_and_free_card(whole)
    with ChatSession.open(whole.service, [trial, None]) as chat:
        chat.wait_until_ready()
        both = [chat.ask(subject, ASK, max_new_tokens=8) for subject in (0, 1)]
        for last in (list(answer)[-1] for answer in both):
            assert last.ended_by in ("end", "length")
            assert 0 < last.tokens <= 8
        pieces = chat.ask(0, ASK, max_new_tokens=4_000, temperature=50.0, seed=1)
        begun = next(pieces)
        assert begun.text
        whole.kill(_worker(whole, chat.trial))
        rest = list(pieces)
        assert any(piece.again for piece in rest)
        assert rest[-1].ended_by in ("end", "length")
    whole.until_state(chat.trial, State.DONE)
    assert whole.service.trial(chat.trial).trial.reason == "the person left the chat"


@pytest.mark.slow
def test_a_person_who_is_killed_gives_the_card_back(whole: Whole) -> None:
    trial = _adapter_and_free_card(whole)
    before = {t.id for t in whole.service.snapshot().trials}
    person = subprocess.Popen(
        [sys.executable, "-m", "workbench", "chat", str(trial), "-p", "Hi", "--max-tokens", "9999"],
        env={**os.environ, "WORKBENCH_HOME": str(whole.home.root)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        new = wait_for(
            lambda: [t.id for t in whole.service.snapshot().trials if t.id not in before],
            "the chat is queued",
            LIMIT_S,
        )
        chat = new[0]
        whole.until_state(chat, State.RUNNING)
    finally:
        person.send_signal(signal.SIGKILL)
        person.wait()
    whole.until_state(chat, State.DONE)
