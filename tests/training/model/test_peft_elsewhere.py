"""An adapter on another machine: plain PEFT, and the hub id of the base alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.trials import recipe
from workbench.recipe.dump import to_yaml
from workbench.recipe.shipped import shipped_file

NAME, COMMIT = "somebody/tiny", "0123456789abcdef0123456789abcdef01234567"
LOADS = """
import sys, torch
from peft import AutoPeftModelForCausalLM
model = AutoPeftModelForCausalLM.from_pretrained(sys.argv[1])
assert torch.isfinite(model(torch.arange(3, 20)[None]).logits).all()
assert not any(name.startswith("workbench") for name in sys.modules)
"""


def hub_of(folder: Path) -> dict[str, str]:
    """Return the environment of a machine on which the hub holds the demo's model as NAME."""
    cached = folder / "hub" / f"models--{NAME.replace('/', '--')}"
    shutil.copytree(Path(str(shipped_file("workbench:demo/model"))), cached / "snapshots" / COMMIT)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(COMMIT)
    return {**os.environ, "HF_HOME": str(folder), "HF_HUB_OFFLINE": "1"}


@pytest.mark.slow
def test_an_adapter_of_a_hub_model_loads_in_plain_peft_on_another_machine(tmp_path: Path) -> None:
    own = recipe(train__max_steps=1)
    named = own.model_copy(update={"model": own.model.model_copy(update={"name": NAME})})
    (tmp_path / "recipe.yaml").write_text(to_yaml(named))
    here = hub_of(tmp_path / "here")
    here |= {"WORKBENCH_HOME": str(tmp_path / "home"), "WORKBENCH_CARDS": "cpu:4GiB"}
    words = ["train", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "out")]
    trained = subprocess.run(
        [sys.executable, "-m", "workbench", *words],
        env=here,
        check=False,
        capture_output=True,
        text=True,
    )
    assert trained.returncode == 0, trained.stderr
    moved = shutil.move(tmp_path / "out" / "adapter", tmp_path / "adapter")
    shutil.rmtree(tmp_path / "here")
    config = json.loads((Path(moved) / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == (NAME, COMMIT)
    elsewhere = hub_of(tmp_path / "elsewhere")
    loaded = subprocess.run(
        [sys.executable, "-c", LOADS, str(moved)],
        env=elsewhere,
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    assert loaded.returncode == 0, loaded.stderr
