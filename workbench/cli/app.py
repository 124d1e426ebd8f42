"""The commands, in the groups `workbench --help` shows them in."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from workbench import __version__
from workbench.cli.errors import report
from workbench.cli.machine import cards, engine, repair
from workbench.cli.recipes import check, demo, plan, run, shipped, train
from workbench.cli.tables import tell
from workbench.cli.trials import control, importance, listing, logs, merge, steer, watch
from workbench.service import Service

TRAIN, LOOK, KEEP, MACHINE = "Train", "Look", "Adapters and recipes", "Machine"
TRIALS, QUEUE = "Steer trials", "Steer the queue and the cards"


class Commands(TyperGroup):
    """Commands in their groups, and one place where all their errors end."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            group = getattr(command, "rich_help_panel", None)
            heading = group if isinstance(group, str) else "Commands"
            groups.setdefault(heading, []).append((name, command.get_short_help_str(60)))
        for heading, lines in groups.items():
            with formatter.section(heading):
                formatter.write_dl(lines)

    def invoke(self, ctx: Any) -> Any:
        try:
            value = super().invoke(ctx)
            sys.stdout.flush()
        except (KeyboardInterrupt, OSError) as error:  # click would answer these in its own way
            raise typer.Exit(report(error)) from error
        return value


app = typer.Typer(
    cls=Commands,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"workbench {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Many QLoRA fine-tunes at once, from a terminal: which one is best?

    Without a command: the full screen. `workbench demo` shows the whole way in minutes.
    """
    if context.invoked_subcommand is not None:
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        tell(context.get_help())
        raise typer.Exit(2)
    from tui.app import run as run_screen

    service = Service()
    control.revive(service)
    raise typer.Exit(run_screen(service.home))


_GROUPS: dict[str, tuple[Callable[..., None], ...]] = {
    TRAIN: (check.check, plan.plan, run.run, demo.demo, train.train),
    LOOK: (watch.watch, listing.ls, listing.show, logs.logs, listing.board, importance.importance),
    TRIALS: (
        *(control.pause, control.resume, control.stop, control.kill),
        *(steer.clone, steer.extend, steer.add, steer.move, steer.order),
    ),
    QUEUE: (
        *(steer.priority, steer.parallel, steer.hold, steer.release),
        *(steer.drain, steer.undrain),
    ),
    KEEP: (merge.merge, shipped.schema),
    MACHINE: (cards.cards, cards.doctor, repair.repair),
}
for _group, _commands in _GROUPS.items():
    for _command in _commands:
        negative = {"ignore_unknown_options": _command is steer.priority}  # -5 is no option
        app.command(rich_help_panel=_group, context_settings=negative)(_command)
app.add_typer(shipped.app, name="recipes", rich_help_panel=KEEP)
app.add_typer(engine.app, name="engine", rich_help_panel=MACHINE)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. Prints every error itself."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal without UTF-8 gets `?`, not a traceback
            stream.reconfigure(errors="replace")
    try:
        app(args=None if argv is None else list(argv), prog_name="workbench")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException as error:
        return report(error)
    return 0
