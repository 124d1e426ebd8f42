"""Commands that run in a child: train and merge, up to where the child begins."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Workbench
from tests.cli.engines import recipe_file
from tests.support.tick_contexts import Bench, recipe
from workbench.cli.child import ask_child, run_child
from workbench.cli.recipes.train import default_folder, prepare_folder
from workbench.cli.trials.merge import adapter_of, describe_difference
from workbench.errors import NotThere, UsageError, WorkbenchError
from workbench.home import Home
from workbench.recipe import Recipe, load_recipe
from workbench.trial import State


def test_a_childs_exit_code_is_ours() -> None:
    assert run_child([sys.executable, "-c", "raise SystemExit(3)"]) == 3


def test_a_child_that_a_signal_ended_is_a_failure() -> None:
    assert run_child([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]) == 1


def test_a_childs_answer_is_its_stdout() -> None:
    ended = ask_child([sys.executable, "-c", "print('{}')"])
    assert (ended.code, ended.stdout) == (0, "{}\n")


def test_training_here_starts_from_a_folder_with_the_recipe(tmp_path: Path) -> None:
    wanted = load_recipe(recipe_file(tmp_path))
    folder = prepare_folder(tmp_path / "run", wanted)
    assert Recipe.model_validate_json((folder / "recipe.json").read_text()) == wanted
    assert prepare_folder(tmp_path / "run", wanted) == folder


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    wanted = load_recipe(recipe_file(tmp_path))
    with pytest.raises(UsageError, match="is not empty"):
        prepare_folder(tmp_path, wanted)
    prepare_folder(tmp_path / "run", wanted)
    with pytest.raises(UsageError, match="another recipe"):
        prepare_folder(tmp_path / "run", wanted.model_copy(update={"name": "other"}))
    with pytest.raises(WorkbenchError, match="cannot be written"):
        prepare_folder(Path("/dev/null/x"), wanted)


def test_a_recipes_name_never_leaves_the_home(home: Home) -> None:
    folder = default_folder("../../etc/\x00passwd")
    assert folder.parent == home.root / "foreground"
    assert folder.name.startswith("etc-passwd-")


def test_merge_finds_the_adapter_of_a_trial(bench: Bench) -> None:
    bench.submit(recipe())
    bench.until(State.DONE, 2)
    assert adapter_of("2") == Path(bench.context.home.trial(2) / "adapter")


def test_merge_takes_an_adapters_folder_too(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({}))
    assert adapter_of(str(tmp_path)) == tmp_path


def test_merge_takes_the_folder_of_a_foreground_trial_too(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({}))
    assert adapter_of(str(tmp_path)) == tmp_path / "adapter"


def test_merge_offers_three_dtypes(workbench: Workbench, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({}))
    said = workbench("merge", str(tmp_path), "-o", "/nowhere", "--dtype", "int8")
    assert said.code == 2
    assert all(dtype in said.err for dtype in ("bfloat16", "float16", "float32"))


@pytest.mark.parametrize(
    ("difference", "dtype", "words"),
    [
        (0.2, "bfloat16", "what rounding to bfloat16 does"),
        (1.5, "bfloat16", "what rounding to bfloat16 does; --dtype float32 keeps more digits"),
        (1e-5, "float32", "what rounding to float32 does"),
    ],
)
def test_merge_says_what_its_rounding_costs(difference: float, dtype: str, words: str) -> None:
    assert describe_difference(difference, 20.0, dtype).endswith(words)


def test_merge_of_a_trial_without_adapter_is_told(bench: Bench, workbench: Workbench) -> None:
    bench.submit(recipe())
    said = workbench("merge", "2", "-o", "/nowhere")
    assert said.code == 3
    assert "trial 2 is queued and has no adapter" in said.err
    with pytest.raises(NotThere, match="neither"):
        adapter_of("nothing")
