"""An experiment prepared, as a function and as a process; where its model comes from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]
from safetensors.torch import load_file, save_file

from workbench.errors import DataError, ModelError
from workbench.recipe import Recipe, load_recipe, shipped_file
from workbench.recipe.schema import Model
from workbench.training.model import source
from workbench.training.model.source import resolve_model
from workbench.training.prepare import ProgressFile, main, prepare_experiment

RecipeOf = Callable[..., Recipe]
WriteRows = Callable[..., Path]

PAIRS = [{"prompt": f"What is {n} + 1?", "completion": f"#### {n + 1}"} for n in range(10)]


@pytest.fixture
def experiment(tmp_path: Path) -> Callable[[Recipe], Path]:
    def build(recipe: Recipe) -> Path:
        folder = tmp_path / "experiment"
        folder.mkdir()
        (folder / "recipe.json").write_text(recipe.model_dump_json())
        return folder

    return build


@pytest.fixture
def copied_model(tmp_path: Path) -> Callable[..., Model]:
    """The demo's model with other entries in its config."""

    def build(**config: Any) -> Model:
        model = tmp_path / "model"
        model.mkdir()
        for path in shipped_file("workbench:demo/model").iterdir():
            (model / path.name).write_bytes(path.read_bytes())
        former = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(former | config))
        return Model(name=str(model))

    return build


def result_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "prepared.json").read_text())
    return found


def test_the_demo_recipe_is_prepared(experiment: Callable[[Recipe], Path], tmp_path: Path) -> None:
    root = Path(__file__).parent.parent.parent
    recipe = load_recipe(root / "recipes" / "demo.yaml")
    folder = experiment(recipe)
    stages: list[str] = []
    result = prepare_experiment(folder, tmp_path / "cache", lambda stage, *_: stages.append(stage))
    assert result == result_of(folder)
    assert result["ok"] is True
    assert result["model"]["model_type"] == "llama"
    assert result["model"]["revision"] is None
    assert result["data"]["eval_rows"] == recipe.data.eval_rows
    assert result["data"]["max_length"] <= 128
    assert result["data"]["dropped_rows"] == 0
    assert (tmp_path / "cache" / result["data"]["digest"] / "train.arrow").is_file()
    assert str(tmp_path) not in json.dumps(result), "its home may be moved"
    assert {"finding the model", "tokenising train rows", "tokenising eval rows"} <= set(stages)


def test_scores_compare_only_where_rows_and_judgement_are_the_same(
    experiment: Callable[[Recipe], Path],
    recipe_of: RecipeOf,
    write_rows: WriteRows,
    tmp_path: Path,
) -> None:
    recipe = recipe_of(write_rows(PAIRS))
    folder = experiment(recipe)
    digests = []
    for evaluate in ({}, {"batch_size": 3}, {"max_new_tokens": 7}):
        changed = recipe.model_dump() | {"evaluate": evaluate}
        (folder / "recipe.json").write_text(Recipe.model_validate(changed).model_dump_json())
        result = prepare_experiment(folder, tmp_path / "cache", lambda *_: None)
        digests.append(result["evaluation_digest"])
    assert digests[0] == digests[1] != digests[2]


def test_a_refusal_is_raised_and_left_in_the_folder(
    experiment: Callable[[Recipe], Path],
    recipe_of: RecipeOf,
    write_rows: WriteRows,
    tmp_path: Path,
) -> None:
    folder = experiment(recipe_of(write_rows([*PAIRS, {"prompt": "q", "completion": None}])))
    with pytest.raises(DataError) as refused:
        prepare_experiment(folder, tmp_path / "cache", lambda *_: None)
    assert result_of(folder) == {
        "ok": False,
        "error": "train.jsonl:11: completion holds nothing (null), not text",
        "hint": refused.value.hint,
        "exit_code": refused.value.exit_code,
    }


def test_a_tokenizer_beyond_the_models_vocabulary_is_refused(
    experiment: Callable[[Recipe], Path],
    recipe_of: RecipeOf,
    write_rows: WriteRows,
    copied_model: Callable[..., Model],
    tmp_path: Path,
) -> None:
    model = copied_model(vocab_size=500)
    weights = Path(model.name, "model.safetensors")
    cut = {name: tensor[:500] for name, tensor in load_file(weights).items()}
    save_file({name: one.contiguous() for name, one in cut.items()}, weights, {"format": "pt"})
    recipe = recipe_of(write_rows(PAIRS)).model_copy(update={"model": model})
    with pytest.raises(ModelError, match="embeddings for 500"):
        prepare_experiment(experiment(recipe), tmp_path / "cache", lambda *_: None)


@pytest.fixture
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore afterwards the settings that `main` makes for its process."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.usefixtures("restored")
def test_result_and_progress_are_left_for_the_user_alone(
    experiment: Callable[[Recipe], Path],
    recipe_of: RecipeOf,
    write_rows: WriteRows,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = experiment(recipe_of(write_rows(PAIRS)))
    assert main([str(folder), str(tmp_path / "cache")]) == 0
    assert capfd.readouterr().out == ""
    assert result_of(folder)["ok"] is True
    last = json.loads((folder / "prepare.progress.json").read_text())
    assert last == {"stage": "fetching the model", "done": 0, "total": 0}
    assert (folder / "prepared.json").stat().st_mode & 0o077 == 0
    assert sorted(path.name for path in folder.iterdir()) == [
        "prepare.progress.json",
        "prepared.json",
        "recipe.json",
    ]


@pytest.mark.usefixtures("restored")
def test_a_refused_preparation_exits_1(tmp_path: Path) -> None:
    assert main([str(tmp_path), str(tmp_path / "cache")]) == 1
    assert result_of(tmp_path)["error"].endswith(
        f"No such file or directory: '{tmp_path / 'recipe.json'}'"
    )


@pytest.mark.usefixtures("restored")
def test_an_unforeseen_error_becomes_a_result_too(
    experiment: Callable[[Recipe], Path],
    recipe_of: RecipeOf,
    write_rows: WriteRows,
    tmp_path: Path,
) -> None:
    folder = experiment(recipe_of(write_rows(PAIRS)))
    (tmp_path / "cache").write_text("a file where the cache's folder belongs")
    assert main([str(folder), str(tmp_path / "cache")]) == 1
    assert result_of(folder)["error"].startswith("preparing failed: ")
    assert "log" in result_of(folder)["hint"]


def test_progress_is_written_when_the_stage_changes_and_seldom_within_one(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    progress = ProgressFile(path)
    progress("one", 0, 9)
    progress("one", 1, 9)
    assert json.loads(path.read_text()) == {"stage": "one", "done": 0, "total": 9}
    progress("two", 5, 9)
    assert json.loads(path.read_text()) == {"stage": "two", "done": 5, "total": 9}


# ── the model ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({}, "has no config.json"),
        ({"config.json": "{}", "model.safetensors": ""}, "cannot be used: KeyError"),
        ({"config.json": "{", "model.safetensors": ""}, "cannot be used"),
        ({"config.json": '{"model_type": "llama"}'}, "holds no weights"),
        (
            {"config.json": '{"model_type": "llama"}', "pytorch_model.bin": ""},
            "pickled weights only",
        ),
    ],
)
def test_a_folder_that_is_no_model_is_refused_with_a_hint(
    tmp_path: Path, files: dict[str, str], complaint: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ModelError, match=complaint) as refused:
        resolve_model(Model(name=str(tmp_path)))
    assert refused.value.hint


COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB = """
import sys
from workbench.errors import ModelError
from workbench.recipe.schema import Model
from workbench.training.model.source import fetch_weights, resolve_model
for question in sys.argv[1:]:
    name, _, revision = question.partition("@")
    try:
        found = resolve_model(Model(name=name, revision=revision or None))
        fetch_weights(found)
        print(found.path, found.revision, found.model_type)
    except ModelError as refused:
        print(refused.what, "|", refused.hint)
print("torch" in sys.modules)
"""


def test_weights_are_fetched_once_where_a_release_holds_them_twice() -> None:
    weights = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    published = [*weights, "consolidated.safetensors", "original/model.safetensors", "tekken.json"]
    found = filter_repo_objects(
        published, allow_patterns=source._NEEDED, ignore_patterns=source._IGNORED
    )
    assert list(found) == [*weights, "tekken.json"]


def cached_files(cache: Path, name: str) -> Path:
    """Return the folder of a model's files in the hub's cache, where `main` is COMMIT."""
    repo = cache / f"models--{name.replace('/', '--')}"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(COMMIT)
    (repo / "snapshots" / COMMIT).mkdir(parents=True)
    return repo / "snapshots" / COMMIT


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return what a process without a network finds; the hub client reads the environment early."""
    cache = tmp_path_factory.mktemp("hub")
    whole, part = (cached_files(cache, name) for name in ("someone/tiny", "someone/part"))
    for snapshot in (whole, part):
        (snapshot / "config.json").write_text('{"model_type": "llama"}')
    (whole / "model.safetensors").write_bytes(b"")
    (part / "model-00001-of-00002.safetensors").write_bytes(b"")
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (part / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    asked = ("someone/else", "someone/tiny", f"someone/tiny@{COMMIT}", f"someone/part@{COMMIT}")
    done = subprocess.run(
        [sys.executable, "-c", HUB, *asked],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"},
    )
    return done.stdout.splitlines()


def test_a_hub_that_cannot_be_reached_is_reported_with_a_hint_and_without_torch(
    offline: list[str],
) -> None:
    assert offline[0].startswith("the hub cannot be asked about someone/else: ")
    assert "hf download" in offline[0]
    assert offline[-1] == "False"


def test_without_a_network_the_cached_commit_is_used(offline: list[str]) -> None:
    """It is asked for without a revision, and by its own."""
    assert offline[1:3] == [f"someone/tiny {COMMIT} llama"] * 2


def test_without_a_network_a_part_of_a_download_is_refused(offline: list[str]) -> None:
    assert offline[3].startswith("the download of someone/part ")
    assert "submit again: the download continues" in offline[3]
