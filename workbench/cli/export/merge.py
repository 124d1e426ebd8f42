"""`workbench merge`: base and adapter as one model, merged in a child process.

The child is `python -m workbench.export.merge ADAPTER OUT [--base PATH] --json`: it prints
progress on stderr and its report as one JSON object on stdout.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from workbench import formatting
from workbench.cli.arguments import Json, is_id
from workbench.cli.child import ask_child
from workbench.cli.export.after import OwnScores, describe_after, score_again
from workbench.cli.tables import as_json, print_answer, print_note
from workbench.errors import NotThere, WorkbenchError
from workbench.home import Home
from workbench.library.exports import keep_export
from workbench.machine.files import write_durably
from workbench.machine.python_children import python_command
from workbench.service import Service, TrialDetail
from workbench.store.rows import TrialRow
from workbench.text import safe_line
from workbench.trial import Kind

MODULE = "workbench.export.merge"
REPORT = "export.json"
"""The file of a merged model with the report of its merge, and its scores."""
NOTABLE = 0.05
"""A difference above this share of the largest logit is shown in yellow, with the way to less."""


class MergedDtype(StrEnum):
    """The dtypes that a merged model can be written in."""

    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT32 = "float32"


def merge_command(
    trial: Annotated[str, typer.Argument(metavar="TRIAL|FOLDER", help="A trial or an adapter.")],
    target: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where it goes.")],
    base: Annotated[
        str | None, typer.Option("--base", metavar="PATH", help="Another place of the base model.")
    ] = None,
    dtype: Annotated[
        MergedDtype | None, typer.Option(help="The dtype to write; by default the base's own.")
    ] = None,
    score: Annotated[
        bool | None,
        typer.Option(
            "--score/--no-score",
            help="Score the result on all held-out rows; by default where it is below 4 GiB.",
        ),
    ] = None,
    as_data: Json = False,
) -> None:
    """Merge a trial's adapter into its base, in the base's dtype or another."""
    found = chosen_adapter(trial)
    print_note(f"merging {safe_line(found.folder)}")
    more = [] if base is None else ["--base", base]
    more += [] if dtype is None else ["--dtype", dtype.value]
    more += [] if found.own.rows is None else ["--rows", str(found.own.rows)]
    ended = ask_child(python_command(MODULE, str(found.folder), str(target), *more, "--json"))
    if ended.code:
        raise typer.Exit(ended.code)  # the child has printed the reason on stderr
    report = _report(ended.stdout) | {"scores": found.own.values}
    ends = report["eos_token_id"]
    report["after"] = score_again(found.own, target, ends, score, target)
    write_durably(target / REPORT, (json.dumps(report, indent=2) + "\n").encode())
    keep_report(found, "merge", target, report)
    if as_data:
        as_json(report)
        return
    print_answer(f"merged into {safe_line(target)}")
    dtype_word = str(report["dtype"])
    kept = "the base's own weights, " if not report["dequantized"] else "the dequantised NF4 base, "
    print_answer(f"  {'into':<16}{kept}{dtype_word}, {formatting.size(report['bytes'])}")
    print_answer(f"  {'ends at':<16}{formatting.setting_text(report['eos_token_id'])}")
    if report["untied"]:
        print_answer(f"  {'untied':<16}embedding and head are two weights now, as trained")
    near, most = report["max_logits_difference"], report["max_logit"]
    style = "" if near <= NOTABLE * most else "yellow"
    print_answer(f"  {'logits':<16}{describe_difference(near, most, dtype_word)}", style)
    print_answer(f"  {'check':<16}{describe_check(report)}")
    for line in [*describe_scores(report), *describe_after(found.own, report["after"])]:
        print_answer(f"  {'score':<16}{line}")


def describe_check(report: Mapping[str, Any]) -> str:
    """Return on what the merged model was compared, and how far it is off, in words."""
    return (
        f"{formatting.plural(report['rows'], 'row')} of {report['checked_on']}: same likeliest "
        f"token in {report['top1_share']:.2%}, KL {report['kl_nats']:.2g} nats a token"
    )


def describe_scores(report: Mapping[str, Any]) -> list[str]:
    """Return the loss after the export beside that before it, on the rows of the check."""
    if report.get("loss_before") is None:
        return []
    before, after = report["loss_before"], report["loss_after"]
    return [f"loss {after:.5f} after, {before:.5f} before, on these rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenAdapter:
    """The adapter that a word of the command line names."""

    folder: Path
    own: OwnScores
    trial: TrialRow | None = None
    """The trial of this home that left it; None for a folder."""
    home: Home | None = None


def chosen_adapter(word: str) -> ChosenAdapter:
    """Return the adapter of a trial's id, or of a folder; raises NotThere.

    The folder in which a trial of this home left its adapter stands for that trial.
    """
    folder, service = adapter_of(word), Service()
    id = int(word) if is_id(word) else _trial_of(service, folder)
    if id is None:
        return ChosenAdapter(folder=folder, own=_own_of_folder(folder))
    found = service.trial(id)
    return ChosenAdapter(
        folder=folder,
        own=_own_of_trial(service, found, folder),
        trial=found.trial,
        home=service.home,
    )


def _trial_of(service: Service, folder: Path) -> int | None:
    """Return the id of the trial of this home that left its adapter in `folder`."""
    id = folder.resolve().parent.name
    if not is_id(id) or folder.resolve() != (service.home.trial(int(id)) / "adapter").resolve():
        return None
    try:
        return service.trial(int(id)).trial.id
    except NotThere:  # a home whose database is new has folders of trials that it does not know
        return None


def _own_of_folder(folder: Path) -> OwnScores:
    from workbench.adapters.evaluation_recipe import own_recipe

    near = sorted(folder.parent.glob("cache/data/*/eval.arrow"))  # of `workbench train`
    recipe = own_recipe(folder)
    return OwnScores(
        values=_stored_scores(folder),
        rows=near[0] if len(near) == 1 else None,
        evaluate=None if recipe is None else recipe.evaluate.model_dump_json(),
    )


def _own_of_trial(service: Service, found: TrialDetail, folder: Path) -> OwnScores:
    from workbench.trial_edits import trial_recipe

    prepared = (found.experiment.prepared or {}).get("data") or {}
    rows = service.home.cache / str(prepared.get("digest")) / "eval.arrow"
    board = service.judged_board(found.experiment.id).rows
    row = next((one for one in board if one.trial == found.trial.id), None)
    low, high = (None, None) if row is None else (row.score_low, row.score_high)
    # An adapter's folder holds its trial's scores; an evaluation of it has its own, on other rows.
    evaluated = row.scores if row is not None and found.trial.kind is Kind.SCORE else {}
    known = {name: value for name, value in evaluated.items() if value is not None}
    return OwnScores(
        values=known or _stored_scores(folder),
        rows=rows if rows.is_file() else None,
        evaluate=trial_recipe(found.experiment, found.trial).evaluate.model_dump_json(),
        ranked=found.experiment.rank_by,
        interval=None if low is None or high is None else (low, high),
    )


def keep_report(chosen: ChosenAdapter, kind: str, path: Path, report: Mapping[str, Any]) -> None:
    """Store what was measured on an export beside the trial's own scores."""
    if chosen.trial is None or chosen.home is None:
        return
    about = {"kind": kind, "path": str(path.absolute()), "made_utc": time.time(), **report}
    keep_export(chosen.home, chosen.trial.id, chosen.trial.created_utc, about)


def _stored_scores(folder: Path) -> dict[str, float]:
    try:
        stored = json.loads((folder / "scores.json").read_bytes())["values"]
        return {str(k): v for k, v in stored.items() if isinstance(v, int | float)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def describe_difference(difference: float, largest: float, dtype: str) -> str:
    """Return how far the merged model is from base and adapter, in words.

    Every weight is rounded once from an exact sum, so the difference is the dtype's, however large.
    """
    apart = f"differ by {difference:.2g} at most, of {largest:.3g}: what rounding to {dtype} does"
    if difference <= NOTABLE * largest or dtype == MergedDtype.FLOAT32:
        return apart
    return f"{apart}; --dtype float32 keeps more digits"


def _report(text: str) -> dict[str, Any]:
    lines = text.strip().splitlines()
    try:
        return dict(json.loads(text if text.lstrip().startswith("{") else lines[-1]))
    except (ValueError, TypeError, IndexError) as broken:
        raise WorkbenchError(f"the merge left no report: {safe_line(text)}") from broken


def adapter_of(trial: str) -> Path:
    """Return the adapter's folder for a trial's id or for the folder itself; raises NotThere."""
    folder = Path(trial)
    if not is_id(trial):
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
