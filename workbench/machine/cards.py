"""What cards there are and what each can do."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from workbench.errors import NotThere, UsageError, WorkbenchError
from workbench.machine.nvml import Driver, DriverProblem, GpuFacts, NvmlDriver
from workbench.text import safe_line

CARDS_VARIABLE = "WORKBENCH_CARDS"
MOST_CPU_CARDS = 8
"""Made by themselves on a machine without GPU; a person may name more."""
CPU_MEMORY_SHARE = 0.8
"""Of the machine's memory, shared by CPU cards; the rest is the system's and the engine's."""
CAP_SLACK_BYTES = 300 << 20
"""Left free below a person's cap, for what the driver takes outside the allocator."""
LEAST_CARD_BYTES = 64 << 20
"""Less is a number whose unit was forgotten."""
_EXAMPLE = f"e.g. {CARDS_VARIABLE}=GPU-6f1=24GiB, or {CARDS_VARIABLE}=cpu:8GiB,cpu:8GiB"


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One accelerator, or a stand-in made of CPU cores on a machine that has none."""

    uuid: str
    """`GPU-…` as NVML gives it, or `cpu-0`, `cpu-1`, …"""
    kind: Literal["cuda", "cpu"]
    name: str
    total_bytes: int
    capability: tuple[int, int] | None = None
    """CUDA compute capability, e.g. (8, 6) for a 3090; None on a CPU card."""
    cap_bytes: int | None = None
    """The person's own limit (WORKBENCH_CARDS); the planner and the worker keep below it."""

    @property
    def usable_bytes(self) -> int:
        return min(self.total_bytes, self.cap_bytes or self.total_bytes)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        capability = data.get("capability")
        return cls(**{**data, "capability": tuple(capability) if capability else None})


def detect_cards(env: Mapping[str, str], driver: Driver | None = None) -> list[Card]:
    """The cards we may use: GPUs within CUDA_VISIBLE_DEVICES, capped by WORKBENCH_CARDS; else CPU.

    Asks NVML, which takes some ten ms and can hang with a broken driver: call it from a child.
    UsageError for a variable that cannot be read, NotThere for a card it names that is not there,
    WorkbenchError for a driver that is there and fails.
    """
    if _names_cpu_cards(env):
        return cards_from(env, [])
    try:
        facts = (driver or NvmlDriver()).gpus()
    except DriverProblem as broken:
        raise WorkbenchError(
            f"NVIDIA's driver does not answer: {safe_line(broken, 200)}",
            hint=f"see `workbench doctor`; {CARDS_VARIABLE}=cpu:8GiB works without GPU meanwhile",
        ) from broken
    return cards_from(env, facts)


def cards_from(env: Mapping[str, str], facts: Sequence[GpuFacts]) -> list[Card]:
    """The same from given facts, which are in the order of the PCI bus."""
    wishes = [part.strip() for part in env.get(CARDS_VARIABLE, "").split(",") if part.strip()]
    if _names_cpu_cards(env):
        return [_wished_cpu(index, wish) for index, wish in enumerate(wishes)]
    cards = [_gpu_card(fact) for fact in visible(env, facts) if not fact.mig]
    for wish in wishes:
        cards = _cap(cards, wish)
    return cards or cpu_cards()


def visible(env: Mapping[str, str], facts: Sequence[GpuFacts]) -> list[GpuFacts]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves: all without it, none where it is empty.

    As CUDA reads it: indices or UUID prefixes, everything from the first unknown one on ignored.
    CUDA numbers the fastest card 0 unless CUDA_DEVICE_ORDER=PCI_BUS_ID; where that could mean
    another card than NVML's number, UsageError.
    """
    named = env.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return list(facts)
    chosen: list[GpuFacts] = []
    for token in (part.strip() for part in named.split(",")):
        found = _named(token, facts)
        if found is None:
            break
        chosen.append(found)
    by_index = any(token.strip().isdigit() for token in named.split(","))
    if by_index and len(chosen) < len(facts) and not _order_is_plain(env, facts):
        raise UsageError(
            f"CUDA_VISIBLE_DEVICES={safe_line(named, 80)} may mean other cards to CUDA than to the "
            "driver, because the cards differ",
            hint="set CUDA_DEVICE_ORDER=PCI_BUS_ID, or name cards by UUID: "
            + ", ".join(f"{fact.uuid[:12]} ({fact.name})" for fact in facts),
        )
    return chosen


def cpu_cards(count: int | None = None, memory_bytes: int | None = None) -> list[Card]:
    """Stand-ins for a machine without GPU: one for two cores, at least two, sharing the memory."""
    count = count or min(max(2, _cores() // 2), MOST_CPU_CARDS)
    share = int((memory_bytes or total_memory()) * CPU_MEMORY_SHARE) // count
    return [_cpu_card(index, share) for index in range(count)]


def total_memory(root: Path = Path("/")) -> int:
    """Bytes of memory of the machine, or of its container; `root` holds proc and sys."""
    return min(_meminfo(root, "MemTotal"), _container(root, "memory.max") or 1 << 62)


def available_memory(root: Path = Path("/")) -> int:
    """Bytes of memory to be had now, a container's limit counted."""
    free = _meminfo(root, "MemAvailable")
    limit = _container(root, "memory.max")
    taken = (_container(root, "memory.current") or 0) - _file_cache(root)
    return free if limit is None else max(0, min(free, limit - max(0, taken)))


def _meminfo(root: Path, field: str) -> int:
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith(f"{field}:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration, ValueError, IndexError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _container(root: Path, field: str) -> int | None:
    """A figure of the container's memory (cgroup v2); None without a limit."""
    try:
        return int((root / "sys/fs/cgroup" / field).read_text())
    except (OSError, ValueError):  # no such file, or "max"
        return None


def _file_cache(root: Path) -> int:
    """Of the container's memory, what holds files and is given back when it is wanted."""
    try:
        lines = (root / "sys/fs/cgroup/memory.stat").read_text().splitlines()
        stat = {name: int(value) for name, value in (line.split() for line in lines)}
    except (OSError, ValueError):
        return 0
    return stat.get("inactive_file", 0) + stat.get("active_file", 0)


_SIZE = re.compile(r"\s*(\d{1,15}(?:\.\d{1,9})?)\s*([KMGT]?)(iB|B)?\s*\Z", re.IGNORECASE)


def parse_bytes(text: str) -> int:
    """`24GiB`, `24G` and `24 gib` are 24 × 2³⁰, `24GB` is 24 × 10⁹, `512` is 512. UsageError."""
    found = _SIZE.match(text[:40])
    if found is None or float(found[1]) <= 0:
        raise UsageError(
            f"{safe_line(text, 40)!r} is no size", hint="write it like 24GiB or 512MiB"
        )
    power = " KMGT".index(found[2].upper() or " ")
    base = 1000 if found[2] and (found[3] or "").upper() == "B" else 1024
    return max(1, int(float(found[1]) * base**power))


def card_bytes(text: str) -> int:
    """A card's size, as parse_bytes reads it; UsageError also for what no card can be."""
    size = parse_bytes(text)
    if size < LEAST_CARD_BYTES:
        raise UsageError(
            f"{safe_line(text, 40)!r} is {size:,} bytes, too little for a card",
            hint="write it with its unit, like 24GiB",
        )
    return size


def _names_cpu_cards(env: Mapping[str, str]) -> bool:
    return env.get(CARDS_VARIABLE, "").lstrip(", ").startswith("cpu")


def _wished_cpu(index: int, wish: str) -> Card:
    kind, colon, size = wish.partition(":")
    if kind != "cpu" or not colon:
        raise UsageError(
            f"{CARDS_VARIABLE}: {safe_line(wish, 40)!r} is no CPU card like the one before it",
            hint=_EXAMPLE,
        )
    return _cpu_card(index, _size(wish, size))


def _cpu_card(index: int, total_bytes: int) -> Card:
    return Card(uuid=f"cpu-{index}", kind="cpu", name=f"CPU card {index}", total_bytes=total_bytes)


def _gpu_card(fact: GpuFacts) -> Card:
    return Card(
        uuid=fact.uuid,
        kind="cuda",
        name=safe_line(fact.name, 60),
        total_bytes=fact.total_bytes,
        capability=fact.capability,
    )


def _cap(cards: list[Card], wish: str) -> list[Card]:
    prefix, equals, size = wish.partition("=")
    prefix = prefix.strip()
    if not equals or not prefix:
        raise UsageError(f"{CARDS_VARIABLE}: cannot read {safe_line(wish, 40)!r}", hint=_EXAMPLE)
    cap = _size(wish, size)
    there = ", ".join(f"{card.uuid[:12]} ({card.name})" for card in cards) or "no GPU"
    meant = [card for card in cards if card.uuid.lower().startswith(prefix.lower())]
    if not meant:
        what = f"{CARDS_VARIABLE}: there is no card {safe_line(prefix, 60)}"
        raise NotThere(what, hint=f"there is {there}")
    if len(meant) > 1:
        what = f"{CARDS_VARIABLE}: {safe_line(prefix, 60)} names {len(meant)} cards"
        raise UsageError(what, hint=f"give more of the UUID; there is {there}")
    return [replace(card, cap_bytes=cap) if card is meant[0] else card for card in cards]


def _size(wish: str, size: str) -> int:
    try:
        return card_bytes(size)
    except UsageError as unread:
        what = f"{CARDS_VARIABLE}: {unread.what} in {safe_line(wish, 40)!r}"
        raise UsageError(what, hint=_EXAMPLE) from unread


def _named(token: str, facts: Sequence[GpuFacts]) -> GpuFacts | None:
    if token.isascii() and token.isdigit():
        return facts[int(token)] if len(token) < 6 and int(token) < len(facts) else None
    if not token.startswith("GPU-"):  # MIG slices are left alone
        return None
    return next((fact for fact in facts if fact.uuid.startswith(token)), None)


def _order_is_plain(env: Mapping[str, str], facts: Sequence[GpuFacts]) -> bool:
    alike = len({(fact.name, fact.total_bytes) for fact in facts}) <= 1
    return alike or env.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 2
