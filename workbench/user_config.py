"""The user's own configuration: `config.toml` in their config folder.

What it may say, no recipe can: a recipe may come from a stranger. What it leaves out has a default.
Engine and front ends read it; a file with a mistake changes nothing, and the mistake is told.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Annotated, Any

from platformdirs import user_config_path
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from workbench.errors import UsageError, WorkbenchError
from workbench.machine.cards import parse_bytes
from workbench.text import safe_line

MAX_BYTES = 64 << 10


def _size(value: object) -> int:
    """Bytes, from `"2GiB"`."""
    if not isinstance(value, str):
        raise ValueError('wants a size in quotes, like "2GiB"')
    if value.strip() == "0":
        return 0
    try:
        return parse_bytes(value)
    except UsageError as unread:
        raise ValueError(f"{unread.what}; {unread.hint}") from unread


Size = Annotated[int, BeforeValidator(_size)]
Seconds = Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)]
Celsius = Annotated[float, Field(ge=30, le=120, allow_inf_nan=False)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Guards(Section):
    """What keeps a home's machine whole; docs/guards.md tells of each."""

    start_gap_s: Seconds | None = None
    """Seconds between two cards that begin a trial. Left out: 2 between GPUs, none between CPU
    cards, which draw no more at their start than later."""
    no_start_above_c: Celsius = 84.0
    """A hotter card gets no new trial, until it has cooled."""
    pause_above_c: Celsius = 90.0
    """A hotter card's trial checkpoints and goes back into the queue."""
    cooled_by_c: float = Field(default=8.0, ge=1, le=60, allow_inf_nan=False)
    """A card that was too hot takes trials again once it is so far below `no_start_above_c`."""
    disk_floor: Size = 2 << 30
    """With less free on the home's disk nothing new starts, and checkpoints are thinned."""
    ballast: Size = 32 << 20
    """Size of a file that is given up on a full disk, so that what happened can be written down;
    0 for none."""
    share: bool = False
    """Use cards on which other people's programs compute, with what bytes these leave."""
    foreign_above: Size = 100 << 20
    """Programs that compute on a card with fewer bytes than this do not count as using it."""

    @model_validator(mode="after")
    def _in_order(self) -> Guards:
        if self.no_start_above_c >= self.pause_above_c:
            raise ValueError("no_start_above_c must be below pause_above_c")
        return self


class Notify(Section):
    command: Annotated[list[str], Field(max_length=64)] | None = None
    """Run when an experiment ends, with its board as JSON on stdin; no shell reads it."""


class TrustedModel(Section):
    name: str = Field(min_length=1)
    """A hub id, or the absolute path of a folder."""
    revision: str | None = None
    """The full commit: a branch may be another tomorrow. A folder has none."""

    @model_validator(mode="after")
    def _pinned(self) -> TrustedModel:
        if os.path.isabs(self.name):
            if self.revision is not None:
                raise ValueError("a folder has no revision")
        elif not re.fullmatch(r"[0-9a-f]{40}", self.revision or ""):
            raise ValueError("revision wants the full commit of 40 digits")
        return self


class Models(Section):
    trust_remote_code: Annotated[list[TrustedModel], Field(max_length=256)] = []
    """Models whose own code may run here, each pinned. No recipe can say so."""


class UserConfig(Section):
    guards: Guards = Guards()
    notify: Notify = Notify()
    models: Models = Models()


class ConfigError(UsageError):
    """Every mistake of the file, a line each, with file and line."""


def config_file() -> Path:
    return user_config_path("workbench") / "config.toml"


def read_user_config(path: Path | None = None) -> UserConfig:
    """What the file says; the defaults where there is none. ConfigError with every mistake."""
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
        told = [_mistake(error, text) for error in wrong.errors(include_url=False)]
        raise _error(path, sorted(set(told))) from wrong


def may_run_its_code(model: str, revision: str | None) -> bool:
    """True for a model that the user's file names, at just this revision; never by mistake."""
    try:
        trusted = read_user_config().models.trust_remote_code
    except WorkbenchError:
        return False
    return any((one.name, one.revision) == (model, revision) for one in trusted)


class ConfigWatch:
    """The configuration as it stands now, read anew when its file changed; never raises.

    A look at an unchanged file costs a stat.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or config_file()
        self._stamp: object = None
        self._config = UserConfig()
        self.problem = ""
        """Why the defaults hold instead of what the file says; empty when all is well."""

    def __call__(self) -> UserConfig:
        stamp = self._stamp_now()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._config, self.problem = read_user_config(self._path), ""
            except WorkbenchError as wrong:
                self._config, self.problem = UserConfig(), f"{wrong.what}; the defaults hold"
        return self._config

    def _stamp_now(self) -> object:
        try:
            seen = self._path.stat()
        except OSError as missing:
            return missing.errno
        return (seen.st_mtime_ns, seen.st_size, seen.st_ino, seen.st_mode, seen.st_uid)


def _text(path: Path) -> str:
    """The file's text, empty where there is none. Ours alone: it may name a command."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as refused:
        raise _error(path, [(0, f"cannot be read: {refused.strerror}")]) from refused
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise _error(path, [(0, "is no file")])
        if found.st_uid not in (os.getuid(), 0) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ConfigError(
                f"{path}: others may write it, so it is not read",
                hint=f"chmod 600 {path}, and see that it is yours",
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
    told = (f"{path}:{line}: {what}" if line else f"{path}: {what}" for line, what in mistakes)
    return ConfigError("\n".join(told), hint="docs/guards.md has every setting")


_AT = re.compile(r" \(at line (\d+), column \d+\)$")


def _toml_line(wrong: tomllib.TOMLDecodeError, text: str) -> int:
    found = _AT.search(str(wrong))
    return int(found[1]) if found else text.count("\n") + 1


def _toml_words(wrong: tomllib.TOMLDecodeError) -> str:
    return _AT.sub("", str(wrong)).removesuffix(" (at end of document)")


def _mistake(error: Any, text: str) -> tuple[int, str]:
    """Line and words of one of pydantic's."""
    keys = [str(part) for part in error["loc"] if isinstance(part, str)][:2]
    name = safe_line(".".join(keys), 80)
    line = _line_of(keys, text)
    if error["type"] == "extra_forbidden":
        return line, f"{name} is not a setting.{_meant(keys)}"
    said = error.get("ctx", {}).get("error") or error["msg"]
    return line, f"{name}: {safe_line(said, 200)}"


def _meant(keys: list[str]) -> str:
    fields = UserConfig.model_fields
    known = [f"{one}.{key}" for one in fields for key in fields[one].default.__class__.model_fields]
    wrong = ".".join(keys)
    near = difflib.get_close_matches(wrong[:80], [*known, *fields], n=1, cutoff=0.6)
    if not near:
        near = [one for one in known if one.endswith(f".{keys[-1]}")][:1]
    return f" Did you mean {near[0]}?" if near else ""


_TABLE = re.compile(r"\s*\[\s*([\w.-]+)\s*\]")
_KEY = re.compile(r"\s*([\w.\"'-]+)\s*=")


def _line_of(keys: list[str], text: str) -> int:
    """Where a setting stands, or its section; tomllib does not tell."""
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
