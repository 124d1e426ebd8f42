"""`workbench importance`: how much each setting of a sweep mattered."""

from __future__ import annotations

from dataclasses import asdict

from workbench import formatting
from workbench.cli.arguments import ExperimentOrNewest, Json
from workbench.cli.revival import revive_engine
from workbench.cli.tables import as_json, out_table, print_answer
from workbench.cli.trials.listing import chosen_experiment
from workbench.service import Service
from workbench.text import safe_line


def importance_command(
    experiment: ExperimentOrNewest = None,
    as_data: Json = False,
) -> None:
    """Show how much each setting of a sweep mattered, and how certain that is.

    For each setting on its own: the share of the differences in rank between trials that it
    explains, with a 90 % bootstrap interval.
    """
    service = Service()
    revive_engine(service)
    found = service.importance(chosen_experiment(service, experiment))
    if as_data:
        as_json({**asdict(found), "enough": found.enough})
        return
    print_answer(
        f"{safe_line(found.experiment)}: {formatting.used_trials(found.trials, found.left_out)}",
        "bold",
    )
    if not found.enough:
        print_answer(
            f"too few trials: at least {found.least} must finish with a score or end early"
        )
        return
    if not found.settings:
        print_answer("its trials differ in no setting")
        return
    rows = [
        (
            one.key,
            formatting.percent(one.share),
            f"{formatting.percent(one.low)} to {formatting.percent(one.high)}",
            one.best if one.sure else "-",
            "" if one.sure else f"not significant (p {one.chance:.2f})",
        )
        for one in found.settings
    ]
    heads = ("setting", "explains", "90 %", "best", "")
    out_table(heads, rows, right=("explains",))
