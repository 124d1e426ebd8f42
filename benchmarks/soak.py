"""Random faults in every process of ours, for as long as asked: `python benchmarks/soak.py`.

A real engine on two CPU cards trains short trials on the demo model, one experiment after another;
with `--gpus` on the machine's own cards, with random weights of a 1B's shape.
Meanwhile, at random moments, one process or two are killed, ended by SIGTERM, or frozen for a
while (SIGSTOP): a worker, the loop, the keeper, the card sampler, a preparation, each of Ray's own,
or all of them (a reboot). Ray's session folder is removed; the disk fills up while the loop
restarts; `engine stop` races `engine start`; a trial is moved while it starts, with the loop frozen
behind it. On GPUs somebody else takes all memory of a card while a trial starts there. The script
plays a person who starts the engine where it is down, and releases quarantined cards.

Every few faults there is a rest. It counts as stuck when nothing progresses for 60 s although there
is work and a card, and nothing is frozen or full. At the end every trial must have ended DONE, with
the same adapter, byte for byte, and the same losses, digit by digit, as its twins of other
experiments, and the nine promises of tests/support/sound.py must hold of the home. (Experiments
whose trials ran out of memory went on with other plans: their digits are not compared.) Afterwards
no card may hold a byte more than before.

    N kills, 0 lost, 0 stuck

is then the last line. `--minutes 30`, `--seed 1`, `--home FOLDER` (else a temporary one, on a file
system of its own where one can be mounted: only there the disk is filled).
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import takewhile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from cards_lab import card_bytes, shaped_model

from tests.support.sound import newest_event, of_home, sound
from tests.support.waiting import wait_for
from tests.support.whole import TWO, Whole, short_recipe, whole_engine
from workbench.errors import WorkbenchError
from workbench.keeper import CRASHES
from workbench.machine.processes import identify_process, program_name
from workbench.store.requests import drop_request
from workbench.store.rows import AttemptRow
from workbench.trial import State

STEPS = 240
STEPS_ON_GPU = 600
GPU_SHAPE = "llama-3.2-1b"
"""A model whose base takes seconds to load: for that long, memory can be taken from a worker that
has its context and needs more."""
TWO_ON_GPU = "{parameters: {train.learning_rate: [0.0001, 0.0002]}}"
UNFINISHED = 4
"""Trials that wait or run at any time."""
SETTLE_S = 900.0
"""Most seconds until every trial has ended after the last fault."""
FREED_S = 5.0
"""Most seconds that the driver may take to give memory back after the engine's end."""
WORKER_S = 60.0
"""Seconds to wait for a worker when it is its turn: it is the last to come up."""
STUCK_S = 60.0
"""Seconds without progress after which the engine counts as stuck."""
REST_EVERY = 4
"""Faults between two rests."""
SOUND_EVERY_S = 300.0
"""Seconds between two checks of the nine promises."""
FREEZE_S = (2.0, 40.0)
"""Shortest and longest time for which a process stays frozen."""
DISK_BYTES = 1 << 30

PARTS = ["worker", "loop", "keeper", "sampler", "preparation", "any"]
RAY = ["head", "raylet", "gcs_server", "DashboardAgent", "RuntimeEnvAgent", "monitor", "dashboard"]
SIGNALS = ["KILL", "KILL", "TERM", "STOP"]
TAKES_MEMORY = """
import ctypes, os, select, uuid
cuda = ctypes.CDLL("libcuda.so.1")
cuda.cuInit(0)
print("ready", flush=True)
wanted = os.read(0, 100).decode().strip()
device, context, found = ctypes.c_int(), ctypes.c_void_p(), (ctypes.c_ubyte * 16)()
for index in range(64):
    if cuda.cuDeviceGet(ctypes.byref(device), index):
        raise SystemExit(f"no card {wanted}")
    cuda.cuDeviceGetUuid_v2(found, device)
    if f"GPU-{uuid.UUID(bytes=bytes(found))}" == wanted:
        break
cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
cuda.cuCtxSetCurrent(context)
free, total, held = ctypes.c_size_t(), ctypes.c_size_t(), ctypes.c_void_p()
while not select.select([0], [], [], 0.01)[0]:
    cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
    if free.value > 1 << 23:
        cuda.cuMemAlloc_v2(ctypes.byref(held), ctypes.c_size_t(free.value - (1 << 22)))
"""
"""A program that takes whatever is free of the card that it is told, until its input is closed.
Without torch its context is there sooner than what a trial allocates."""
OUT_OF_MEMORY = """
select t.experiment from attempts a join trials t on t.id = a.trial where a.cause = 'out_of_memory'
"""
TAKEN_AWAY = "select id from attempts where cause in ('out_of_memory', 'card_memory')"


class Soak:
    """The faults, the person who puts right what a person has to, and the watch on progress."""

    def __init__(self, whole: Whole, seed: int, disk: Path | None, model: Path | None) -> None:
        self.whole = whole
        self.disk = disk
        self.gpus = model is not None
        self.steps = STEPS_ON_GPU if model else STEPS
        settings = [f"train.max_steps={self.steps}", "train.save_every=4"]
        if model:
            settings += [f"model.name={model}", "lora.rank=4", "train.save_every=16"]
        self.recipe = short_recipe(*settings, sweep=TWO_ON_GPU if model else TWO)
        self.dice = random.Random(seed)
        self.kills: Counter[str] = Counter()
        self.stuck = 0
        self.frozen: dict[int, float] = {}
        """Frozen processes, each with the monotonic time at which it is to go on."""

    def run(self, minutes: float) -> None:
        self.feed()
        until, look = time.monotonic() + 60 * minutes, time.monotonic() + SOUND_EVERY_S
        while time.monotonic() < until:
            for _ in range(REST_EVERY):
                self.pass_time(self.dice.uniform(0, 8))
                if not self.at_its_limit():
                    self.strike()
            self.rest()
            if time.monotonic() > look:
                self.look()
                look = time.monotonic() + SOUND_EVERY_S

    def pass_time(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.thaw()
            time.sleep(0.05)

    # --- faults

    def strike(self) -> None:
        faults: list[Callable[[], str]] = [
            *[self.signal_one] * 6,
            *[self.signal_two] * 2,
            self.reboot,
            self.remove_session_folder,
            self.stop_beside_start,
            self.move_beside_start,
            *([self.fill_disk] if self.disk else []),
            *([self.take_card_memory] if self.gpus else []),
        ]
        fault = self.dice.choice(faults)
        if self.gpus and not self.out_of_memory() and self.dice.random() < 0.5:
            fault = self.take_card_memory
        try:
            what = fault()
        except (WorkbenchError, OSError) as refused:  # e.g. a request on a frozen engine
            what = f"{fault.__name__}: {refused}"
        if what:
            self.kills[fault.__name__] += 1
            print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)

    def signal_one(self) -> str:
        return self._signal(self.dice.choice([*PARTS, *RAY]), self.dice.choice(SIGNALS))

    def signal_two(self) -> str:
        two = self.dice.sample([*PARTS, *RAY], 2)
        return " and ".join(filter(None, [self._signal(w, self.dice.choice(SIGNALS)) for w in two]))

    def _signal(self, who: str, how: str) -> str:
        pid = self.pid_of(who)
        if not pid or pid in self.frozen or identify_process(pid) is None:
            return ""
        name = program_name(pid)
        with suppress(ProcessLookupError):  # it has just ended by itself
            os.kill(pid, signal.Signals[f"SIG{how}"])
            if how == "STOP":
                self.frozen[pid] = time.monotonic() + self.dice.uniform(*FREEZE_S)
            elif how == "KILL":
                wait_for(lambda: identify_process(pid) is None, f"{pid} ends")
        return f"{how} {who} ({name} {pid})"

    def reboot(self) -> str:
        pids = of_home(self.whole.home)
        self.whole.end_everything()
        self.frozen.clear()
        return f"reboot: {len(pids)} killed" if pids else ""

    def remove_session_folder(self) -> str:
        temp = self.whole.runtime().get("temp")
        if not temp or not Path(str(temp)).exists():
            return ""
        shutil.rmtree(str(temp), ignore_errors=True)
        return "Ray's session folder removed"

    def stop_beside_start(self) -> str:
        self.thaw(everything=True)
        both = [self._command("engine", word) for word in ("stop", "start")]
        for one in both:
            one.wait(timeout=300)
        return f"stop beside start: they returned {[one.returncode for one in both]}"

    def _command(self, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "workbench", *words],
            env={**os.environ, "WORKBENCH_HOME": str(self.whole.home.root)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def move_beside_start(self) -> str:
        """Move a trial, if possible one that starts, and freeze the loop behind it."""
        live = self.whole.live()
        starting = [a for a in live if self.whole.state(a.trial) is State.STARTING]
        if not live:
            return ""
        one = self.dice.choice(starting or live)
        card = next(c.uuid for c in self.whole.service.snapshot().cards if c.uuid != one.card)
        self.whole.service.send("move", trial=one.trial, card=card)
        self.pass_time(self.dice.uniform(0.2, 1.5))
        return f"move {'starting' if starting else 'running'} {one.trial}; " + self._signal(
            "loop", "STOP"
        )

    def take_card_memory(self) -> str:
        """Kill a worker, and take all free memory of a card as soon as a new worker trains there:
        it has its context, and allocates everything else now.
        """
        program = subprocess.Popen(
            [sys.executable, "-c", TAKES_MEMORY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdout.readline()
        what = self._signal("worker", "KILL")
        seen = set(self._workers())
        until = time.monotonic() + WORKER_S
        fresh: list[AttemptRow] = []
        while not fresh and time.monotonic() < until:
            self.pass_time(0.02)
            fresh = [a for a in self.whole.live() if a.pid and a.pid not in seen]
        if fresh:
            print(fresh[0].card, file=program.stdin, flush=True)
            self.pass_time(self.dice.uniform(3, 9))
        program.stdin.close()
        program.wait()
        return f"{what}, memory taken where trial {fresh[0].trial} starts" if fresh else what

    def out_of_memory(self) -> int:
        """Return how many attempts ran out of a card's memory."""
        reader = self.whole.service.reader()
        return len(reader.db.execute(TAKEN_AWAY).fetchall()) if reader else 0

    def fill_disk(self) -> str:
        """Fill the disk to its last byte, kill the loop, and give the room back later."""
        assert self.disk is not None
        path = self.disk / "somebody-elses"
        with path.open("ab", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                with suppress(OSError):
                    while True:
                        file.write(bytes(size))
        try:
            what = self._signal("loop", "KILL")
            self.pass_time(self.dice.uniform(2, 25))
        finally:
            path.unlink()
        return f"disk full, {what}"

    def thaw(self, *, everything: bool = False) -> None:
        """Let frozen processes go on whose time is over."""
        now = time.monotonic()
        for pid, at_s in list(self.frozen.items()):
            if everything or now >= at_s or identify_process(pid) is None:
                del self.frozen[pid]
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def pid_of(self, who: str) -> int:
        whole = self.whole
        if who == "any":
            return self.dice.choice(sorted(of_home(whole.home)) or [0])
        if who == "keeper":
            return whole.keeper()
        if who == "worker":
            if all(trial.state.final for trial in whole.tuned()):
                return 0
            with suppress(AssertionError):  # none comes up, e.g. while everything is prepared
                wait_for(self._workers, "a worker trains", WORKER_S if not self.frozen else 5.0)
            return self.dice.choice(self._workers() or [0])
        if who in ("loop", "head"):
            return whole.pid(who)
        wanted = {"preparation": "workbench.training.prepare", "sampler": "sampler"}.get(who, who)
        return next((pid for pid in of_home(whole.home) if program_name(pid) == wanted), 0)

    def _workers(self) -> list[int]:
        return [a.pid for a in self.whole.live() if a.pid and identify_process(a.pid) is not None]

    # --- the person

    def tend(self) -> None:
        """Do what a person does: start what is down, release cards, submit more."""
        if self.whole.crashes() >= CRASHES - 2:  # five in ten minutes stop an engine, by design
            self._signal("keeper", "KILL")
        self.whole.start()
        for card in self.whole.service.snapshot().cards:
            if card.quarantined:
                args = {"card": card.uuid, "quarantine": True}
                drop_request(self.whole.home.requests, "undrain", args)
        self.feed()

    def feed(self) -> None:
        missing = UNFINISHED - len([t for t in self.whole.tuned() if not t.state.final])
        waiting = [e for e in self.whole.service.snapshot().experiments if e.state == "preparing"]
        if missing >= 2 and not waiting:
            self.whole.obeyed(self.whole.service.submit(self.recipe))

    def at_its_limit(self) -> bool:
        """Return True where a running trial was lost twice without a checkpoint: a third time would
        fail it, by design."""
        for trial in self.whole.service.snapshot().trials:
            if not trial.state.live:
                continue
            ended = [
                a
                for a in self.whole.service.trial(trial.id).attempts
                if a.outcome and (a.outcome != "cut" or a.reported_utc is not None)
            ]
            lost = takewhile(lambda a: a.outcome in ("lost", "cut"), reversed(ended))
            if len(list(takewhile(lambda a: a.checkpoint_step is None, lost))) >= 2:
                return True
        return False

    # --- progress

    def rest(self) -> None:
        """Wait for progress; count the engine as stuck when there is none for STUCK_S."""
        self.thaw(everything=True)
        self.tend()
        before = self.progress()
        try:
            wait_for(lambda: self.progress() > before, "something progresses", STUCK_S)
        except AssertionError:
            self.stuck += 1
            self._report_stuck()
            self.reboot()
            self.tend()

    def progress(self) -> tuple[int, int]:
        """Return a pair that grows with every step, every end and every preparation."""
        now = self.whole.service.snapshot()
        ready = sum(experiment.state != "preparing" for experiment in now.experiments)
        steps = sum(self.steps if trial.state.final else trial.step for trial in now.trials)
        return (ready + sum(trial.state.final for trial in now.trials), steps)

    def _report_stuck(self) -> None:
        now = self.whole.service.snapshot()
        print(f"{time.strftime('%H:%M:%S')} STUCK: engine {now.engine}", flush=True)
        for trial in now.trials:
            if not trial.state.final:
                print(f"  trial {trial.id} {trial.state} step {trial.step}: {trial.waiting}")
        for card in now.cards:
            print(f"  card {card.uuid}: trial {card.trial} {card.quarantined} {card.problem}")
        for name in ("keeper", "loop"):
            log = self.whole.home.logs / f"{name}.log"
            print("\n".join(log.read_text(errors="replace").splitlines()[-6:]), flush=True)

    def look(self) -> None:
        sound(self.whole.home)
        done = Counter(trial.state.value for trial in self.whole.tuned())
        print(f"{time.strftime('%H:%M:%S')} sound; {sum(self.kills.values())} kills, {dict(done)}")

    def finish(self) -> int:
        """Wait until everything has ended; return how many trials were lost."""
        self.thaw(everything=True)

        def over() -> bool:
            self.whole.start()
            now = self.whole.service.snapshot()
            prepared = all(experiment.state != "preparing" for experiment in now.experiments)
            return prepared and all(trial.state.final for trial in now.trials)

        self.tend_cards()
        wait_for(over, "every trial ends", SETTLE_S)
        self.look()
        lost = [t for t in self.whole.service.snapshot().trials if t.state is not State.DONE]
        for trial in lost:
            print(f"trial {trial.id} is {trial.state}: {trial.reason}")
        refused = [e for e in self.whole.service.snapshot().experiments if e.state == "refused"]
        for experiment in refused:
            print(f"experiment {experiment.id} was refused: {experiment.reason}")
        return len(lost) + len(refused) + self._odd_twins()

    def tend_cards(self) -> None:
        """Start the engine and release quarantined cards, without new work."""
        self.whole.start()
        for card in self.whole.service.snapshot().cards:
            args = {"card": card.uuid, "quarantine": True}
            drop_request(self.whole.home.requests, "undrain", args)

    def _odd_twins(self) -> int:
        """Return how many trials differ from those of the same settings, in adapter or losses."""
        reader = self.whole.service.reader()
        assert reader is not None
        query = "select t.id, t.settings, a.sha256 from adapters a join trials t on t.id = a.trial"
        query += f" where t.experiment not in ({OUT_OF_MEMORY})"
        losses = "select step, value from metrics where trial = ? and name = 'loss' order by step"
        twins = defaultdict(list)
        for row in reader.db.execute(query).fetchall():
            digits = repr([tuple(one) for one in reader.db.execute(losses, (row["id"],))])
            twins[row["settings"]].append((row["sha256"], digits))
        for settings, found in twins.items():
            equal = "all equal" if len(set(found)) == 1 else f"{len(set(found))} DIFFERENT"
            print(f"{len(found)} twins of {settings}: {equal}")
        print(f"{self.out_of_memory()} attempts ran out of a card's memory")
        return sum(len(found) - max(Counter(found).values()) for found in twins.values())


@contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """Mount a file system of its own at `folder`; None where that is not allowed."""
    size = f"size={DISK_BYTES},mode=700"
    words = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)]
    if subprocess.run(words, check=False, capture_output=True).returncode:
        print("no file system can be mounted: the disk is not filled")
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


def wait_for_bytes(before: dict[str, int]) -> int:
    """Return how many bytes more than `before` are in use after at most FREED_S; 0 if none are."""
    since = time.monotonic()
    while True:
        more = {uuid: now - before[uuid] for uuid, now in card_bytes().items()}
        waited = time.monotonic() - since
        if max(more.values()) <= 0 or waited > FREED_S:
            break
        time.sleep(0.05)
    held = sum(one for one in more.values() if one > 0)
    print(f"{held} bytes more in use on the cards than before, {waited:.1f} s after the end")
    return held


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--gpus", action="store_true", help="on the machine's GPUs")
    asked = parser.parse_args()
    before = card_bytes() if asked.gpus else {}
    if asked.gpus and not before:
        parser.error("--gpus: this machine has no GPU that NVIDIA's driver reports")
    model = shaped_model(GPU_SHAPE) if asked.gpus else None
    with ExitStack() as stack:
        folder = asked.home or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-"))
        )
        folder.mkdir(parents=True, exist_ok=True)
        disk = None if asked.home else stack.enter_context(small_disk(folder))
        config = 'guards = {disk_floor = "16MiB", ballast = "8MiB"}\n'
        cards = {"WORKBENCH_CARDS": ""} if asked.gpus else {}
        whole = stack.enter_context(whole_engine(folder, config, **cards))
        soak = Soak(whole, asked.seed, disk, model)
        soak.run(asked.minutes)
        lost = soak.finish()
        trials = whole.service.snapshot().trials
        attempts = sum(trial.attempts for trial in trials)
        print(f"{len(trials)} trials in {attempts} attempts, {newest_event(whole.home)} events")
        print(f"faults: {dict(soak.kills)}")
    held = wait_for_bytes(before) if asked.gpus else 0
    print(f"{sum(soak.kills.values())} kills, {lost} lost, {soak.stuck} stuck")
    return 1 if lost or soak.stuck or held > 0 else 0


if __name__ == "__main__":
    sys.exit(main())
