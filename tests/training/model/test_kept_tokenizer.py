"""One trial after another has the tokenizer of its model as it was loaded."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tests.training.trials import Bench, recipe, shallow_model
from workbench.recipe import shipped_file
from workbench.training.model import tokenizer as tokenizer_module
from workbench.training.model.base import ResidentBase
from workbench.training.model.portable import save_tokenizer
from workbench.training.model.tokenizer import KeptTokenizer, load_tokenizer

TEXT = "Tom has 3 apples, and eats 2 of them."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the demo's tokenizer."""
    (tmp_path / "model").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        shutil.copy(shipped_file("workbench:demo/model") / name, tmp_path / "model")
    return tmp_path / "model"


def vocabulary(kept: KeptTokenizer, folder: Path | str) -> Tokenizer:
    """Return the tokenizers' object behind the tokenizer, which is made by loading alone."""
    backend: Tokenizer = kept.take(str(folder), None).backend_tokenizer
    return backend


def test_what_a_trial_does_to_its_tokenizer_is_not_seen_by_the_next(folder: Path) -> None:
    kept, plain = KeptTokenizer(), load_tokenizer(str(folder), None)
    first = kept.take(str(folder), None)
    first.chat_template = "spoilt"
    first.padding_side = "left"
    first.pad_token = first.eos_token
    first.init_kwargs["spoilt"] = True
    first([TEXT, "short"], truncation=True, max_length=4, padding="max_length")
    second = kept.take(str(folder), None)
    assert second.backend_tokenizer is first.backend_tokenizer
    assert second.backend_tokenizer.truncation is None
    assert second.backend_tokenizer.padding is None
    assert second(TEXT)["input_ids"] == plain(TEXT)["input_ids"]
    for name in ("chat_template", "padding_side", "pad_token", "eos_token", "init_kwargs"):
        assert getattr(second, name) == getattr(plain, name)
    assert second.special_tokens_map == plain.special_tokens_map


def test_it_is_loaded_again_for_changed_files_another_model_and_after_a_release(
    folder: Path, tmp_path: Path
) -> None:
    kept, other = KeptTokenizer(), tmp_path / "other"
    shutil.copytree(folder, other)
    first = vocabulary(kept, folder)
    assert vocabulary(kept, folder) is first
    assert vocabulary(kept, other) is not first
    second = vocabulary(kept, folder)
    os.utime(folder / "tokenizer.json", ns=(1, 1))
    third = vocabulary(kept, folder)
    kept.release()
    assert len({id(one) for one in (first, second, third, vocabulary(kept, folder))}) == 4


def contents(folder: Path) -> dict[str, bytes]:
    """Return the contents of every file below the folder, by its path there."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.mark.parametrize("templates", ["{{ messages }}", ["default", "tool_use"]])
def test_it_is_saved_as_it_was_loaded(
    templates: str | list[str], folder: Path, tmp_path: Path
) -> None:
    """Templates with names are files in a folder of their own."""
    config = json.loads((folder / "tokenizer_config.json").read_text())
    named = [{"name": name, "template": name} for name in templates]
    config["chat_template"] = templates if isinstance(templates, str) else named
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    kept = KeptTokenizer()
    saved, plain = tmp_path / "saved", tmp_path / "plain"
    for _ in range(2):
        used = kept.take(str(folder), None)
        used([TEXT, "short"], truncation=True, max_length=4, padding="max_length")
        used.chat_template = "spoilt"
        saved.mkdir(exist_ok=True)
        kept.save(saved)
        save_tokenizer(load_tokenizer(str(folder), None), plain, str(folder), None)
        assert contents(saved) == contents(plain)
        shutil.rmtree(saved)


def test_its_files_are_made_once_for_all_adapters_of_a_worker(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def counted(tokenizer: object, target: Path, source: str, revision: str | None) -> None:
        made.append(source)
        save_tokenizer(tokenizer, target, source, revision)

    monkeypatch.setattr(tokenizer_module, "save_tokenizer", counted)
    kept = KeptTokenizer()
    for _ in range(3):
        kept.take(str(folder), None)
        kept.save(tmp_path)
    os.utime(folder / "tokenizer.json", ns=(1, 1))
    kept.take(str(folder), None)
    kept.save(tmp_path)
    assert made == [str(folder)] * 2


def test_trials_of_one_worker_share_it_until_the_base_is_released(tmp_path: Path) -> None:
    bench, resident = Bench(tmp_path, recipe(train__max_steps=1)), ResidentBase()
    bench.run(resident)
    first = vocabulary(resident.tokenizer, shallow_model())
    bench.run(resident)
    assert vocabulary(resident.tokenizer, shallow_model()) is first
    resident.release()
    assert vocabulary(resident.tokenizer, shallow_model()) is not first
