"""Random kills of every process of ours, for as long as asked: `python benchmarks/soak.py`.

A real engine on two CPU cards trains short trials on the demo model, one experiment after another.
Meanwhile, at random moments, something is killed -9: a worker, the loop, the keeper, Ray's head,
its raylet or control service, the card sampler, a preparation, any process at all, or all at
once. A person is played who starts the engine where it is down, and releases quarantined cards.
At the end every trial must have ended DONE, with the same adapter, byte for byte, as its twins of
other experiments, and the nine clauses of tests/support/sound.py must hold of the home.

    N kills, 0 lost

is then the last line. `--minutes 30`, `--seed 1`, `--home FOLDER` (else a temporary one).
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.support.sound import newest_event, of_home, sound
from tests.support.waiting import wait_for
from tests.support.whole import TWO, Whole, short_recipe, whole_engine
from workbench.keeper import CRASHES
from workbench.service import Service
from workbench.store.requests import drop
from workbench.trial import State

STEPS = 240
UNFINISHED = 4
"""So many trials wait or run at any time."""
SETTLE_S = 900.0
WORKER_S = 60.0
"""A worker is waited for so long when it is its turn: it is the last to come up."""
EVERY_S = 300.0
"""Between two looks at the nine clauses."""
PARTS = ["worker", "loop", "keeper", "head", "raylet", "gcs_server", "sampler", "preparation"]
ANYTHING = [*PARTS, "any", "all"]


class Soak:
    def __init__(self, whole: Whole, seed: int) -> None:
        self.whole = whole
        self.dice = random.Random(seed)
        self.kills: Counter[str] = Counter()

    def run(self, minutes: float) -> None:
        self.feed()
        until, look = time.monotonic() + 60 * minutes, time.monotonic() + EVERY_S
        while time.monotonic() < until:
            moment = time.monotonic() + self.dice.uniform(0, 12)
            wait_for(lambda moment=moment: time.monotonic() > moment, "a moment passes")  # type: ignore[misc]
            self.tend()
            if not self.at_its_limit():
                self.strike(self.dice.choice(ANYTHING))
            if time.monotonic() > look:
                self.tend()
                self.look()
                look = time.monotonic() + EVERY_S

    def strike(self, what: str) -> None:
        pids = self.pids_of(what)
        for pid in pids:
            with suppress(ProcessLookupError):  # it has just ended by itself
                self.whole.kill(pid)
        if pids:
            self.kills[what] += 1
            print(f"{time.strftime('%H:%M:%S')} {what}: {len(pids)} killed", flush=True)

    def pids_of(self, what: str) -> list[int]:
        whole = self.whole
        if what == "all":
            return sorted(of_home(whole.home))
        if what == "any":
            return [self.dice.choice(sorted(of_home(whole.home)) or [0])]
        if what == "keeper":
            found = whole.keeper()
        elif what == "worker":
            with suppress(AssertionError):  # none comes up, e.g. while everything is prepared
                wait_for(self._workers, "a worker trains", WORKER_S)
            found = self.dice.choice(self._workers() or [0])
        elif what == "sampler":
            found = self._named("workbench.machine.sampler")
        elif what == "preparation":
            found = self._named("workbench.training.prepare")
        elif what in ("loop", "head"):
            found = whole.pid(what)
        else:
            found = whole.process(f"/{what}")
        return [found] if found else []

    def _workers(self) -> list[int]:
        there = of_home(self.whole.home)
        return [attempt.pid for attempt in self.whole.live() if attempt.pid in there]

    def _named(self, name: str) -> int:
        for pid in of_home(self.whole.home):
            try:
                if name.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return pid
            except OSError:
                continue
        return 0

    def tend(self) -> None:
        """What a person does: start what is down, release cards, submit more."""
        if self.whole.crashes() >= CRASHES - 2:  # five in ten minutes stop an engine, by design
            self.strike("keeper")
        self.whole.start()
        for card in self.whole.service.snapshot().cards:
            if card.quarantined:
                drop(self.whole.home.requests, "undrain", {"card": card.uuid, "quarantine": True})
        self.feed()

    def feed(self) -> None:
        missing = UNFINISHED - len([t for t in self.whole.tuned() if not t.state.final])
        waiting = [e for e in self.whole.service.snapshot().experiments if e.state == "preparing"]
        if missing >= 2 and not waiting:
            recipe = short_recipe(f"train.max_steps={STEPS}", "train.save_every=4", sweep=TWO)
            self.whole.obeyed(self.whole.service.submit(recipe))

    def at_its_limit(self) -> bool:
        """A trial was lost twice without a checkpoint: a third time would fail it, by design."""
        for trial in self.whole.service.snapshot().trials:
            if trial.state.final:
                continue
            ended = [a for a in self.whole.service.trial(trial.id).attempts if a.outcome]
            lost = takewhile(lambda a: a.outcome in ("lost", "cut"), reversed(ended))
            if len(list(takewhile(lambda a: a.checkpoint_step is None, lost))) >= 2:
                return True
        return False

    def look(self) -> None:
        sound(self.whole.home)
        done = Counter(trial.state.value for trial in self.whole.tuned())
        print(f"{time.strftime('%H:%M:%S')} sound; {sum(self.kills.values())} kills, {dict(done)}")

    def finish(self) -> int:
        """Everything ends; how many trials were lost."""

        def over() -> bool:
            self.whole.start()
            now = self.whole.service.snapshot()
            prepared = all(experiment.state != "preparing" for experiment in now.experiments)
            return prepared and all(trial.state.final for trial in now.trials)

        wait_for(over, "every trial ends", SETTLE_S)
        self.look()
        lost = [t for t in self.whole.service.snapshot().trials if t.state is not State.DONE]
        for trial in lost:
            print(f"trial {trial.id} is {trial.state}: {trial.reason}")
        refused = [e for e in self.whole.service.snapshot().experiments if e.state == "refused"]
        for experiment in refused:
            print(f"experiment {experiment.id} was refused: {experiment.reason}")
        return len(lost) + len(refused) + self._odd_twins(self.whole.service)

    def _odd_twins(self, service: Service) -> int:
        """Trials whose adapter differs from those of the same settings."""
        reader = service.reader()
        assert reader is not None
        query = "select t.settings, a.sha256 from adapters a join trials t on t.id = a.trial"
        twins = defaultdict(list)
        for row in reader.db.execute(query):
            twins[row["settings"]].append(row["sha256"])
        for settings, found in twins.items():
            print(f"{len(found)} adapters of {settings}, {len(set(found))} different")
        return sum(len(found) - max(Counter(found).values()) for found in twins.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--home", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as temp:
        folder = asked.home or Path(temp)
        folder.mkdir(parents=True, exist_ok=True)
        with whole_engine(folder) as whole:
            soak = Soak(whole, asked.seed)
            soak.run(asked.minutes)
            lost = soak.finish()
            trials = whole.service.snapshot().trials
            attempts = sum(trial.attempts for trial in trials)
            print(f"{len(trials)} trials in {attempts} attempts, {newest_event(whole.home)} events")
            print(f"killed: {dict(soak.kills)}")
    print(f"{sum(soak.kills.values())} kills, {lost} lost")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
