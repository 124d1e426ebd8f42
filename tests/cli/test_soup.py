"""An average of adapters becomes an entry of a board beside the adapters in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.adapters.folders import PEFT, write_adapter
from tests.cli.conftest import Workbench
from tests.cli.engines import Engine, recipe_file
from workbench.cli.export.soup import score_beside
from workbench.cli.recipes.run import follow_to_end
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


def test_folders_alone_name_no_rows(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score_beside(["./a", "./b"], tmp_path / "soup") is None
    assert "no trial of the home is in it" in capsys.readouterr().err
