"""The engine on every card of a machine: `python benchmarks/many_cards.py --data train.jsonl`.

Works for any number of cards from one up (CPU cards too, with `--shape demo`) and names what it had
to leave out. On real cards it checks and prints:

  1. one worker for each card, seeing only its own: the UUID in the store is the one NVML gives for
     that pid, and no process of ours stands on another card;
  2. trials over all cards against the same trials on one: makespan, scaling, idle seconds while the
     queue had work, tokens/s alone and with neighbours;
  3. pause on one card, resume on another: the same losses;
  4. a worker killed -9 while it trains: the card's memory is back before the next trial starts
     there, and its neighbours do not notice;
  5. cards capped to different sizes: the big trial goes where it fits;
  6. the CPU share of Ray, the engine and the screen at rest.

Exit 1 when a check fails. `--out FILE` gets the figures as JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nf4_model import write_shaped_model

from workbench.home import Home
from workbench.machine.processes import find_marked
from workbench.recipe import load_recipe, shipped_file
from workbench.service import Service
from workbench.store.rows import AttemptRow, TrialRow

RECIPE = """
name: {name}
model: {{name: {model}}}
data:
  train: {data}
  columns: {{question: prompt, answer: completion}}
  eval_rows: 16
  max_tokens: {tokens}
train: {{max_steps: {steps}, log_every: 1, save_every: {save}, batch_size: {batch}}}
evaluate: {{batch_size: 4}}
sweep:
  max_parallel: {parallel}
  parameters: {{train.learning_rate: {rates}}}
"""


@dataclass
class Report:
    """The figures and failed checks of one run; each check is printed at once."""

    figures: dict[str, Any] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def check(self, name: str, good: bool, value: object) -> None:
        print(f"{'ok  ' if good else 'FAIL'}  {name}: {value}", flush=True)
        self.figures[name] = value
        if not good:
            self.failed.append(name)

    def skip(self, name: str, why: str) -> None:
        print(f"skip  {name}: {why}", flush=True)
        self.skipped.append(f"{name}: {why}")


@dataclass
class Lab:
    """An engine on a home of its own, and what the checks need of it."""

    service: Service
    root: Path
    model: Path
    data: Path

    def submit(
        self,
        name: str,
        trials: int,
        steps: int,
        *,
        save: int = 1000,
        batch: int = 4,
        tokens: int = 512,
        parallel: int = 64,
    ) -> list[int]:
        """Submit trials that differ slightly in learning rate; return the ids that train."""
        recipe = self.root / f"{name}.yaml"
        rates = [round(2e-4 + 1e-6 * i, 7) for i in range(trials)]
        body = RECIPE.format(
            name=name,
            model=self.model,
            data=self.data,
            steps=steps,
            save=save,
            batch=batch,
            tokens=tokens,
            rates=rates,
            parallel=parallel,
        )
        recipe.write_text(body)
        answer = self.service.wait_for_answer(self.service.submit(load_recipe(recipe)))
        experiment = int(answer.data["experiment"])
        wait(lambda: self.service.experiment(experiment).state != "preparing", "preparation")
        found = self.service.experiment(experiment)
        assert found.state == "ready", found.reason
        return [t.id for t in self.service.trials(experiment) if t.kind == "tune"]

    def trial(self, id: int) -> TrialRow:
        return self.service.trial(id).trial

    def attempts(self, trials: list[int]) -> list[AttemptRow]:
        return [a for id in trials for a in self.service.trial(id).attempts]

    def finish(self, trials: list[int], limit_s: float = 400) -> None:
        wait(lambda: all(self.trial(id).state.final for id in trials), "the trials' end", limit_s)
        bad = [(id, self.trial(id).reason) for id in trials if self.trial(id).state != "done"]
        assert not bad, bad

    def kill(self, trials: list[int]) -> None:
        for id in trials:
            if not self.trial(id).state.final:
                self.service.wait_for_answer(self.service.stop(id, kill=True))
        wait(lambda: all(self.trial(id).state.final for id in trials), "the kills")

    def losses(self, trial: int) -> dict[int, float]:
        return {p.step: p.low for p in self.service.series(trial, "loss", points=10_000)}

    def live(self, trial: int) -> AttemptRow | None:
        found = [a for a in self.service.trial(trial).attempts if a.outcome is None]
        return found[0] if found else None


@contextmanager
def lab(model: Path, data: Path, cards: str | None = None) -> Iterator[Lab]:
    """Yield an engine over all cards, or those of WORKBENCH_CARDS; stop it at the end."""
    before = os.environ.get("WORKBENCH_CARDS")
    if cards is not None:
        os.environ["WORKBENCH_CARDS"] = cards
    root = Path(tempfile.mkdtemp(prefix="wb-cards-"))
    service = Service(Home(root / "home").make())
    service.start_engine()
    service.wait_for_engine(running=True, timeout_s=60)
    wait(lambda: service.snapshot().cards, "the cards")
    try:
        yield Lab(service, root, model, data)
    finally:
        service.stop_engine()
        service.wait_for_engine(running=False, timeout_s=120)
        os.environ.pop("WORKBENCH_CARDS", None)
        if before is not None:
            os.environ["WORKBENCH_CARDS"] = before


def wait(fact: Callable[[], object], what: str, limit_s: float = 180) -> None:
    until = time.monotonic() + limit_s
    while not fact():
        if time.monotonic() > until:
            raise TimeoutError(f"waited {limit_s:.0f} s for {what}")
        time.sleep(0.05)


def on_cards() -> dict[str, dict[int, int]]:
    """Return card UUID → pid → bytes, as NVML reports them."""
    import pynvml

    pynvml.nvmlInit()
    found = {}
    for index in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        running = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
        found[pynvml.nvmlDeviceGetUUID(handle)] = {p.pid: p.usedGpuMemory or 0 for p in running}
    return found


def used_bytes(uuid: str) -> int:
    import pynvml

    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    return int(pynvml.nvmlDeviceGetMemoryInfo(handle).used)


# -- the six checks


def own_cards(lab: Lab, report: Report, trials: list[int]) -> None:
    """Check, while every card trains, that each worker is on its own card only."""
    live = [a for a in lab.attempts(trials) if a.outcome is None]
    if not any(a.card.startswith("GPU-") for a in live):
        report.skip("own card", "no GPU here")
        return
    seen = on_cards()
    # Inside a container NVML may give pids of the host; then only counts can be compared.
    known = {a.pid for a in live} & {pid for pids in seen.values() for pid in pids}
    if known:
        where = {a.card: [u for u, pids in seen.items() if a.pid in pids] for a in live}
        report.check("each worker on its own card", all(w == [c] for c, w in where.items()), where)
    counts = {uuid: len(pids) for uuid, pids in seen.items()}
    busy = {a.card for a in live}
    good = all(counts[uuid] == (uuid in busy) for uuid in counts)
    report.check("one process on each card with a trial", good, counts)


def scaling(lab: Lab, report: Report, cards: list[str], trials: int, steps: int) -> None:
    """Measure trials over all cards, then one card's share of them on one card alone."""
    warm = lab.submit("warm", len(cards), 2)
    lab.finish(warm)
    many = lab.submit("many", trials, steps)
    wait(
        lambda: len({a.card for a in lab.attempts(many) if a.outcome is None}) == len(cards),
        "a trial on every card",
    )
    own_cards(lab, report, many)
    lab.finish(many)
    spans = _spans(lab, many)
    makespan = max(end for _, _, end in spans) - min(start for _, start, _ in spans)
    report.figures["makespan on all cards, s"] = round(makespan, 1)
    idle = _idle(spans, cards)
    report.check("idle seconds while the queue had work", idle < 3.0 * trials, round(idle, 2))
    rates = [_rate(lab, id) for id in many]
    report.figures["tokens/s with neighbours, each"] = [round(r) for r in rates]
    if len(cards) == 1:
        report.skip("scaling", "one card")
        return
    # One card's share of the work with the other cards at rest; a card's time is the same for all.
    share = trials // len(cards)
    alone = lab.submit("alone", share, steps, parallel=1)
    lab.finish(alone)
    spans = _spans(lab, alone)
    one = max(end for _, _, end in spans) - min(start for _, start, _ in spans)
    report.figures[f"makespan of {share} of them on one card, s"] = round(one, 1)
    report.figures["tokens/s alone"] = [round(_rate(lab, id)) for id in alone]
    efficiency = one * trials / share / len(cards) / makespan
    report.check("scaling efficiency", efficiency >= 0.95, round(efficiency, 3))


def _spans(lab: Lab, trials: list[int]) -> list[tuple[str, float, float]]:
    return [(a.card, a.started_utc, a.ended_utc or 0.0) for a in lab.attempts(trials)]


def _idle(spans: list[tuple[str, float, float]], cards: list[str]) -> float:
    """Return card-seconds between one trial's end and the next one's start while trials waited."""
    last_start = max(start for _, start, _ in spans)
    total = 0.0
    for card in cards:
        mine = sorted((start, end) for c, start, end in spans if c == card)
        for (_, end), (start, _) in itertools.pairwise(mine):
            total += max(0.0, min(start, last_start) - end)
    return total


def _rate(lab: Lab, trial: int) -> float:
    points = lab.service.series(trial, "tokens_per_s", points=10_000)
    return statistics.median(p.low for p in points) if points else 0.0


def moving(lab: Lab, report: Report, cards: list[str], steps: int) -> None:
    """Pause a trial, give its card away, resume it elsewhere, and compare the losses."""
    if len(cards) < 2:
        report.skip("pause here, resume there", "one card")
        return
    [whole] = lab.submit("whole", 1, steps)
    lab.finish([whole])
    [moved] = lab.submit("moved", 1, steps)
    wait(lambda: len(lab.losses(moved)) >= 3, "three steps")
    first = lab.live(moved)
    assert first is not None
    lab.service.wait_for_answer(lab.service.pause(moved))
    wait(lambda: lab.trial(moved).state == "paused", "the pause")
    blockers = lab.submit("blockers", len(cards), steps * 20)
    wait(lambda: all(lab.live(b) for b in blockers), "all cards busy")
    elsewhere = next(b for b in blockers if lab.live(b).card != first.card)  # type: ignore[union-attr]
    lab.service.wait_for_answer(lab.service.resume(moved))
    lab.service.wait_for_answer(lab.service.stop(elsewhere, kill=True))
    lab.finish([moved])
    lab.kill(blockers)
    where = [a.card for a in lab.attempts([moved])]
    report.check("it moved to another card", len(set(where)) > 1, where)
    one, other = lab.losses(whole), lab.losses(moved)
    apart = max(abs(one[s] - other[s]) / abs(one[s]) for s in one)
    report.check("pause here, resume there: largest relative difference", apart <= 1e-2, apart)


def killing(lab: Lab, report: Report, cards: list[str], steps: int) -> None:
    """Kill workers of endless trials, and stop the trials when everything was seen."""
    trials = lab.submit("killed", len(cards), 100 * steps, save=5)
    first = trials[0]
    wait(lambda: all(lab.live(t) for t in trials), "a trial on every card")
    wait(lambda: (a := lab.live(first)) and a.checkpoint_step, "a checkpoint")
    victim = lab.live(first)
    assert victim is not None
    assert victim.pid
    gpu = victim.card.startswith("GPU-")
    before = used_bytes(victim.card) if gpu else 0
    os.kill(victim.pid, signal.SIGKILL)
    killed = time.monotonic()
    if gpu:
        wait(lambda: used_bytes(victim.card) < before // 4, "the card's memory", 60)
        value = f"{before / 2**30:.1f} GiB back after {time.monotonic() - killed:.1f} s"
        report.check("a killed worker's memory is back", True, value)
    wait(lambda: (a := lab.live(first)) and a.id > victim.id and a.loss is not None, "its resume")
    report.figures["seconds from kill to training again"] = round(time.monotonic() - killed, 1)
    attempts = {t: len(lab.attempts([t])) for t in trials}
    good = attempts[first] == 2 and all(attempts[t] == 1 for t in trials[1:])
    report.check("neighbours untouched, the victim resumed", good, attempts)
    resumed = lab.attempts([first])[1]
    report.check("from its checkpoint", resumed.from_step >= 5, resumed.from_step)
    lab.kill(trials)


def unequal(report: Report, model: Path, data: Path, cards: list[str]) -> None:
    """Cap all cards but the first too low for the larger trial, and see where it goes."""
    if len(cards) < 2 or not cards[0].startswith("GPU-"):
        report.skip("unequal cards", "needs two GPUs")
        return
    caps = ",".join(f"{uuid}=4GiB" for uuid in cards[1:])
    with lab(model, data, caps) as small:
        [big] = small.submit("big", 1, 3, tokens=4096)
        little = small.submit("little", 2, 3, batch=1)
        small.finish([big, *little])
        where = {t: small.attempts([t])[0].card for t in (big, *little)}
        predicted = small.attempts([big])[0].predicted_bytes / 2**30
        report.figures["the big trial's predicted GiB"] = round(predicted, 1)
        report.check("the big trial went where it fits", where[big] == cards[0], where)


def at_rest(lab: Lab, report: Report, seconds: float = 10.0) -> None:
    """Measure the CPU share of every process while nothing runs, and of an open screen."""
    runtime = json.loads(lab.service.home.runtime.read_text())
    engine = [*find_marked(str(runtime["unit"])), int(runtime["keeper"]["pid"])]
    screen = _screen(lab)
    time.sleep(3.0)
    before = {pid: _cpu_s(pid) for pid in engine}
    screen_before = _cpu_s(screen.pid) if screen else 0.0
    time.sleep(seconds)
    spent = {pid: _cpu_s(pid) - before[pid] for pid in engine}
    loop = int(runtime["loop"]["pid"])
    share = {
        "loop": round(100 * spent.get(loop, 0.0) / seconds, 2),
        "Ray and idle workers": round(
            100 * sum(s for pid, s in spent.items() if pid != loop) / seconds, 2
        ),
    }
    if screen:
        share["screen"] = round(100 * (_cpu_s(screen.pid) - screen_before) / seconds, 2)
        screen.kill()
        screen.wait()
    report.check("CPU percent of one core at rest", sum(share.values()) < 100, share)


def _screen(lab: Lab) -> subprocess.Popen[bytes] | None:
    """Start the TUI in a pseudo-terminal of its own; None where that cannot be done."""
    import pty

    env = {**os.environ, "WORKBENCH_HOME": str(lab.service.home.root), "TERM": "xterm-256color"}
    master, slave = pty.openpty()
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "workbench"], env=env, stdin=slave, stdout=slave, stderr=slave
        )
    except OSError:
        return None
    finally:
        os.close(slave)
        os.set_blocking(master, False)


def _cpu_s(pid: int) -> float:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    fields = stat[stat.rindex(")") + 2 :].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="GSM8K's train.jsonl; the demo's rows without")
    parser.add_argument("--shape", default="llama-3.2-1b", help="or `demo`: the shipped model")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", default="scaling,moving,killing,at_rest,unequal")
    options = parser.parse_args()
    data = (
        options.data.resolve() if options.data else shipped_file("workbench:demo/data/train.jsonl")
    )
    model = shipped_file("workbench:demo/model")
    if options.shape != "demo":
        model = write_shaped_model(Path(f"/tmp/shaped-{options.shape}"), options.shape)
    report = Report()
    with lab(model, data) as here:
        cards = [c.uuid for c in here.service.snapshot().cards]
        report.check("cards", bool(cards), cards)
        checks: dict[str, Callable[[], None]] = {
            "scaling": lambda: scaling(here, report, cards, options.trials, options.steps),
            "moving": lambda: moving(here, report, cards, options.steps),
            "killing": lambda: killing(here, report, cards, options.steps),
            "at_rest": lambda: at_rest(here, report),
        }
        for name, check in checks.items():
            if name in options.only.split(","):
                check()
    if "unequal" in options.only.split(","):
        unequal(report, model, data, cards)
    print(json.dumps(report.figures, indent=1, default=str))
    if options.out:
        result = {"figures": report.figures, "failed": report.failed, "skipped": report.skipped}
        options.out.write_text(json.dumps(result, indent=1, default=str))
    print(f"failed: {report.failed or 'nothing'}; skipped: {report.skipped or 'nothing'}")
    return 1 if report.failed else 0


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
