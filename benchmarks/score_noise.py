"""How much scores change with the size of a batch: `python benchmarks/score_noise.py [ADAPTER]`.

Scores the demo's 96 held-out rows with batches of 1, 3 and 16 rows in fp32, bf16 and fp16, on the
first GPU where there is one, with an adapter folder of the demo model or the base alone. For each
precision it prints, against batches of 16: the largest relative difference of a row's loss and of
the whole loss, and the answers that differ. About two minutes on two CPU cores.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from tests.training.trials import spec
from workbench.recipe import find_recipe, load_recipe
from workbench.training import libraries
from workbench.training.control import Control
from workbench.training.dataset.prepared import load_prepared, prepare_data
from workbench.training.model.base import ResidentBase
from workbench.training.model.tokenizer import load_tokenizer
from workbench.training.scoring.answers import generate_answers
from workbench.training.scoring.held_out_loss import RowLosses, score_rows


def main(adapter: str | None = None) -> None:
    libraries.import_libraries(threads=2)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    recipe = load_recipe(find_recipe("demo"), ["sweep=null"])
    print(
        f"{torch.cuda.get_device_name() if device == 'cuda' else 'CPU'}, torch {torch.__version__}"
    )
    with tempfile.TemporaryDirectory(prefix="wb-noise-") as folder:
        tokenizer = load_tokenizer(spec().path, None)
        rows = load_prepared(prepare_data(recipe, tokenizer, Path(folder), lambda *_: None))[1]
    for precision in ("fp32", "bf16", "fp16") if device == "cuda" else ("fp32", "bf16"):
        with ResidentBase().acquire(spec(precision=precision, device=device)) as model:
            base: Any = model
            if adapter is not None:
                base.load_adapter(adapter)
            one, three, sixteen = (score(base, rows, tokenizer, precision, n) for n in (1, 3, 16))
            again = score(base, rows, tokenizer, precision, 16)
        for name, other in (("1", one), ("3", three), ("16 again", again)):
            print(f"{precision}, batches of {name}: {compare(other, sixteen)}")


def score(
    base: Any, rows: Any, tokenizer: Any, precision: str, size: int
) -> tuple[RowLosses, list[str]]:
    how: dict[str, Any] = {"batch_size": size, "precision": precision, "control": Control()}
    losses = score_rows(base, rows, pad_id=tokenizer.pad_token_id, **how)
    answers = generate_answers(base, rows, tokenizer, pattern=None, max_new_tokens=40, **how)
    return losses, [answer.text for answer in answers]


def compare(one: tuple[RowLosses, list[str]], other: tuple[RowLosses, list[str]]) -> str:
    by_row = max(abs(a / b - 1) for a, b in zip(one[0].nats, other[0].nats, strict=True))
    whole = abs(one[0].values()["loss"] / other[0].values()["loss"] - 1)
    texts = sum(a != b for a, b in zip(one[1], other[1], strict=True))
    return f"row {by_row:.1e}, whole loss {whole:.1e}, {texts} of {len(other[1])} answers differ"


if __name__ == "__main__":
    main(*sys.argv[1:])
