"""Measure for how long training stands still for each checkpoint, and what the trial's end takes.

    python benchmarks/checkpoints.py [KEY=VALUE ...]

It trains the demo's recipe in this process with settings of `workbench train -s` on top, by
default a large adapter on the small model (rank 512, 17 MB) and a checkpoint after every fourth of
24 steps. It prints the seconds within the trainer's call that saves (median and most), and the
seconds from the last step to the end. On a card, name a model there: model.name=/FOLDER.
"""

from __future__ import annotations

import contextlib
import io
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from workbench.recipe import find_recipe, load_recipe
from workbench.training import foreground
from workbench.training.libraries import import_libraries

SETTINGS = [
    "train.max_steps=24",
    "train.save_every=4",
    "lora.rank=512",
    "evaluate.every=null",
    "evaluate.answer_pattern=null",
    "data.eval_rows=64",
    "sweep=null",
]


def measure(folder: Path, settings: list[str]) -> dict[str, Any]:
    """Train once in `folder`; return the seconds of each save, and of the end after the last."""
    import_libraries(threads=1)
    from workbench.training.trainer import TrialTrainer

    spent: list[float] = []
    save, ended = TrialTrainer._save_checkpoint, [0.0]

    def timed(self: TrialTrainer, model: Any, trial: Any) -> None:
        began = time.perf_counter()
        save(self, model, trial)
        ended[0] = time.perf_counter()
        spent.append(ended[0] - began)

    TrialTrainer._save_checkpoint = timed  # type: ignore[method-assign]
    recipe = load_recipe(find_recipe("demo"), [*SETTINGS, *settings])
    (folder / "recipe.json").write_text(recipe.model_dump_json(), encoding="utf-8")
    with contextlib.redirect_stdout(io.StringIO()) as told:
        code = foreground.train_here(folder)
    assert code == 0, told.getvalue()
    return {
        "saves": len(spent),
        "still_ms": round(1e3 * statistics.median(spent), 1),
        "still_ms_most": round(1e3 * max(spent), 1),
        "last_save_to_end_s": round(time.perf_counter() - ended[0] + spent[-1], 2),
        "adapter_bytes": sum(f.stat().st_size for f in folder.glob("adapter/*.safetensors")),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        print(json.dumps(measure(Path(made), sys.argv[1:])))
