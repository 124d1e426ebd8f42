"""`workbench completion`: the script that lets a shell complete commands and options."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from workbench.cli.tables import print_answer
from workbench.errors import UsageError

VARIABLE = "_WORKBENCH_COMPLETE"
"""Set by the shell's script when it asks for completions instead of running a command."""
SHELLS = ("bash", "zsh", "fish")


def completion_command(
    shell: Annotated[str, typer.Argument(metavar="bash|zsh|fish", help="Your shell.")],
) -> None:
    """Print the completion script of a shell.

    bash: `workbench completion bash >> ~/.bashrc`. zsh: `workbench completion zsh >> ~/.zshrc`.
    fish: `workbench completion fish > ~/.config/fish/completions/workbench.fish`.
    """
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    if shell not in SHELLS:
        raise UsageError(f"there is no completion for {shell}", hint=f"one of {', '.join(SHELLS)}")
    script = get_completion_script(prog_name="workbench", complete_var=VARIABLE, shell=shell)
    print_answer(script)


def answer_shell() -> None:
    """Register the shells' completion formats, where a shell's script is asking."""
    if VARIABLE in os.environ:
        from typer.completion import completion_init  # type: ignore[attr-defined]

        completion_init()
