"""`workbench merge`: base and adapter as one model, merged in a child process.

The child is `python -m workbench.training.model.merge ADAPTER OUT [--base PATH] --json`: it prints
progress on stderr and its report as one JSON object on stdout.
"""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from workbench import formatting
from workbench.cli.child import ask_child
from workbench.cli.tables import as_json, print_answer, print_note
from workbench.errors import NotThere, WorkbenchError
from workbench.machine.python_children import python_command
from workbench.service import Service
from workbench.text import safe_line

MODULE = "workbench.training.model.merge"
NOTABLE = 0.05
"""A difference above this share of the largest logit is shown in yellow, with the way to less."""


class MergedDtype(StrEnum):
    """The dtypes that a merged model can be written in."""

    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT32 = "float32"


def merge_command(
    trial: Annotated[str, typer.Argument(help="A trial's id, or an adapter.")],
    target: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where it goes.")],
    base: Annotated[
        str | None, typer.Option("--base", metavar="PATH", help="Another place of the base model.")
    ] = None,
    dtype: Annotated[
        MergedDtype | None, typer.Option(help="The dtype to write; by default the base's own.")
    ] = None,
    as_data: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Merge a trial's adapter into its base, in the base's dtype or another."""
    adapter = adapter_of(trial)
    print_note(f"merging {safe_line(adapter)}")
    more = [] if base is None else ["--base", base]
    more += [] if dtype is None else ["--dtype", dtype.value]
    ended = ask_child(python_command(MODULE, str(adapter), str(target), *more, "--json"))
    if ended.code:
        raise typer.Exit(ended.code)  # the child has printed the reason on stderr
    report = _report(ended.stdout)
    if as_data:
        as_json(report)
        return
    print_answer(f"merged into {safe_line(target)}")
    near, most = report.pop("max_logits_difference"), report.pop("max_logit")
    for key, value in sorted(report.items()):
        print_answer(f"  {safe_line(key).replace('_', ' '):<24}{_word(key, value)}")
    style = "" if near <= NOTABLE * most else "yellow"
    print_answer(f"  {'logits':<24}{describe_difference(near, most, str(report['dtype']))}", style)


def describe_difference(difference: float, largest: float, dtype: str) -> str:
    """Return how far the merged model is from base and adapter, in words.

    Every weight is rounded once from an exact sum, so the difference is the dtype's, however large.
    """
    apart = f"differ by {difference:.2g} at most, of {largest:.3g}: what rounding to {dtype} does"
    if difference <= NOTABLE * largest or dtype == MergedDtype.FLOAT32:
        return apart
    return f"{apart}; --dtype float32 keeps more digits"


def _word(key: str, value: object) -> str:
    if key == "bytes" and isinstance(value, int):
        return formatting.size(value)
    return formatting.number(value) if isinstance(value, float) else formatting.setting_text(value)


def _report(text: str) -> dict[str, Any]:
    lines = text.strip().splitlines()
    try:
        return dict(json.loads(text if text.lstrip().startswith("{") else lines[-1]))
    except (ValueError, TypeError, IndexError) as broken:
        raise WorkbenchError(f"the merge left no report: {safe_line(text)}") from broken


def adapter_of(trial: str) -> Path:
    """Return the adapter's folder for a trial's id or for the folder itself; raises NotThere."""
    folder = Path(trial)
    if not trial.isdecimal():
        for place in (folder, folder / "adapter"):  # the second in a folder of `workbench train`
            if (place / "adapter_config.json").is_file():
                return place
        raise NotThere(
            f"{safe_line(trial)} is neither a trial's id nor an adapter's folder",
            hint="`workbench board` shows the trials",
        )
    service = Service()
    found = service.trial(int(trial))
    rows = service.board(found.experiment.id)[1]
    path = next((row.adapter for row in rows if row.trial == found.trial.id), None)
    if path is None:
        raise NotThere(
            f"trial {trial} is {found.trial.state} and has no adapter",
            hint=found.trial.hint or "`workbench board` shows the trials that have one",
        )
    return Path(path)
