"""The checks of many_cards.py that need an endless trial on every card at once."""

from __future__ import annotations

import time
from collections.abc import Sequence

import host_load
from cards_lab import Lab, Report, card_bytes, wait

from workbench.store.rows import AttemptRow

SAVE_EVERY = 20
"""Steps between two checkpoints."""
LEFT_BYTES = 1 << 30
"""Bytes in use below which a card holds no worker."""


def busy(lab: Lab, report: Report, cards: Sequence[str], steps: int) -> None:
    """Train on every card; measure the host, drain half of the cards, and restart the engine."""
    trials = lab.submit("busy", len(cards), steps, save=SAVE_EVERY)
    wait(lambda: all(_trains(lab, trial) for trial in trials), "a checkpoint of every trial")
    host_load.while_training(lab, report, trials)
    if len(cards) > 1:
        _drain_half(lab, report, cards, trials)
    else:
        report.skip("drain of half the cards", "one card")
    _restart(lab, report, cards, trials)
    lab.kill(trials)


def _trains(lab: Lab, trial: int, after: int = 0) -> AttemptRow | None:
    """Return the trial's live attempt, newer than attempt `after`, once it wrote a checkpoint."""
    live = lab.live(trial)
    return live if live and live.id > after and live.checkpoint_step else None


def _drain_half(lab: Lab, report: Report, cards: Sequence[str], trials: Sequence[int]) -> None:
    """Take half of the cards away from their trials at once, and give them back."""
    half = cards[len(cards) // 2 :]
    before = {trial: lab.live(trial) for trial in trials}
    moved = [trial for trial, one in before.items() if one is not None and one.card in half]
    began = time.monotonic()
    lab.drain(half, now=True)
    wait(lambda: not any(lab.live(trial) for trial in moved), "the drained cards' trials")
    report.figures["seconds until drained cards are free"] = round(time.monotonic() - began, 1)
    lab.drain(half, back=True)
    wait(lambda: all(_trains(lab, trial) for trial in moved), "the return of the drained cards")
    again = {trial: len(lab.attempts([trial])) for trial in trials}
    good = all(again[trial] == (2 if trial in moved else 1) for trial in trials)
    report.check("a drain leaves other cards' trials alone", good, again)
    resumed = [lab.attempts([trial])[-1].from_step for trial in moved]
    report.check("drained trials go on from a checkpoint", min(resumed) >= SAVE_EVERY, resumed)


def _restart(lab: Lab, report: Report, cards: Sequence[str], trials: Sequence[int]) -> None:
    """Stop the engine and start it again; every trial goes on from its checkpoint."""
    last = {trial: lab.attempts([trial])[-1].id for trial in trials}
    began = time.monotonic()
    lab.service.stop_engine()
    lab.service.wait_for_engine(running=False, timeout_s=120)
    report.figures["seconds until the engine has stopped"] = round(time.monotonic() - began, 1)
    left = {card: used for card, used in card_bytes().items() if card in cards}
    report.check("bytes of cards after the stop", all(n < LEFT_BYTES for n in left.values()), left)
    began = time.monotonic()
    lab.service.start_engine()
    wait(lambda: all(_trains(lab, one, last[one]) for one in trials), "the resumes", 300)
    seconds = round(time.monotonic() - began, 1)
    report.figures[f"seconds from a start to {SAVE_EVERY} steps of every trial"] = seconds
    resumed = [lab.attempts([trial])[-1].from_step for trial in trials]
    report.check("all go on from a checkpoint", min(resumed) >= SAVE_EVERY, resumed)
