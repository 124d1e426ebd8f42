"""The matrix measured on a card (benchmarks/footprint_h100.py) against today's predictions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from workbench.footprint import ModelShape, named_config
from workbench.footprint.peak.buckets import Run, predict
from workbench.recipe import Recipe

FILE = Path(__file__).parents[2] / "benchmarks" / "results" / "footprint-h100.json"
ROWS: list[dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))


def reserved_bytes(row: dict[str, Any]) -> int:
    """Return the bytes predicted for the allocator; the runs had neither context nor scoring."""
    config = named_config(row["model"])
    assert config is not None
    shape = ModelShape.of(config.get("text_config", config))  # what the benchmark makes
    recipe = Recipe.model_validate(
        {
            "name": "measured",
            "model": {"name": "a/b", "quantization": "nf4" if row["quantised"] else "none"},
            "data": {"train": "a/b", "max_tokens": row["longest"]},
            "lora": {"rank": row["rank"], "targets": "all-linear"},
            "train": {"optimizer": row["optimizer"]},
        }
    )
    run = Run(
        precision="bf16", kernel="triton" if shape.softcap else "torch", optimizer=row["optimizer"],
        tokens_per_micro=row["tokens"], longest=min(row["tokens"], row["longest"]), scored=1,
        recompute_layers=row["recompute_layers"], offload=row["offload"],
        dequantised_layers=row["resident_layers"], major=9,
    )  # fmt: skip
    buckets = predict(shape, recipe, run)
    return sum(buckets.values()) - buckets["context"] - buckets["evaluation"]


def test_the_matrix_is_as_wide_as_promised() -> None:
    assert len(ROWS) >= 40
    shapes = {"1b", "3b", "8b", "qwen3", "qwen2.5", "phi3", "gemma2", "gemma3"}
    assert {row["shape"] for row in ROWS} >= shapes
    assert {row["tokens"] for row in ROWS} >= {512, 16_384}
    assert {row["rank"] for row in ROWS} >= {8, 64}
    assert {row["quantised"] for row in ROWS} == {True, False}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['shape']}-{row['tokens']}")
def test_what_a_run_took_is_at_most_2_percent_more_and_5_percent_less(row: dict[str, Any]) -> None:
    assert -0.02 <= reserved_bytes(row) / row["measured_bytes"] - 1 <= 0.05


def bytes_more(shape: str, shorter: int) -> tuple[int, dict[str, Any]]:
    """Return (bytes that rows of one token more than `shorter` add, the run that was counted)."""
    row = next(one for one in ROWS if one["shape"] == shape and not one["recompute_layers"])
    more, less = (reserved_bytes({**row, "longest": shorter + i}) for i in (1, 0))
    return more - less, row


def test_queries_of_longer_rows_take_a_tensor_more() -> None:
    """Ministral 3 scales them from position 16,384 on."""
    more, row = bytes_more("ministral3", 16_384)
    queries = 2 * 4_096 * 34 * row["tokens"]
    assert queries <= more < 1.02 * queries  # the half-filled pages are a share of all


def test_longer_rows_keep_keys_for_every_query_head_that_is_wide() -> None:
    """Rows of up to 1,024 tokens attend by our own kernel, others by one without shared heads."""
    more, row = bytes_more("gemma4-12b", 1_024)
    # Keys and values of 16 heads of 512 and turned queries, where ours keeps one of either and the
    # queries that were turned where they lie.
    kept = 2 * (3 * 8_192 - 8_192 - 2 * 512) * 8 * row["tokens"]
    assert kept <= more < 1.1 * kept
