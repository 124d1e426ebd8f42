"""The engine as a systemd user service, so that a reboot needs nobody.

The unit starts the keeper, which starts everything else. It is skipped at boot where a person has
stopped the engine. Without lingering (`loginctl enable-linger`), systemd starts user services only
when the user logs in, and ends them at the last logout.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from workbench.machine.files import write_durably

UNIT = "workbench.service"
ASK_S = 20.0
"""Seconds that a call of systemctl or loginctl may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStatus:
    """The user service as systemd sees it."""

    unit: Path
    installed: bool
    systemd: bool
    """True if this user has a systemd that answers."""
    enabled: bool
    """True if it starts by itself."""
    active: bool
    lingers: bool
    """True if user services run without a login."""


def unit_path() -> Path:
    """Return the unit's file in the user's configuration folder."""
    config = os.environ.get("XDG_CONFIG_HOME")
    folder = Path(config) if config and Path(config).is_absolute() else Path.home() / ".config"
    return folder / "systemd" / "user" / UNIT


def unit_text(home: Path, python: str) -> str:
    """Return the unit's text for a home and the Python that the workbench is installed in.

    KillMode=mixed lets the keeper end its own processes first; systemd ends what is left.
    """
    return f"""[Unit]
Description=The workbench's engine: QLoRA trials on this machine's cards
ConditionPathExists=!{_escaped(str(home / "stopped"))}
StartLimitIntervalSec=600
StartLimitBurst=5

[Service]
Type=forking
ExecStart={_quoted(python)} -P -m workbench.keeper
Environment={_quoted(f"WORKBENCH_HOME={home}")}
WorkingDirectory=/
KillMode=mixed
TimeoutStopSec=60
Restart=on-failure
RestartSec=10

[Install]
WantedBy=default.target
"""


def install_unit(text: str) -> bool:
    """Write the unit and enable it; return whether it is enabled.

    Enabling works without a running systemd of this user, but not without systemctl.
    """
    path = unit_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, text.encode())
    _systemctl("daemon-reload")
    return _systemctl("enable", UNIT)


def remove_unit() -> bool:
    """Disable and remove the unit; return whether there was one. What runs is not touched."""
    path = unit_path()
    if not path.exists():
        return False
    _systemctl("disable", UNIT)
    path.unlink()
    _systemctl("daemon-reload")
    return True


def service_status() -> ServiceStatus:
    """Return the state of the unit. Takes some milliseconds; nothing is changed."""
    path = unit_path()
    return ServiceStatus(
        unit=path,
        installed=path.exists(),
        systemd=_systemctl("show-environment"),
        enabled=_systemctl("is-enabled", "--quiet", UNIT),
        active=_systemctl("is-active", "--quiet", UNIT),
        lingers=_answer("loginctl", "show-user", "--property=Linger", str(os.getuid()))
        == "Linger=yes",
    )


def _systemctl(*words: str) -> bool:
    return _answer("systemctl", "--user", *words) is not None


def _answer(program: str, *words: str) -> str | None:
    """Return the program's output, None where it is missing, fails or does not answer."""
    if shutil.which(program) is None:
        return None
    try:
        done = subprocess.run(
            [program, *words],
            capture_output=True,
            text=True,
            timeout=ASK_S,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _escaped(text: str) -> str:
    """Return the text with systemd's specifiers (`%h`) switched off."""
    return text.replace("%", "%%")


def _quoted(text: str) -> str:
    """Return the text as one word of a unit file: spaces, quotes and `$` taken literally."""
    inner = text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{_escaped(inner)}"'
