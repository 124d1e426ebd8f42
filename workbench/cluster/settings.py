"""The files of a home that make it a cluster's head, or a box that has joined one.

cluster/head.json    the head: its address, and the port that the last head took
cluster/joined.json  a box: the head's address, its own, its name
cluster/state.json   a box: what its keeper last found out about joining
cluster/boxes.json   the head: the boxes as the loop last saw them, for `cluster ls`
cluster/tls/         certificates for Ray's TLS, where the head was set up with them
cluster/invitation   the head with certificates: all that a box needs to join, mode 0600
cluster/work/        a box: the files of the trials that it runs, and the cache of bases
token                the secret that head and boxes share, mode 0600
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workbench.cluster.certificates import remove_certificates
from workbench.errors import UsageError
from workbench.home import Home
from workbench.machine.files import write_durably
from workbench.text import safe_line

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,30}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSettings:
    """The settings of a cluster's head."""

    address: str
    limit_bytes_per_s: int = 0
    """Most bytes a second that travel between the head and one box; 0 without a limit."""
    allow_skew: Sequence[str] = ()
    """Boxes that work although versions of packages differ there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedSettings:
    """The settings of a box that has joined a cluster."""

    head: str
    """Address of the head."""
    address: str
    """Address of this box, as the head reaches it."""
    box: str
    """Name of this box; its cards are called `box:card`."""
    is_fixed: bool = False
    """True where a person named the address; else it follows the machine's own."""


def read_head(home: Home) -> HeadSettings | None:
    """Return the settings of a head; None where the home is of one machine alone."""
    data = read_json(home.root / "cluster" / "head.json")
    return HeadSettings(**data) if data else None


def read_joined(home: Home) -> JoinedSettings | None:
    """Return the settings of a box; None where the home has joined no cluster."""
    data = read_json(home.root / "cluster" / "joined.json")
    return JoinedSettings(**data) if data else None


def write_settings(home: Home, settings: HeadSettings | JoinedSettings) -> None:
    """Make the home a head or a box, whichever the settings are for."""
    name = "head.json" if isinstance(settings, HeadSettings) else "joined.json"
    write_json(home.root / "cluster" / name, asdict(settings))


def remove_settings(home: Home) -> None:
    """Make the home that of one machine alone again."""
    remove_certificates(home)
    for name in ("head.json", "joined.json", "state.json", "boxes.json"):
        (home.root / "cluster" / name).unlink(missing_ok=True)


def work_folder(home: Home) -> Path:
    """Return the folder in which a box keeps what it needs of the head's home."""
    return home.root / "cluster" / "work"


def note_state(home: Home, state: str, text: str = "") -> None:
    """Write what a box's keeper found out: `joining`, `joined` or `refused`, and why."""
    body = {"state": state, "text": text, "at_utc": time.time()}
    write_json(home.root / "cluster" / "state.json", body)


def read_state(home: Home) -> dict[str, Any]:
    """Return what `note_state` wrote last; {} before the first time."""
    return read_json(home.root / "cluster" / "state.json")


def boxes_file(home: Home) -> Path:
    """Return the file in which the loop writes the boxes as it sees them."""
    return home.root / "cluster" / "boxes.json"


def check_name(name: str) -> str:
    """Return a box's name; UsageError unless it has 1 to 31 letters, digits and hyphens.

    `head` is none: the screen calls the head's own cards so.
    """
    if not _NAME.match(name) or name == "head":
        raise UsageError(
            f"{safe_line(name, 60)!r} is no name for a box",
            hint="use letters, digits and hyphens, and not head: --name desk-2",
        )
    return name


def read_json(path: Path) -> dict[str, Any]:
    """Return a file's JSON object; {} where it is missing or damaged."""
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def write_json(path: Path, body: dict[str, Any]) -> None:
    """Replace a file by a JSON object; make its folder."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_durably(path, json.dumps(body).encode())
