"""The scores after an export, beside the trial's own: asked of a child, described in words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from workbench import formatting
from workbench.cli.child import ask_child
from workbench.cli.tables import print_note
from workbench.home import find_home
from workbench.machine.python_children import python_command
from workbench.text import safe_line

SCORER = "workbench.export.score"
LARGE_BYTES = 4 << 30
"""A model of more bytes is scored only when a person asks for it: a CPU takes hours."""
_NOT_SCORES = frozenset({"rows", "targets", "answers", "perplexity"})


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnScores:
    """The scores of an adapter, and what they were measured on."""

    values: dict[str, float]
    rows: Path | None = None
    """The arrow file of the held-out rows; None where it is not here."""
    evaluate: str | None = None
    """The recipe's section `evaluate` as JSON; None for an adapter that another tool made."""
    ranked: str = ""
    """The score that the board ranks by."""
    interval: tuple[float, float] | None = None
    """The ends of its 95 % interval."""


def score_again(
    own: OwnScores, model: Path, ends: Sequence[int], wanted: bool | None, tokenizer: Path
) -> dict[str, Any]:
    """Return the model's `values` on the held-out rows, or why it was `left_out`.

    `model` is a merged folder, or a GGUF file, which llama.cpp scores. `wanted` None leaves out
    what would take long.
    """
    if wanted is False:
        return {"left_out": "--no-score"}
    if own.rows is None or own.evaluate is None:
        return {"left_out": "its held-out rows are not here"}
    folder = model.is_dir()
    size = sum(file.stat().st_size for file in model.iterdir()) if folder else model.stat().st_size
    if wanted is None and size > LARGE_BYTES:
        return {"left_out": f"{formatting.size(size)} take long on a CPU; --score does it"}
    if not folder and find_spec("llama_cpp") is None:
        return {"left_out": "llama-cpp-python is not installed"}
    print_note(f"scoring {safe_line(model.name)} on all held-out rows")
    arguments = [str(model), str(own.rows), own.evaluate]
    arguments += ["--ends", ",".join(map(str, ends)), "--tokenizer", str(tokenizer)]
    arguments += ["--scorers", str(find_home().scorers)]
    try:
        ended = ask_child(python_command(SCORER, *arguments))
    except KeyboardInterrupt:  # the export is whole all the same
        return {"left_out": "interrupted"}
    try:
        return dict(json.loads(ended.stdout.strip().splitlines()[-1]))
    except (ValueError, TypeError, IndexError):
        return {"left_out": "interrupted" if ended.code == 130 else "scoring failed"}


def describe_after(own: OwnScores, after: Mapping[str, Any]) -> list[str]:
    """Return a line for each score after the export, beside the trial's own and its interval."""
    if "left_out" in after:
        return [f"not scored again: {safe_line(after['left_out'], 200)}"]
    values = dict(after["values"])
    rows = formatting.plural(int(values.get("rows") or 0), "row")
    lines = []
    for name, value in values.items():
        if name in _NOT_SCORES:
            continue
        line = f"{safe_line(name, 60)} {value:.4f} after"
        if (before := own.values.get(name)) is not None:
            line += f", {before:.4f} the trial's own"
            if name == own.ranked and own.interval is not None:
                low, high = own.interval
                line += f" ({low:.4f} to {high:.4f})"
                line += "" if low <= value <= high else ": outside its interval"
        lines.append(f"{line}, on {rows}")
    return [*lines, *(f"no score: {safe_line(one, 200)}" for one in after["missing"].values())]
