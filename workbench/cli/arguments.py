"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from workbench.text import safe_line

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ExperimentOrNewest = Annotated[
    str | None,
    typer.Argument(
        metavar="EXPERIMENT", help="Its name or id; without one, the newest that is not archived."
    ),
]


def is_id(text: str) -> bool:
    """Return True where the text is an id: ASCII digits alone."""
    return text.isascii() and text.isdecimal()


def trial_id(text: str) -> int:
    """Return the id of a trial. Raises typer.BadParameter for other text, such as a name."""
    if not is_id(text):
        raise typer.BadParameter(
            f"{safe_line(text, 60)} is not the number of a trial; `workbench ls` shows the numbers"
        )
    return int(text)


TrialId = Annotated[
    int,
    typer.Argument(metavar="TRIAL", help="The trial's id, as `ls` shows it.", parser=trial_id),
]
