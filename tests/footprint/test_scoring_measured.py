"""Peaks of scoring that a card measured, against today's predictions.

benchmarks/results/footprint-scoring.json has the rows of benchmarks/scoring_bytes.py, and
scoring.json peaks of whole runs of benchmarks/scoring.py (rounded to 0.01 GiB).
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from workbench.footprint import named_config
from workbench.footprint.plan_search import PlanSearch
from workbench.footprint.row_lengths import Lengths
from workbench.footprint.scoring_plan import adapter_parameters, scoring_buckets
from workbench.machine.cards import Card
from workbench.recipe import Recipe
from workbench.recipe.schema import Lora

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
MATRIX = RESULTS / "footprint-scoring.json"
CARD = Card(uuid="GPU-0", kind="cuda", name="a card", total_bytes=141 << 30, capability=(9, 0))
MODELS = {"8b": "llama-3.1-8b", "3b": "llama-3.2-3b", "1b": "llama-3.2-1b"}


def whole_runs() -> list[dict[str, Any]]:
    """Return the decode path's rows of scoring.json as rows of the matrix."""
    runs = json.loads((RESULTS / "scoring.json").read_text(encoding="utf-8"))
    ours = [run for run in runs if run["contestant"] == "c"]
    about = {"kind": "answers", "rank": 16, "adapters": 1, "prompt_tokens": 150}
    return [
        run if "failed" in run else {
            **about, **run, "model": MODELS[run["shape"]], "lanes": run["batch"],
            "measured_bytes": round(run["peak_gib"] * (1 << 30)),
        } for run in ours
    ]  # fmt: skip


def matrix() -> list[dict[str, Any]]:
    """Return the rows of the matrix; none where it was never measured."""
    if not MATRIX.exists():
        return []
    rows: list[dict[str, Any]] = json.loads(MATRIX.read_text(encoding="utf-8"))
    return rows


def reserved_bytes(row: dict[str, Any]) -> int:
    """Return the bytes predicted for PyTorch's allocator, which has no part in the context."""
    answers = {"answer_pattern": "(.*)"} if row["kind"] == "answers" else {}
    recipe = Recipe.model_validate(
        {
            "name": "measured",
            "model": {"name": "a/b"},
            "data": {"train": "a/b"},
            "evaluate": {**answers, "max_new_tokens": row["new_tokens"]},
        }
    )
    config = named_config(row["model"])
    assert config is not None
    lengths: Lengths = {"longest": 512, "sample": [], "scored": row["prompt_tokens"]}
    search = PlanSearch.of(recipe, config, CARD, lengths)
    run = replace(search.run, eval_rows=row["lanes"], eval_dequantised=row["dequantised"])
    values = adapter_parameters(config, Lora(rank=row["rank"])) * row["adapters"]
    sizes = scoring_buckets(search, run, values)
    return sum(sizes.values()) - sizes["context"]


def name_of(row: dict[str, Any]) -> str:
    how = "16-bit" if row["dequantised"] else "4-bit"
    return f"{row['shape']}-{row.get('kind')}-{row.get('lanes')}-{row.get('adapters')}-{how}"


def test_the_matrix_is_as_wide_as_promised() -> None:
    rows = matrix()
    if not rows:
        pytest.skip("never measured: `python benchmarks/scoring_bytes.py` on a card measures it")
    assert {row["shape"] for row in rows} >= {"1b", "3b", "8b"}
    big = [row for row in rows if row["shape"] == "8b"]
    assert {row["cap_gib"] for row in big} >= {None, 12, 24}
    assert {row["lanes"] for row in big if row["cap_gib"] is None} >= {64, 256}
    assert {row["dequantised"] for row in big} == {True, False}
    assert {row["kind"] for row in big} == {"answers", "losses"}
    assert max(row["adapters"] for row in big) > 1


@pytest.mark.parametrize("row", [*whole_runs(), *matrix()], ids=name_of)
def test_what_scoring_took_is_at_most_2_percent_more_and_5_percent_less(
    row: dict[str, Any],
) -> None:
    assert "failed" not in row
    assert -0.02 <= reserved_bytes(row) / row["measured_bytes"] - 1 <= 0.05
