"""The courier between the head's home and one box: inputs go there, what trials made comes home.

Files come home before the event lines that speak of them, so that the loop never reads of a
checkpoint or an adapter that is not here. Everything lands under the trial's fence: what an attempt
sends that is not the live one any more is refused here, and the attempt is called off on its box.

One thread works for a courier; the loop adds to `carried`, and reads it.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from workbench.attempts.assignment import Assignment
from workbench.cluster.settings import read_json
from workbench.errors import WorkbenchError
from workbench.fleet.bases import base_label
from workbench.fleet.boxes.carried import Carried, File, Share, ShareIsOver
from workbench.fleet.boxes.digests import DigestCache
from workbench.fleet.boxes.file_cache import NoRoom
from workbench.fleet.boxes.inputs import Input, find_inputs, on_box
from workbench.fleet.trial_fence import Superseded, TrialFence
from workbench.formatting import SKEW_S
from workbench.home import Home
from workbench.machine import staging
from workbench.machine.files import sync_path
from workbench.text import safe_line

log = logging.getLogger("workbench.fleet")

CHUNK_BYTES = 4 << 20
ROUND_S = 2.0
"""Seconds of a round in which inputs are sent; then what trials made comes home, and the round
after goes on. A base takes minutes, and checkpoints do not wait for it."""


class Agent(Protocol):
    """The calls of a BoxAgent that a box's thread makes; over Ray, or in tests directly."""

    def hello(self) -> dict[str, Any]: ...
    def look(self) -> dict[str, Any]: ...
    def closed_ports(self, host: str, ports: list[int]) -> list[int]: ...
    def missing(self, files: list[tuple[str, int]]) -> dict[str, int]: ...
    def take_from_hub(self, digest: str, size: int) -> bool: ...
    def put(self, digest: str, offset: int, chunk: bytes, size: int) -> int: ...
    def lay(
        self, files: list[tuple[str, str]], trial: str, attempt: str, labels: dict[str, str]
    ) -> None: ...
    def events(self, attempt: str, offset: int) -> bytes: ...
    def files(self, attempt: str, trial: str) -> list[tuple[str, int, int]]: ...
    def digest(self, path: str) -> str: ...
    def read(self, path: str, offset: int, count: int) -> bytes: ...
    def drop(self, attempt: str, trial: str) -> bool: ...


class Courier:
    """The transfers between one home and one box.

    `start` gives an attempt, with its paths as they are on the box, to the card's worker.
    `limit_bytes_per_s` bounds each direction; 0 is no limit. `between` is called after each chunk.
    """

    def __init__(
        self,
        home: Home,
        agent: Agent,
        work: Path,
        start: Callable[[str, Assignment], None],
        digests: DigestCache,
        limit_bytes_per_s: int = 0,
        *,
        chunk_bytes: int = CHUNK_BYTES,
        between: Callable[[], None] = lambda: None,
    ) -> None:
        self._home, self.agent, self._work = home, agent, work
        self._start, self._digests, self._between = start, digests, between
        self.limit_bytes_per_s, self._chunk_bytes = limit_bytes_per_s, chunk_bytes
        self.round_s = ROUND_S
        self.skew_s = 0.0
        """Seconds by which the box's clock is ahead of the head's."""
        self.carried: dict[int, Carried] = {}
        """The attempts on the box by id. Only the loop's thread adds one."""

    def take(self, given: Assignment) -> Carried:
        """Carry an attempt from now on, unless it is carried already; return how far it is."""
        return self.carried.setdefault(given.attempt, Carried(given))

    @property
    def is_bringing(self) -> bool:
        """True while inputs are still to be sent."""
        return bool(self._to_bring())

    def _to_bring(self) -> list[Carried]:
        every = list(self.carried.values())
        return [c for c in every if c.mapped is None and not (c.is_over or c.failure)]

    def work_once(self) -> None:
        """Bring inputs of new attempts for `round_s`, and home what all others have made since.

        Raises what the agent's calls raise, and once all have had their turn what went wrong with
        one attempt; the next call goes on where this one stopped.
        """
        each_s = self.round_s / max(1, len(self._to_bring()))
        wrong: list[Exception] = []
        for carried in list(self.carried.values()):
            try:
                self._serve(carried, each_s)
            except TimeoutError:  # the network: it concerns all
                raise
            except (OSError, ValueError) as of_this_one:
                wrong.append(of_this_one)
        if wrong:
            raise wrong[0]

    def _serve(self, carried: Carried, for_s: float) -> None:
        attempt = carried.given.attempt
        if carried.is_over:
            if self.agent.drop(carried.attempt_path, carried.trial_path):
                self.carried.pop(attempt, None)
            return
        fence = TrialFence(Path(carried.given.trial_folder), attempt, placed=True)
        try:
            fence.check()
            if carried.mapped is None:
                self._try_to_bring(carried, for_s)
            else:
                carried.is_over = self._fetch(carried, fence)
        except Superseded as replaced:
            log.info("%s; it is called off on its box", replaced)
            carried.is_over = True
        finally:
            fence.release()

    # --- to the box

    def _try_to_bring(self, carried: Carried, for_s: float) -> None:
        """Bring the inputs; note why that is impossible where trying again would not help."""
        if carried.failure:
            return
        try:
            self._bring(carried, Share(for_s))
        except ShareIsOver:
            pass
        except TimeoutError:  # the network: the next round goes on
            raise
        except (OSError, ValueError, KeyError, WorkbenchError) as refused:
            carried.has_room = not isinstance(refused, NoRoom)
            carried.failure = f"its files could not be brought: {safe_line(refused, 300)}"
            log.warning("attempt %d: %s", carried.given.attempt, carried.failure)

    def _bring(self, carried: Carried, share: Share) -> None:
        """Send what the box lacks, lay it out there and start the attempt. Raises ShareIsOver."""
        given = carried.given
        prepared = read_json(self._home.experiment(given.experiment) / "prepared.json")
        carried.base = base_label(given.recipe["model"], prepared)
        known = share.of(self._digests.sha256, done=self._digests.knows)
        inputs, brought = find_inputs(self._home, given, known)
        by_digest = {one.digest: one for one in inputs}
        missing = self.agent.missing([(one.digest, one.bytes) for one in by_digest.values()])
        carried.lacking_bytes = sum(by_digest[d].bytes - here for d, here in missing.items())
        carried.all_bytes = max(carried.all_bytes, carried.lacking_bytes)
        for digest, here in missing.items():
            one = by_digest[digest]
            if here == 0 and self.agent.take_from_hub(digest, one.bytes):
                self._brought(carried, one.bytes)
            else:
                self._send(carried, one, here, share)
        labels = {brought["model"]: carried.base} if brought["model"] else {}
        files = [(one.target, one.digest) for one in inputs]
        self.agent.lay(files, carried.trial_path, carried.attempt_path, labels)
        carried.landed = self._list(carried)  # the head has these
        carried.mapped = on_box(self._home, self._work, given, brought)
        self._start(given.card["uuid"], carried.mapped)

    def _send(self, carried: Carried, one: Input, here: int, share: Share) -> None:
        with one.source.open("rb") as file:
            while True:
                file.seek(here)
                chunk = file.read(self._chunk())
                before, here = here, self.agent.put(one.digest, here, chunk, one.bytes)
                self._moved(carried, len(chunk))
                self._brought(carried, here - before)
                if not chunk and here < one.bytes:
                    raise OSError(f"{one.source.name} became shorter while it was sent")
                share.spend()
                if here >= one.bytes:
                    return

    @staticmethod
    def _brought(carried: Carried, count: int) -> None:
        carried.moved_s = time.monotonic()
        carried.lacking_bytes -= count

    def _moved(self, carried: Carried, count: int) -> None:
        carried.moved_s = time.monotonic()
        if self.limit_bytes_per_s:
            time.sleep(count / self.limit_bytes_per_s)
        self._between()

    def _chunk(self) -> int:
        """Return the bytes of one chunk: those of a quarter of a second at most, under a limit."""
        limit = self.limit_bytes_per_s
        return min(self._chunk_bytes, max(1, limit // 4)) if limit else self._chunk_bytes

    # --- home

    def _list(self, carried: Carried) -> dict[str, list[File]]:
        return _units(self.agent.files(carried.attempt_path, carried.trial_path), carried)

    def _fetch(self, carried: Carried, fence: TrialFence) -> bool:
        """Land what is new; return True once the attempt's end is home."""
        began_s = time.monotonic()
        # Read before the files are listed: what a line speaks of is then in the list, or a newer
        # one instead.
        lines = self.agent.events(carried.attempt_path, carried.offset)
        units = self._list(carried)
        new = {name: files for name, files in units.items() if not carried.has(name, files)}
        if not lines and not new:
            carried.nothing_new_s = began_s
        for name, files in new.items():
            if self._land(carried, fence, name, files):
                carried.landed[name] = files
        # One that changed while it was read lands the next time, and the lines wait for it.
        if not lines or not all(carried.has(name, new[name]) for name in new) or not fence.take():
            return False
        self._append_events(carried, lines)
        self._remove_old(carried, units)
        fence.release()
        return _has_end(lines)

    def _land(self, carried: Carried, fence: TrialFence, name: str, files: list[File]) -> bool:
        """Bring one folder or file home; False where it changed or vanished meanwhile."""
        target = self._home.root / name
        is_folder = files[0][0] != name
        staged = staging.staged_path(target)
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        try:
            for path, size, _ in files:
                inner = path.removeprefix(f"{name}/") if is_folder else target.name
                if not self._receive(carried, path, size, staged / inner, self._home.root / path):
                    return False
            if self._list(carried).get(name) != files or not fence.take():
                return False
            if is_folder:
                staging.publish_folder(staged, target)
            else:
                sync_path(staged / target.name)
                (staged / target.name).rename(target)
                sync_path(target.parent)
            fence.release()
            return True
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def _receive(self, carried: Carried, path: str, size: int, to: Path, known: Path) -> bool:
        """Write a file of the box to `to` and check its digest; False where it changed.

        What the home has already, in `known`, is not read again from the box.
        """
        to.parent.mkdir(parents=True, exist_ok=True)
        try:
            digest = self.agent.digest(path)
            if known.is_file() and self._digests.sha256(known) == digest:
                shutil.copyfile(known, to)
                return True
            with to.open("wb") as file:
                while file.tell() < size:
                    chunk = self.agent.read(path, file.tell(), self._chunk())
                    if not chunk:
                        return False
                    file.write(chunk)
                    self._moved(carried, len(chunk))
            return staging.file_sha256(to) == digest
        except FileNotFoundError:  # removed there, or here with its trial
            return False

    def _append_events(self, carried: Carried, lines: bytes) -> None:
        """Append event lines to the file at home. Raises Superseded where that was removed."""
        path = self._home.root / carried.attempt_path / "events.jsonl"
        by_our_clock = corrected_times(lines, self.skew_s)
        try:
            with path.open("r+b" if carried.written else "wb") as file:
                file.truncate(carried.written)  # lines of an append that was cut
                file.seek(carried.written)
                file.write(by_our_clock)
                file.flush()
                os.fsync(file.fileno())
        except FileNotFoundError:
            raise Superseded(f"the record of attempt {carried.given.attempt} was removed") from None
        carried.offset += len(lines)
        carried.written += len(by_our_clock)
        carried.moved_s = time.monotonic()

    def _remove_old(self, carried: Carried, units: Iterable[str]) -> None:
        """Remove the home's checkpoints that the box has removed, once newer ones have landed."""
        checkpoints = f"{carried.trial_path}/checkpoints"
        there = {name.rpartition("/")[2] for name in units if name.startswith(f"{checkpoints}/")}
        if not there:
            return
        for path in (self._home.root / checkpoints).glob("step-*"):
            if path.name not in there and _step(path.name) < max(map(_step, there)):
                shutil.rmtree(path, ignore_errors=True)


def _units(files: Iterable[File], carried: Carried) -> dict[str, list[File]]:
    """Return what lands as one: each checkpoint, the adapter, and every other file by itself.

    Checkpoints come last. Raises ValueError for a file that is none of this attempt.
    """
    found: dict[str, list[File]] = {}
    for path, size, changed_ns in files:
        parts = path.split("/")
        owner = "/".join(parts[:2]) if parts[0] != "evaluations" else carried.trial_path
        if owner not in (carried.trial_path, carried.attempt_path) or ".." in parts:
            raise ValueError(
                f"{safe_line(path, 200)} is no file of attempt {carried.given.attempt}"
            )
        name = path
        if parts[0] == "trials" and len(parts) > 3 and parts[2] in ("checkpoints", "adapter"):
            name = "/".join(parts[: 4 if parts[2] == "checkpoints" else 3])
        found.setdefault(name, []).append((path, size, changed_ns))
    return dict(sorted(found.items(), key=lambda each: "/checkpoints/" in each[0]))


def corrected_times(lines: bytes, skew_s: float) -> bytes:
    """Return event lines with their times by the head's clock; as they are below SKEW_S."""
    if abs(skew_s) < SKEW_S:
        return lines
    found = []
    for line in lines.splitlines(keepends=True):
        try:
            event = json.loads(line)
            event["t"] = round(event["t"] - skew_s, 3)
            found.append(json.dumps(event, ensure_ascii=False).encode() + b"\n")
        except (ValueError, TypeError, KeyError):  # the loop notes it as a bad line
            found.append(line)
    return b"".join(found)


def _step(name: str) -> int:
    number = name.removeprefix("step-")
    return int(number) if number.isdecimal() else -1


def _has_end(lines: bytes) -> bool:
    last = lines.rstrip(b"\n").rpartition(b"\n")[2]
    try:
        return bool(json.loads(last).get("kind") == "end")
    except (ValueError, AttributeError):
        log.warning("an event line cannot be read: %s", safe_line(last[:200]))
        return False
