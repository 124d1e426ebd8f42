"""An average of adapters becomes an entry of a board beside the adapters in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.adapters.folders import PEFT, write_adapter
from tests.cli.conftest import Workbench
from tests.cli.engines import Engine, recipe_file
from workbench.cli.export.greedy_soup import choose_greedily, greedy_trials
from workbench.cli.export.soup import score_beside
from workbench.cli.recipes.run import follow_to_end
from workbench.errors import UsageError
from workbench.library.marks import archived_experiments
from workbench.service import Service

SWEEP = "{parameters: {lora.rank: [4, 8]}}"


def soup(folder: Path, base: Path) -> Path:
    return write_adapter(folder, {**PEFT, "base_model_name_or_path": str(base)})


def test_it_is_scored_on_the_held_out_rows_of_its_trials(
    engine: Engine, workbench: Workbench, tmp_path: Path
) -> None:
    (tmp_path / "held.jsonl").write_text('{"prompt": "1+2", "completion": "#### 3"}\n')
    recipe = recipe_file(tmp_path, sweep=SWEEP)
    held = "data.eval=" + str(tmp_path / "held.jsonl")
    assert workbench("run", recipe, "-s", held, "--watch").code == 0
    answer = score_beside(["2", "3"], soup(tmp_path / "soup", tmp_path / "m"))
    assert answer is not None
    experiment = int(answer.data["experiment"])
    follow_to_end(Service(), experiment)
    found = Service().experiment(experiment)
    assert found.name == "tiny-soup"
    assert found.recipe["data"]["eval"] == str(tmp_path / "held.jsonl")
    assert found.recipe["data"]["eval_rows"] == 64
    rows = Service().judged_board(experiment).rows
    assert {row.settings["score.adapter"] for row in rows if row.kind == "score"} == {
        2,
        3,
        str(tmp_path / "soup"),
    }


def test_without_a_file_of_held_out_rows_it_says_how_to_score_it(
    engine: Engine, workbench: Workbench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert workbench("run", recipe_file(tmp_path, sweep=SWEEP), "--watch").code == 0
    folder = soup(tmp_path / "soup", tmp_path / "m")
    assert score_beside(["2", "3"], folder) is None
    told = capsys.readouterr().err
    assert "not scored: its held-out rows are a part of the training file" in told
    assert f"workbench evaluate 2 3 {folder} --data FILE" in told.replace("\n", "")


def test_with_a_stopped_engine_it_says_how_to_score_it_later(
    engine: Engine, workbench: Workbench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "held.jsonl").write_text('{"prompt": "1+2", "completion": "#### 3"}\n')
    held = "data.eval=" + str(tmp_path / "held.jsonl")
    assert workbench("run", recipe_file(tmp_path, sweep=SWEEP), "-s", held, "--watch").code == 0
    assert workbench("clone", "2", "-s", "train.max_steps=1000000000").code == 0
    engine.close()
    engine.home.stopped.touch()
    folder = soup(tmp_path / "soup", tmp_path / "m")
    assert score_beside(["2", "3"], folder) is None
    told = capsys.readouterr().err.replace("\n", "")
    assert "not scored: the engine was stopped" in told
    assert f"`workbench engine start`, then workbench evaluate 2 3 {folder} --data FILE" in told


def test_folders_alone_name_no_rows(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score_beside(["./a", "./b"], tmp_path / "soup") is None
    assert "no trial of the home is in it" in capsys.readouterr().err


@pytest.mark.parametrize(("up", "kept"), [(True, [5, 4, 2]), (False, [5, 3])])
def test_a_greedy_average_takes_what_does_not_lower_its_score(up: bool, kept: list[int]) -> None:
    scores = {(5, 4): 0.8, (5, 3): 0.7, (5, 4, 3): 0.7, (5, 4, 2): 0.9, (5, 3, 2): None}
    asked = []

    def score_of(trials: list[int]) -> float | None:
        asked.append(tuple(trials))
        return scores[tuple(trials)]

    assert choose_greedily([5, 4, 3, 2], 0.8 if up else 0.75, score_of, up=up) == kept
    assert len(asked) == 3


def test_a_greedy_average_scores_each_step_and_archives_it(
    engine: Engine, workbench: Workbench, tmp_path: Path
) -> None:
    (tmp_path / "held.jsonl").write_text('{"prompt": "1+2", "completion": "#### 3"}\n')
    held = "data.eval=" + str(tmp_path / "held.jsonl")
    assert workbench("run", recipe_file(tmp_path, sweep=SWEEP), "-s", held, "--watch").code == 0
    service, made = Service(), list[tuple[int, ...]]()

    def write(trials: Sequence[int], folder: Path) -> None:
        made.append(tuple(trials))
        soup(folder, tmp_path / "m")

    chosen = greedy_trials(service, ["2", "3"], tmp_path / "out", write)
    assert sorted(made[0]) == [2, 3]
    best = made[0][0]  # the stand-in's average scores less than either
    assert chosen == [best]
    assert not list(tmp_path.glob(".out*"))
    archived = archived_experiments(service.home)
    assert [one.name for one in service.experiments() if one.id not in archived] == ["tiny"]
    with pytest.raises(UsageError, match="each with a score"):
        greedy_trials(service, ["1", "99"], tmp_path / "out", write)
