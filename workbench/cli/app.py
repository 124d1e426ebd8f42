"""The `workbench` command: every subcommand, in the groups that `workbench --help` shows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from workbench import __version__
from workbench.cli.errors import report_error
from workbench.cli.export import gguf, merge, push, soup, vllm
from workbench.cli.export import recipe as export_recipe
from workbench.cli.library import adapters, removal, reproduce, space
from workbench.cli.machine import cards, cluster, completion, engine, repair, service
from workbench.cli.machine.remote_screen import open_remote_screen
from workbench.cli.machine.serve import serve_browser
from workbench.cli.machine.showcase import showcase_home
from workbench.cli.recipes import check, demo, plan, run, shipped, train
from workbench.cli.screen import open_screen
from workbench.cli.tables import print_note
from workbench.cli.trials import (
    board,
    chat,
    compare,
    control,
    evaluate,
    importance,
    listing,
    logs,
    report,
    steer,
    watch,
)
from workbench.errors import UsageError

TRAIN, LOOK, KEEP, MACHINE = "Train", "Look", "Adapters and recipes", "Machine"
TRIALS, QUEUE = "Steer trials", "Steer the queue and the cards"
SHORT_HELP = 100
"""Characters of a command's one-line help; longer ones wrap."""


_MEANT = {
    "help": "workbench --help, or workbench COMMAND --help",
    "version": "workbench --version",
    "status": "workbench ls shows trials, workbench engine status the engine",
    "queue": "workbench ls lists the queue in its order, workbench order TRIAL changes it",
    "list": "workbench ls",
    "ps": "workbench ls",
    "jobs": "workbench ls",
    "top": "workbench cards lists the cards, and what runs on each",
    "tail": "workbench logs TRIAL -f",
    "results": "workbench board",
    "submit": "workbench run RECIPE",
    "cancel": "workbench stop TRIAL keeps what it has learned, workbench kill TRIAL keeps nothing",
    "abort": "workbench kill TRIAL, or workbench stop TRIAL, which keeps what it has learned",
    "retry": "workbench clone TRIAL runs an ended trial again",
    "rerun": "workbench clone TRIAL runs an ended trial again",
    "new": "workbench recipes copy NAME writes a recipe to edit",
    "init": "workbench recipes copy NAME writes a recipe to edit",
    "serve": "workbench --serve",
    "start": "workbench run RECIPE, or workbench engine start",
    "restart": "workbench engine stop, then workbench engine start",
    "delete": "workbench rm TRIAL moves an ended trial to the trash, workbench kill TRIAL ends one",
    "export": "workbench merge TRIAL -o DIR writes one model, gguf a file for llama.cpp, "
    "vllm a folder for vLLM",
    "upload": "workbench push TRIAL OWNER/NAME",
    "gpus": "workbench cards",
    "install": "workbench service install starts the engine at boot",
    "uninstall": "workbench engine stop, workbench service remove, then remove the virtual "
    "environment and the home, which workbench engine status names",
}
"""Words that people type for a command of another name, and what to type instead."""


class Commands(TyperGroup):
    """A command group that lists subcommands by heading and reports every error in one place."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            group = getattr(command, "rich_help_panel", None)
            heading = group if isinstance(group, str) else "Commands"
            groups.setdefault(heading, []).append((name, command.get_short_help_str(SHORT_HELP)))
        for heading, lines in groups.items():
            with formatter.section(heading):
                formatter.write_dl(lines)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] in _MEANT and args[0] not in self.commands:
            error = UsageError(f"there is no command {args[0]}", hint=_MEANT[args[0]])
            raise typer.Exit(report_error(error))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            value = super().invoke(ctx)
            sys.stdout.flush()
        # click turns these two into its own messages and exit codes, so they are caught first.
        except (KeyboardInterrupt, OSError) as error:
            raise typer.Exit(report_error(error)) from error
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
def root_command(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    demo_tui: Annotated[
        bool,
        typer.Option("--demo-tui", help="Open the screen over made-up trials, to look around."),
    ] = False,
    readonly: Annotated[
        bool, typer.Option("--readonly", help="Open a screen on which no key changes anything.")
    ] = False,
    ascii_only: Annotated[
        bool, typer.Option("--ascii", help="Draw the screen with ASCII characters alone.")
    ] = False,
    serve: Annotated[
        bool,
        typer.Option("--serve", help="Serve the screen to a browser on this machine."),
    ] = False,
    port: Annotated[int, typer.Option(help="The port of --serve; 0 takes a free one.")] = 8765,
    host: Annotated[
        str,
        typer.Option(metavar="USER@BOX", help="Open the screen of another machine over ssh."),
    ] = "",
) -> None:
    """Run many QLoRA fine-tunes at once, and find out which one is best.

    Without a command, the full screen opens. `workbench demo` shows every step in minutes.
    """
    if context.invoked_subcommand is not None:
        if demo_tui or readonly or ascii_only or serve or host:
            raise UsageError(
                "--demo-tui, --readonly, --ascii, --serve and --host open the screen, and take no "
                "command",
                hint="leave out the command, or the option",
            )
        return
    if serve and host:
        raise UsageError(
            "--serve shows this machine's screen, --host another's",
            hint=f"run workbench --serve on {host}, and reach its port by ssh -L",
        )
    if serve:
        serve_browser(port, demo_tui=demo_tui, readonly=readonly, ascii_only=ascii_only)
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        print_note(context.get_help())
        raise typer.Exit(2)
    if host:
        asked = {"--demo-tui": demo_tui, "--readonly": readonly, "--ascii": ascii_only}
        options = [option for option, is_asked in asked.items() if is_asked]
        raise typer.Exit(open_remote_screen(host, options))
    if demo_tui:
        from tui.app import run_app

        with showcase_home() as home:
            code = run_app(home, farewell=False, readonly=readonly, ascii_only=ascii_only)
            raise typer.Exit(code)
    raise typer.Exit(open_screen(readonly=readonly, ascii_only=ascii_only))


_GROUPS: dict[str, tuple[Callable[..., None], ...]] = {
    TRAIN: (
        check.check_command,
        plan.plan_command,
        run.run_command,
        demo.demo_command,
        train.train_command,
    ),
    LOOK: (
        watch.watch_command,
        listing.ls_command,
        listing.show_command,
        logs.logs_command,
        board.board_command,
        evaluate.evaluate_command,
        compare.compare_command,
        chat.chat_command,
        report.report_command,
        importance.importance_command,
    ),
    TRIALS: (
        *(
            control.pause_command,
            control.resume_command,
            control.stop_command,
            control.kill_command,
        ),
        *(
            steer.clone_command,
            steer.extend_command,
            steer.add_command,
            steer.finals_command,
            steer.move_command,
            steer.order_command,
        ),
    ),
    QUEUE: (
        *(
            steer.priority_command,
            steer.parallel_command,
            steer.hold_command,
            steer.release_command,
        ),
        *(steer.drain_command, steer.undrain_command),
    ),
    KEEP: (
        *(adapters.adapters_command, adapters.tag_command, adapters.note_command),
        *(merge.merge_command, gguf.gguf_command, vllm.vllm_command, push.push_command),
        *(soup.soup_command, reproduce.reproduce_command, export_recipe.export_recipe_command),
        *(adapters.archive_command, removal.rm_command, space.du_command, space.prune_command),
        shipped.schema_command,
    ),
    MACHINE: (
        *(cards.cards_command, cards.doctor_command),
        *(repair.repair_command, completion.completion_command),
    ),
}
for _group, _commands in _GROUPS.items():
    for _command in _commands:
        _name = _command.__name__.removesuffix("_command").replace("_", "-")
        # `priority NAME -5`: a negative number is an argument there, not an option.
        _negative = {"ignore_unknown_options": _command is steer.priority_command}
        app.command(_name, rich_help_panel=_group, context_settings=_negative)(_command)
app.add_typer(shipped.app, name="recipes", rich_help_panel=KEEP)
app.add_typer(removal.app, name="trash", rich_help_panel=KEEP)
app.add_typer(engine.app, name="engine", rich_help_panel=MACHINE)
app.add_typer(service.app, name="service", rich_help_panel=MACHINE)
app.add_typer(cluster.app, name="cluster", rich_help_panel=MACHINE)


@cache
def _click_command() -> Callable[..., Any]:
    """Return the tree of all commands; 40 ms the first time."""
    return get_command(app)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Every error is printed here, none is raised."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal without UTF-8 shows `?` instead of ending in a traceback.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    completion.answer_shell()
    try:
        command = _click_command()
        command(args=None if argv is None else list(argv), prog_name="workbench")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException as error:
        return report_error(error)
    return 0
