"""The cards of this machine that we may use, and the properties of each.

CUDA_VISIBLE_DEVICES restricts the GPUs as it does for CUDA. WORKBENCH_CARDS caps the memory of
GPUs, or replaces them by CPU cards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self

from workbench.errors import NotThere, UsageError, WorkbenchError
from workbench.machine.nvml import Driver, DriverProblem, GpuFacts, NvmlDriver
from workbench.machine.resources import total_memory, usable_cores
from workbench.text import safe_line

CARDS_VARIABLE = "WORKBENCH_CARDS"
MOST_CPU_CARDS = 8
"""Most CPU cards that are made by default on a machine without GPU; a user may name more."""
CPU_MEMORY_SHARE = 0.8
"""Share of the machine's memory that CPU cards divide among them; the rest is for the system and
the engine."""
CAP_SLACK_BYTES = 300 << 20
"""Bytes left free below a user's cap, for what the driver allocates outside torch's allocator."""
LEAST_CARD_BYTES = 64 << 20
"""A card with fewer bytes is refused: most likely the unit was forgotten."""
GPU_START_GAP_S = 0.5
"""Seconds between two starts of GPUs that are at rest, unless the user sets another. It is chosen,
not measured: a card takes up load within a fraction of it, and a sweep of two cards ends later by
all of it."""
_EXAMPLE = f"e.g. {CARDS_VARIABLE}=GPU-6f1=24GiB, or {CARDS_VARIABLE}=cpu:8GiB,cpu:8GiB"


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One accelerator; on a machine without GPU, a CPU card that stands for some of its cores."""

    uuid: str
    """`GPU-…` as NVML reports it, or `cpu-0`, `cpu-1`, …"""
    kind: Literal["cuda", "cpu"]
    name: str
    total_bytes: int
    capability: tuple[int, int] | None = None
    """CUDA compute capability, e.g. (8, 6) for a 3090; None on a CPU card."""
    cap_bytes: int | None = None
    """The user's limit from WORKBENCH_CARDS; the planner and the worker stay below it."""

    @property
    def usable_bytes(self) -> int:
        """The card's bytes, or the user's limit if that is lower."""
        return min(self.total_bytes, self.cap_bytes or self.total_bytes)

    @property
    def plan_key(self) -> tuple[object, ...]:
        """The facts on which plans depend: cards with equal keys get equal plans and refusals."""
        return (self.kind, self.name, self.total_bytes, self.cap_bytes, self.capability)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        capability = data.get("capability")
        return cls(**{**data, "capability": tuple(capability) if capability else None})


def is_elsewhere(uuid: str) -> bool:
    """Return whether the card is another machine's of the cluster: those are called `box:card`."""
    return ":" in uuid


def machine_of(uuid: str) -> str:
    """Return the name of the card's box; an empty string for a card of this machine."""
    return uuid.partition(":")[0] if is_elsewhere(uuid) else ""


def detect_cards(env: Mapping[str, str], driver: Driver | None = None) -> list[Card]:
    """Return the cards we may use: GPUs within CUDA_VISIBLE_DEVICES, or CPU cards without any GPU.

    NVML takes about 10 ms and can hang if the driver is broken, so call this from a child process.
    Raises UsageError for a variable that cannot be parsed, NotThere if it names a missing card, and
    WorkbenchError if there is a driver that fails.
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
    """Return the cards we may use, from the driver's facts in the order of the PCI bus.

    A GPU that is divided into MIG slices is left out. Raises as `detect_cards` does.
    """
    entries = [part.strip() for part in env.get(CARDS_VARIABLE, "").split(",") if part.strip()]
    if _names_cpu_cards(env):
        return [_named_cpu(index, entry) for index, entry in enumerate(entries)]
    cards = [_gpu_card(fact) for fact in visible_gpus(env, facts) if not fact.mig]
    for entry in entries:
        cards = _cap(cards, entry)
    # Machines without a usable GPU run the demo on CPU cards.
    return cards or cpu_cards()


def visible_gpus(env: Mapping[str, str], facts: Sequence[GpuFacts]) -> list[GpuFacts]:
    """Return the GPUs that CUDA_VISIBLE_DEVICES allows: all if it is unset, none if it is empty.

    It is read as CUDA reads it: indices or UUID prefixes, and everything from the first unknown one
    on is ignored. CUDA gives number 0 to the fastest card unless CUDA_DEVICE_ORDER is PCI_BUS_ID,
    while NVML numbers by bus; raises UsageError if an index could therefore mean two cards.
    """
    named = env.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return list(facts)
    chosen: list[GpuFacts] = []
    for token in (part.strip() for part in named.split(",")):
        found = _named(token, facts)
        # CUDA itself ignores everything from the first unknown entry on.
        if found is None:
            break
        if found not in chosen:  # `0,0` or an index and a UUID of one card: it is still one card
            chosen.append(found)
    # Naming all cards is unambiguous in any order; only a part of them is not.
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
    """Return CPU cards: one for two cores and at least two, which divide the memory equally."""
    count = count or min(max(2, usable_cores() // 2), MOST_CPU_CARDS)
    share = int((memory_bytes or total_memory()) * CPU_MEMORY_SHARE) // count
    return [_cpu_card(index, share) for index in range(count)]


_SIZE = re.compile(r"\s*(\d{1,15}(?:\.\d{1,9})?)\s*([KMGT]?)(iB|B)?\s*\Z", re.IGNORECASE)


def parse_bytes(text: str) -> int:
    """Parse a size: `24GiB`, `24G` and `24 gib` are 24 × 2³⁰, `24GB` is 24 × 10⁹, `512` is 512.

    Raises UsageError for anything else, and for 0.
    """
    found = _SIZE.match(text[:40])
    if found is None or float(found[1]) <= 0:
        raise UsageError(
            f"{safe_line(text, 40)!r} is no size", hint="write it like 24GiB or 512MiB"
        )
    power = " KMGT".index(found[2].upper() or " ")
    # `GB` is decimal, a bare `G` is what people use for GiB.
    base = 1000 if found[2] and (found[3] or "").upper() == "B" else 1024
    return max(1, int(float(found[1]) * base**power))


def card_bytes(text: str) -> int:
    """Parse the size of a card, as `parse_bytes` does.

    Raises UsageError also for a size below LEAST_CARD_BYTES.
    """
    size = parse_bytes(text)
    if size < LEAST_CARD_BYTES:
        raise UsageError(
            f"{safe_line(text, 40)!r} is {size:,} bytes, too little for a card",
            hint="write it with its unit, like 24GiB",
        )
    return size


def _names_cpu_cards(env: Mapping[str, str]) -> bool:
    return env.get(CARDS_VARIABLE, "").lstrip(", ").startswith("cpu")


def _named_cpu(index: int, entry: str) -> Card:
    kind, colon, size = entry.partition(":")
    if kind != "cpu" or not colon:
        wrong = "has no size" if kind == "cpu" else "is no CPU card like the one before it"
        raise UsageError(f"{CARDS_VARIABLE}: {safe_line(entry, 40)!r} {wrong}", hint=_EXAMPLE)
    return _cpu_card(index, _size(entry, size))


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


def _cap(cards: list[Card], entry: str) -> list[Card]:
    prefix, equals, size = entry.partition("=")
    prefix = prefix.strip()
    if not equals or not prefix:
        raise UsageError(f"{CARDS_VARIABLE}: cannot read {safe_line(entry, 40)!r}", hint=_EXAMPLE)
    cap = _size(entry, size)
    there = ", ".join(f"{card.uuid[:12]} ({card.name})" for card in cards) or "no GPU"
    meant = [card for card in cards if card.uuid.lower().startswith(prefix.lower())]
    if not meant:
        what = f"{CARDS_VARIABLE}: there is no card {safe_line(prefix, 60)}"
        raise NotThere(what, hint=f"there is {there}")
    if len(meant) > 1:
        what = f"{CARDS_VARIABLE}: {safe_line(prefix, 60)} names {len(meant)} cards"
        raise UsageError(what, hint=f"give more of the UUID; there is {there}")
    if meant[0].cap_bytes is not None:
        what = f"{CARDS_VARIABLE}: {safe_line(prefix, 60)} is a card that was capped already"
        raise UsageError(what, hint="name each card once, with one size")
    return [replace(card, cap_bytes=cap) if card is meant[0] else card for card in cards]


def _size(entry: str, size: str) -> int:
    try:
        return card_bytes(size)
    except UsageError as unread:
        what = f"{CARDS_VARIABLE}: {unread.what} in {safe_line(entry, 40)!r}"
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
