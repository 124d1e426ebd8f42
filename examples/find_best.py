"""Submit a recipe, wait for its trials, print board and verdict, copy the winner's adapter.

    python examples/find_best.py                                  the shipped demo: six trials
    python examples/find_best.py examples/sharegpt.yaml winner    a recipe, and where to copy to

Uses only the public Python API. On a machine without a GPU, `WORKBENCH_CARDS="cpu:4GiB,cpu:4GiB"`
makes two CPU cards; the demo takes some minutes there.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import workbench


def main(recipe: str = "demo", target: str = "winner") -> int:
    """Run the script; return its exit code."""
    with workbench.Workbench() as bench:
        try:
            experiment = bench.submit(recipe)
            print(f"experiment {experiment.name}: follow it with `workbench`, if you like")
            bench.wait(experiment.id)
        except workbench.WorkbenchError as error:
            print(f"{error}\n→ {error.hint}", file=sys.stderr)
            return 1
        board = bench.board(experiment.id)
        verdict = bench.verdict(experiment.id)
    print_board(experiment.rank_by, board)
    print(verdict)
    winner = board[0]
    if winner.adapter is None:
        print("no trial left an adapter", file=sys.stderr)
        return 1
    shutil.copytree(winner.adapter, Path(target), dirs_exist_ok=True)
    print(f"the adapter of trial {winner.trial} is in {target}")
    return 0


def print_board(rank_by: str, board: list[workbench.BoardRow]) -> None:
    """Print a line for each trial, best first, and one for the base."""
    print(f"rank  trial  {rank_by:>12}  95 % interval  settings")
    for row in board:
        rank = "base" if row.kind == "base" else "-" if row.rank is None else str(row.rank)
        score = "-" if row.score is None else f"{row.score:.3f}"
        print(f"{rank:>4}  {row.trial:>5}  {score:>12}  {interval(row):>13}  {row.settings}")


def interval(row: workbench.BoardRow) -> str:
    """Return the 95 % interval of a row's score, `-` where there is none."""
    if row.score_low is None or row.score_high is None:
        return "-"
    return f"{row.score_low:.3f}–{row.score_high:.3f}"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
