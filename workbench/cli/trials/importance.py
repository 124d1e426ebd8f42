"""`workbench importance`: which settings of a sweep mattered."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from workbench import formatting
from workbench.cli.tables import as_json, out, out_table
from workbench.cli.trials.control import revive
from workbench.cli.trials.listing import newest
from workbench.service import Service
from workbench.text import safe_line


def importance(
    experiment: Annotated[
        str | None, typer.Argument(help="Its name or id; left out: the newest.")
    ] = None,
    as_data: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell which settings of a sweep mattered, and how sure that is.

    For each setting on its own: how much of the differences in rank between the trials it explains,
    with the interval in which nine of ten bootstrap samples lie.
    """
    service = Service()
    revive(service)
    found = service.importance(experiment if experiment is not None else newest(service))
    if as_data:
        as_json({**asdict(found), "enough": found.enough})
        return
    out(f"{safe_line(found.experiment)}: {formatting.plural(found.trials, 'trial')} tell", "bold")
    if not found.enough:
        out(f"too few trials: it takes {found.least} that were scored or ended early")
        return
    if not found.settings:
        out("its trials differ in no setting")
        return
    rows = [
        (
            one.key,
            f"{one.share:.0%}",
            f"{one.low:.0%} to {one.high:.0%}",
            one.best if one.sure else "-",
            "" if one.sure else f"not told from chance (p {one.chance:.2f})",
        )
        for one in found.settings
    ]
    heads = ("setting", "explains", "90 %", "best", "")
    out_table(heads, rows, right=("explains",), flexible=4)
