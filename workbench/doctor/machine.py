"""Checks of the home, the disk, the temp folder, the terminal and the hub, in this process."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from workbench.doctor.check import Check
from workbench.errors import WorkbenchError
from workbench.formatting import guards_line, size
from workbench.home import (
    RAY_TEMP_CHARACTERS,
    SHORT_TEMP_HINT,
    Home,
    lock_warning,
    private_temp,
    read_sink_problem,
)
from workbench.machine.locks import SHARED_FOLDERS, shared_folder
from workbench.machine.packages import KERNEL_PACKAGES, PackageProblem, package_problems

GIB = 1 << 30
LOW_DISK_BYTES, LITTLE_DISK_BYTES = 5 * GIB, 40 * GIB
"""Free bytes below which `doctor` fails, and warns. An 8B model with some trials needs the
second."""
RAY_FOLDER_CHARACTERS = 10
"""Characters that the folder of a Ray head adds to the temp folder."""


def check_python() -> Check:
    """Report Python's version. It is always ok: older versions cannot import this module."""
    version = f"{platform.python_version()} at {sys.executable}"
    return Check(name="python", status="ok", finding=version)


def check_packages(problems: Sequence[PackageProblem] | None = None) -> Check:
    """Check that the installed packages go together, and are within our own bounds."""
    found = package_problems() if problems is None else problems
    if not found:
        return Check(name="packages", status="ok", finding="all within the versions that work")
    return Check(
        name="packages",
        status="fail" if any(one.breaks for one in found) else "warn",
        finding="; ".join(one.what for one in found),
        hint="; ".join(one.hint for one in found),
    )


def check_home(home: Home) -> Check:
    """Check that the home is writable and closed to other users. Creates nothing."""
    root = home.root
    there = _existing(root)
    if not os.access(there, os.W_OK | os.X_OK) or not there.is_dir():
        hint = "set WORKBENCH_HOME to a folder of yours"
        return Check(name="home", status="fail", finding=f"{there} is not writable", hint=hint)
    # Nothing to judge yet: the home does not exist.
    if there != root:
        return Check(name="home", status="ok", finding=f"{root}, created at the first run")
    mode = root.stat().st_mode & 0o777
    if mode & 0o077:
        finding = f"{root} is open to others (mode {mode:o})"
        return Check(name="home", status="warn", finding=finding, hint=f"chmod 700 {root}")
    return Check(name="home", status="ok", finding=f"{root}, yours alone")


def check_config(path: Path | None = None) -> Check:
    """Check the user's configuration file, and report the limits of the guards."""
    from workbench.home import config_file
    from workbench.user_config import read_user_config

    path = path or config_file()
    try:
        guards = read_user_config(path).guards.model_dump()
    except WorkbenchError as wrong:
        return Check(name="configuration", status="warn", finding=wrong.what, hint=wrong.hint)
    where = str(path) if path.exists() else f"none at {path}; the defaults apply"
    return Check(name="configuration", status="ok", finding=f"{where}; {guards_line(guards)}")


def check_sinks(home: Home, path: Path | None = None) -> Check:
    """Check that trials are logged to every sink of the configuration."""
    from workbench.user_config import read_user_config

    name = "logging elsewhere"
    try:
        sinks = list(read_user_config(path).sinks())
    except WorkbenchError:  # the check of the configuration has said so
        sinks = []
    for sink in sinks:
        if find_spec(sink) is None:
            hint = f"pip install 'qlora-workbench[{sink}]'"
            return Check(name=name, status="warn", finding=f"{sink} is not installed", hint=hint)
        if (problem := read_sink_problem(home, sink))[0]:
            finding = f"{sink}: {problem[0]}"
            hint = problem[1] or f"see {home.logs / f'sink-{sink}.log'}"
            return Check(name=name, status="warn", finding=finding, hint=hint)
    return Check(name=name, status="ok", finding=f"to {', '.join(sinks)}" if sinks else "none")


def check_kernels() -> Check:
    """Check which kernels for some models' layers are installed; most models need none."""
    missing = [name for name, module in KERNEL_PACKAGES.items() if find_spec(module) is None]
    if not missing:
        return Check(name="model kernels", status="ok", finding=", ".join(KERNEL_PACKAGES))
    finding = (
        f"without {', '.join(missing)}: models with linear attention or state-space layers train "
        "much slower and with more memory, and Qwen 3.5 answers slower; others need none"
    )
    return Check(name="model kernels", status="ok", finding=finding)


def check_disk(home: Home) -> Check:
    """Check that the home's disk has room for a model and some trials."""
    free, floor = shutil.disk_usage(_existing(home.root)).free, _disk_floor_bytes()
    finding = f"{free / GIB:.0f} GiB free at {home.root}"
    hint = "free some space, or set WORKBENCH_HOME to a folder on a larger disk"
    if free < floor:
        finding += f", below {size(floor)} (guards.disk_floor): nothing new starts"
        return Check(name="disk", status="fail", finding=finding, hint=hint)
    if free < LOW_DISK_BYTES:
        return Check(name="disk", status="fail", finding=finding, hint=hint)
    if free < LITTLE_DISK_BYTES:
        finding += "; an 8B model alone takes 16"
        return Check(name="disk", status="warn", finding=finding, hint=hint)
    return Check(name="disk", status="ok", finding=finding)


def _disk_floor_bytes() -> int:
    """Return the free bytes below which the engine starts nothing."""
    from workbench.user_config import Guards, read_user_config

    try:
        return read_user_config().guards.disk_floor
    except WorkbenchError:  # the check of the configuration has said so
        return Guards().disk_floor


def check_temp() -> Check:
    """Check that the temp folder is writable, and short enough for the paths of Ray's sockets."""
    name = "temp folder"
    hint = SHORT_TEMP_HINT
    try:
        folder = private_temp()
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, WorkbenchError) as refused:
        finding = f"{tempfile.gettempdir()}: {refused}"
        return Check(name=name, status="fail", finding=finding, hint=hint)
    # A socket path beyond 107 bytes makes Ray fail with an unrelated message.
    characters = len(str(folder)) + RAY_FOLDER_CHARACTERS
    if characters > RAY_TEMP_CHARACTERS:
        finding = f"{folder} makes paths of {characters} characters; {RAY_TEMP_CHARACTERS} fit"
        return Check(name=name, status="fail", finding=finding, hint=hint)
    return Check(name=name, status="ok", finding=f"{folder}, yours alone")


def check_locks(folders: tuple[Path, ...] = SHARED_FOLDERS) -> Check:
    """Check that GPUs are locked where all users of the machine see it."""
    folder = shared_folder(folders)
    if warning := lock_warning(folder):
        words = " or ".join(map(str, folders))
        hint = f"let an administrator make {words} a sticky folder for all: chmod 1777"
        return Check(name="gpu locks", status="warn", finding=warning, hint=hint)
    return Check(name="gpu locks", status="ok", finding=f"in {folder}, for all users")


def check_terminal(env: Mapping[str, str]) -> Check:
    """Check that the terminal is large enough for the TUI, and that TERM is set."""
    name = "terminal"
    if not sys.stdout.isatty():
        return Check(name=name, status="ok", finding="output goes to a file or a pipe")
    columns, lines = shutil.get_terminal_size()
    finding = f"{columns}×{lines}, {_colours(env)}"
    if columns < 80 or lines < 24:
        return Check(name=name, status="warn", finding=finding, hint="make it 80×24 or larger")
    if env.get("TERM", "dumb") == "dumb":
        hint = "set TERM, e.g. TERM=xterm-256color"
        return Check(name=name, status="warn", finding=f"{finding}, TERM is not set", hint=hint)
    return Check(name=name, status="ok", finding=finding)


def check_hub(env: Mapping[str, str]) -> Check:
    """Check that there is a token for gated models; the token itself is never read or shown."""
    name = "hugging face"
    # The order of huggingface_hub: HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME.
    user_cache = Path(env.get("XDG_CACHE_HOME") or Path(env.get("HOME") or "~", ".cache"))
    cache = Path(env.get("HF_HOME") or user_cache.expanduser() / "huggingface")
    hub = Path(env.get("HF_HUB_CACHE") or cache / "hub")
    kept = f"cache at {hub}" if hub.is_dir() else f"nothing cached yet at {hub}"
    if env.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return Check(name=name, status="ok", finding=f"{kept}; offline by HF_HUB_OFFLINE")
    file = Path(env.get("HF_TOKEN_PATH") or cache / "token")
    if env.get("HF_TOKEN") or file.is_file():
        return Check(name=name, status="ok", finding=f"{kept}; a token is there")
    return Check(
        name=name,
        status="warn",
        finding=f"{kept}; no token, so gated models such as Llama cannot be downloaded",
        hint="run `hf auth login` once",
    )


def _existing(path: Path) -> Path:
    """Return `path`, or its nearest parent that exists."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _colours(env: Mapping[str, str]) -> str:
    if env.get("NO_COLOR"):
        return "no colours (NO_COLOR)"
    if env.get("COLORTERM") in ("truecolor", "24bit"):
        return "16 million colours"
    return "256 colours" if "256" in env.get("TERM", "") else "16 colours"
