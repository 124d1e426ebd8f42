"""`workbench train --warm-start`: a foreground trial that starts from an adapter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.training.trials import Bench, recipe
from workbench.attempts.events import Outcome
from workbench.cli.recipes.train import find_warm_source, prepare_folder
from workbench.recipe.dump import to_yaml
from workbench.training.foreground import train_here


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    bench = Bench(tmp_path_factory.mktemp("source"), recipe(train__max_steps=2))
    assert bench.run().outcome is Outcome.DONE
    return bench.trial / "adapter"


def train(folder: Path, adapter: Path, **changed: Any) -> subprocess.CompletedProcess[str]:
    """Run the command as a person does, with outputs in `folder`/out."""
    file = folder / "recipe.yaml"
    file.write_text(to_yaml(recipe(train__max_steps=1, **changed)))
    words = ["train", str(file), "--out", str(folder / "out"), "--warm-start", str(adapter)]
    return subprocess.run(
        [sys.executable, "-m", "workbench", *words],
        env={
            **os.environ,
            "WORKBENCH_HOME": str(folder / "home"),
            "WORKBENCH_CARDS": "cpu:4GiB",
        },
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_foreground_training_starts_from_an_adapters_folder(
    adapter: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WORKBENCH_CARDS", "cpu:4GiB")
    warm = find_warm_source(str(adapter))
    assert train_here(prepare_folder(tmp_path / "out", recipe(train__max_steps=1), warm)) == 0
    told = capsys.readouterr().out
    assert f"warm start: the weights of the adapter in {adapter}" in told


@pytest.mark.slow  # test_warm_start.py tries the check without a process
def test_an_adapter_that_does_not_fit_is_refused_before_the_rows_are_prepared(
    adapter: Path, tmp_path: Path
) -> None:
    refused = train(tmp_path, adapter, lora__rank=8)
    assert refused.returncode == 2
    assert f"lora.rank is 8, and the adapter in {adapter} has 4" in refused.stderr
    assert "→ start again with -s lora.rank=4, or without --warm-start" in refused.stderr
    assert not (tmp_path / "out" / "cache").exists()
