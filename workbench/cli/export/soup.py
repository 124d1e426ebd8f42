"""`workbench soup`: a weighted average of adapters as one adapter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from workbench.cli.arguments import Json
from workbench.cli.child import ask_for_report
from workbench.cli.export.greedy_soup import greedy_trials
from workbench.cli.export.merge import adapter_of
from workbench.cli.tables import as_json, print_answer, print_note
from workbench.cli.trials.evaluate import evaluate_on_own_rows
from workbench.errors import EngineError, UsageError, WorkbenchError
from workbench.service import RequestAnswer, Service
from workbench.text import safe_line, shell_word

MODULE = "workbench.export.soup"


def soup_command(
    sources: Annotated[
        list[str], typer.Argument(metavar="TRIAL|FOLDER", help="Trials or adapters' folders.")
    ],
    target: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where it goes.")],
    weights: Annotated[
        str | None, typer.Option(metavar="2,1", help="A weight for each; by default all equal.")
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(min=1, help="A smaller rank, with the error told; by default the ranks' sum."),
    ] = None,
    greedy: Annotated[
        bool,
        typer.Option(
            "--greedy",
            help="Start from the best trial, and add each other only if the score does not fall.",
        ),
    ] = False,
    score: Annotated[
        bool,
        typer.Option(
            "--score/--no-score",
            help="Score it beside them on the first trial's held-out rows, as queued work.",
        ),
    ] = True,
    as_data: Json = False,
) -> None:
    """Average adapters of one base: exactly, or at a smaller rank with the error told."""
    if greedy:
        if weights is not None:
            raise UsageError("--greedy has no weights", hint="leave out --weights")
        chosen = greedy_trials(
            Service(), sources, target, lambda trials, out: _average(out, trials, None, rank)
        )
        sources = [str(trial) for trial in chosen]
        if len(sources) < 2:
            print_answer(f"no average is as good as trial {sources[0]} alone: nothing was written")
            return
    report = _average(target, sources, weights, rank)
    scored = score_beside(sources, target) if score else None
    if as_data:
        as_json({**report, "experiment": scored and scored.data.get("experiment")})
        return
    lost = f"off by {report['relative_error']:.2%}" if rank else "exact"
    print_answer(f"{safe_line(target)}: {len(sources)} adapters, rank {report['rank']}, {lost}")
    if scored is not None:
        print_answer(scored.text)
        print_answer(f"its board: workbench board {scored.data['experiment']}")


def _average(
    target: Path, sources: Sequence[object], weights: str | None, rank: int | None
) -> dict[str, Any]:
    """Write the average by a child; return its report. Ends the command where it is refused."""
    folders = [str(adapter_of(str(word))) for word in sources]
    more = [] if weights is None else [f"--weights={weights}"]  # which may begin with a minus
    more += [] if rank is None else ["--rank", str(rank)]
    return ask_for_report(MODULE, str(target), *folders, *more)


def score_beside(sources: Sequence[str], soup: Path) -> RequestAnswer | None:
    """Let the engine score the average beside the adapters in it; None where it cannot.

    The average is whole by now, so that the reason is a note and no failure.
    """
    trials = [int(word) for word in sources if word.isdecimal()]
    words = [*sources, str(soup.absolute())]
    later = f"workbench evaluate {' '.join(map(shell_word, words))} --data FILE"
    try:
        if not trials:
            raise UsageError("no trial of the home is in it", hint=later)
        return evaluate_on_own_rows(Service(), trials[0], words)
    except EngineError as stopped:
        print_note(f"not scored: {safe_line(stopped.what)}")
        print_note(f"  → `workbench engine start`, then {later}")
        return None
    except WorkbenchError as refused:
        print_note(f"not scored: {safe_line(refused.what)}")
        print_note(f"  → {safe_line(refused.hint, 300)}")
        return None
