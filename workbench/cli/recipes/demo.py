"""`workbench demo`: the whole way in minutes, with what ships."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer

from workbench import formatting
from workbench.cli.recipes.run import read, submit, watched
from workbench.cli.tables import as_json, tell
from workbench.cli.trials.listing import board_data, print_board
from workbench.errors import WorkbenchError
from workbench.service import Service
from workbench.store.rows import BoardRow
from workbench.text import safe_line
from workbench.trial import State


def demo(as_data: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Fine-tune a tiny model six ways, with what ships; takes minutes."""
    from workbench.recipe import trial_count

    service = Service()
    recipe = read("demo", None)
    tell(
        f"{formatting.trials(trial_count(recipe.sweep))} of a 1M-parameter model on short sums, "
        "two at a time; nothing is downloaded"
    )
    submitted = submit(service, recipe)
    experiment, rows = service.board(watched(service, submitted["experiment"]))
    if as_data:
        as_json(board_data(rows))
    else:
        print_board(experiment, rows)
    need_all_done(service, rows)
    _next(rows)


def need_all_done(service: Service, rows: Iterable[BoardRow]) -> None:
    """Raises what failed, and the mend, unless every trial is done with a score."""
    short = [r for r in rows if r.kind == "tune" and (r.state != State.DONE or r.score is None)]
    if short:
        told = (f"trial {r.trial} is {r.state}{_why(r)}" for r in short)
        raise WorkbenchError(
            "\n".join(told),
            hint=service.trial(short[0].trial).trial.hint
            or f"see `workbench logs {short[0].trial}`, then `workbench doctor`",
        )


def _why(row: BoardRow) -> str:
    if row.reason:
        return f": {safe_line(row.reason)}"
    return " without a score" if row.score is None else ""


def _next(rows: list[BoardRow]) -> None:
    best = rows[0]
    tell("")
    tell(f"the best is trial {best.trial}: {formatting.settings_line(best.settings)}")
    if best.adapter:
        tell(f"its adapter lies in {safe_line(best.adapter)}")
    tell("next:")
    tell("  workbench                          the screen: watch, stop, compare")
    tell(f"  workbench show {best.trial:<20}its scores, and answers it gave")
    tell(
        f"  workbench merge {best.trial} -o DIR{'':<{max(1, 12 - len(str(best.trial)))}}one model "
        "out of base and adapter"
    )
    tell("  workbench recipes                  recipes to begin your own from")
