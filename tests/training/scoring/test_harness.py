"""Tasks of lm-evaluation-harness on the demo model, from local files and without network."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.training.trials import Bench, recipe, spec
from workbench.errors import RecipeError
from workbench.store.answers import read_answers
from workbench.training import libraries
from workbench.training.control import Control, Interrupted
from workbench.training.model.base import ResidentBase
from workbench.training.scoring.harness import list_metrics, run_task

INSTALLED = importlib.util.find_spec("lm_eval") is not None
needs_harness = pytest.mark.skipif(
    not INSTALLED, reason="lm_eval is not installed: pip install 'qlora-workbench[eval]'"
)
PARITY = """
task: parity
dataset_path: json
dataset_kwargs: {data_files: {test: ROWS}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: ["yes", "no"]
doc_to_target: "{{label}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""


@pytest.fixture(scope="module")
def base() -> Iterator[Any]:
    libraries.import_libraries(threads=1)
    with ResidentBase().acquire(spec()) as model:
        yield model


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A task file with twelve rows beside it; the cache of data sets is of its own."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [{"question": f"Is {n} even?", "label": n % 2} for n in range(12)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    path = tmp_path / "parity.yaml"
    path.write_text(PARITY.replace("ROWS", str(tmp_path / "rows.jsonl")))
    return path


def how(control: Control | None = None) -> dict[str, Any]:
    return {"batch_size": 4, "precision": "fp32", "control": control or Control()}


@needs_harness
@pytest.mark.filterwarnings("ignore")  # of the harness and what it imports
def test_a_local_task_gives_scores_their_standard_errors_and_rows(
    base: Any, tokenizer: Any, task: Path
) -> None:
    found = run_task(base, tokenizer, str(task), **how())
    share = found.values["parity_acc"]
    rows = found.row_scores["parity_acc"]
    assert sum(one or 0 for one in rows) / 12 == pytest.approx(share)
    # The harness's error of a mean: the standard deviation (n - 1) over the root of n.
    expected = (share * (1 - share) / 11) ** 0.5
    assert found.values["parity_acc_stderr"] == pytest.approx(expected)
    assert found.texts[3][:2] == ("Is 3 even?", "1")
    assert run_task(base, tokenizer, str(task), **how()) == found


@needs_harness
@pytest.mark.filterwarnings("ignore")
def test_a_trial_is_scored_by_a_task_and_keeps_its_rows(tmp_path: Path, task: Path) -> None:
    settings = {"evaluate__task": str(task), "evaluate__rank_by": "parity_acc"}
    log = Bench(tmp_path / "home", recipe(train__max_steps=2, **settings)).run()
    (score,) = log.of("score")
    assert {"loss", "parity_acc", "parity_acc_stderr"} <= set(score["values"])
    (kept,) = log.of("results")
    assert (kept["rows"], kept["scored"], kept["step"]) == (12, True, 2)
    found = read_answers(tmp_path / "home", 1, kept["evaluation"])
    assert "Is 3 even?" in found[3].question  # in the chat template
    assert str(found[3].text).strip() in ("yes", "no")


@needs_harness
@pytest.mark.filterwarnings("ignore")
def test_the_metrics_of_a_task_are_known_before_it_runs(task: Path) -> None:
    text = task.read_text()
    task.write_text(text.replace("higher_is_better: true", "higher_is_better: false"))
    assert [one.score for one in list_metrics(str(task))] == ["parity_acc:min"]


@needs_harness
@pytest.mark.filterwarnings("ignore")
def test_a_task_gives_the_card_back_when_it_is_asked_to(
    base: Any, tokenizer: Any, task: Path
) -> None:
    from workbench.fleet import Halt

    control = Control()
    control.request_halt(Halt.YIELD)
    with pytest.raises(Interrupted):
        run_task(base, tokenizer, str(task), **how(control))


@needs_harness
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "line", ["process_docs: !function mine.run", "include: other.yaml", "class: !function a.B"]
)
def test_a_task_file_that_names_code_is_refused(task: Path, line: str) -> None:
    task.write_text(f"{task.read_text()}{line}\n")
    with pytest.raises(RecipeError, match="which a task file may not"):
        list_metrics(str(task))


@needs_harness
@pytest.mark.filterwarnings("ignore")
def test_a_template_that_reaches_for_code_does_not_run(
    base: Any, tokenizer: Any, task: Path
) -> None:
    reach = "{{question.__class__.__mro__}}"
    task.write_text(task.read_text().replace("{{question}}", reach))
    with pytest.raises(Exception, match="unsafe"):
        run_task(base, tokenizer, str(task), **how())


@needs_harness
@pytest.mark.filterwarnings("ignore")
def test_an_unknown_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        list_metrics(str(tmp_path / "nowhere.yaml"))


@pytest.mark.skipif(INSTALLED, reason="lm_eval is installed")
def test_without_the_extra_the_error_names_it() -> None:
    with pytest.raises(RecipeError, match="lm_eval, which is not installed") as refused:
        list_metrics("parity.yaml")
    assert "qlora-workbench[eval]" in refused.value.hint
