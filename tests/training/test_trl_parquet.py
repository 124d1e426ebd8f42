"""A trial on a parquet that TRL's own trainer wrote: its rows are read back and trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from tests.training.trials import Bench, recipe
from workbench.attempts.events import Outcome
from workbench.recipe.shipped import shipped_file
from workbench.training.dataset.prepared import load_prepared, prepare_data
from workbench.training.model.tokenizer import load_tokenizer

ROWS = 24
MODEL = str(shipped_file("workbench:demo/model"))


def _chat(n: int) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": f'Dan has {n} books, "mine" \\ yours. He buys 9. How many?'},
        {"role": "assistant", "content": f"{n} + 9 = {n + 9}\n#### {n + 9}"},
    ]


def _write_by_trl(path: Path, rows: list[dict[str, Any]], **config: Any) -> list[dict[str, Any]]:
    """Let TRL prepare the rows, write its data set as parquet, and return it."""
    args = SFTConfig(
        output_dir=str(path.parent / "trl"), report_to=[], use_cpu=True, max_length=96, **config
    )
    trainer = SFTTrainer(model=MODEL, args=args, train_dataset=Dataset.from_list(rows))
    trainer.train_dataset.to_parquet(str(path))
    return list(trainer.train_dataset)


SHAPES = {
    "messages": [{"messages": _chat(n)} for n in range(ROWS)],
    "prompt-completion": [
        {"prompt": _chat(n)[:1], "completion": _chat(n)[1:]} for n in range(ROWS)
    ],
}


@pytest.mark.filterwarnings("ignore::FutureWarning:transformers")  # of TRL's own defaults
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_trained_on_with_the_ids_that_trl_trains(shape: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    written = _write_by_trl(file, SHAPES[shape])
    assert {"input_ids", "labels"} < set(pq.read_schema(file).names)
    own = recipe(train__max_steps=2, data__train=str(file), data__eval=None, data__eval_rows=4)
    own = own.model_copy(update={"data": own.data.model_copy(update={"columns": {}})})
    bench = Bench(tmp_path / "home", own)
    log = bench.run()
    assert log.outcome is Outcome.DONE
    assert (bench.trial / "adapter" / "adapter_model.safetensors").is_file()
    tokenizer = load_tokenizer(MODEL, None)
    cache = bench.home / "cache" / "data"
    rows, _ = load_prepared(prepare_data(own, tokenizer, cache, lambda *_: None))
    theirs = {tuple(row["input_ids"]): row["labels"] for row in written}
    assert len(rows) == ROWS - 4
    for row in rows:
        labels = theirs[tuple(row["input_ids"])]  # TRL's ids, begin token and header included
        if shape == "prompt-completion":  # of chats TRL trains the questions, too, by default
            assert list(row["labels"]) == list(labels)
