"""Triton's cache of compiled kernels, kept in the home in a folder for each set of versions.

A worker then compiles nothing that an earlier one has compiled, whatever becomes of the folders in
which Triton and other programs keep theirs. Triton's own keys have its version and the kernels'
source; the folder's name has versions, so that those of earlier ones can be removed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import MutableMapping, Sequence
from importlib import metadata
from pathlib import Path

from workbench.home import Home

VARIABLE = "TRITON_CACHE_DIR"
"""Environment variable that names Triton's cache; Triton reads it whenever it compiles or loads."""
KEYED_BY = ("triton", "torch")
"""Packages whose versions name the folder."""
LIMIT_BYTES = 1 << 30
"""Bytes above which the kernels that were compiled longest ago are removed."""


def kernel_folder(home: Home, packages: Sequence[str] = KEYED_BY) -> Path | None:
    """Return the folder for kernels of the installed versions; None where a package is missing."""
    try:
        return home.kernels / "-".join(f"{name}-{metadata.version(name)}" for name in packages)
    except metadata.PackageNotFoundError:
        return None


def use_kernel_cache(
    home: Home,
    env: MutableMapping[str, str] = os.environ,
    packages: Sequence[str] = KEYED_BY,
) -> None:
    """Let Triton keep its kernels in the home.

    A user's own TRITON_CACHE_DIR stays, and so does Triton's default where the home was not made
    yet, or is mounted `noexec`: Triton loads programs from its cache.
    """
    folder = kernel_folder(home, packages)
    if folder is None or VARIABLE in env or not home.cache.is_dir():
        return
    if not os.statvfs(home.root).f_flag & os.ST_NOEXEC:
        env[VARIABLE] = str(folder)


def prune_kernels(
    home: Home, limit_bytes: int = LIMIT_BYTES, packages: Sequence[str] = KEYED_BY
) -> None:
    """Remove kernels of other versions, and above `limit_bytes` those compiled longest ago.

    Called while no worker runs; a training without the engine may compile meanwhile. A kernel that
    cannot be removed stays.
    """
    current = kernel_folder(home, packages)
    for folder in _folders(home.kernels):
        if folder != current:
            shutil.rmtree(folder, ignore_errors=True)
    kernels = _folders(current) if current is not None else []
    total = 0
    for _, size, kernel in sorted(map(_age_and_size, kernels)):
        total += size
        if total > limit_bytes:
            shutil.rmtree(kernel, ignore_errors=True)


def _age_and_size(kernel: Path) -> tuple[float, int, Path]:
    """Return minus its time of change, its bytes and the folder; one that is being written or
    removed counts as the newest.
    """
    try:
        size = sum(file.stat().st_size for file in kernel.iterdir())
        return -kernel.stat().st_mtime, size, kernel
    except OSError:
        return float("-inf"), 0, kernel


def _folders(parent: Path) -> list[Path]:
    try:
        return [one for one in parent.iterdir() if one.is_dir()]
    except OSError:
        return []
