"""Memory and CPU cores of this machine, or of the container that we run in (Linux, cgroup v2).

Functions with a `root` read `proc` and `sys` below it, so that tests can lay out a machine.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
from contextlib import suppress
from pathlib import Path


def total_memory(root: Path = Path("/")) -> int:
    """Return the bytes of memory of the machine, or the container's limit if that is lower."""
    return min(_meminfo(root, "MemTotal"), _container(root, "memory.max") or 1 << 62)


def available_memory(root: Path = Path("/")) -> int:
    """Return the bytes of memory that can be allocated now, within the container's limit."""
    free = _meminfo(root, "MemAvailable")
    limit = _container(root, "memory.max")
    # The kernel counts cached files as used by the container, yet drops them on demand.
    taken = (_container(root, "memory.current") or 0) - _file_cache(root)
    return free if limit is None else max(0, min(free, limit - max(0, taken)))


def resident_bytes() -> int:
    """Return the resident bytes of this process, or their peak if there is no /proc."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def release_free_memory() -> None:
    """Return memory that this process has freed, but still holds, to the operating system."""
    gc.collect()
    with suppress(OSError, AttributeError):  # only glibc has malloc_trim
        ctypes.CDLL(None).malloc_trim(0)


def usable_cores() -> int:
    """Return the number of CPU cores that this process may run on, at least 1."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def _meminfo(root: Path, field: str) -> int:
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith(f"{field}:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration, ValueError, IndexError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _container(root: Path, field: str) -> int | None:
    """Return a figure of the container's memory (cgroup v2), or None if there is no limit."""
    try:
        return int((root / "sys/fs/cgroup" / field).read_text())
    except (OSError, ValueError):  # no such file, or "max"
        return None


def _file_cache(root: Path) -> int:
    """Return the bytes of the container's memory that hold cached files."""
    try:
        lines = (root / "sys/fs/cgroup/memory.stat").read_text().splitlines()
        stat = {name: int(value) for name, value in (line.split() for line in lines)}
    except (OSError, ValueError):
        return 0
    return stat.get("inactive_file", 0) + stat.get("active_file", 0)
