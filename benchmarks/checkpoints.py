"""Measure for how long training stands still for each checkpoint, and what the trial's end takes.

    python benchmarks/checkpoints.py [KEY=VALUE ...]

It trains the demo's recipe in this process with settings of `workbench train -s` on top, by
default a large adapter on the small model (rank 512, 17 MB) and a checkpoint after every fourth of
24 steps. It prints the seconds within the trainer's call that saves (median and most), and the
seconds from the last step to the end, to the last checkpoint on the disk, and to the end without
those of scoring. An adapter as large as an 8B's at rank 16, one checkpoint at the end and scoring
that is soon over, as on a card: lora.rank=3456 train.save_every=100 data.eval_rows=2.
On a card, name a model there: model.name=/FOLDER.
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
        **_end_seconds(folder),
        "adapter_bytes": sum(f.stat().st_size for f in folder.glob("adapter/*.safetensors")),
    }


def _end_seconds(folder: Path) -> dict[str, float]:
    """Return the seconds from the last metric row to two facts of the end, by the events."""
    lines = (folder / "attempts" / "1" / "events.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    rows = [one for one in events if one["kind"] == "metric" and "loss" in one["values"]]
    stepped = rows[-1]["t"]
    ending = [one for one in events if one["t"] >= stepped]
    evaluating = next(one["t"] for one in ending if one.get("name") == "evaluating")
    scored = next(one["t"] for one in ending if one["kind"] == "score")
    written = next(one["t"] for one in reversed(events) if one["kind"] == "checkpoint")
    return {
        "last_written_s": round(written - stepped, 2),
        "end_without_scoring_s": round(events[-1]["t"] - stepped - (scored - evaluating), 2),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        print(json.dumps(measure(Path(made), sys.argv[1:])))
