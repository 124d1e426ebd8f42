"""An exported model is scored as its trial was, whatever computes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from workbench.cli.export.after import OwnScores, describe_after, score_again
from workbench.export.gguf.write import write_gguf
from workbench.export.score import Runtime, score_folder, score_gguf, score_runtime
from workbench.recipe.schema import Evaluate
from workbench.recipe.shipped import shipped_file

DEMO = shipped_file("workbench:demo/model")
EVALUATE = Evaluate(scorer="exact_match", max_new_tokens=6, batch_size=4)
ENDS = [504]


class TorchRuntime:
    """A runtime with the interface of llama.cpp: logits behind each token, by transformers."""

    def __init__(self, folder: Path) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.reset()

    @property
    def n_tokens(self) -> int:
        return len(self._ids)

    @property
    def scores(self) -> np.ndarray[Any, Any]:
        with torch.no_grad():
            found: np.ndarray[Any, Any] = self._model(torch.tensor([self._ids])).logits[0].numpy()
        return found

    def reset(self) -> None:
        self._ids: list[int] = []

    def eval(self, tokens: Any) -> None:
        self._ids += tokens


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's model in fp32, so that both ways compute the same."""
    folder = tmp_path_factory.mktemp("model")
    AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32).save_pretrained(folder)
    AutoTokenizer.from_pretrained(DEMO).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six prepared rows; of three, the expected answer is what the model answers."""
    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    model = AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32)
    lines = (DEMO.parent / "data" / "eval.jsonl").read_text().splitlines()[:6]
    found = []
    for number, line in enumerate(map(json.loads, lines)):
        turns = [{"role": "user", "content": line["question"]}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        asked = tokenizer(text, add_special_tokens=False)["input_ids"]
        answer = line["answer"]
        if number % 2:
            made = model.generate(
                torch.tensor([asked]), max_new_tokens=6, do_sample=False, eos_token_id=ENDS
            )
            answer = tokenizer.decode(made[0, len(asked) :], skip_special_tokens=True)
        target = tokenizer(line["answer"], add_special_tokens=False)["input_ids"]
        about: dict[str, Any] = {
            "input_ids": asked + target,
            "labels": [-100] * len(asked) + target,
        }
        about["length"] = len(about["input_ids"])
        found.append({**about, "prompt_ids": asked, "question": text, "answer": answer})
    folder = tmp_path_factory.mktemp("rows")
    Dataset.from_list(found).save_to_disk(str(folder))
    (file,) = folder.glob("*.arrow")
    return file


def test_any_runtime_is_scored_as_a_trial_is(model: Path, rows_file: Path) -> None:
    wanted = score_folder(model, rows_file, EVALUATE, ENDS)["values"]
    assert wanted["exact_match"] == 0.5
    runtime: Runtime = TorchRuntime(model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = Dataset.from_file(str(rows_file))
    found = score_runtime(runtime, rows, EVALUATE, ENDS, tokenizer)["values"]
    assert found == {name: pytest.approx(value, rel=1e-5) for name, value in wanted.items()}


@pytest.mark.llama_cpp
def test_a_gguf_file_is_scored_by_llama_cpp(model: Path, rows_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    write_gguf(model, tmp_path / "m.gguf", "f32")
    wanted = score_folder(model, rows_file, EVALUATE, ENDS)["values"]
    found = score_gguf(tmp_path / "m.gguf", rows_file, EVALUATE, ENDS, model)["values"]
    assert found == {name: pytest.approx(value, rel=1e-3) for name, value in wanted.items()}


@pytest.mark.slow
def test_the_scores_come_from_a_child(model: Path, rows_file: Path) -> None:
    own = OwnScores(values={}, rows=rows_file, evaluate=EVALUATE.model_dump_json())
    after = score_again(own, DEMO, ENDS, None, DEMO)
    assert (after["by"], after["values"]["rows"]) == ("transformers", 6)


@pytest.mark.parametrize(
    ("rows", "wanted", "reason"),
    [
        (True, False, "--no-score"),
        (False, None, "its held-out rows are not here"),
        (True, None, "4.2 GiB take long on a CPU; --score does it"),
    ],
)
def test_a_model_that_is_not_scored_again_says_why(
    rows: bool, wanted: bool | None, reason: str, tmp_path: Path
) -> None:
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(4_500_000_000)
    own = OwnScores(values={}, rows=tmp_path if rows else None, evaluate="{}")
    assert score_again(own, tmp_path, ENDS, wanted, tmp_path) == {"left_out": reason}


def test_a_score_stands_beside_the_trials_own_with_its_interval() -> None:
    values = {"loss": 0.2, "exact_match": 0.6}
    own = OwnScores(values=values, ranked="exact_match", interval=(0.5, 0.7))
    after = {"values": {"loss": 0.2001, "exact_match": 0.45, "rows": 96.0}, "missing": {}}
    assert describe_after(own, after) == [
        "loss 0.2001 after, 0.2000 the trial's own, on 96 rows",
        "exact_match 0.4500 after, 0.6000 the trial's own (0.5000 to 0.7000): "
        "outside its interval, on 96 rows",
    ]
