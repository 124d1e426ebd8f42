"""Write the readings of all cards to a file: `python -m workbench.machine.sampler OUT.json`.

This is a process of its own, because a query to a broken driver can hang forever. The file then
grows old, and its reader notices that. The process ends with its parent.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from workbench import fault_points
from workbench.errors import WorkbenchError
from workbench.machine.cards import CARDS_VARIABLE, Card, cards_from
from workbench.machine.history.writer import HistoryWriter, Readings
from workbench.machine.nvml import Driver, DriverProblem, GpuFacts, NoDriver, NvmlDriver
from workbench.machine.processes import die_with_parent
from workbench.machine.resources import available_memory
from workbench.text import safe_line

DEADLINE_S = 10.0
"""A reading older than this is not used: the sampler hangs or has ended."""
XIDS_KEPT = 16
"""Newest Xid errors of a card in every reading, so that a reader who skips some misses none."""
LOST_TWICE = 2
"""Readings in a row without a card before it counts as lost; a single one may be a glitch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process that uses a card."""

    pid: int
    bytes: int | None
    """Bytes on the card; None if the driver does not report them."""
    name: str = ""
    """Name of the program; empty if it is outside our pid namespace, as seen from a container."""
    draws: bool = False
    """True if the process only draws, as a desktop does."""
    utilisation: int | None = None
    """Highest percent of the card that it kept busy since the last reading; None if the driver does
    not tell processes apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardReading:
    """The readings of one card at one moment; None for a value that it does not report."""

    card: Card
    free_bytes: int
    used_bytes: int
    index: int | None = None
    """Its number in nvidia-smi; None on a CPU card."""
    bus: str = ""
    """Its slot on the PCI bus; empty on a CPU card."""
    utilisation: int | None = None
    """Percent of the last sampling period in which the card was busy."""
    temperature_c: int | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    energy_j: float | None = None
    """Joules since the driver was loaded."""
    ecc_errors: int | None = None
    """Uncorrectable memory errors since the driver was loaded."""
    processes: tuple[Process, ...] = ()
    xid_watch: bool | None = None
    """True if the driver reports the card's Xid errors to us; None on a CPU card."""
    xids: tuple[tuple[float, int], ...] = ()
    """(seconds since the epoch, code) of the last Xid errors, newest last."""
    lost: bool = False
    """True if the driver works and no longer finds this card."""
    problem: str = ""
    """The reason why the card cannot be used; empty while it can."""

    @property
    def ok(self) -> bool:
        """True while the card can be used."""
        return not self.problem

    def to_json(self) -> dict[str, Any]:
        return {
            **self.card.to_json(),
            "free_bytes": self.free_bytes,
            "used_bytes": self.used_bytes,
            "index": self.index,
            "bus": self.bus,
            "utilisation": self.utilisation,
            "temperature_c": self.temperature_c,
            "power_w": self.power_w,
            "power_limit_w": self.power_limit_w,
            "energy_j": self.energy_j,
            "ecc_errors": self.ecc_errors,
            "processes": [asdict(process) for process in self.processes],
            "xid_watch": self.xid_watch,
            "xids": self.xids,
            "lost": self.lost,
            "ok": self.ok,
            "problem": self.problem,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        card = {key: data[key] for key in Card.__dataclass_fields__}
        return cls(
            card=Card.from_json(card),
            free_bytes=int(data["free_bytes"]),
            used_bytes=int(data["used_bytes"]),
            index=data.get("index"),
            bus=str(data.get("bus", "")),
            utilisation=data["utilisation"],
            temperature_c=data["temperature_c"],
            power_w=data["power_w"],
            power_limit_w=data["power_limit_w"],
            energy_j=data["energy_j"],
            ecc_errors=data["ecc_errors"],
            processes=tuple(Process(**each) for each in data["processes"]),
            xid_watch=data["xid_watch"],
            xids=tuple((float(at), int(code)) for at, code in data["xids"]),
            lost=bool(data["lost"]),
            problem=str(data["problem"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineReading:
    """The readings of all cards at one moment."""

    at_utc: float
    cards: tuple[CardReading, ...]
    driver: str = ""
    """Version of NVIDIA's driver; empty without one."""
    problem: str = ""
    """The reason why the cards could not be read; empty if they could."""
    stalled: bool = False
    """True if the reading is too old to be used."""

    def to_json(self) -> dict[str, Any]:
        return {
            "at_utc": self.at_utc,
            "cards": [card.to_json() for card in self.cards],
            "driver": self.driver,
            "problem": self.problem,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        return cls(
            at_utc=float(data["at_utc"]),
            cards=tuple(CardReading.from_json(each) for each in data["cards"]),
            driver=str(data["driver"]),
            problem=str(data["problem"]),
        )


def load_reading(path: Path, now: float, deadline_s: float = DEADLINE_S) -> MachineReading:
    """Load the newest reading from the sampler's file.

    It is `stalled` if it is older than the deadline, missing or damaged. Raises nothing.
    """
    try:
        reading = MachineReading.from_json(json.loads(path.read_bytes()))
        age_s = now - reading.at_utc
        if age_s <= deadline_s:
            return reading
        problem = f"no reading of the cards for {age_s:.0f} s; the driver may hang"
        return replace(reading, problem=problem, stalled=True)
    except FileNotFoundError:
        problem = "the cards have not been read yet"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as broken:
        problem = f"the file of card readings cannot be read: {type(broken).__name__}"
    return MachineReading(at_utc=0.0, cards=(), problem=problem, stalled=True)


class Sampler:
    """A source of readings that remembers the cards it has seen, so that a lost card is reported
    and does not silently disappear."""

    def __init__(self, env: Mapping[str, str], driver: Driver, root: Path = Path("/")) -> None:
        self._env = env
        self._driver = driver
        self._root = root
        self._seen: dict[str, Card] = {}
        self._missed: dict[str, int] = {}
        self._xids: dict[str, tuple[tuple[float, int], ...]] = {}
        self._jiffies = (0, 0)

    def take(self, now: float) -> MachineReading:
        """Take one reading of all cards. Raises nothing; failures are in the reading."""
        fault_points.at("sampler.asking")
        try:
            facts = self._driver.gpus()
            version = self._driver.version()
            cards = cards_from(self._env, facts)
        except DriverProblem as broken:
            return self._failed(now, str(broken))
        except WorkbenchError as wrong:
            return self._failed(now, f"{wrong.what} ({wrong.hint})")
        if any(card.kind == "cuda" for card in self._seen.values()):  # lost GPUs get no stand-ins
            cards = [card for card in cards if card.kind == "cuda"]
        for card in cards:
            self._seen.setdefault(card.uuid, card)
        by_uuid = {fact.uuid: fact for fact in facts}
        utilisation = self._cpu_utilisation()
        readings = tuple(
            self._cpu(card, utilisation)
            if card.kind == "cpu"
            else self._gpu(card, by_uuid.get(uuid), now)
            for uuid, card in self._seen.items()
        )
        return MachineReading(at_utc=now, cards=readings, driver=version)

    def _failed(self, now: float, problem: str) -> MachineReading:
        lost = tuple(
            CardReading(
                card=card,
                free_bytes=0,
                used_bytes=0,
                xids=self._xids.get(uuid, ()),
                problem=safe_line(problem),
            )
            for uuid, card in self._seen.items()
        )
        return MachineReading(at_utc=now, cards=lost, problem=safe_line(problem))

    def _gpu(self, card: Card, fact: GpuFacts | None, now: float) -> CardReading:
        # A single miss can be a driver that is busy, e.g. while another process resets a card.
        gone = fact is None or fact.lost
        missed = self._missed[card.uuid] = self._missed.get(card.uuid, 0) + 1 if gone else 0
        fresh = [(round(now, 3), code) for code in (fact.xids if fact else ())]
        xids = self._xids[card.uuid] = (*self._xids.get(card.uuid, ()), *fresh)[-XIDS_KEPT:]
        reading = CardReading(
            card=card, free_bytes=0, used_bytes=0, xids=xids, lost=missed >= LOST_TWICE
        )
        if fact is None:
            why = "gone from the bus: the driver no longer lists it; check power, then reboot"
            return replace(reading, problem=why)
        return replace(
            reading,
            free_bytes=fact.free_bytes,
            used_bytes=fact.used_bytes,
            index=fact.index,
            bus=safe_line(fact.bus, 40),
            utilisation=fact.utilisation,
            temperature_c=fact.temperature_c,
            power_w=fact.power_w,
            power_limit_w=fact.power_limit_w,
            energy_j=fact.energy_j,
            ecc_errors=fact.ecc_errors,
            processes=(
                *(self._process(pid, size, False, fact) for pid, size in fact.processes),
                *(self._process(pid, size, True, fact) for pid, size in fact.graphics),
            ),
            xid_watch=fact.xid_watch,
            problem=safe_line(fact.problem),
        )

    def _process(self, pid: int, size: int | None, draws: bool, fact: GpuFacts) -> Process:
        """Return a process with the name of its program.

        Its arguments are not read, because they may contain secrets.
        """
        try:
            name = safe_line((self._root / f"proc/{pid}/comm").read_text(errors="replace"), 40)
        except OSError:
            name = ""
        busy = None if fact.computing is None else dict(fact.computing).get(pid, 0)
        return Process(pid=pid, bytes=size, name=name, draws=draws, utilisation=busy)

    def _cpu(self, card: Card, utilisation: int | None) -> CardReading:
        free = min(card.total_bytes, available_memory(self._root))
        return CardReading(
            card=card,
            free_bytes=free,
            used_bytes=card.total_bytes - free,
            utilisation=utilisation,
        )

    def _cpu_utilisation(self) -> int | None:
        """Return the percentage of busy core time since the last reading, shared by all CPU cards.

        None at the first call, and where /proc/stat cannot be read.
        """
        try:
            line = (self._root / "proc/stat").read_text().split("\n", 1)[0]
            times = [int(each) for each in line.split()[1:9]]
            idle, total = times[3] + times[4], sum(times)
        except (OSError, ValueError, IndexError):
            return None
        before, self._jiffies = self._jiffies, (idle, total)
        spent = total - before[1]
        return round(100 * (1 - (idle - before[0]) / spent)) if before[1] and spent > 0 else None


def write_reading(path: Path, reading: MachineReading) -> None:
    """Replace the file atomically: a reader sees the old reading or the new one."""
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    staged.write_text(json.dumps(reading.to_json()))
    staged.replace(path)


def history_of(reading: MachineReading) -> dict[str, Readings]:
    """Return what the history of each card keeps of a reading; a card with a problem has none."""
    return {
        one.card.uuid: (one.utilisation, one.used_bytes, one.power_w, one.temperature_c)
        for one in reading.cards
        if one.ok
    }


def main(arguments: list[str] | None = None) -> None:
    """Write a reading every few seconds until the parent ends; with --once, print one."""
    parser = argparse.ArgumentParser(prog="python -m workbench.machine.sampler")
    parser.add_argument("out", type=Path, nargs="?", default=Path("cards.json"))
    parser.add_argument("--once", action="store_true", help="print one sample and end")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between samples")
    parser.add_argument("--history", type=Path, help="file that gets a line for each minute")
    parser.add_argument("--parent", type=int, default=os.getppid(), help="ends with this process")
    options = parser.parse_args(arguments)
    os.umask(0o077)
    die_with_parent()
    # CPU cards need no driver, so a broken one must not matter to them.
    cpu_only = os.environ.get(CARDS_VARIABLE, "").startswith("cpu")
    sampler = Sampler(os.environ, NoDriver() if cpu_only else NvmlDriver())
    if options.once:
        print(json.dumps(sampler.take(time.time()).to_json()))
        return
    history = HistoryWriter(options.history) if options.history else None
    # Also where prctl is missing: an orphan has another parent.
    while os.getppid() == options.parent:
        try:
            reading = sampler.take(time.time())
            write_reading(options.out, reading)
            if history is not None:
                history.add(reading.at_utc, history_of(reading))
        except OSError as full:  # e.g. a full disk; the reader notices that the file grows old
            print(f"reading not written: {full}", flush=True)
        time.sleep(options.every)


if __name__ == "__main__":
    main()
