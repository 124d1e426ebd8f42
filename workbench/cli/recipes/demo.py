"""`workbench demo`: every step from recipe to ranked adapters, with the shipped model and data."""

from __future__ import annotations

from collections.abc import Iterable

from workbench import formatting
from workbench.cli.arguments import Json
from workbench.cli.recipes.run import follow_to_end, submit_to_engine
from workbench.cli.tables import as_json, print_note
from workbench.cli.trials.board import board_data, print_board
from workbench.errors import WorkbenchError
from workbench.service import Service
from workbench.store.board_rows import BoardRow
from workbench.text import safe_line
from workbench.trial import State


def demo_command(
    as_data: Json = False,
) -> None:
    """Fine-tune the shipped tiny model six ways; takes minutes."""
    from workbench.recipe import load_recipe, shipped_recipe, trial_count

    service = Service()
    # The shipped one, even where this folder has a demo.yaml.
    path = shipped_recipe("demo")
    assert path is not None
    recipe = load_recipe(path)
    count = formatting.sweep_size(trial_count(recipe.sweep))
    print_note(f"{count} of a 1M-parameter model on short sums, two at a time")
    print_note("everything it needs ships with the workbench: nothing is downloaded")
    submitted = submit_to_engine(service, recipe)
    board = service.judged_board(follow_to_end(service, submitted["experiment"]))
    if as_data:
        as_json(board_data(board))
    else:
        print_board(board)
    need_all_done(service, board.rows)
    _next(board.rows)


def need_all_done(service: Service, rows: Iterable[BoardRow]) -> None:
    """Raise WorkbenchError with reasons and a hint, unless every trial is done and has a score."""
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
    print_note("")
    print_note(f"the best is trial {best.trial}: {formatting.settings_line(best.settings)}")
    if best.adapter:
        print_note(f"its adapter lies in {safe_line(best.adapter)}")
    print_note("next:")
    print_note("  workbench                          the screen: watch, stop, compare")
    print_note(f"  workbench show {best.trial:<20}its scores, and answers it gave")
    print_note(
        f"  workbench merge {best.trial} -o DIR{'':<{max(1, 12 - len(str(best.trial)))}}one model "
        "out of base and adapter"
    )
    print_note("  workbench recipes                  recipes to begin your own from")
