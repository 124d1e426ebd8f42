"""Measures how scores change with the batch size: `python benchmarks/score_noise.py [ADAPTER]`.

    python benchmarks/score_noise.py --shape 8b --data rows.jsonl     (random weights, on a GPU)

Scores the demo's 96 held-out rows with batches of 1, 3 and 16 rows in fp32, bf16 and fp16, on the
first GPU where there is one, with an adapter folder of the demo model or the base alone. For each
precision it prints, against batches of 16: the largest relative difference of a row's loss and of
the whole loss, and the answers that differ. About two minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from nf4_model import write_shaped_model

from workbench.recipe import find_recipe, load_recipe, shipped_file
from workbench.recipe.schema import Recipe
from workbench.training import libraries
from workbench.training.control import Control
from workbench.training.dataset.prepared import load_prepared, prepare_data
from workbench.training.model.base import BaseSpec, ResidentBase
from workbench.training.model.tokenizer import load_tokenizer
from workbench.training.scoring.answers import generate_answers
from workbench.training.scoring.held_out_loss import score_rows
from workbench.training.scoring.row_losses import RowLosses


def main() -> None:
    options = _options()
    libraries.import_libraries(threads=2)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    recipe, base_spec = demo_base(device) if options.shape is None else _shaped(options, device)
    print(
        f"{torch.cuda.get_device_name() if device == 'cuda' else 'CPU'}, torch {torch.__version__}"
    )
    with tempfile.TemporaryDirectory(prefix="wb-noise-") as folder:
        tokenizer = load_tokenizer(base_spec.path, None)
        rows = load_prepared(prepare_data(recipe, tokenizer, Path(folder), lambda *_: None))[1]
    resident = ResidentBase()
    precisions = ("fp32", "bf16", "fp16") if device == "cuda" else ("fp32", "bf16")
    for precision in precisions if options.shape is None else ("bf16",):
        with resident.acquire(replace(base_spec, precision=precision)) as model:
            base: Any = model
            if options.adapter is not None:
                base.load_adapter(options.adapter)
            one, three, sixteen = (score(base, rows, tokenizer, precision, n) for n in (1, 3, 16))
            again = score(base, rows, tokenizer, precision, 16)
        for name, other in (("1", one), ("3", three), ("16 again", again)):
            print(f"{precision}, batches of {name}: {compare(other, sixteen)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("adapter", nargs="?", help="an adapter folder of the demo model")
    parser.add_argument("--shape", help="a shape such as 8b, with random weights in NF4")
    parser.add_argument("--data", type=Path, help="rows with prompt and completion")
    return parser.parse_args()


def demo_base(device: str) -> tuple[Recipe, BaseSpec]:
    """Return the demo's recipe without its sweep, and its base on that device."""
    recipe = load_recipe(find_recipe("demo"), ["sweep=null"])
    return recipe, _spec(str(shipped_file("workbench:demo/model")), "none", device)


def _shaped(options: argparse.Namespace, device: str) -> tuple[Recipe, BaseSpec]:
    folder = Path(tempfile.gettempdir()) / f"shaped-{options.shape}"
    path = str(write_shaped_model(folder, options.shape, device))
    data = {"train": str(options.data.resolve()), "eval_rows": 48, "max_tokens": 512}
    columns = {"question": "prompt", "answer": "completion"}
    recipe = Recipe.model_validate(
        {"name": "noise", "model": {"name": path}, "data": {**data, "columns": columns}}
    )
    return recipe, _spec(path, "nf4", device)


def _spec(path: str, quantization: str, device: str) -> BaseSpec:
    return BaseSpec(
        path=path,
        revision=None,
        quantization=quantization,
        double_quantization=True,
        precision="bf16",
        attention="sdpa",
        device=device,
    )


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
    main()
