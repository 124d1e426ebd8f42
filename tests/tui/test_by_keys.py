"""The whole way by keys alone with a real engine: empty home, run, verdict, merge, leave."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.pty_app import PtyApp
from workbench.home import Home
from workbench.service import Service

pytestmark = pytest.mark.slow
CARDS = {"WORKBENCH_CARDS": "cpu:6GiB,cpu:6GiB"}
RECIPE = """
name: by-keys
model: {name: "workbench:demo/model"}
data:
  train: workbench:demo/data/train.jsonl
  eval: workbench:demo/data/eval.jsonl
  eval_rows: 32
  columns: {question: prompt, answer: completion}
  max_tokens: 96
lora: {rank: 4}
train: {max_steps: 12, batch_size: 8, learning_rate: 4e-3, save_every: 6, log_every: 2}
evaluate: {batch_size: 32, answer_pattern: '####\\s*(-?\\d+)', max_new_tokens: 24}
sweep: {method: grid, parameters: {lora.rank: [4, 16]}}
"""
LIMIT_S = 150.0


@pytest.fixture
def work() -> Iterator[Path]:
    """A short folder with a recipe in it; the engine of its home is stopped at the end."""
    with tempfile.TemporaryDirectory(prefix="wb-keys-") as folder:
        place = Path(folder)
        (place / "here").mkdir()
        (place / "here" / "by-keys.yaml").write_text(RECIPE)
        env = {**os.environ, "WORKBENCH_HOME": str(place / "home"), **CARDS}
        try:
            yield place
        finally:
            stop = [sys.executable, "-P", "-m", "workbench", "engine", "stop"]
            subprocess.run(stop, env=env, check=False, capture_output=True, timeout=120)


def seen(screen: PtyApp, words: str) -> Callable[[], bool]:
    return lambda: words in " ".join(screen.text().split())


def press(screen: PtyApp, keys: bytes, words: str) -> None:
    """Type the keys, and read until the screen shows the words."""
    screen.send(keys)
    screen.read_until(seen(screen, words), LIMIT_S)


def test_an_empty_home_comes_to_a_verdict_and_a_merged_model_by_keys_alone(work: Path) -> None:
    with PtyApp(work / "home", columns=140, rows=45, env=CARDS, cwd=work / "here") as screen:
        screen.read_until(seen(screen, "1 Dashboard"), LIMIT_S)
        press(screen, b"n", "by-keys")
        press(screen, b"dropout=0.1", "▸ lora.dropout")
        press(screen, b"\r", "by-keys")
        screen.read_until(seen(screen, "training"), LIMIT_S)  # on a card
        press(screen, b"5", "attention")
        press(screen, b"4", "By exact_match")
        screen.read_until(lambda: ended(work / "home"), LIMIT_S)
        screen.read_until(seen(screen, "2 done"), LIMIT_S)
        press(screen, b"g b", "vs #")  # pin the best, mark it, and compare with the other
        press(screen, b"j=", "compared")
        press(screen, b"\x1b", "By exact_match")
        press(screen, b"gw", "Write the board to")
        press(screen, b"\r", "written to")
        press(screen, b"M", "Merge trial")
        press(screen, b"\r", "was merged")
        screen.send(b"\x1b")
        screen.read_until(lambda: not seen(screen, "was merged")(), LIMIT_S)
        screen.send(b"q")
        screen.read_until(lambda: screen.process.poll() is not None, LIMIT_S)
        assert screen.process.returncode == 0
    assert "<svg" in (work / "here" / "by-keys.html").read_text()
    assert list((work / "here").glob("merged-*/config.json"))
    service = Service(Home(work / "home"))
    board = service.judged_board("by-keys")
    service.close()
    assert "no verdict" not in board.verdict
    assert all(row.score is not None for row in board.rows)


def ended(home: Path) -> bool:
    """Return whether the experiment has ended, as the store says."""
    service = Service(Home(home))
    try:
        return all(one.ended_utc is not None for one in service.experiments())
    finally:
        service.close()
