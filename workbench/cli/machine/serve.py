"""`workbench --serve`: the screen in a browser on this machine, behind a token."""

from __future__ import annotations

import os
from contextlib import ExitStack
from importlib.util import find_spec

from workbench.cli.machine.showcase import showcase_home
from workbench.cli.revival import revive_engine
from workbench.cli.tables import print_answer, print_note
from workbench.errors import UsageError
from workbench.home import find_home
from workbench.service import Service


def serve_browser(port: int, *, demo_tui: bool, readonly: bool, ascii_only: bool) -> None:
    """Serve the screen until ctrl-c, over a made-up home with `demo_tui`; print its address.

    Raises UsageError where textual-serve is not installed, or the port is taken.
    """
    if find_spec("textual_serve") is None:
        raise UsageError(
            "--serve needs textual-serve, which is not installed",
            hint="pip install 'qlora-workbench[serve]'",
        )
    from tui.serving.server import serve_screen

    with ExitStack() as stack:
        home = stack.enter_context(showcase_home()) if demo_tui else find_home()
        os.environ["WORKBENCH_HOME"] = str(home.root)  # for the process of each browser tab
        if not (demo_tui or readonly):
            revive_engine(Service(home))
        serve_screen(port, readonly=readonly, ascii_only=ascii_only, announce=_announce)


def _announce(address: str) -> None:
    print_answer(address)
    port = address.split(":")[2].split("/")[0]
    print_note("Whoever has this address may do what you may; keep it to yourself.")
    print_note(f"Over SSH: ssh -L {port}:127.0.0.1:{port} MACHINE. Ctrl-c ends it.")
