"""The home: the folder in which the workbench keeps everything, readable by its user alone."""

from __future__ import annotations

import json
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from platformdirs import user_config_path, user_data_path

from workbench.errors import EngineError
from workbench.machine.locks import shared_folder

_UNFIT = re.compile(r"[^A-Za-z0-9-]")
RAY_TEMP_CHARACTERS = 43
"""Most characters of a Ray head's folder: its sockets then stay within Linux's limit of 107 bytes
(ray 2.60 adds 64 where pids have seven digits)."""
SHORT_TEMP_HINT = "set TMPDIR to a short folder of yours on a local disk, e.g. /tmp"
STOPPED_BY_A_PERSON = b"stopped by a person\n"


@dataclass(frozen=True, slots=True)
class Home:
    """The paths inside one home: the database, requests, and a folder per experiment and trial.

    The properties only compute paths; `make` creates the folders.
    """

    root: Path

    @property
    def database(self) -> Path:
        """The SQLite database."""
        return self.root / "workbench.db"

    @property
    def requests(self) -> Path:
        """The folder into which front ends put requests for the engine."""
        return self.root / "requests"

    @property
    def cache(self) -> Path:
        """The folder of tokenised data, shared by experiments."""
        return self.root / "cache" / "data"

    @property
    def kernels(self) -> Path:
        """The folder of compiled kernels, with a folder inside for each set of versions."""
        return self.root / "cache" / "kernels"

    @property
    def bytecode(self) -> Path:
        """The folder of compiled Python modules, where Python itself must not write any."""
        return self.root / "cache" / "bytecode"

    @property
    def runtime(self) -> Path:
        """The keeper's file of pids with start times, Ray's port and the token's path."""
        return self.root / "runtime.json"

    @property
    def keeper_lock(self) -> Path:
        """The lock that the keeper holds while it runs."""
        return self.root / "keeper.lock"

    @property
    def loop_lock(self) -> Path:
        """The lock that the engine's loop holds while it runs."""
        return self.root / "loop.lock"

    @property
    def tick(self) -> Path:
        """The file that the loop touches at every tick; the keeper restarts a loop that has not
        touched it for 30 s."""
        return self.root / "tick"

    @property
    def stopped(self) -> Path:
        """The file that exists while the engine is stopped.

        It is empty or says so if a person stopped the engine. If the engine stopped itself, its
        first line is the reason and the second line is the hint.
        """
        return self.root / "stopped"

    @property
    def sample(self) -> Path:
        """The newest readings of the cards, written by the sampler."""
        return self.root / "cards.json"

    @property
    def card_history(self) -> Path:
        """The readings of the last day of each card, a line for each minute."""
        return self.root / "card-history.jsonl"

    @property
    def reserve_file(self) -> Path:
        """The file that keeps room on the disk, which the loop frees when the disk is full."""
        return self.root / "ballast"

    @property
    def token(self) -> Path:
        """The secret token of Ray's head."""
        return self.root / "token"

    @property
    def scorers(self) -> Path:
        """The folder of the user's own scorers, which recipes name."""
        return self.root / "scorers"

    @property
    def backups(self) -> Path:
        """The folder of the database's backups."""
        return self.root / "backups"

    @property
    def logs(self) -> Path:
        """The folder of the logs of keeper, loop and notification commands."""
        return self.root / "logs"

    @property
    def sinks(self) -> Path:
        """The folder of the sinks: how far each was sent, and what they write on this machine."""
        return self.root / "sinks"

    def sink_problem(self, name: str) -> Path:
        """Return the file that says why a sink gets nothing now: the reason, then a hint."""
        return self.sinks / f"{name}.problem"

    def card_lock(self, uuid: str, kind: str) -> Path:
        """Return the lock of the worker that owns the card.

        A GPU has one lock for all homes and all users of the machine, in a folder that users share.
        Without such a folder it has one for all homes of this user. A CPU card has a lock in each
        home.
        """
        folder, prefix = self.root / "locks", "card"
        if kind == "cuda":
            folder, prefix = (shared_folder() or private_temp() / "locks"), "workbench-card"
        name = _UNFIT.sub("_", uuid)[:80]  # the driver's text may contain a /
        return folder / f"{prefix}-{name}.lock"

    def experiment(self, id: int) -> Path:
        """Return the folder of what was prepared once for all trials of an experiment."""
        return self.root / "experiments" / str(id)

    def trial(self, id: int) -> Path:
        """Return the folder of a trial's checkpoints and adapter."""
        return self.root / "trials" / str(id)

    def attempt(self, id: int) -> Path:
        """Return the folder of an attempt's assignment, events and traceback."""
        return self.root / "attempts" / str(id)

    def make(self) -> Home:
        """Create missing folders with mode 0700, and set this process's umask to 077.

        Raises EngineError if a folder cannot be written, or if the root exists and contains other
        files: changing the permissions of such a folder could lock somebody out.
        """
        # First, so that nothing created below is readable by others even for a moment.
        os.umask(0o077)
        try:
            # Either alone tells a home: a person may have removed the folder of requests.
            known = self.requests.exists() or self.database.exists()
            if not known and self.root.is_dir() and any(self.root.iterdir()):
                raise EngineError(
                    f"{self.root} is not a home of the workbench: it contains other files",
                    hint="set WORKBENCH_HOME to an empty folder, or to one that does not exist",
                )
            for folder in (self.root, self.requests, self.cache, self.logs):
                folder.mkdir(parents=True, exist_ok=True)
            self.root.chmod(0o700)
            # Permission bits do not tell everything (read-only mounts, quotas): try to write.
            with tempfile.TemporaryFile(dir=self.root):
                pass
        except OSError as refused:
            raise EngineError(
                f"the workbench's home {self.root} is not writable: {refused.strerror}",
                hint="set WORKBENCH_HOME to a folder of yours, or free space on its disk",
            ) from refused
        return self


def lock_warning(shared: Path | None) -> str:
    """Return what it means that users share no folder for locks; empty where `shared` is one."""
    if shared is not None:
        return ""
    return (
        "no folder can be shared by all users for the locks of GPUs, so trials of other users are "
        "not seen, and two users can start on one card"
    )


def read_runtime(home: Home) -> dict[str, Any]:
    """Return what the newest keeper wrote about its processes; {} where that cannot be read."""
    try:
        runtime = json.loads(home.runtime.read_text())
    except (OSError, ValueError):
        return {}
    return runtime if isinstance(runtime, dict) else {}


def read_sink_problem(home: Home, name: str) -> tuple[str, str]:
    """Return why nothing is logged to the sink now, and a hint; empty where there is no problem."""
    try:
        what, _, hint = home.sink_problem(name).read_text(errors="replace").partition("\n")
    except OSError:
        return "", ""
    return what, hint


def config_file() -> Path:
    """Return the path of the user's configuration, whether or not the file exists."""
    return user_config_path("workbench") / "config.toml"


def find_home() -> Home:
    """Return the home of `$WORKBENCH_HOME`, else of the user's data folder. Creates nothing."""
    named = os.environ.get("WORKBENCH_HOME")
    return Home(Path(named).expanduser().absolute() if named else user_data_path("workbench"))


def private_temp() -> Path:
    """Create and return a folder with mode 0700 in the system's temp folder.

    Its path is short, because Ray's sockets lie in it. Raises EngineError if another user owns it.
    """
    folder = Path(tempfile.gettempdir()) / f"workbench-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    # The temp folder is world-writable: somebody else may have created our name first.
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise EngineError(f"{folder} belongs to another user", hint="set TMPDIR to another folder")
    folder.chmod(0o700)
    return folder
