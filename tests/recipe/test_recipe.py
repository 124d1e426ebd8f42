"""Recipes are read into values, or refused with a line for every mistake."""

from __future__ import annotations

import contextlib
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import NotThere, RecipeError
from workbench.recipe import (
    Recipe,
    apply_settings,
    load_recipe,
    read_recipe,
    recipe_json_schema,
    settings_of,
    to_yaml,
)
from workbench.recipe.keys import setting_fields
from workbench.recipe.space import repeated_values
from workbench.text import safe_line

SMALL = """\
name: small
model:
  name: acme/tiny
data:
  train: acme/rows
"""


def read(text: str, folder: Path = Path("/nowhere"), overrides: tuple[str, ...] = ()) -> Recipe:
    return read_recipe(text, folder=folder, overrides=overrides)


def mistakes(text: str, folder: Path = Path("/nowhere"), *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as refused:
        read(text, folder, overrides)
    return refused.value.what.splitlines()


def test_what_a_recipe_leaves_out_is_the_guides() -> None:
    recipe = read(SMALL)
    assert recipe.train.learning_rate == 2e-4
    assert recipe.lora.rank == 16
    assert recipe.train.max_grad_norm == 0.3
    assert recipe.data.max_tokens == 512


def test_scientific_notation_is_a_number() -> None:
    assert read(SMALL + "train: {learning_rate: 1e-4}").train.learning_rate == 1e-4


@pytest.mark.parametrize("word", ["on", "off"])
def test_on_and_off_are_words(word: str) -> None:
    recipe = read(SMALL + f"train: {{gradient_checkpointing: {word}}}")
    assert recipe.train.gradient_checkpointing == word


@pytest.mark.parametrize("text", ["010", "2024", "1e5", "true", "12:30"])
def test_a_name_may_look_like_anything(text: str) -> None:
    assert read(SMALL.replace("small", text)).name == text


def test_a_revision_of_digits_stays_text() -> None:
    recipe = read(SMALL.replace("acme/tiny", "acme/tiny\n  revision: 1234567"))
    assert recipe.model.revision == "1234567"


def test_an_empty_section_means_its_defaults() -> None:
    assert read(SMALL + "lora:\n  # rank: 8\n").lora.rank == 16


def test_a_misspelt_key_names_the_nearest() -> None:
    assert mistakes(SMALL + "lora:\n  rnak: 8\n") == [
        "recipe.yaml:7: lora.rnak is not a setting. Did you mean lora.rank?"
    ]


def test_a_key_in_the_wrong_section_is_found() -> None:
    assert mistakes(SMALL + "learning_rate: 1e-4\n") == [
        "recipe.yaml:6: learning_rate is not a setting. Did you mean train.learning_rate?"
    ]


def test_a_setting_of_other_libraries_is_translated() -> None:
    [line] = mistakes(SMALL + "per_device_train_batch_size: 4\n")
    assert line.endswith("Did you mean train.batch_size?")


def test_all_mistakes_are_reported_at_once_in_the_files_order() -> None:
    text = SMALL + (
        "lora:\n  rank: 8.5\n  dropout: 1\n  targets: 5\n"
        "train:\n  learning_rate: fast\n  optimizer: adam\n"
        "evaluate:\n  answer_pattern: '('\n"
    )
    assert mistakes(text) == [
        "recipe.yaml:7: lora.rank must be a whole number, not 8.5",
        "recipe.yaml:8: lora.dropout must be below 1, not 1",
        "recipe.yaml:9: lora.targets must be a list, like [q_proj, v_proj] or all-linear, not 5",
        "recipe.yaml:11: train.learning_rate must be a number, not the text 'fast'",
        "recipe.yaml:12: train.optimizer must be one of auto, adamw_torch, adamw_8bit, "
        "paged_adamw_8bit, paged_adamw_32bit, sgd, not the text 'adam'",
        "recipe.yaml:14: evaluate.answer_pattern is not a regular expression: missing ), "
        "unterminated subpattern at position 0",
    ]


def test_a_wrong_item_of_a_list_is_named() -> None:
    [line] = mistakes(SMALL + "lora:\n  targets:\n    - q_proj\n    - {a: 1}\n")
    assert line == "recipe.yaml:9: lora.targets[2] must be text, not a mapping"


def test_missing_settings_are_named() -> None:
    assert mistakes("name: x\nmodel:\ndata:\n  eval_rows: 3\n") == [
        "recipe.yaml:2: model.name is missing",
        "recipe.yaml:3: data.train is missing",
    ]


def test_two_settings_that_contradict_are_reported_at_their_section() -> None:
    assert mistakes(SMALL + "evaluate:\n  rank_by: exact_match\n") == [
        "recipe.yaml:6: evaluate: rank_by: exact_match needs evaluate.answer_pattern"
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("name: a\nname: b\n", "recipe.yaml:2: name stands here a second time (first: line 1)"),
        ("name: &x a\n", "recipe.yaml:1: &x: anchors are not read here"),
        ("name: *x\n", "recipe.yaml:1: *x: aliases are not read here"),
        ("name: !!python/name:os.system x\n", ": tags are not read here"),
        ("name: a\n---\nname: b\n", "recipe.yaml:2: a second document starts"),
        ("\tname: a\n", "recipe.yaml:1: is not YAML: a tab; YAML is indented with spaces"),
        ("name: a: b\n", "recipe.yaml:1: is not YAML: a colon where none may stand"),
        ("name: [\n", "is not YAML: a { or [ that is not closed"),
        ("model: {name: b\nname: a\n", "recipe.yaml:1: is not YAML: a { or [ that is not closed"),
        ('name: "a\n\nx: 1\n', "recipe.yaml:1: is not YAML: a quote that is not closed"),
        ('name: "\\d+"\n', "recipe.yaml:1: is not YAML: a backslash between double quotes"),
        ('name: "\\x4"\n', "recipe.yaml:1: is not YAML: a backslash between double quotes"),
        ("name: @a\n", "recipe.yaml:1: is not YAML: a text that begins with '@'"),
        ('name: "a" b\n', "recipe.yaml:1: is not YAML: text behind a finished value"),
        ("name: 'a\x07'\n", "holds a control character"),
        ('name: "a\\u001b[2J"\n', "recipe.yaml:1: holds a control character"),
        ('name: "\\ud800"\n', "recipe.yaml:1: holds a control character"),
        ('name: "\\UFFFFFFFF"\n', "is not YAML"),
        ("name: " + "[" * 3_000, "recipe.yaml:1: nested more than 20 deep"),
        ("", "the recipe is empty"),
        ("- a\n", "the recipe is a list or a word"),
        ("x: " + "a" * 70_000, "a recipe has at most 64 KiB"),
    ],
)
def test_what_yaml_allows_and_we_do_not_is_refused(text: str, line: str) -> None:
    assert any(line in told for told in mistakes(text))


@pytest.mark.parametrize("number", [".inf", "1e999", ".nan", "-1", "0", "0x10", "1_0"])
def test_a_learning_rate_is_a_finite_number_above_zero(number: str) -> None:
    assert mistakes(SMALL + f"train: {{learning_rate: {number}}}")


def test_foreign_text_is_shown_without_its_escapes() -> None:
    [line] = mistakes(SMALL + 'train: {schedule: "\\u202eslow"}')
    assert "\u202e" not in line


class TestNames:
    def test_local_files_are_resolved_against_the_recipes_folder(self, tmp_path: Path) -> None:
        (tmp_path / "rows.jsonl").write_text("{}\n")
        (tmp_path / "tiny").mkdir()
        text = SMALL.replace("acme/rows", "rows.jsonl").replace("acme/tiny", "./tiny")
        recipe = read(text, tmp_path)
        assert recipe.data.train == str(tmp_path / "rows.jsonl")
        assert recipe.model.name == str(tmp_path / "tiny")

    def test_hub_ids_stay_as_they_are(self) -> None:
        recipe = read(SMALL)
        assert (recipe.model.name, recipe.data.train) == ("acme/tiny", "acme/rows")

    def test_a_missing_file_is_reported_with_its_line(self, tmp_path: Path) -> None:
        text = SMALL.replace("acme/rows", "rows.csv")
        assert mistakes(text, tmp_path) == [
            f"recipe.yaml:5: data.train: there is no file {tmp_path}/rows.csv"
        ]

    def test_a_missing_model_folder_is_reported_with_its_line(self, tmp_path: Path) -> None:
        text = SMALL.replace("acme/tiny", "../tiny")
        assert mistakes(text, tmp_path) == [
            f"recipe.yaml:3: model.name: there is no folder {tmp_path.parent}/tiny"
        ]

    def test_a_file_is_no_model(self, tmp_path: Path) -> None:
        (tmp_path / "weights.gguf").touch()
        [line] = mistakes(SMALL.replace("acme/tiny", "weights.gguf"), tmp_path)
        assert "is a file; a model is a folder" in line

    def test_a_name_that_is_nothing_is_reported(self) -> None:
        [line] = mistakes(SMALL.replace("acme/tiny", "a/b/c"))
        assert line == "recipe.yaml:3: model.name: a/b/c is no folder here and no hub id"

    def test_shipped_names_must_ship(self) -> None:
        [line] = mistakes(SMALL.replace("acme/tiny", "workbench:../secrets"))
        assert "does not ship with the workbench" in line

    def test_swept_data_files_are_resolved_too(self, tmp_path: Path) -> None:
        for name in ("a.csv", "b.csv", "eval.csv"):
            (tmp_path / name).touch()
        text = SMALL.replace("acme/rows", "a.csv\n  eval: eval.csv") + (
            "sweep:\n  parameters:\n    data.train: [a.csv, b.csv]\n"
        )
        recipe = read(text, tmp_path)
        assert recipe.sweep is not None
        swept = recipe.sweep.parameters["data.train"]
        assert swept == [str(tmp_path / "a.csv"), str(tmp_path / "b.csv")]


class TestSweep:
    def lines(self, parameters: str, method: str = "grid") -> list[str]:
        text = f"sweep:\n  method: {method}\n  trials: 4\n  parameters:\n{parameters}"
        return mistakes(SMALL + text)

    def test_a_swept_key_must_be_a_setting(self) -> None:
        assert self.lines("    lora.rnk: [8]\n") == [
            "recipe.yaml:10: lora.rnk is not a setting. Did you mean lora.rank?"
        ]

    def test_every_value_must_be_one_its_setting_takes(self) -> None:
        assert self.lines("    lora.rank: [8, 0, big]\n") == [
            "recipe.yaml:10: as a value to try, lora.rank must be a whole number, "
            "not the text 'big'",
            "recipe.yaml:10: as a value to try, lora.rank must be above 0, not 0",
        ]

    @pytest.mark.parametrize(
        "key",
        [
            "name",
            "sweep.seed",
            "sweep",
            "model.name",
            "data.eval",
            "data.eval_rows",
            "data.test",
            "data.test_rows",
            "evaluate.every",
            "data.train",
        ],
    )
    def test_what_makes_trials_incomparable_is_not_swept(self, key: str) -> None:
        [line] = self.lines(f"    {key}: [1]\n")
        assert f"recipe.yaml:10: {key} can" in line

    def test_training_data_that_test_rows_are_split_off_is_not_swept(self) -> None:
        data = "data: {train: 'a/b', eval: 'a/c', test_rows: 9}\n"
        text = (
            f"name: x\nmodel: {{name: a/m}}\n{data}sweep: {{parameters: {{data.train: [a/b]}}}}\n"
        )
        [line] = mistakes(text)
        assert "data.train can be swept only beside data.test" in line

    def test_a_grid_has_no_ranges(self) -> None:
        [line] = self.lines("    train.learning_rate: {min: 1e-5, max: 1e-3}\n")
        assert line.endswith("train.learning_rate is a range; a grid needs a list, or set "
                             "method: random or tpe")  # fmt: skip

    def test_a_range_ends_where_its_setting_does(self) -> None:
        [line] = self.lines("    lora.dropout: {min: 0.1, max: 2}\n", "random")
        assert line == "recipe.yaml:10: as a value to try, lora.dropout must be below 1, not 2"

    def test_a_range_of_whole_numbers_says_so(self) -> None:
        [line] = self.lines("    lora.rank: {min: 4, max: 64, log: true}\n", "random")
        assert "add integer: true" in line

    def test_a_backward_range_is_refused(self) -> None:
        [line] = self.lines("    train.learning_rate: {min: 2, max: 1}\n", "random")
        assert line.endswith("min 2 is not below max 1")

    def test_nothing_to_try_is_refused(self) -> None:
        [line] = self.lines("    lora.rank: []\n")
        assert line.endswith("lora.rank has no values to try")

    @pytest.mark.parametrize("method", ["grid", "random", "tpe"])
    def test_a_value_that_stands_twice_is_refused(self, method: str) -> None:
        assert self.lines("    lora.rank: [4, 8, 4, 4]\n", method) == [
            "recipe.yaml:10: lora.rank has 4 twice, which trains equal trials; take it out, or "
            "repeat trials with other seeds: list values of train.seed, or set sweep.finals"
        ]

    def test_a_value_that_stands_twice_is_refused_at_its_line(self) -> None:
        [line] = self.lines("    lora.rank:\n    - 4\n    - 8\n    - 4\n")
        assert line.startswith("recipe.yaml:13: lora.rank has 4 twice")

    @pytest.mark.parametrize(
        ("key", "values"),
        [
            ("train.learning_rate", "[1e-4, 0.0001]"),
            ("train.learning_rate", "[1, 1.0]"),
            ("lora.dropout", "[0.0, -0.0]"),
            ("train.max_steps", "[null, 9, ~]"),
            ("lora.rslora", "[true, True]"),
            ("data.system", "[4, '4']"),
            ("lora.targets", "[[q_proj], [k_proj], [q_proj]]"),
            ("data.columns", "[{a: prompt, b: completion}, {b: completion, a: prompt}]"),
            ("train.seed", "[1, 1]"),
        ],
    )
    def test_values_are_equal_as_their_setting_takes_them(self, key: str, values: str) -> None:
        [line] = self.lines(f"    {key}: {values}\n")
        assert f"{key} has " in line
        assert "twice" in line

    def test_a_value_of_a_condition_stands_once_too(self) -> None:
        condition = "when: {lora.rslora: true}"
        [line] = self.lines(
            f"    lora.rslora: [true, false]\n    lora.rank: {{values: [4, 4], {condition}}}\n"
        )
        assert line.startswith("recipe.yaml:11: lora.rank has 4 twice")

    def test_a_value_that_stands_twice_in_an_override_is_refused(self) -> None:
        with pytest.raises(RecipeError, match="has 4 twice") as refused:
            read_recipe(SMALL, folder=Path(), overrides=["sweep.parameters.lora.rank=[4, 4]"])
        assert str(refused.value).startswith("-s sweep.parameters.lora.rank=")

    def test_values_of_another_kind_are_only_refused_as_values(self) -> None:
        lines = self.lines("    lora.rslora: [true, 1]\n    lora.rank: [4, '4', 4.0]\n")
        assert not [line for line in lines if "twice" in line]
        assert all("as a value to try" in line for line in lines)

    def test_a_secret_that_stands_twice_is_not_shown(self) -> None:
        secret = "hf_" + "aB3dE5gH7jK9" * 3
        lines = self.lines(f"    data.system: [{secret}, {secret}]\n")
        assert lines
        assert all("looks like a secret" in line and secret not in line for line in lines)

    def test_every_setting_knows_equal_values(self) -> None:
        for key in setting_fields():
            assert repeated_values(key, dict(enumerate([None, object(), "a", 1, 1.5]))) == []


class TestKeep:
    def test_the_best_weights_are_kept_where_there_is_a_curve(self) -> None:
        assert read(SMALL + "evaluate: {every: 25}").train.keep == "best"
        assert read(SMALL).train.keep == "last"
        assert read(SMALL + "evaluate: {every: 25}\ntrain: {keep: last}").train.keep == "last"
        assert "keep: best" in to_yaml(read(SMALL + "evaluate: {every: 25}"))

    def test_without_a_curve_there_is_no_best(self) -> None:
        [line] = mistakes(SMALL + "train: {keep: best}")
        assert line == (
            "recipe.yaml:6: train.keep: best needs a curve of held-out losses; set evaluate.every "
            "to some optimizer steps, e.g. 25"
        )


class TestSettings:
    def test_a_trials_recipe_has_its_settings_and_no_sweep(self) -> None:
        swept = read(SMALL + "sweep: {parameters: {lora.rank: [4, 8]}}")
        trial = apply_settings(swept, {"lora.rank": 4, "train.learning_rate": 1e-3})
        assert (trial.lora.rank, trial.train.learning_rate) == (4, 1e-3)
        assert trial.sweep is None

    def test_wrong_settings_are_refused(self) -> None:
        with pytest.raises(RecipeError, match=r"Did you mean lora\.rank"):
            apply_settings(read(SMALL), {"lora.rnk": 4})
        with pytest.raises(RecipeError, match=r"lora\.rank must be above 0, not 0"):
            apply_settings(read(SMALL), {"lora.rank": 0})

    def test_settings_of_returns_the_differences(self) -> None:
        base = read(SMALL)
        changed = apply_settings(base, {"lora.rank": 4})
        assert settings_of(changed, than=base) == {"lora.rank": 4}
        assert apply_settings(base, settings_of(changed)) == changed


class TestFile:
    def test_a_missing_file_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(NotThere):
            load_recipe(tmp_path / "no.yaml")

    def test_a_folder_is_no_recipe(self, tmp_path: Path) -> None:
        with pytest.raises(RecipeError, match="cannot be read"):
            load_recipe(tmp_path)

    def test_bytes_that_are_no_text_are_reported_with_their_line(self, tmp_path: Path) -> None:
        path = tmp_path / "recipe.yaml"
        path.write_bytes(b"name: x\nmodel: \xff\n")
        with pytest.raises(RecipeError, match=r"recipe\.yaml:2: is not UTF-8"):
            load_recipe(path)

    def test_a_byte_order_mark_is_ignored(self, tmp_path: Path) -> None:
        path = tmp_path / "recipe.yaml"
        path.write_text(SMALL, encoding="utf-8-sig")
        assert load_recipe(path).name == "small"


def test_the_schema_describes_every_setting() -> None:
    schema = recipe_json_schema()
    rank = schema["$defs"]["Train"]["properties"]["accumulation"]
    assert "Micro-steps" in rank["description"]
    swept = schema["$defs"]["Sweep"]["properties"]["parameters"]["propertyNames"]["enum"]
    assert "lora.rank" in swept
    assert "name" not in swept


WORDY = """name model data lora rank sweep parameters lora.rank targets train eval min max true
null 1e-4 ~ # &a *a | > [ ] { } , ' " \\U0 %YAML !!str"""
SCRAPS = st.sampled_from([*WORDY.split(), ": ", ":\n  ", "\n", "- ", "\t", " "])
TEXTS = st.one_of(
    st.text(max_size=120),
    st.lists(st.one_of(SCRAPS, st.text(max_size=3)), max_size=40).map("".join),
    st.lists(SCRAPS, max_size=30).map(lambda scraps: SMALL + "".join(scraps)),
)


def told(text: str) -> list[str]:
    """Return the mistakes in `text`, an empty list for a recipe."""
    try:
        read(text)
    except RecipeError as refused:
        return refused.what.splitlines() or ["refused without a word"]
    return []


@settings(max_examples=200, deadline=None)
@given(text=TEXTS)
def test_any_text_is_a_recipe_or_refused_with_a_reason(text: str) -> None:
    assert all(line.startswith("recipe.yaml:") for line in told(text))


VALUES: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)


@settings(max_examples=100, deadline=None)
@given(key=st.sampled_from(sorted(settings_of(read(SMALL)))), value=VALUES)
def test_any_setting_of_a_trial_is_taken_or_refused_with_a_reason(key: str, value: object) -> None:
    with contextlib.suppress(RecipeError):
        assert settings_of(apply_settings(read(SMALL), {key: value}))[key] is not None or not value


WORDS = st.text(string.printable + "äß→😀\u2028'\"#:", min_size=1, max_size=30)


@settings(max_examples=100, deadline=None)
@given(
    name=WORDS.map(safe_line).filter(bool),
    system=WORDS.map(lambda word: word.translate({11: " ", 12: " ", 13: " "})),
    rate=st.floats(1e-9, 10),
    targets=st.lists(st.sampled_from(["q_proj", "1e-4", "no", "null", "010", "- a"]), min_size=1),
    swept=st.lists(st.floats(1e-9, 10), min_size=1, max_size=4, unique=True),
)
def test_a_dumped_recipe_reads_back_as_it_was(
    name: str, system: str, rate: float, targets: list[str], swept: list[float]
) -> None:
    data = {
        "name": name,
        "model": {"name": "acme/tiny"},
        "data": {"train": "acme/rows", "system": system, "columns": {"1": "prompt", "no": "2"}},
        "lora": {"targets": targets},
        "train": {"learning_rate": rate},
        "sweep": {"parameters": {"train.learning_rate": swept}},
    }
    recipe = Recipe.model_validate(data)
    assert read(to_yaml(recipe)) == recipe


class TestSources:
    """`data.train` as a list."""

    def recipe(self, train: str) -> str:
        return SMALL.replace("train: acme/rows", f"train: {train}")

    def test_names_are_relative_to_the_file_and_plain_names_have_no_settings(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / "a.jsonl").touch()
        (tmp_path / "recipe.yaml").write_text(
            self.recipe("[{path: a.jsonl, weight: 2}, acme/rows]")
        )
        recipe = load_recipe(tmp_path / "recipe.yaml")
        assert recipe.data.train_names == [f"{tmp_path}/a.jsonl", "acme/rows"]
        assert [part.train for part in recipe.data.parts] == recipe.data.train_names
        assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
        (tmp_path / "again.yaml").write_text(to_yaml(recipe))
        assert load_recipe(tmp_path / "again.yaml") == recipe

    @pytest.mark.parametrize(
        ("train", "says"),
        [
            ("[]", "data.train is empty"),
            ("7", "must be a file, a folder, a hub id, or a list of them, not 7"),
            ("{path: acme/rows}", "or a list of them, not a mapping"),
            ("[7]", "data.train[1] must be a file, a folder, a hub id, or settings"),
            ("[[acme/rows]]", "data.train[1] must be a file, a folder, a hub id, or settings"),
            ("[{path: a/b, columns: [q]}]", "data.train[1].columns must be a mapping"),
            ("[{weight: 2}]", "data.train[1].path is missing"),
            ("[{path: acme/rows, wieght: 2}]", "data.train[1].wieght is not a setting of a source"),
            ("[{path: acme/rows, weight: 0}]", "data.train[1].weight must be above 0, not 0"),
            ("[{path: acme/rows, weight: a}]", "weight must be a number, not the text 'a'"),
            ("[{path: a/b, rows: 2, weight: 2}]", "has a weight and a number of rows; give one"),
            ("[{path: ./gone.csv}]", "data.train: there is no file"),
            ("[a/b]\n  max_rows: 9", "max_rows is of one data set: give each source of train its"),
            ("[a/b]\n  split: test", "split is of one data set: give each source of train its"),
            ("[a/b]\n  eval_split: test", "eval_split needs data.eval beside a list"),
        ],
    )
    def test_a_mistake_in_a_source_is_reported_with_its_place(
        self, tmp_path: Path, train: str, says: str
    ) -> None:
        lines = mistakes(self.recipe(train), tmp_path)
        assert len(lines) == 1
        assert says in lines[0]
