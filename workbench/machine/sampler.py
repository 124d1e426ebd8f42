"""What every card does right now: `python -m workbench.machine.sampler OUT.json [--every 2]`.

A child of its own, because a question to a broken driver can hang for good: then the file grows
old, and its reader sees that. Ends with its parent.
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
from workbench.machine.cards import CARDS_VARIABLE, Card, available_memory, cards_from
from workbench.machine.nvml import Driver, DriverProblem, GpuFacts, NoDriver, NvmlDriver
from workbench.machine.processes import die_with_parent
from workbench.text import safe_line

DEADLINE_S = 10.0
"""A sample older than this tells nothing; the sampler hangs or is gone."""


XIDS_KEPT = 16
"""Of a card, in each sample: whoever reads only some of the samples misses none."""
LOST_TWICE = 2
"""Samples in a row without a card, before it counts as lost: one may be the driver's stumble."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """Somebody who uses a card."""

    pid: int
    bytes: int | None
    name: str = ""
    """Its program; empty where it is not of our pid namespace, e.g. seen from a container."""
    draws: bool = False
    """Only draws: a desktop's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardSample:
    """One card at one moment; None where it does not tell."""

    card: Card
    free_bytes: int
    used_bytes: int
    utilisation: int | None = None
    """Percent."""
    temperature_c: int | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    energy_j: float | None = None
    """Since the driver was loaded."""
    ecc_errors: int | None = None
    """Not correctable, since the driver was loaded."""
    processes: tuple[Process, ...] = ()
    xid_watch: bool | None = None
    """Whether its Xid errors are told to us; None on a CPU card."""
    xids: tuple[tuple[float, int], ...] = ()
    """When (seconds since the epoch) and which, the newest last."""
    lost: bool = False
    """The driver is well, and has lost this card."""
    problem: str = ""
    """Why it cannot be used; empty while it can."""

    @property
    def ok(self) -> bool:
        return not self.problem

    def to_json(self) -> dict[str, Any]:
        return {
            **self.card.to_json(),
            "free_bytes": self.free_bytes,
            "used_bytes": self.used_bytes,
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
class Sample:
    """All cards at one moment."""

    at_utc: float
    cards: tuple[CardSample, ...]
    driver: str = ""
    """NVIDIA's driver version; empty without one."""
    problem: str = ""
    """Why the cards could not be asked."""
    stalled: bool = False
    """Too old to go by."""

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
            cards=tuple(CardSample.from_json(each) for each in data["cards"]),
            driver=str(data["driver"]),
            problem=str(data["problem"]),
        )


def read_sample(path: Path, now: float, deadline_s: float = DEADLINE_S) -> Sample:
    """The newest sample; `stalled` where it is older than the deadline or cannot be read."""
    try:
        sample = Sample.from_json(json.loads(path.read_bytes()))
        age_s = now - sample.at_utc
        if age_s <= deadline_s:
            return sample
        problem = f"no news of the cards for {age_s:.0f} s; the driver may hang"
        return replace(sample, problem=problem, stalled=True)
    except FileNotFoundError:
        problem = "the cards have not been asked yet"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as broken:
        problem = f"the cards' sample cannot be read: {type(broken).__name__}"
    return Sample(at_utc=0.0, cards=(), problem=problem, stalled=True)


class Sampler:
    """Takes samples; remembers the cards it saw, so that a lost one is told and not forgotten."""

    def __init__(self, env: Mapping[str, str], driver: Driver, root: Path = Path("/")) -> None:
        self._env = env
        self._driver = driver
        self._root = root
        self._seen: dict[str, Card] = {}
        self._missed: dict[str, int] = {}
        self._xids: dict[str, tuple[tuple[float, int], ...]] = {}
        self._jiffies = (0, 0)

    def take(self, now: float) -> Sample:
        """One sample. Raises nothing: what fails is told in it."""
        fault_points.at("sampler.asking")
        try:
            facts = self._driver.gpus()
            version = self._driver.version()
            cards = cards_from(self._env, facts)
        except DriverProblem as broken:
            return self._failed(now, str(broken))
        except WorkbenchError as wrong:
            return self._failed(now, f"{wrong.what} ({wrong.hint})")
        if any(card.kind == "cuda" for card in self._seen.values()):  # no stand-ins for lost GPUs
            cards = [card for card in cards if card.kind == "cuda"]
        for card in cards:
            self._seen.setdefault(card.uuid, card)
        by_uuid = {fact.uuid: fact for fact in facts}
        utilisation = self._cpu_utilisation()
        samples = tuple(
            self._cpu(card, utilisation)
            if card.kind == "cpu"
            else self._gpu(card, by_uuid.get(uuid), now)
            for uuid, card in self._seen.items()
        )
        return Sample(at_utc=now, cards=samples, driver=version)

    def _failed(self, now: float, problem: str) -> Sample:
        lost = tuple(
            CardSample(
                card=card,
                free_bytes=0,
                used_bytes=0,
                xids=self._xids.get(uuid, ()),
                problem=safe_line(problem),
            )
            for uuid, card in self._seen.items()
        )
        return Sample(at_utc=now, cards=lost, problem=safe_line(problem))

    def _gpu(self, card: Card, fact: GpuFacts | None, now: float) -> CardSample:
        gone = fact is None or fact.lost
        missed = self._missed[card.uuid] = self._missed.get(card.uuid, 0) + 1 if gone else 0
        told = [(round(now, 3), code) for code in (fact.xids if fact else ())]
        xids = self._xids[card.uuid] = (*self._xids.get(card.uuid, ()), *told)[-XIDS_KEPT:]
        sample = CardSample(
            card=card, free_bytes=0, used_bytes=0, xids=xids, lost=missed >= LOST_TWICE
        )
        if fact is None:
            why = "gone from the bus: the driver no longer lists it; check power, then reboot"
            return replace(sample, problem=why)
        return replace(
            sample,
            free_bytes=fact.free_bytes,
            used_bytes=fact.used_bytes,
            utilisation=fact.utilisation,
            temperature_c=fact.temperature_c,
            power_w=fact.power_w,
            power_limit_w=fact.power_limit_w,
            energy_j=fact.energy_j,
            ecc_errors=fact.ecc_errors,
            processes=(
                *(self._process(pid, size, False) for pid, size in fact.processes),
                *(self._process(pid, size, True) for pid, size in fact.graphics),
            ),
            xid_watch=fact.watched,
            problem=safe_line(fact.problem),
        )

    def _process(self, pid: int, size: int | None, draws: bool) -> Process:
        """With its program's name, which anybody may read; never its arguments, which may hold
        secrets."""
        try:
            name = safe_line((self._root / f"proc/{pid}/comm").read_text(errors="replace"), 40)
        except OSError:
            name = ""
        return Process(pid=pid, bytes=size, name=name, draws=draws)

    def _cpu(self, card: Card, utilisation: int | None) -> CardSample:
        free = min(card.total_bytes, available_memory(self._root))
        return CardSample(
            card=card,
            free_bytes=free,
            used_bytes=card.total_bytes - free,
            utilisation=utilisation,
        )

    def _cpu_utilisation(self) -> int | None:
        """Percent of the time since the last sample that any core was busy; all cards share it."""
        try:
            line = (self._root / "proc/stat").read_text().split("\n", 1)[0]
            times = [int(each) for each in line.split()[1:9]]
            idle, total = times[3] + times[4], sum(times)
        except (OSError, ValueError, IndexError):
            return None
        before, self._jiffies = self._jiffies, (idle, total)
        spent = total - before[1]
        return round(100 * (1 - (idle - before[0]) / spent)) if before[1] and spent > 0 else None


def write_sample(path: Path, sample: Sample) -> None:
    """Replace `path` at once: a reader sees the old sample or the new, never half of one."""
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    staged.write_text(json.dumps(sample.to_json()))
    staged.replace(path)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m workbench.machine.sampler")
    parser.add_argument("out", type=Path, nargs="?", default=Path("cards.json"))
    parser.add_argument("--once", action="store_true", help="print one sample and end")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between samples")
    parser.add_argument("--parent", type=int, default=os.getppid(), help="ends with this process")
    asked = parser.parse_args(arguments)
    os.umask(0o077)
    die_with_parent()
    cpu_only = os.environ.get(CARDS_VARIABLE, "").startswith("cpu")
    sampler = Sampler(os.environ, NoDriver() if cpu_only else NvmlDriver())
    if asked.once:
        print(json.dumps(sampler.take(time.time()).to_json()))
        return
    while os.getppid() == asked.parent:
        try:
            write_sample(asked.out, sampler.take(time.time()))
        except OSError as full:  # the disk; the reader sees the sample grow old
            print(f"sample not written: {full}", flush=True)
        time.sleep(asked.every)


if __name__ == "__main__":
    main()
