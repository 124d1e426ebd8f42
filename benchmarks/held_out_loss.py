"""Seconds of the held-out loss of 64 rows, by the decode path and as it was before.

    python benchmarks/held_out_loss.py [--shape 8b] [--rows 64]

Rows have 128 to 342 tokens, about 15,000 together, of which the second half carries loss, as the
rows of GSM8K do. `before` is transformers with PEFT's modules on padded rows, 16 at once, and TRL's
head in chunks; `now` reads rows without padding. Both alternate, five times; the first run of each
compiles and is left out. `--shape tiny` tries the script on a CPU.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset
from scoring_contestants import adapted_model, shape_parser, usual_device, wait_for_card

from workbench.training.control import Control
from workbench.training.scoring.held_out_loss import score_padded, score_rows
from workbench.training.scoring.row_losses import RowLosses

TURNS = 5


def main() -> None:
    parser = shape_parser(__doc__)
    parser.add_argument("--rows", type=int, default=64)
    options = parser.parse_args()
    device = usual_device()
    model = adapted_model(options.shape, device).get_base_model()  # adapter layers inside
    rows = made_rows(options.rows)
    order = sorted(range(len(rows)), key=lambda row: -rows[row]["length"])
    how: dict[str, Any] = {"precision": "bf16", "control": Control(), "pad_id": 0}

    def before() -> RowLosses:
        padded: dict[str, Any] = {**how, "shrunk": lambda size: None}
        return score_padded(model, rows, order, batch_size=16, **padded)

    def now() -> RowLosses:
        return score_rows(model, rows, batch_size=len(rows), **how)

    taken: dict[str, list[float]] = {"before": [], "now": []}
    losses: dict[str, float] = {}
    for _ in range(TURNS + 1):
        for name, score in (("before", before), ("now", now)):
            seconds, losses[name] = timed(score)
            taken[name].append(seconds)
    medians = {name: statistics.median(times[1:]) for name, times in taken.items()}
    print(f"{sum(rows['length']):,} tokens in {len(rows)} rows, {options.shape}")
    for name, seconds in medians.items():
        print(f"{name:>8}  {seconds:.3f} s, loss {losses[name]:.5f}")
    print(f"{medians['before'] / medians['now']:.1f} times as fast")


def timed(score: Callable[[], RowLosses]) -> tuple[float, float]:
    """Return the seconds that it took, and the whole loss."""
    wait_for_card()
    began = time.perf_counter()
    found = score()
    wait_for_card()
    return time.perf_counter() - began, found.values()["loss"]


def made_rows(count: int) -> Dataset:
    """Return rows of seeded lengths and tokens."""
    chance = torch.Generator().manual_seed(0)
    lengths = torch.randint(128, 343, (count,), generator=chance).tolist()
    ids = [torch.randint(5, 500, (length,), generator=chance).tolist() for length in lengths]
    labels = [[-100] * (len(row) // 2) + row[len(row) // 2 :] for row in ids]
    return Dataset.from_dict({"input_ids": ids, "labels": labels, "length": lengths})


if __name__ == "__main__":
    main()
