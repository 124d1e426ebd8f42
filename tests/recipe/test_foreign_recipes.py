"""Recipes made of the files of other trainers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from workbench.cli.app import app
from workbench.errors import NotThere, RecipeError
from workbench.recipe import load_recipe
from workbench.recipe.foreign import trl as trl_rules
from workbench.recipe.foreign.importer import ImportedRecipe, import_recipe

FILES = Path(__file__).parent / "foreign_files"


def written(folder: Path, text: str, name: str = "theirs.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_an_axolotl_file_becomes_a_recipe() -> None:
    found = import_recipe(FILES / "axolotl.yaml")
    assert found.trainer == "Axolotl"
    recipe = found.recipe
    assert (recipe.model.name, recipe.model.quantization) == ("NousResearch/Llama-3.2-1B", "nf4")
    assert (recipe.data.train, recipe.data.shape) == ("teknium/GPT4-LLM-Cleaned", "alpaca")
    assert (recipe.lora.rank, recipe.lora.alpha, recipe.lora.targets) == (32, 16, "all-linear")
    assert (recipe.train.batch_size, recipe.train.accumulation, recipe.train.epochs) == (2, 4, 2)
    assert (recipe.train.learning_rate, recipe.train.schedule) == (2e-4, "cosine")
    assert recipe.train.optimizer == "adamw_8bit"
    assert (recipe.data.max_tokens, recipe.data.packing) == (2048, True)
    assert set(found.left) == {
        "val_set_size",
        "warmup_steps",
        "output_dir",
        "wandb_project",
        "special_tokens",
    }
    assert "a share of the rows" in found.left["val_set_size"]


def test_a_llama_factory_file_becomes_a_recipe() -> None:
    found = import_recipe(FILES / "llama_factory.yaml")
    assert found.trainer == "LLaMA-Factory"
    recipe = found.recipe
    assert recipe.model.quantization == "nf4"
    assert (recipe.lora.rank, recipe.lora.alpha) == (8, 16)  # their defaults: 8, and twice the rank
    assert (recipe.data.max_rows, recipe.data.eval_rows) == (None, 40)
    assert recipe.data.train_names == ["identity", "alpaca_en_demo"]
    assert "1000 is of one data set" in found.left["data.max_rows"]
    assert (recipe.train.epochs, recipe.train.warmup) == (3, 0.1)
    assert (recipe.evaluate.every, recipe.train.keep) == (500, "last")
    assert "no dataset_info.json" in found.left["dataset identity"]
    assert "chat template" in found.left["template"]


def test_data_sets_of_llama_factory_are_looked_up_in_their_list(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.json").write_text("[]")
    columns = {"prompt": "q", "response": "a", "system": "s", "tools": "tools"}
    about = {
        "mine": {
            "file_name": "mine.json",
            "columns": columns,
            "num_samples": 9,
            "tags": {"a": "b"},
        },
        "held": {"hf_hub_url": "me/held"},
    }
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(about))
    text = (
        "model_name_or_path: /m\nfinetuning_type: lora\nlora_target: q_proj,v_proj\n"
        "dataset: mine\neval_dataset: held\nlearning_rate: 1e-4\nmask_history: true\n"
    )
    found = import_recipe(written(tmp_path, text))
    recipe = found.recipe
    assert (recipe.data.max_rows, recipe.data.loss_on) == (9, "completion")
    assert found.left["dataset mine.tags"] == "has no counterpart"
    assert recipe.data.train == str(tmp_path / "data" / "mine.json")
    assert recipe.data.eval == "me/held"
    assert recipe.data.columns == {"q": "instruction", "a": "output", "s": "system"}
    assert recipe.lora.targets == ["q_proj", "v_proj"]


def test_a_trl_file_becomes_a_recipe() -> None:
    found = import_recipe(FILES / "trl.yaml")
    assert found.trainer == "TRL"
    recipe = found.recipe
    assert (recipe.lora.rank, recipe.lora.alpha, recipe.data.max_tokens) == (32, 64, 2048)
    assert (recipe.train.batch_size, recipe.train.accumulation) == (2, 8)
    assert recipe.train.schedule == "linear"  # TRL's default, because theirs is not known here
    assert set(found.left) == {
        "lr_scheduler_type",
        "output_dir",
        "neftune_noise_alpha",
        "assistant_only_loss",
    }
    assert "TRL learns chats whole" in found.left["assistant_only_loss"]


def test_the_defaults_are_those_of_the_installed_trl() -> None:
    from trl import ModelConfig, SFTConfig

    theirs = {
        field.name: field.default
        for kind in (SFTConfig, ModelConfig)
        for field in dataclasses.fields(kind)
        if field.default is not dataclasses.MISSING
    }
    for key in (
        "lora_r",
        "lora_alpha",
        "lora_dropout",
        "num_train_epochs",
        "per_device_train_batch_size",
        "learning_rate",
        "weight_decay",
        "max_grad_norm",
        "lr_scheduler_type",
        "warmup_steps",
        "optim",
        "max_length",
        "use_bnb_nested_quant",
    ):
        rule, value = trl_rules.RULES[key], theirs[key]
        assert trl_rules.DEFAULTS[rule.setting] == rule.read(getattr(value, "value", value)), key


@pytest.mark.parametrize("name", ["axolotl", "llama_factory", "trl"])
def test_the_written_recipe_is_read_back_as_it_was_made(name: str, tmp_path: Path) -> None:
    dest = tmp_path / "ours.yaml"
    source = str(FILES / f"{name}.yaml")
    done = CliRunner().invoke(app, ["recipes", "import", source, "--out", str(dest)])
    assert done.exit_code == 0, done.output
    made = import_recipe(FILES / f"{name}.yaml")
    assert load_recipe(dest) == made.recipe
    for key, why in made.left.items():
        assert f"{key}: {why}" in done.stderr
    again = CliRunner().invoke(app, ["recipes", "import", source, "--out", str(dest)])
    assert again.exit_code != 0
    assert "exists already" in str(again.exception)


def test_json_holds_recipe_and_left_keys() -> None:
    done = CliRunner().invoke(app, ["recipes", "import", str(FILES / "trl.yaml"), "--json"])
    data = json.loads(done.stdout)
    assert data["trainer"] == "TRL"
    assert data["recipe"]["model"]["name"] == "Qwen/Qwen3-0.6B"
    assert data["recipe"]["data"]["packing"] is True
    assert "neftune_noise_alpha" in data["left"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("base_model: m\nadapter: qlora\nrl: dpo\ndatasets: [{path: d}]\n", "trains by dpo"),
        ("base_model: m\ndatasets: [{path: d}]\n", "trains no LoRA adapter"),
        ("model_name_or_path: m\nstage: dpo\ndataset: d\n", "its stage is dpo"),
        ("model_name_or_path: m\nfinetuning_type: full\ndataset: d\n", "by full, not by LoRA"),
        ("model_name_or_path: m\ndataset_name: d\nbeta: 0.1\n", "preference or reward"),
        ("model: {name: m}\ndata: {train: d}\n", "no known trainer"),
        ("- a\n- b\n", "holds no settings"),
        ("base_model: m\nadapter: lora\n", "no recipe can be made of it"),
        ("base_model: [1]\nadapter: lora\ndatasets: 7\n", "no recipe can be made of it"),
    ],
)
def test_a_file_that_cannot_be_followed_is_refused(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=words) as refused:
        import_recipe(written(tmp_path, text))
    assert refused.value.hint


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotThere, match="no file"):
        import_recipe(tmp_path / "none.yaml")


@pytest.mark.parametrize("value", ["[1, 2]", "{a: b}", "'x'", "-3", "1.5", "true", "1e999", ".nan"])
@pytest.mark.parametrize("name", ["axolotl", "llama_factory", "trl"])
def test_a_value_of_another_kind_is_left_out_and_named(
    name: str, value: str, tmp_path: Path
) -> None:
    lines = (FILES / f"{name}.yaml").read_text().splitlines()
    for key in ("learning_rate", "gradient_accumulation_steps", "lora_dropout", "seed", "bf16"):
        rest = [line for line in lines if not line.startswith(f"{key}:")]
        text = "\n".join([*rest, f"{key}: {value}", ""])
        found = import_recipe(written(tmp_path, text))
        assert found.recipe.train.learning_rate > 0


def test_a_name_of_a_local_file_becomes_absolute(tmp_path: Path) -> None:
    rows = written(tmp_path, "{}", "rows.jsonl")
    text = (
        f"base_model: m\nadapter: qlora\ndatasets: [{{path: {rows.name}, type: chat_template}}]\n"
    )
    found = import_recipe(written(tmp_path, text + "learning_rate: 1e-4\n"))
    assert found.recipe.data.train == str(rows.resolve())


def test_several_data_sets_become_sources_of_one_recipe(tmp_path: Path) -> None:
    rows = written(tmp_path, "{}", "rows.jsonl")
    text = (
        "base_model: m\nadapter: qlora\ndatasets:\n"
        f"- {{path: {rows.name}, type: alpaca}}\n"
        "- {path: acme/chats, name: main, type: chat_template, shards: 4}\n"
        "- {path: acme/other, type: steve}\n"
    )
    found = import_recipe(written(tmp_path, text))
    first, second, third = found.recipe.data.parts
    assert (first.train, first.shape) == (str(rows.resolve()), "alpaca")
    assert (second.train, second.config, second.shape) == ("acme/chats", "main", "auto")
    assert third.train == "acme/other"
    assert found.left["datasets[1].shards"] == "has no counterpart"
    assert found.left["datasets[2].type"] == "steve is a format of its own"


def test_files_of_a_format_become_sources_of_their_own(tmp_path: Path) -> None:
    rows = written(tmp_path, "{}", "rows.jsonl")
    text = (
        "base_model: m\nadapter: qlora\ndatasets:\n"
        f"- {{path: json, data_files: [{rows.name}, other.jsonl], ds_type: json, type: alpaca}}\n"
    )
    found = import_recipe(written(tmp_path, text))
    first, second = found.recipe.data.parts
    assert (first.train, first.shape) == (str(rows.resolve()), "alpaca")
    assert (second.train, second.shape) == ("other.jsonl", "alpaca")
    assert "is not needed" in found.left["datasets[0].ds_type"]
    one = import_recipe(written(tmp_path, text.replace(", other.jsonl", "")))
    assert one.recipe.data.train == str(rows.resolve())


def test_losses_and_shares_of_trl_are_read(tmp_path: Path) -> None:
    text = (
        "model_name_or_path: m\nuse_peft: true\nassistant_only_loss: true\nloss_type: nll\n"
        "datasets:\n- {path: acme/one, fraction: 0.5}\n- {path: acme/two, fraction: 0.25}\n"
    )
    found = import_recipe(written(tmp_path, text))
    assert isinstance(found.recipe.data.train, list)
    assert [one.weight for one in found.recipe.data.train] == [0.5, 0.25]
    assert found.left == {}
    other = import_recipe(written(tmp_path, text.replace("nll", "dft")))
    assert set(other.left) == {"loss_type"}
    with pytest.raises(RecipeError, match="preference"):
        import_recipe(written(tmp_path, text.replace("nll", "sigmoid")))


TRL = "model_name_or_path: m\nuse_peft: true\nassistant_only_loss: true\ndataset_name: acme/one\n"
LLAMA_FACTORY = "model_name_or_path: m\nfinetuning_type: lora\ndataset: [acme/one]\n"
DEMO = "workbench:demo/model"
AXOLOTL = "base_model: m\nadapter: lora\ndatasets: [{path: acme/one}]\n"
HAS_STRATEGY = pytest.mark.parametrize("theirs", [TRL, LLAMA_FACTORY])
STEPS = "eval_strategy: steps\neval_steps: 50\n"


@pytest.mark.parametrize("theirs", [TRL, LLAMA_FACTORY, AXOLOTL])
def test_the_best_model_at_the_end_becomes_the_best_weights(theirs: str, tmp_path: Path) -> None:
    curve = "eval_steps: 50\n" if theirs == AXOLOTL else STEPS
    text = f"{theirs}{curve}load_best_model_at_end: true\n"
    for metric in ("", "metric_for_best_model: loss\n", "metric_for_best_model: eval_loss\n"):
        file = written(tmp_path, f"{text}{metric}greater_is_better: false\n")
        found = import_recipe(file)
        assert (found.recipe.train.keep, found.recipe.evaluate.every) == ("best", 50)
        assert not {"load_best_model_at_end", "metric_for_best_model", "greater_is_better"} & set(
            found.left
        )
        assert load_recipe(written(tmp_path, found.to_yaml(), "ours.yaml")) == found.recipe


@pytest.mark.parametrize("theirs", [TRL, LLAMA_FACTORY, AXOLOTL])
def test_without_the_best_model_the_last_weights_are_kept(theirs: str, tmp_path: Path) -> None:
    curve = "eval_steps: 50\n" if theirs == AXOLOTL else STEPS
    found = import_recipe(written(tmp_path, f"{theirs}{curve}load_best_model_at_end: false\n"))
    assert (found.recipe.train.keep, found.recipe.evaluate.every) == ("last", 50)
    assert "load_best_model_at_end" not in found.left


def test_another_metric_of_the_best_model_is_named(tmp_path: Path) -> None:
    text = f"{TRL}{STEPS}load_best_model_at_end: true\n"
    metric = "metric_for_best_model: eval_accuracy\ngreater_is_better: true\n"
    found = import_recipe(written(tmp_path, text + metric))
    assert found.recipe.train.keep == "best"
    assert found.left == {
        "metric_for_best_model": "eval_accuracy has no counterpart: train.keep: best compares "
        "held-out losses",
        "greater_is_better": "true has no counterpart: train.keep: best keeps the lowest "
        "held-out loss",
    }


def test_the_best_model_without_evaluations_keeps_the_last_weights(tmp_path: Path) -> None:
    found = import_recipe(written(tmp_path, f"{TRL}load_best_model_at_end: true\n"))
    assert found.recipe.train.keep == "last"
    assert "needs evaluate.every" in found.left["load_best_model_at_end"]
    assert load_recipe(written(tmp_path, found.to_yaml(), "ours.yaml")) == found.recipe


@HAS_STRATEGY
@pytest.mark.parametrize("key", ["eval_strategy", "evaluation_strategy"])
@pytest.mark.parametrize("steps", ["", "eval_steps: 50\n"])
def test_an_evaluation_at_each_epoch_is_named(
    theirs: str, key: str, steps: str, tmp_path: Path
) -> None:
    found = import_recipe(written(tmp_path, f"{theirs}{steps}{key}: epoch\n"))
    assert found.recipe.evaluate.every is None
    assert found.left[key] == (
        "epoch has no counterpart: write evaluate.every as a number of optimizer steps"
    )
    assert ("eval_steps" in found.left) == bool(steps)


@HAS_STRATEGY
@pytest.mark.parametrize("key", ["eval_strategy", "evaluation_strategy"])
def test_both_names_of_the_strategy_are_read(theirs: str, key: str, tmp_path: Path) -> None:
    for strategy, every in (("steps", 50), ("'no'", None), ("false", None), ("", None)):
        text = f"{theirs}eval_steps: 50\n{key}: {strategy}\n"
        found = import_recipe(written(tmp_path, text))
        assert found.recipe.evaluate.every == every
        assert key not in found.left
    bare = import_recipe(written(tmp_path, f"{theirs}{key}: steps\n"))
    assert "write evaluate.every" in bare.left[key]


def test_axolotl_names_an_evaluation_at_each_epoch(tmp_path: Path) -> None:
    found = import_recipe(written(tmp_path, f"{AXOLOTL}eval_strategy: epoch\neval_steps: 5\n"))
    assert found.recipe.evaluate.every is None
    assert "epoch has no counterpart" in found.left["eval_strategy"]
    assert "is not used" in found.left["eval_steps"]
    alone = import_recipe(written(tmp_path, f"{AXOLOTL}eval_steps: 5\n"))
    assert (alone.recipe.evaluate.every, alone.left) == (5, {})


def test_settings_of_one_data_set_say_what_a_mixture_takes(tmp_path: Path) -> None:
    mixture = "datasets: [{path: acme/one}, {path: acme/two}]\n"
    one = "dataset_test_split: test\ndataset_train_split: sft\ndataset_config: main\n"
    left = import_recipe(written(tmp_path, TRL + mixture + one)).left
    assert left == {
        "data.split": "sft is of one data set: give each source of data.train its split",
        "data.config": "main is of one data set: give each source of data.train its config",
        "data.eval_split": "test is of one data set: name the held-out rows by data.eval, and "
        "their split by data.eval_split; without data.eval, data.eval_rows rows are held out of "
        "data.train",
    }
    several = "model_name_or_path: m\nfinetuning_type: lora\ndataset: one,two\nmax_samples: 9\n"
    left = import_recipe(written(tmp_path, several)).left
    assert "give each source of data.train its rows" in left["data.max_rows"]


def test_what_a_mixture_is_said_to_take_is_taken(tmp_path: Path) -> None:
    source = "{path: acme/one, split: sft, config: main, revision: a1, rows: 9}"
    text = (
        f"name: x\nmodel: {{name: acme/m}}\ndata:\n  train: [{source}, acme/two]\n"
        "  eval: acme/one\n  eval_split: test\n"
    )
    recipe = load_recipe(written(tmp_path, text))
    assert recipe.data.eval_split == "test"


def rows_file(folder: Path, name: str) -> str:
    """Write a file of rows and return its absolute name."""
    return str(written(folder, "{}", name).resolve())


def imported(folder: Path, text: str) -> ImportedRecipe:
    """Return what becomes of a file, whose recipe is also read back as it was made."""
    found = import_recipe(written(folder, text))
    assert load_recipe(written(folder, found.to_yaml(), "ours.yaml")) == found.recipe
    return found


@pytest.mark.parametrize(
    "held",
    [
        "{path: held.jsonl, ds_type: json, split: train, type: chat_template}",
        "{path: json, data_files: held.jsonl, split: train, type: chat_template}",
        "{path: json, data_files: [held.jsonl], type: chat_template}",
        "{path: held.jsonl, split: null, type: chat_template}",
    ],
)
def test_a_held_out_file_of_axolotl_has_no_split(held: str, tmp_path: Path) -> None:
    file = rows_file(tmp_path, "held.jsonl")
    found = imported(tmp_path, f"{AXOLOTL}test_datasets: [{held}]\nval_set_size: 0\n")
    assert (found.recipe.data.eval, found.recipe.data.eval_split) == (file, None)
    assert set(found.left) <= {"test_datasets[0].ds_type"}


def test_of_several_held_out_files_the_first_is_taken(tmp_path: Path) -> None:
    file = rows_file(tmp_path, "held.jsonl")
    files = "{path: json, data_files: [held.jsonl, more.jsonl]}"
    found = imported(tmp_path, f"{AXOLOTL}test_datasets: [{files}]\n")
    assert found.recipe.data.eval == file
    assert found.left == {"test_datasets": "has 2 data sets, of which the first is taken"}


def test_axolotl_holds_out_the_split_test_of_a_hub_data_set(tmp_path: Path) -> None:
    found = imported(tmp_path, f"{AXOLOTL}test_datasets: [{{path: acme/held}}]\n")
    assert found.recipe.data.eval_split == "test"
    named = imported(tmp_path, f"{AXOLOTL}test_datasets: [{{path: acme/held, split: dev}}]\n")
    assert named.recipe.data.eval_split == "dev"


def test_a_part_of_a_local_file_is_named(tmp_path: Path) -> None:
    file = rows_file(tmp_path, "rows.jsonl")
    one = "{path: rows.jsonl, split: 'train[:9]', name: main}"
    text = "base_model: m\nadapter: lora\ndatasets: [%s]\n"
    found = imported(tmp_path, text % one)
    assert (found.recipe.data.train, found.recipe.data.split) == (file, "train")
    assert (found.recipe.data.config, set(found.left)) == (None, {"data.split", "data.config"})
    assert "all rows of the local file are used" in found.left["data.split"]
    several = imported(tmp_path, text % f"{{path: acme/one, split: sft}}, {one}")
    first, second = several.recipe.data.parts
    assert (first.split, second.split, second.config) == ("sft", "train", None)
    assert set(several.left) == {"data.train[1].split", "data.train[1].config"}
    usual = imported(tmp_path, text % "{path: rows.jsonl, split: train}")
    assert usual.left == {}


def test_a_held_out_split_of_a_local_file_is_named(tmp_path: Path) -> None:
    file = rows_file(tmp_path, "rows.jsonl")
    local = TRL.replace("acme/one", "rows.jsonl") + "dataset_train_split: train\n"
    found = imported(tmp_path, f"{local}dataset_test_split: test\n")
    assert (found.recipe.data.train, found.recipe.data.eval_split) == (file, None)
    assert "in data.eval" in found.left["data.eval_split"]
    assert imported(tmp_path, local + STEPS).left == {}


def test_trl_evaluates_the_split_test_of_a_hub_data_set(tmp_path: Path) -> None:
    assert imported(tmp_path, TRL + STEPS).recipe.data.eval_split == "test"
    assert imported(tmp_path, TRL).recipe.data.eval_split is None
    named = imported(tmp_path, f"{TRL}{STEPS}dataset_test_split: dev\n")
    assert named.recipe.data.eval_split == "dev"


def llama_factory_data(folder: Path, held: dict[str, object], more: str = "") -> ImportedRecipe:
    """Import a file whose training rows have the columns q and a, and whose held-out rows `held`
    describes."""
    columns = {"prompt": "q", "response": "a"}
    about = {
        "mine": {"file_name": "mine.jsonl", "columns": columns},
        "held": {"file_name": "held.jsonl", **held},
    }
    (folder / "data").mkdir()
    written(folder / "data", json.dumps(about), "dataset_info.json")
    rows_file(folder / "data", "mine.jsonl")
    rows_file(folder / "data", "held.jsonl")
    text = "model_name_or_path: m\nfinetuning_type: lora\ndataset: mine\neval_dataset: held\n"
    return imported(folder, text + more)


OURS = {"q": "instruction", "a": "output"}


def test_held_out_rows_with_the_columns_for_training_share_them(tmp_path: Path) -> None:
    found = llama_factory_data(tmp_path, {"columns": {"prompt": "q", "response": "a"}})
    assert isinstance(found.recipe.data.train, str)
    assert (found.recipe.data.columns, found.left) == (OURS, {})


def test_held_out_rows_keep_columns_of_their_own(tmp_path: Path) -> None:
    held = {"prompt": "frage", "response": "antwort"}
    found = llama_factory_data(tmp_path, {"columns": held})
    assert [part.columns for part in found.recipe.data.parts] == [OURS]
    assert found.recipe.data.columns == {"frage": "instruction", "antwort": "output"}
    assert found.left == {}


def test_check_reads_held_out_rows_with_columns_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))
    llama_factory_data(tmp_path, {"columns": {"prompt": "frage", "response": "antwort"}})
    rows = "".join(f'{{"q": "what {n}", "a": "this"}}\n' for n in range(4))
    written(tmp_path / "data", rows, "mine.jsonl")
    written(tmp_path / "data", '{"frage": "was", "antwort": "das"}\n', "held.jsonl")
    recipe = tmp_path / "ours.yaml"
    written(tmp_path, recipe.read_text().replace("name: m\n", f"name: {DEMO}\n"), "ours.yaml")
    done = CliRunner().invoke(app, ["check", str(recipe), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["data"]
    assert (found["train_rows"], found["eval_rows"]) == (4, 1)


def test_other_columns_beside_a_limit_of_rows_are_named(tmp_path: Path) -> None:
    found = llama_factory_data(tmp_path, {}, "max_samples: 9\n")
    assert (found.recipe.data.columns, found.recipe.data.max_rows) == (OURS, 9)
    assert set(found.left) == {"eval_dataset held.columns"}
    assert "write data.train as a list" in found.left["eval_dataset held.columns"]


def test_parts_and_other_keys_of_held_out_rows_are_not_dropped(tmp_path: Path) -> None:
    columns = {"prompt": "q", "response": "a", "images": "i"}
    held = {"hf_hub_url": "acme/held", "file_name": "", "split": "dev", "num_samples": 7}
    found = llama_factory_data(tmp_path, {**held, "subset": "main", "columns": columns})
    data = found.recipe.data
    assert (data.eval, data.eval_split, data.eval_rows) == ("acme/held", "dev", 7)
    assert set(found.left) == {"eval_dataset held.subset", "eval_dataset held.columns.images"}


def test_rows_of_another_hub_are_named(tmp_path: Path) -> None:
    found = llama_factory_data(tmp_path, {"ms_hub_url": "acme/held", "file_name": ""})
    assert "name its file or hub id" in found.left["eval_dataset held"]


def test_held_out_rows_of_axolotl_keep_a_shape_of_their_own(tmp_path: Path) -> None:
    training = "base_model: m\nadapter: lora\ndatasets: [{path: acme/one, type: alpaca}]\n"
    chats = f"{training}test_datasets: [{{path: acme/held, split: dev, type: chat_template}}]\n"
    found = imported(tmp_path, chats)
    assert [part.shape for part in found.recipe.data.parts] == ["alpaca"]
    assert (found.recipe.data.shape, found.left) == ("auto", {})
    same = imported(tmp_path, chats.replace("chat_template", "alpaca"))
    assert (same.recipe.data.train, same.recipe.data.shape) == ("acme/one", "alpaca")


@pytest.mark.parametrize("theirs", [TRL, LLAMA_FACTORY, AXOLOTL])
def test_a_regular_expression_for_layers_is_named(theirs: str, tmp_path: Path) -> None:
    key = "lora_target" if theirs == LLAMA_FACTORY else "lora_target_modules"
    usual = import_recipe(written(tmp_path, theirs)).recipe.lora.targets
    pattern = r"model.layers.[\d]+.(mlp|self_attn).(up|down)_proj"
    for value in (f"'{pattern}'", f"['{pattern}']", "'.*'"):
        found = imported(tmp_path, f"{theirs}{key}: {value}\n")
        assert found.recipe.lora.targets == usual
        assert "is a regular expression: write the names of layers" in found.left[key]
    for value in ("q_proj, v_proj", "q_proj v_proj", "[q_proj, v_proj]"):
        found = imported(tmp_path, f"{theirs}{key}: {value}\n")
        assert found.recipe.lora.targets == ["q_proj", "v_proj"]
    for value in ("all-linear", "[all-linear]"):
        assert imported(tmp_path, f"{theirs}{key}: {value}\n").recipe.lora.targets == "all-linear"
    for value in ("", "[]", "''"):
        found = imported(tmp_path, f"{theirs}{key}: {value}\n")
        assert (found.recipe.lora.targets, key in found.left) == (usual, False)


def test_names_beside_all_linear_layers_take_none_away(tmp_path: Path) -> None:
    text = f"{AXOLOTL}lora_target_linear: true\nlora_target_modules: [q_proj]\n"
    assert imported(tmp_path, text).recipe.lora.targets == "all-linear"


@pytest.mark.parametrize("key", ["max_length", "max_seq_length"])
def test_rows_without_a_limit_of_tokens_are_named(key: str, tmp_path: Path) -> None:
    found = imported(tmp_path, f"{TRL}{key}: null\n")
    assert found.recipe.data.max_tokens == 1024
    assert found.left[key] == (
        "null (no row is truncated) has no counterpart; data.max_tokens: 1024 is used"
    )
    zero = imported(tmp_path, f"{TRL}{key}: 0\n")
    assert zero.left == {key: "0 is not above 0; data.max_tokens: 1024 is used"}


@pytest.mark.parametrize("theirs", [TRL, LLAMA_FACTORY])
def test_gradients_that_are_not_scaled_down_are_named(theirs: str, tmp_path: Path) -> None:
    null = imported(tmp_path, f"{theirs}max_grad_norm: null\n")
    assert "no gradient is scaled down" in null.left["max_grad_norm"]
    assert "train.max_grad_norm: 1.0 is used" in null.left["max_grad_norm"]
    zero = imported(tmp_path, f"{theirs}max_grad_norm: 0\n")
    assert zero.left["train.max_grad_norm"].endswith("; 1.0 is used")
    assert zero.recipe.train.max_grad_norm == null.recipe.train.max_grad_norm == 1.0


@pytest.mark.parametrize(
    ("theirs", "key"),
    [
        (AXOLOTL, "sequence_len"),
        (AXOLOTL, "lora_r"),
        (AXOLOTL, "val_set_size"),
        (LLAMA_FACTORY, "cutoff_len"),
        (LLAMA_FACTORY, "max_samples"),
        (LLAMA_FACTORY, "lora_rank"),
        (LLAMA_FACTORY, "val_size"),
        (TRL, "per_device_train_batch_size"),
        (TRL, "gradient_accumulation_steps"),
        (TRL, "save_steps"),
    ],
)
def test_zero_is_named_where_it_is_not_off(theirs: str, key: str, tmp_path: Path) -> None:
    usual = import_recipe(written(tmp_path, theirs)).left
    assert set(imported(tmp_path, f"{theirs}{key}: 0\n").left) == {key, *usual}


def test_zero_is_silent_where_it_is_off(tmp_path: Path) -> None:
    text = f"{TRL}max_steps: -1\neval_steps: 0\n"
    assert imported(tmp_path, text).left == {}


@pytest.mark.parametrize("theirs", [TRL, AXOLOTL])
def test_training_in_32_bits_is_named(theirs: str, tmp_path: Path) -> None:
    off = imported(tmp_path, f"{theirs}bf16: false\n")
    assert off.left == {
        "bf16": "false trains in 32 bits: write model.precision: fp32; auto is used"
    }
    half = imported(tmp_path, f"{theirs}bf16: false\nfp16: true\n")
    assert (half.recipe.model.precision, half.left) == ("fp16", {})


def test_a_word_for_bf16_that_is_not_known_is_named(tmp_path: Path) -> None:
    found = imported(tmp_path, f"{AXOLOTL}bf16: full\n")
    assert "full is none of true, false, auto" in found.left["bf16"]


@pytest.mark.parametrize("key", ["datasets", "test_datasets"])
def test_a_list_without_a_data_set_is_named(key: str, tmp_path: Path) -> None:
    theirs = TRL if key == "datasets" else AXOLOTL
    found = imported(tmp_path, f"{theirs}{key}: [{{path: null}}]\n")
    assert found.left == {key: "is no list of data sets"}


@pytest.mark.parametrize("key", ["seed", "gradient_accumulation_steps"])
@pytest.mark.parametrize("value", ["true", "1.5"])
def test_what_is_no_whole_number_is_named(key: str, value: str, tmp_path: Path) -> None:
    found = imported(tmp_path, f"{TRL}{key}: {value}\n")
    assert "is not a whole number" in found.left[key]


def test_a_refused_value_names_the_one_that_another_key_gives(tmp_path: Path) -> None:
    found = imported(tmp_path, f"{TRL}max_length: 0\nmax_seq_length: 99\n")
    assert found.left == {"max_length": "0 is not above 0; data.max_tokens: 99 is used"}
    alpha = imported(tmp_path, f"{LLAMA_FACTORY}lora_alpha: x\nlora_rank: 4\n")
    assert alpha.left["lora_alpha"] == "x is not readable; lora.alpha: 8 is used"


def test_scales_are_quantised_as_the_trainer_does_it(tmp_path: Path) -> None:
    four_bits = f"{TRL}load_in_4bit: true\n"
    assert imported(tmp_path, four_bits).recipe.model.double_quantization is False
    nested = imported(tmp_path, f"{four_bits}use_bnb_nested_quant: true\n")
    assert nested.recipe.model.double_quantization is True
    others = [f"{LLAMA_FACTORY}quantization_bit: 4\n", f"{AXOLOTL}load_in_4bit: true\n"]
    for text in others:
        assert imported(tmp_path, text).recipe.model.double_quantization is True


@pytest.mark.parametrize(
    ("name", "trainer"),
    [("axolotl", "Axolotl"), ("llama_factory", "LLaMA-Factory"), ("trl", "TRL")],
)
def test_the_file_of_a_trainer_is_recognised_in_place_of_a_recipe(name: str, trainer: str) -> None:
    file = FILES / f"{name}.yaml"
    with pytest.raises(RecipeError) as refused:
        load_recipe(file, ["lora.rank=4"])
    assert refused.value.what == f"{file}: looks like a file of {trainer}, not like a recipe"
    assert f"workbench recipes import {file} -o NEW.yaml" in refused.value.hint


def test_a_recipe_with_a_key_of_a_trainer_is_no_file_of_a_trainer(tmp_path: Path) -> None:
    text = "name: x\nmodel: {name: acme/m}\ndata: {train: acme/d}\nbase_model: acme/m\n"
    with pytest.raises(RecipeError, match="base_model is not a setting"):
        load_recipe(written(tmp_path, text))
