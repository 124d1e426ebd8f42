"""An average of adapters is the average of their changes, and not of their matrices."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.export.adapters import random_adapter
from tests.training.model.bases import made
from workbench.errors import CheckpointError, UsageError, WorkbenchError
from workbench.export.changes import read_changes
from workbench.export.soup import average_adapters


def change_of(folder: Path, name: str) -> torch.Tensor:
    change = read_changes(folder).lora[name]
    return change.scale * change.b_OR.double() @ change.a_RI.double()


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("soup")
    base = made(folder / "base", "llama")
    return [
        random_adapter(base, folder / "one"),
        random_adapter(base, folder / "two", r=8, use_rslora=True, rank_pattern={"v_proj": 2}),
    ]


def test_the_average_is_exact_for_ranks_and_scales_of_all_kinds(
    adapters: list[Path], tmp_path: Path
) -> None:
    report = average_adapters(tmp_path / "out", adapters, [3.0, 1.0])
    assert (report["rank"], report["relative_error"]) == (12, 0.0)
    for name in read_changes(adapters[0]).lora:
        wanted = 0.75 * change_of(adapters[0], name) + 0.25 * change_of(adapters[1], name)
        torch.testing.assert_close(change_of(tmp_path / "out", name), wanted, rtol=1e-5, atol=1e-7)


def test_a_smaller_rank_tells_its_error(adapters: list[Path], tmp_path: Path) -> None:
    report = average_adapters(tmp_path / "out", adapters, [1.0, 1.0], rank=6)
    lost = whole = 0.0
    for name in read_changes(adapters[0]).lora:
        wanted = 0.5 * change_of(adapters[0], name) + 0.5 * change_of(adapters[1], name)
        lost += float((change_of(tmp_path / "out", name) - wanted).square().sum())
        whole += float(wanted.square().sum())
    assert report["relative_error"] == pytest.approx((lost / whole) ** 0.5, rel=1e-4)
    assert 0 < report["relative_error"] < 1


def test_a_rank_as_large_as_all_of_them_loses_nothing(adapters: list[Path], tmp_path: Path) -> None:
    report = average_adapters(tmp_path / "out", adapters, [1.0, 1.0], rank=12)
    assert report["relative_error"] < 1e-6


def test_plain_peft_loads_the_average(adapters: list[Path], tmp_path: Path) -> None:
    average_adapters(tmp_path / "out", adapters, [1.0, 1.0])
    base = AutoModelForCausalLM.from_pretrained(adapters[0].parent / "base")
    model = PeftModel.from_pretrained(base, tmp_path / "out")
    assert torch.isfinite(model(torch.arange(3, 20)[None]).logits).all()
    assert json.loads((tmp_path / "out" / "soup.json").read_text())["adapters"][0]["share"] == 0.5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base_model_name_or_path": "somebody/else"}, "another base"),
        ({"revision": "a" * 40}, "another base or commit"),
        ({"use_dora": True}, "more than low-rank"),
    ],
)
def test_adapters_that_do_not_belong_together_are_refused(
    adapters: list[Path], tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for file in adapters[1].iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    config = json.loads((other / "adapter_config.json").read_text()) | changes
    (other / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=words):
        average_adapters(tmp_path / "out", [adapters[0], other], [1.0, 1.0])
    assert not (tmp_path / "out").exists()


def test_other_modules_half_an_adapter_and_bad_weights_are_refused(
    adapters: list[Path], tmp_path: Path
) -> None:
    base = adapters[0].parent / "base"
    fewer = random_adapter(base, tmp_path / "fewer", target_modules=["q_proj"])
    with pytest.raises(CheckpointError, match="other modules"):
        average_adapters(tmp_path / "out", [adapters[0], fewer], [1.0, 1.0])
    for weights in ([1.0], [0.0, 0.0], [2.0, -1.0]):
        with pytest.raises(UsageError):
            average_adapters(tmp_path / "out", adapters, weights)
    file = fewer / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(WorkbenchError):
        average_adapters(tmp_path / "out", [adapters[0], fewer], [1.0, 1.0])


@pytest.mark.slow
def test_a_killed_average_leaves_nothing(adapters: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "workbench.export.soup", str(out), *map(str, adapters)]
    env = {**os.environ, "WORKBENCH_FAULT": "soup.before_rename=kill"}
    ended = subprocess.run(command, env=env, check=False, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert not out.exists()


def test_a_full_disk_is_reported_in_words_by_the_child(
    adapters: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "workbench.export.soup", str(out), *map(str, adapters)]
    env = {**os.environ, "WORKBENCH_FAULT": "soup.before_rename=no_space"}
    ended = subprocess.run(command, env=env, check=False, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"error: {out} cannot be written: No space left")
    assert list(tmp_path.iterdir()) == []
