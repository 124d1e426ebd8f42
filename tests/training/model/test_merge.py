"""A merged model gives the logits of base and adapter."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.training.model.bases import in_four_bits, made
from tests.training.trials import DEMO_MODEL, Bench, recipe
from workbench.adapters.adapter_folder import WEIGHTS
from workbench.errors import ModelError, NotThere, UsageError, WorkbenchError
from workbench.export.base_files import BaseFiles
from workbench.export.merge import merge_adapter
from workbench.recipe.shipped import shipped_file
from workbench.training.model.merge import load_base


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    home = tmp_path_factory.mktemp("home")
    bench = Bench(
        home, recipe(model__name=DEMO_MODEL, model__quantization="nf4", train__max_steps=2)
    )
    bench.run()
    return home / "merged", merge_adapter(bench.trial / "adapter", home / "merged")


def test_the_merged_model_gives_nearly_the_same_logits(
    merged: tuple[Path, dict[str, Any]],
) -> None:
    _, report = merged
    assert report["max_logits_difference"] < 0.05 * report["max_logit"]  # bfloat16: 8 bits
    assert report["dequantized"] is False
    assert report["base"] == str(shipped_file("workbench:demo/model"))


def test_the_merged_model_loads_in_plain_transformers(
    merged: tuple[Path, dict[str, Any]],
) -> None:
    folder, report = merged
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert str(model.dtype) == f"torch.{report['dtype']}" == "torch.bfloat16"
    assert getattr(model.config, "quantization_config", None) is None
    assert tokenizer.chat_template
    with torch.no_grad():
        assert torch.isfinite(model(**tokenizer("1 + 1", return_tensors="pt")).logits).all()


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotThere):
        merge_adapter(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("kind", ["file", "folder", "link", "here"])
def test_an_existing_target_is_never_touched(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter, target = tmp_path / "adapter", tmp_path / "target"
    adapter.mkdir()
    for name in ("adapter_config.json", WEIGHTS):
        (adapter / name).write_text("{}")
    if kind == "file":
        target.write_text("mine")
    elif kind == "link":
        target.symlink_to(tmp_path / "elsewhere")
    else:
        target.mkdir()
    if kind == "folder":
        (target / "mine").write_text("mine")
    if kind == "here":
        monkeypatch.chdir(target)
        target = Path(".")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="exists already") as refused:
        merge_adapter(adapter, target)
    assert refused.value.hint
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unwritable_target_is_reported_before_anything_is_loaded(
    merged: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    adapter = merged[0].parent / "trials" / "1" / "adapter"
    with pytest.raises(WorkbenchError, match="cannot be written") as refused:
        merge_adapter(adapter, tmp_path / "file" / "out", "/no/base")
    assert refused.value.hint


def test_an_empty_folder_is_filled_with_files_as_the_umask_says(
    merged: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out, mine = tmp_path / "out", tmp_path / ".out.old"
    out.mkdir()
    mine.mkdir()
    before = os.umask(0o027)
    try:
        merge_adapter(merged[0].parent / "trials" / "1" / "adapter", out)
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in out.iterdir()} == {0o640}
    assert mine.is_dir()


@pytest.mark.parametrize("name", ["adapter_config.json", "tokenizer.json", WEIGHTS])
def test_a_damaged_adapter_is_reported_in_words(
    merged: tuple[Path, dict[str, Any]], tmp_path: Path, name: str
) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(merged[0].parent / "trials" / "1" / "adapter", adapter)
    (adapter / name).write_text("\x1b[31mnot what it was")
    with pytest.raises(ModelError, match="cannot be used") as refused:
        merge_adapter(adapter, tmp_path / "out")
    assert "\x1b" not in refused.value.what


def test_a_base_in_4_bits_whose_rows_are_no_whole_blocks_is_read_as_it_was_written(
    tmp_path: Path,
) -> None:
    """On a CPU bitsandbytes alone takes the scales of other blocks: an error of a third."""
    base = made(tmp_path / "base", "llama")  # rows of 32 and 48 values; a block has 64
    packed = in_four_bits(tmp_path / "packed", source=base)
    model, dequantised = load_base(str(packed), None)
    assert dequantised
    want = dict(AutoModelForCausalLM.from_pretrained(base).named_parameters())
    names = [name for name in want if "proj" in name]
    assert names
    for name, got in model.named_parameters():
        if name in names:
            error = (got.float() - want[name].float()).norm() / want[name].float().norm()
            assert error < 0.12, name
            torch.testing.assert_close(BaseFiles(packed).read(name), got.data)
