"""The user's own configuration: `config.toml` in their config folder.

Recipes cannot contain these settings, because a recipe may come from a stranger. Every setting has
a default. The engine and the front ends read the file; if it has a mistake, all defaults apply and
the mistake is reported.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from workbench.errors import UsageError, WorkbenchError
from workbench.home import config_file
from workbench.machine.cards import parse_bytes
from workbench.text import safe_line

MAX_BYTES = 64 << 10
"""A larger file is refused."""


def _size(value: object) -> int:
    """Return the bytes of a size such as `"2GiB"`; raise ValueError for anything else."""
    if not isinstance(value, str):
        raise ValueError('must be a size in quotes, like "2GiB"')
    if value.strip() == "0":
        return 0
    try:
        return parse_bytes(value)
    except UsageError as unread:
        raise ValueError(f"{unread.what}; {unread.hint}") from unread


def _flat_keys(value: object) -> object:
    """Return the [keys] section as one list of keys for each action, by the action's id.

    TOML reads `trial.stop = "s"` as a table within a table.
    """
    if not isinstance(value, dict):
        return value
    flat: dict[str, object] = {}
    for name, given in value.items():
        if isinstance(given, dict):
            below = _flat_keys(given)
            flat |= {f"{name}.{rest}": keys for rest, keys in below.items()}  # type: ignore[attr-defined]
        else:
            flat[name] = [given] if isinstance(given, str) else given
    return flat


Size = Annotated[int, BeforeValidator(_size)]
Keys = Annotated[list[Annotated[str, Field(min_length=1, max_length=40)]], Field(max_length=8)]
Seconds = Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)]
Celsius = Annotated[float, Field(ge=30, le=120, allow_inf_nan=False)]


class ConfigSection(BaseModel):
    """A strict and frozen base of all sections: unknown keys and silent conversions are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Guards(ConfigSection):
    """Limits that protect the machine; docs/guards.md describes each."""

    start_gap_s: Seconds | None = None
    """Seconds between the starts of trials on two cards that are at rest. Left out:
    `cards.GPU_START_GAP_S` between GPUs, 0 between CPU cards, which draw no more power at the start
    than later."""
    no_start_above_c: Celsius = 84.0
    """A card above this temperature gets no new trial until it has cooled."""
    pause_above_c: Celsius = 90.0
    """The trial of a card above this temperature checkpoints and returns to the queue."""
    cooled_by_c: float = Field(default=8.0, ge=1, le=60, allow_inf_nan=False)
    """A card that was too hot gets trials again at `no_start_above_c` minus this."""
    disk_floor: Size = 2 << 30
    """With fewer bytes free on the home's disk nothing starts, and old checkpoints are deleted."""
    ballast: Size = 32 << 20
    """Bytes of the reserve file, which is deleted on a full disk so that the engine can write down
    what happened; 0 for no file."""
    share: bool = False
    """Use cards on which other users' programs compute, within the bytes that these leave."""
    foreign_above: Size = 100 << 20
    """Programs that compute on a card with fewer bytes do not count as using it."""
    idle_below: Size | None = None
    """Programs that have computed nothing for a minute share their card with trials, which are
    planned for the bytes that are left, while they hold fewer bytes than this together. Left out:
    as many as the plan leaves free; 0: none does."""

    @model_validator(mode="after")
    def _in_order(self) -> Guards:
        if self.no_start_above_c >= self.pause_above_c:
            raise ValueError("no_start_above_c must be below pause_above_c")
        return self


class Workers(ConfigSection):
    """The processes that train."""

    spare: bool | None = None
    """Keep one process ready that replaces a worker which ends: it saves the seconds that starting
    and importing take, and holds 0.4 GiB of the machine's memory. Left out: on a machine with
    12 GiB or more. While memory is short none is kept, whatever is set here."""


class Notify(ConfigSection):
    """The notification command."""

    command: Annotated[list[str], Field(max_length=64)] | None = None
    """Command and arguments, run when an experiment ends with its board as JSON on stdin. No shell
    interprets it."""


class TrustedModel(ConfigSection):
    """A model whose own Python code may run on this machine."""

    name: str = Field(min_length=1)
    """A hub id, or the absolute path of a folder."""
    revision: str | None = None
    """The full commit, because a branch can change its code later. A folder has none."""

    @model_validator(mode="after")
    def _pinned(self) -> TrustedModel:
        if os.path.isabs(self.name):
            if self.revision is not None:
                raise ValueError("a folder has no revision")
        elif not re.fullmatch(r"[0-9a-f]{40}", self.revision or ""):
            raise ValueError("revision must be the full commit of 40 digits")
        return self


class Models(ConfigSection):
    """Permissions of models."""

    trust_remote_code: Annotated[list[TrustedModel], Field(max_length=256)] = []
    """Models whose own code may run here, each pinned to a commit. No recipe can permit this."""


class TensorBoardSink(ConfigSection):
    """TensorBoard event files of every trial."""

    folder: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """An absolute path; left out: `sinks/tensorboard` in the home."""

    @model_validator(mode="after")
    def _absolute(self) -> TensorBoardSink:
        if self.folder is not None and not os.path.isabs(self.folder):
            raise ValueError("folder must be an absolute path")
        return self


Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$")]


class TrackioSink(ConfigSection):
    """Runs of trackio."""

    project: Word = "workbench"
    space: Annotated[str, Field(pattern=r"^[\w.-]{1,96}/[\w.-]{1,96}$")] | None = None
    """A Space on the hub, OWNER/NAME, which is made private; left out: this machine alone."""


class WandBSink(ConfigSection):
    """Runs of Weights & Biases. The key comes from WANDB_API_KEY or `wandb login`, never from
    here."""

    project: Word = "workbench"
    entity: Word | None = None
    mode: Literal["online", "offline"] = "online"
    """offline writes files for `wandb sync` into `sinks/wandb` in the home."""


class UserConfig(ConfigSection):
    """The whole configuration, with a default for every setting."""

    guards: Guards = Guards()
    workers: Workers = Workers()
    notify: Notify = Notify()
    models: Models = Models()
    tensorboard: TensorBoardSink | None = None
    """Where trials are also logged, each only if its section is there; docs/logging.md."""
    trackio: TrackioSink | None = None
    wandb: WandBSink | None = None
    keys: Annotated[dict[str, Keys], BeforeValidator(_flat_keys)] = {}
    """Keys of the screen's actions, by the action's id; docs/keys.md lists both. The screen checks
    ids and keys itself."""

    def sinks(self) -> dict[str, ConfigSection]:
        """Return the settings of each sink that is switched on, by its name."""
        found = {"tensorboard": self.tensorboard, "trackio": self.trackio, "wandb": self.wandb}
        return {name: section for name, section in found.items() if section is not None}


class ConfigError(UsageError):
    """One or more mistakes of the configuration, with one line for each, as `file:line: …`."""


def read_user_config(path: Path | None = None) -> UserConfig:
    """Read the configuration; return the defaults if there is no file.

    Raises ConfigError with every mistake, and for a file that other users can write.
    """
    path = path or config_file()
    text = _text(path)
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as wrong:
        raise _error(
            path, [(_toml_line(wrong, text), safe_line(_toml_words(wrong), 200))]
        ) from wrong
    except RecursionError as deep:
        raise _error(path, [(1, "is nested too deeply")]) from deep
    try:
        return UserConfig.model_validate(data)
    except ValidationError as wrong:
        mistakes = [_mistake(error, text) for error in wrong.errors(include_url=False)]
        raise _error(path, sorted(set(mistakes))) from wrong


def may_run_its_code(model: str, revision: str | None) -> bool:
    """Return True if the user's configuration trusts the model at exactly this revision.

    A configuration with a mistake trusts no model.
    """
    return any((one.name, one.revision) == (model, revision) for one in _trusted_models())


def hide_hub_kernels() -> None:
    """Let no library fetch compiled code from a hub, which the package `kernels` does for several.

    bitsandbytes 0.50.2 asks it to while it is imported, on a CPU with AVX512-BF16
    (findings/bitsandbytes-import-asks-the-hub.sh). The package stays where the user's configuration
    trusts any model's own code, which may need it.
    """
    if not _trusted_models():
        sys.modules.setdefault("kernels", None)  # type: ignore[arg-type]


def _trusted_models() -> list[TrustedModel]:
    try:
        return read_user_config().models.trust_remote_code
    except WorkbenchError:
        return []


class ConfigWatch:
    """The current configuration, read again whenever its file has changed.

    A call never raises, and costs one stat if the file is unchanged.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or config_file()
        self._stamp: object = None
        self._config = UserConfig()
        self.problem = ""
        """The reason why the defaults apply instead of the file; empty if the file was read."""

    def __call__(self) -> UserConfig:
        stamp = self._stamp_now()
        # Mode and owner are part of the stamp: chmod alone can make the file unreadable for us.
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._config, self.problem = read_user_config(self._path), ""
            except WorkbenchError as wrong:
                self._config, self.problem = UserConfig(), f"{wrong.what}; the defaults apply"
        return self._config

    def _stamp_now(self) -> object:
        try:
            seen = self._path.stat()
        except OSError as missing:
            return missing.errno
        return (seen.st_mtime_ns, seen.st_size, seen.st_ino, seen.st_mode, seen.st_uid)


def _text(path: Path) -> str:
    """Return the file's text, empty if there is no file.

    A file that other users can write is refused, because its text may name a command that we run.
    """
    try:
        # O_NONBLOCK: a FIFO in place of the file must not block us forever.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as refused:
        raise _error(path, [(0, f"cannot be read: {refused.strerror}")]) from refused
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise _error(path, [(0, "is not a regular file")])
        # Checked on the open file, so that it cannot be exchanged between check and read.
        if found.st_uid not in (os.getuid(), 0) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ConfigError(
                f"{path}: other users can write it, so it is not read",
                hint=f"chmod 600 {path}, and check that you own it",
            )
        body = file.read(MAX_BYTES + 1)
    if len(body) > MAX_BYTES:
        raise _error(path, [(0, f"is larger than {MAX_BYTES >> 10} KiB")])
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as broken:
        line = body.count(b"\n", 0, broken.start) + 1
        raise _error(path, [(line, "is not UTF-8")]) from broken


def _error(path: Path, mistakes: list[tuple[int, str]]) -> ConfigError:
    lines = (f"{path}:{line}: {what}" if line else f"{path}: {what}" for line, what in mistakes)
    return ConfigError("\n".join(lines), hint="docs/guards.md lists every setting")


_AT = re.compile(r" \(at line (\d+), column \d+\)$")


def _toml_line(wrong: tomllib.TOMLDecodeError, text: str) -> int:
    found = _AT.search(str(wrong))
    return int(found[1]) if found else text.count("\n") + 1


def _toml_words(wrong: tomllib.TOMLDecodeError) -> str:
    return _AT.sub("", str(wrong)).removesuffix(" (at end of document)")


def _mistake(error: Any, text: str) -> tuple[int, str]:
    """Return line and message of one of pydantic's errors."""
    keys = [str(part) for part in error["loc"] if isinstance(part, str)][:2]
    name = safe_line(".".join(keys), 80)
    line = _line_of(keys, text)
    if error["type"] == "extra_forbidden":
        return line, f"{name} is not a setting.{_meant(keys)}"
    said = error.get("ctx", {}).get("error") or error["msg"]
    return line, f"{name}: {safe_line(said, 200)}"


def _meant(keys: list[str]) -> str:
    fields = UserConfig.model_fields
    sections: dict[str, type[ConfigSection]] = {
        one: type(field.default)
        for one, field in fields.items()
        if isinstance(field.default, ConfigSection)
    }
    sections |= {"tensorboard": TensorBoardSink, "trackio": TrackioSink, "wandb": WandBSink}
    known = [f"{one}.{key}" for one, section in sections.items() for key in section.model_fields]
    wrong = ".".join(keys)
    near = difflib.get_close_matches(wrong[:80], [*known, *fields], n=1, cutoff=0.6)
    if not near:
        near = [one for one in known if one.endswith(f".{keys[-1]}")][:1]
    return f" Did you mean {near[0]}?" if near else ""


_TABLE = re.compile(r"\s*\[\s*([\w.-]+)\s*\]")
_KEY = re.compile(r"\s*([\w.\"'-]+)\s*=")


def _line_of(keys: list[str], text: str) -> int:
    """Return the line of a setting, or of its section, because tomllib does not report lines."""
    table, best = "", 1
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _TABLE.match(line):
            table = header[1]
            if keys and table == keys[0]:
                best = number
        elif key := _KEY.match(line):
            path = ".".join(part for part in (table, re.sub(r"[\"']", "", key[1])) if part)
            if path == ".".join(keys):
                return number
            if keys and path == keys[0]:
                best = number
    return best
