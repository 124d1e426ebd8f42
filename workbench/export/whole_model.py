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
    merged = merge_in_memory(
        job.adapter, job.staged, job.base, job.revision, job.dtype, [padded(rows)]
    )
    sums = Comparison()
    sums.add(rows, merged.before[0], merged.after[0])
    found = sums.result()
    return {
        "dtype": str(merged.model.dtype).removeprefix("torch."),
        "dequantized": merged.dequantised,
        "untied": merged.untied,
        "by_shard": False,
        "checked_on": about,
        **found.to_json(),
        "agreement": found,
    }
