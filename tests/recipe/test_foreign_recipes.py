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
from workbench.recipe.foreign.importer import import_recipe

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
