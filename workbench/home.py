"""Where the workbench keeps its things, and who may read them (nobody else)."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_data_path

from workbench.errors import EngineError

_UNFIT = re.compile(r"[^A-Za-z0-9-]")
STOPPED_BY_A_PERSON = b"stopped by a person\n"


@dataclass(frozen=True, slots=True)
class Home:
    """One workbench: a database, its requests, and a folder for each experiment and trial."""

    root: Path

    @property
    def database(self) -> Path:
        return self.root / "workbench.db"

    @property
    def requests(self) -> Path:
        return self.root / "requests"

    @property
    def cache(self) -> Path:
        return self.root / "cache" / "data"

    @property
    def runtime(self) -> Path:
        """Written by the keeper: pids with start times, Ray's port, the token's file."""
        return self.root / "runtime.json"

    @property
    def keeper_lock(self) -> Path:
        return self.root / "keeper.lock"

    @property
    def loop_lock(self) -> Path:
        return self.root / "loop.lock"

    @property
    def tick(self) -> Path:
        """Touched by the loop at every tick; 30 s without, and the keeper starts it anew."""
        return self.root / "tick"

    @property
    def stopped(self) -> Path:
        """There while the engine was stopped and not started since: by a person (so it says, or it
        is empty), or by itself: then why, and in the next line the mend."""
        return self.root / "stopped"

    @property
    def sample(self) -> Path:
        """The newest card sample, written by the keeper's child."""
        return self.root / "cards.json"

    @property
    def ballast(self) -> Path:
        """Takes up room that the loop gives up on a full disk."""
        return self.root / "ballast"

    @property
    def token(self) -> Path:
        return self.root / "token"

    @property
    def backups(self) -> Path:
        return self.root / "backups"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    def card_lock(self, uuid: str, kind: str) -> Path:
        """Of the worker that has the card: one on this machine for a GPU, one a home for cores."""
        folder = private_temp() / "locks" if kind == "cuda" else self.root / "locks"
        return folder / f"card-{_UNFIT.sub('_', uuid)[:80]}.lock"  # a driver's word, maybe with a /

    def experiment(self, id: int) -> Path:
        return self.root / "experiments" / str(id)

    def trial(self, id: int) -> Path:
        return self.root / "trials" / str(id)

    def attempt(self, id: int) -> Path:
        return self.root / "attempts" / str(id)

    def make(self) -> Home:
        """Create what is missing, 0700; EngineError when that cannot be done.

        A folder with other things in it is refused: its permissions are not ours to change.
        """
        os.umask(0o077)
        try:
            if not self.requests.exists() and self.root.is_dir() and any(self.root.iterdir()):
                raise EngineError(
                    f"{self.root} is no workbench's home: it holds other things",
                    hint="set WORKBENCH_HOME to an empty folder, or to one that does not exist",
                )
            for folder in (self.root, self.requests, self.cache, self.logs):
                folder.mkdir(parents=True, exist_ok=True)
            self.root.chmod(0o700)
            with tempfile.TemporaryFile(dir=self.root):
                pass
        except OSError as refused:
            raise EngineError(
                f"the workbench's home {self.root} is not writable: {refused.strerror}",
                hint="set WORKBENCH_HOME to a folder of yours, or free space on its disk",
            ) from refused
        return self


def find_home() -> Home:
    """`$WORKBENCH_HOME`, else the user's data folder. Makes nothing."""
    named = os.environ.get("WORKBENCH_HOME")
    return Home(Path(named).expanduser().absolute() if named else user_data_path("workbench"))


def private_temp() -> Path:
    """A folder of ours under the system's temp dir, 0700, short enough for Ray's sockets."""
    folder = Path(tempfile.gettempdir()) / f"workbench-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise EngineError(f"{folder} belongs to somebody else", hint="set TMPDIR to another folder")
    folder.chmod(0o700)
    return folder
