"""Screens on real terminals: keys at random while trials run, and lines that are lost."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.engine_ticks import ticking_engine
from tests.support.pty_app import IGNORING, RUN, PtyApp
from tests.tui.filled import fill
from workbench.home import Home

pytestmark = pytest.mark.fault

KEYS = [b"j", b"k", b"g", b"G", b"2", b"3", b"4", b"5", b"6", b"1", b"?", b"\x1b", b"\r", b" "]
KEYS += [b"/", b"a", b"x", b"v", b"z", b",", b".", b"!", b"=", b":", b"\x0c", b"\x1b[B", b"\x1b[A"]
KEYS += [b"\x1b[6~", b"n", b"y", b"t", b"\t", b"i", b"\xc3\xa9", b"\x7f"]
CATCH_UP_S = 2.0
"""Seconds to draw what keys have changed; trials that log a step let no screen be quiet."""


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[Path]:
    """A home with an engine that ticks and two trials that log a step now and then."""
    home = Home(tmp_path / "busy")
    fill(home, time.time())
    with ticking_engine(home.root, live=True, period_s=0.3):
        yield home.root


def hang_up(home: Path, dice: random.Random) -> float:
    """Close the terminal of a screen at a random moment; return the seconds it lived on."""
    with PtyApp(home, code=dice.choice([IGNORING, RUN])) as app:
        app.read_until(lambda: b"Dashboard" in app.seen)
        app.read_for(dice.random() * 0.8)
        if dice.random() < 0.5:
            app.send(dice.choice([b"jjjjjj", b"2", b"q", b"45", b"?", b":"]))
        app.hang_up()
        began = time.monotonic()
        ended = (0, 128 + signal.SIGHUP, -signal.SIGALRM, -signal.SIGHUP)
        # 1: a busy machine was still drawing to the terminal that is gone.
        assert app.process.wait(20) in (*ended, 1)
        return time.monotonic() - began


@pytest.mark.parametrize("times", [4, pytest.param(200, marks=pytest.mark.slow)])
def test_a_lost_line_always_ends_the_process(busy: Path, times: int) -> None:
    dice = random.Random(times)
    for _ in range(times):
        hang_up(busy, dice)  # `python benchmarks/tui.py --only hang-ups` holds the second


@pytest.mark.parametrize("keys", [300, pytest.param(5_000, marks=pytest.mark.slow)])
def test_random_keys_while_trials_run_leave_a_screen_that_is_whole(busy: Path, keys: int) -> None:
    dice = random.Random(4711)
    with PtyApp(busy, columns=100, rows=30) as app:
        app.read_until(lambda: b"running" in app.seen)
        for n in range(keys):
            app.send(dice.choice(KEYS))
            app.read(0.02)
            if n % 100 == 99:
                app.read_until_quiet(0.4, CATCH_UP_S)
                assert app.process.poll() is None, app.seen[-3_000:]
        app.send(b"\x1b\x1b")
        app.read_until_quiet(0.6, CATCH_UP_S)
        assert b"Traceback" not in app.seen
        app.send(b"\x1b")
        app.read_until_quiet(0.6, CATCH_UP_S)
        app.process.send_signal(signal.SIGTERM)
        app.read_until(lambda: b"\x1b[?1049l" in app.seen)
        assert app.process.wait(20) == 128 + signal.SIGTERM
        assert b"Traceback" not in app.seen
