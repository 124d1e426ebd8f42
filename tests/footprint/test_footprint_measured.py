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
    config = config.get("text_config", config)  # what the benchmark makes
    if row.get("scaled_queries"):  # by the step of that time, in rows of any length
        config = {**config, "rope_parameters": {"original_max_position_embeddings": 1}}
    shape = ModelShape.of(config)
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


@pytest.mark.parametrize(("longest", "scaled"), [(16_384, False), (16_385, True)])
def test_queries_of_longer_rows_take_a_tensor_more(longest: int, scaled: bool) -> None:
    """Ministral 3 scales them from position 16,384 on."""
    row = next(one for one in ROWS if one["shape"] == "ministral3" and not one["recompute_layers"])
    queries = 2 * 4_096 * 34 * row["tokens"]
    plain, ever = ({**row, "longest": longest, "scaled_queries": one} for one in (False, True))
    more = reserved_bytes(ever) - reserved_bytes(plain)
    # The half-filled pages are a share of all that is taken.
    assert (more == 0) if scaled else (queries <= more < 1.02 * queries)
