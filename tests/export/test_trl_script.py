"""The exported script trains the same adapter with TRL and PEFT, without the workbench."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.conftest import Workbench, home, workbench  # noqa: F401
from tests.training.model.bases import seeing
from tests.training.trials import Bench, recipe
from workbench.attempts.events import Outcome
from workbench.errors import CheckpointError, DataError, UsageError
from workbench.export.trl_script import script_text, write_trl_script
from workbench.recipe import to_yaml

WEIGHTS = "adapter_model.safetensors"
BLOCKED = "import sys; sys.modules.update(workbench=None, tui=None)\n"
DEPRECATIONS = ("-W", "error:`gradient_checkpointing:FutureWarning")
"""Makes errors of the warnings about arguments that version 6 of transformers no longer takes."""


def trained(home: Path, **settings: object) -> tuple[Bench, Path]:  # noqa: F811
    """Return a trial that has ended, and its training rows."""
    bench = Bench(home, recipe(lora__dropout=0.0, train__log_every=1, **settings))
    log = bench.run()
    assert log.outcome is Outcome.DONE, log.end
    (rows,) = (home / "cache" / "data").glob("*/train.arrow")
    return bench, rows


def run_script(folder: Path) -> None:
    """Run the script where the workbench cannot be imported."""
    script = folder / "train.py"
    script.write_text(script.read_text().replace("import json\n", f"{BLOCKED}import json\n", 1))
    done = subprocess.run(
        [sys.executable, *DEPRECATIONS, "-P", str(script)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "settings",
    [
        {"train__epochs": 2, "data__max_rows": 22, "lora__rslora": True},
        pytest.param(
            {"model__quantization": "nf4", "data__group_by_length": True},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"train__epochs": 2, "data__max_rows": 22, "family": "mistral3"},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["short last batches", "nf4", "text and images"],
)
def test_the_script_trains_the_same_adapter(settings: dict[str, object], tmp_path: Path) -> None:
    settings = dict(settings)
    if family := settings.pop("family", None):
        settings["model__name"] = str(seeing(tmp_path / "model", str(family)))
    halves = {"train__batch_size": 2, "train__accumulation": 2}  # a step of four rows, as planned
    bench, rows = trained(tmp_path / "home", **halves, **settings)
    report = write_trl_script(bench.trial / "adapter", rows, tmp_path / "script")
    run_script(tmp_path / "script")
    ours = load_file(bench.trial / "adapter" / WEIGHTS)
    theirs = load_file(tmp_path / "script" / "adapter" / WEIGHTS)
    assert report["steps"] == (12 if "data__max_rows" in settings else 6)
    assert theirs.keys() == ours.keys()
    moved = max(float(one.abs().max()) for name, one in ours.items() if "lora_B" in name)
    for name, one in ours.items():  # B begins with zeros, so that its numbers are the training's
        torch.testing.assert_close(theirs[name], one, rtol=0, atol=0.01 * moved)


def test_the_step_of_kept_weights_is_where_it_stops(tmp_path: Path) -> None:
    bench, rows = trained(tmp_path / "home", train__max_steps=3)
    scores = bench.trial / "adapter" / "scores.json"
    scores.write_text(json.dumps({**json.loads(scores.read_text()), "step": 2}))
    report = write_trl_script(bench.trial / "adapter", rows, tmp_path / "script")
    assert report["steps"] == 2
    text = (tmp_path / "script" / "train.py").read_text()
    assert "'steps': 3," in text
    assert "'stop_at': 2," in text
    with pytest.raises(UsageError, match="exists"):
        write_trl_script(bench.trial / "adapter", rows, tmp_path / "script")
    with pytest.raises(DataError, match="rows are gone"):
        write_trl_script(bench.trial / "adapter", tmp_path / "none", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_folder_that_no_trial_left_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no adapter of a trial"):
        write_trl_script(tmp_path, tmp_path / "rows", tmp_path / "out")


def test_packed_rows_are_refused_because_the_script_batches_rows(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(to_yaml(recipe(data__packing=True)))
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "scores.json").write_text('{"step": 1}')
    with pytest.raises(UsageError, match="rows are packed") as refused:
        write_trl_script(tmp_path, tmp_path / "train.arrow", tmp_path / "out")
    assert "without data.packing" in refused.value.hint


def test_a_name_with_quotes_stays_within_the_scripts_title() -> None:
    text = script_text('a""" + exit() # \\', {"base": 'x"\n'})
    compile(text, "train.py", "exec")
    assert "exit()" in text.splitlines()[0]


def test_the_command_asks_for_a_kind_and_a_new_folder(
    workbench: Workbench,  # noqa: F811
    tmp_path: Path,
) -> None:
    assert "add --trl" in workbench("export-recipe", "7", "-o", tmp_path / "new").err
    told = workbench("export-recipe", "7", "--trl", "-o", tmp_path)
    assert (told.code, "exists already" in told.err) == (2, True)
