"""`workbench service`: the engine as a systemd user service that survives a reboot."""

from __future__ import annotations

import sys
from dataclasses import asdict

import typer

from workbench.cli.arguments import Json
from workbench.cli.tables import as_json, print_answer, print_note
from workbench.home import find_home
from workbench.machine import user_service
from workbench.text import safe_line

LINGER = "loginctl enable-linger"
app = typer.Typer(help="Start the engine at boot, by a systemd user service.", no_args_is_help=True)


@app.command("install")
def install_service_command() -> None:
    """Write and enable the user service, so that training continues after a reboot."""
    home = find_home().make()
    taken = user_service.install_unit(user_service.unit_text(home.root, sys.executable))
    print_answer(safe_line(user_service.unit_path()))
    if not taken:
        print_note("systemctl did not enable it: the unit is written only")
        print_note(f"  → on the machine itself: systemctl --user enable {user_service.UNIT}")
        return
    if not user_service.service_status().lingers:
        print_note("it starts when you log in, and ends when you have logged out everywhere")
        print_note(f"  → to start it at boot and keep it running: {LINGER}")


@app.command("remove")
def remove_service_command() -> None:
    """Disable and remove the user service; what runs now is not touched."""
    removed = user_service.remove_unit()
    print_answer("removed" if removed else "there was no user service to remove")


@app.command("status")
def service_status_command(as_data: Json = False) -> None:
    """Show whether the user service is installed, enabled and active."""
    status = user_service.service_status()
    if as_data:
        as_json(asdict(status))
        return
    words = {
        "unit": safe_line(status.unit),
        "installed": _yes(status.installed),
        "systemd": "answers" if status.systemd else "does not answer for this user",
        "enabled": _yes(status.enabled),
        "active": _yes(status.active),
        "at boot": "yes" if status.lingers else f"no; {LINGER}",
    }
    for name, word in words.items():
        print_answer(f"{name:<10}{word}")


def _yes(fact: bool) -> str:
    return "yes" if fact else "no"
