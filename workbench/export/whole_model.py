"""A merge with the whole model in memory, for adapters that change more than single weights."""

from __future__ import annotations

from typing import Any

from workbench.export.agreement import BATCH_ROWS, Comparison, padded
from workbench.export.shards import Job
from workbench.training.model.merge import merge_in_memory


def merge_whole(job: Job) -> dict[str, Any]:
    """Write the merged weights and config.json, and return the report with its `agreement`."""
    rows, about = job.checked_rows()
    rows = rows[:BATCH_ROWS]  # all their logits are in memory at the same time
    model, dequantised, before, after = merge_in_memory(
        job.adapter, job.staged, job.base, job.revision, job.dtype, [padded(rows)]
    )
    sums = Comparison()
    sums.add(rows, before[0], after[0])
    found = sums.result()
    return {
        "dtype": str(model.dtype).removeprefix("torch."),
        "dequantized": dequantised,
        "untied": False,
        "by_shard": False,
        "checked_on": about,
        **found.to_json(),
        "agreement": found,
    }
