"""The engine on every card of a machine: `python benchmarks/many_cards.py --data train.jsonl`.

Works for any number of cards from one up (CPU cards too, with `--shape demo`) and names what it had
to leave out. On real cards it checks and prints:

  1. one worker for each card, seeing only its own: the UUID in the store is the one NVML gives for
     that pid, and no process of ours stands on another card;
  2. trials over all cards against one card's share of them, on each of two cards with the others at
     rest, on workers that hold the base and captured graphs: makespan from the first start to the
     last end, scaling efficiency, idle seconds before each trial, tokens/s, and the phases of each
     trial in time; equal settings give equal losses, whichever card and whichever trials before;
  3. a search by TPE with ASHA: no card waits for a proposal;
  4. pause on one card, resume on another: the same losses;
  5. a worker killed -9 while it trains: the card's memory is back before the next trial starts
     there, and its neighbours do not notice;
  6. a program that holds a context and computes nothing keeps its card for a minute, which `ls`
     says, and then costs only its bytes;
  7. two cards capped to 24 and 12 GiB, big and small trials mixed: big ones go where they fit, and
     the sweep takes at most a tenth longer than in the best order of the same trials;
  8. the CPU share of Ray, the engine and the screen at rest;
  9. with an endless trial on every card: the same shares, each worker's memory, and the loop's
     ticks; half of the cards drained at once and given back; the engine stopped and started.

Trials have 150 steps with a held-out loss and a checkpoint every 50, so that fixed costs do not
hide the cards; `--steps 16` is enough to see that it works. CPU cards share their cores and memory,
so scaling and rates are printed there and not judged.

Exit 1 when a check fails. `--out FILE` gets the figures as JSON: `figures`, `failed`, `skipped`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import host_load
from busy_cards import busy
from cards_lab import (
    SEARCH,
    Lab,
    Report,
    Span,
    card_bytes,
    idle_before,
    lab,
    makespan,
    print_timeline,
    shaped_model,
    training_rows,
    wait,
)

from tests.support.best_makespan import best_makespan
from workbench.errors import DoesNotFit
from workbench.footprint import plan_trial
from workbench.footprint.row_lengths import Lengths, lengths_of
from workbench.recipe import Recipe
from workbench.store.rows import CardRow, card_of

MOST_IDLE_S = 1.0
"""Seconds on average for which a card may stand still between two trials."""
LEAST_SCALING, LEAST_SCALING_OF_MORE = 0.97, 0.95
"""Scaling efficiency over two cards, and over more."""
MOST_RATE_LOSS = 0.02
"""Share of its tokens/s that a card may lose to its neighbours' training."""
RANKS = (32, 64, 128, 256, 384, 512, 768, 1024, 1280, 1536, 2048)
"""Ranks among which that of big trials is chosen."""
ENDLESS = 1000
"""Times the steps of a trial for one that does not end by itself."""
MOST_ALONE = 2
"""Cards at most that run their share alone."""
SHORT_STEPS = 40
"""Steps at most of the trials that are paused or killed: longer ones would show nothing else."""


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


# -- the checks


def own_cards(lab: Lab, report: Report, trials: list[int], cards: list[str]) -> None:
    """Check, while every card trains, that each worker is on its own card only."""
    if not any(card.startswith("GPU-") for card in cards):
        report.skip("own card", "no GPU here")
        return

    def workers() -> dict[str, int]:
        """Return the live attempts' pids by card; a worker reports its own after a moment."""
        live = [a for a in lab.attempts(trials) if a.outcome is None]
        return {a.card: a.pid for a in live if a.pid}

    wait(lambda: len(workers()) == len(cards), "every worker's pid")
    wait(lambda: all(on_cards()[card] for card in cards), "a process on every card")
    pids, seen = workers(), on_cards()
    # Inside a container NVML may give pids of the host; then only counts can be compared.
    if set(pids.values()) & {pid for found in seen.values() for pid in found}:
        where = {
            card: [u for u, found in seen.items() if pid in found] for card, pid in pids.items()
        }
        report.check("each worker on its own card", all(w == [c] for c, w in where.items()), where)
    counts = {uuid: len(found) for uuid, found in seen.items()}
    good = all(counts[uuid] == (uuid in cards) for uuid in counts)
    report.check("one process on each card with a trial", good, counts)


def scaling(
    lab: Lab, report: Report, cards: list[str], trials: int, steps: int, every: int
) -> None:
    """Measure trials over all cards, then one card's share of them on single cards.

    Cards of one kind differ by a percent or two, so that a card is compared with itself: on each of
    MOST_ALONE cards the share runs while the others rest.
    """
    lab.warm(cards, steps)
    many = lab.submit("many", trials, steps, every=every, save=every)
    wait(
        lambda: len({a.card for a in lab.attempts(many) if a.outcome is None}) == len(cards),
        "a trial on every card",
    )
    own_cards(lab, report, many, cards)
    lab.finish(many, 3600)
    spans = lab.spans(many)
    report.figures["makespan on all cards, s"] = round(makespan(spans), 1)
    _idle(report, "all cards", spans)
    rates = {card: _rates(lab, spans, card) for card in cards}
    report.figures["tokens/s with neighbours, by card"] = list(rates.values())
    if len(cards) == 1:
        report.skip("scaling efficiency", "one card")
        return
    share = max(1, trials // len(cards))
    seconds: list[float] = []
    kept: list[float] = []
    for card in cards[:MOST_ALONE]:
        others = [one for one in cards if one != card]
        lab.drain(others)
        if seconds:  # it rested while the card before it was alone, and gave its graphs back
            lab.finish(lab.submit(f"warm-{card}", 1, steps))
        alone = lab.submit(f"alone-{card}", share, steps, every=every, save=every)
        lab.finish(alone, 3600)
        lab.drain(others, back=True)
        apart = max(_apart(lab.losses(a), lab.losses(b)) for a, b in zip(many, alone, strict=False))
        where = f"card {cards.index(card)} alone"
        report.check(f"same settings, {where}: largest difference", apart == 0, apart)
        found = lab.spans(alone)
        seconds.append(makespan(found))
        report.figures[f"makespan of {share} of them, {where}, s"] = round(makespan(found), 1)
        _idle(report, where, found)
        rates_alone = _rates(lab, found, card)
        report.figures[f"tokens/s, {where}"] = rates_alone
        kept.append(statistics.median(rates[card]) / statistics.median(rates_alone))
    efficiency = statistics.mean(seconds) * trials / share / len(cards) / makespan(spans)
    gpu = cards[0].startswith("GPU-")
    least = LEAST_SCALING if len(cards) == 2 else LEAST_SCALING_OF_MORE
    report.judge("scaling efficiency", efficiency >= least, round(efficiency, 3), gpu)
    worst = min(kept)
    report.judge(
        "tokens/s kept beside neighbours", worst >= 1 - MOST_RATE_LOSS, round(worst, 3), gpu
    )


def searching(lab: Lab, report: Report, trials: int, steps: int, every: int) -> None:
    """Run a search whose every trial is proposed only when a card is free."""
    lab.submit("search", 0, steps, sweep=SEARCH.format(trials=trials), every=every, save=every)
    experiment = lab.newest
    wait(lambda: lab.service.experiment(experiment).ended_utc is not None, "the search's end", 3600)
    spans = lab.spans(lab.trained(experiment))
    report.figures["makespan of the search, s"] = round(makespan(spans), 1)
    report.figures["trials that ASHA ended"] = sum(
        1 for one in lab.service.trials(experiment) if one.pruned
    )
    _idle(report, "the search", spans)


def _idle(report: Report, where: str, spans: Sequence[Span]) -> None:
    print_timeline(spans)
    report.figures[f"median s of each phase, {where}"] = _median_phases(spans)
    name = f"idle s before a trial, {where}"
    idle = list(idle_before(spans).values())
    mean = sum(idle) / len(idle) if idle else 0.0
    report.figures[f"{name}, most"] = round(max(idle, default=0.0), 2)
    report.check(f"{name}, on average", mean <= MOST_IDLE_S, round(mean, 2))


def _median_phases(spans: Sequence[Span]) -> dict[str, float]:
    seconds: dict[str, list[float]] = {}
    for one in spans:
        for phase, took_s in one.phases:
            seconds.setdefault(phase, []).append(took_s)
    return {phase: round(statistics.median(each), 2) for phase, each in seconds.items()}


def _apart(one: dict[int, float], other: dict[int, float]) -> float:
    """Return the largest relative difference between two trials' losses of the same steps."""
    return max(abs(one[s] - other[s]) / abs(one[s]) for s in one)


def _rates(lab: Lab, spans: Sequence[Span], card: str) -> list[int]:
    """Return the median tokens/s of each trial that ran on the card."""
    mine = [one.trial for one in spans if one.card == card]
    series = [lab.service.series(trial, "tokens_per_s", points=10_000) for trial in mine]
    return [round(statistics.median(point.low for point in points)) for points in series]


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
    blockers = lab.submit("blockers", len(cards), ENDLESS * steps)
    wait(lambda: all(lab.live(b) for b in blockers), "all cards busy")
    elsewhere = next(b for b in blockers if lab.live(b).card != first.card)  # type: ignore[union-attr]
    lab.service.wait_for_answer(lab.service.resume(moved))
    lab.service.wait_for_answer(lab.service.stop(elsewhere, kill=True))
    lab.finish([moved])
    lab.kill(blockers)
    where = [a.card for a in lab.attempts([moved])]
    report.check("it moved to another card", len(set(where)) > 1, where)
    apart = _apart(lab.losses(whole), lab.losses(moved))
    report.check("pause here, resume there: largest relative difference", apart <= 1e-2, apart)


def killing(lab: Lab, report: Report, cards: list[str], steps: int) -> None:
    """Kill workers of endless trials, and stop the trials when everything was seen."""
    trials = lab.submit("killed", len(cards), ENDLESS * steps, save=5)
    first = trials[0]
    wait(lambda: all(lab.live(t) for t in trials), "a trial on every card")
    wait(lambda: (a := lab.live(first)) and a.checkpoint_step, "a checkpoint")
    running = lab.live(first)
    assert running is not None
    gpu = running.card.startswith("GPU-")
    before = card_bytes()[running.card] if gpu else 0
    victim = lab.kill_worker(first)
    killed = time.monotonic()
    if gpu:
        wait(lambda: card_bytes()[victim.card] < before // 4, "the card's memory", 60)
        value = f"{before / 2**30:.1f} GiB back after {time.monotonic() - killed:.1f} s"
        report.check("a killed worker's memory is back", True, value)
    lab.wait_for_resume(victim)
    report.figures["seconds from kill to training again"] = round(time.monotonic() - killed, 1)
    attempts = {t: len(lab.attempts([t])) for t in trials}
    good = attempts[first] == 2 and all(attempts[t] == 1 for t in trials[1:])
    report.check("neighbours untouched, the victim resumed", good, attempts)
    resumed = lab.attempts([first])[1]
    report.check("from its checkpoint", resumed.from_step >= 5, resumed.from_step)
    lab.kill(trials)


def sharing(lab: Lab, report: Report, cards: list[str], steps: int) -> None:
    """Hold 500 MiB of the last card in an idle program, and see when the card is used."""
    if len(cards) < 2 or not cards[-1].startswith("GPU-"):
        report.skip("beside an idle program", "needs two GPUs")
        return
    code = "import time, torch; held = torch.ones(500 << 20, dtype=torch.uint8, device='cuda'); "
    code += "time.sleep(3600)"
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": cards[-1]}
    holder = subprocess.Popen([sys.executable, "-c", code], env=env)
    try:
        wait(lambda: _guard(lab, cards[-1]).startswith("in use"), "the card that is in use")
        held = time.monotonic()
        trials = lab.submit("shared", len(cards), ENDLESS * steps)
        wait(lambda: any(lab.live(one) for one in trials), "a trial on the other card")
        found = _said_by_ls(lab)
        report.check("what ls says", f"in use by pid {holder.pid}" in found, found)
        wait(lambda: all(lab.live(one) for one in trials), "a trial beside the idle program")
        seconds = round(time.monotonic() - held)
        report.check("seconds until a trial runs beside an idle program", seconds <= 90, seconds)
        lab.kill(trials)
    finally:
        holder.kill()
        holder.wait()


def _guard(lab: Lab, card: str) -> str:
    return next(one.guard for one in lab.service.snapshot().cards if one.uuid == card)


def _said_by_ls(lab: Lab) -> str:
    """Return the line of `workbench ls` about the cards that are used, empty without one."""
    env = {**os.environ, "WORKBENCH_HOME": str(lab.service.home.root), "COLUMNS": "160"}
    command = [sys.executable, "-m", "workbench", "ls"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return next((line for line in done.stdout.splitlines() if "cards used" in line), "")


def unequal(report: Report, model: Path, data: Path, cards: list[str], steps: int) -> None:
    """Run a sweep of big and small trials on two cards, one with half of the other's memory.

    The big trials' rank is the lowest whose plan fits the first card alone. Compares the makespan
    with that of the best order, over the same durations.
    """
    if len(cards) < 2:
        report.skip("unequal cards", "one card")
        return
    gpu = cards[0].startswith("GPU-")
    sizes = (24.0, 12.0) if gpu else (2.0, 1.4)
    named = ",".join(
        f"{card if gpu else 'cpu'}{'=' if gpu else ':'}{int(size * 1024)}MiB"
        for card, size in zip(cards, sizes, strict=False)
    )
    with lab(model, data, named) as small:
        big, *rest = small.service.snapshot().cards[:2]
        two = [big.uuid, rest[0].uuid]
        small.drain([uuid for uuid in cards if uuid not in two])
        small.warm(two)
        prepared = small.service.experiment(small.newest).prepared or {}
        lengths = lengths_of(prepared["data"])
        fits = {
            card.uuid: [r for r in RANKS if _fits(model, r, card, lengths)] for card in (big, *rest)
        }
        ranks = [r for r in fits[big.uuid] if r not in fits[rest[0].uuid]]
        if not ranks:
            report.skip("unequal cards", f"no rank up to {RANKS[-1]} fits the first card alone")
            return
        lasts = [max(1, steps * n // 4) for n in (1, 4, 2, 3)]
        grid = f"  parameters: {{lora.rank: [8, {ranks[0]}], train.max_steps: {lasts}}}"
        mixed = small.submit("mixed", 0, steps, sweep=grid)
        small.finish(mixed, 3600)
        spans = small.spans(mixed)
        print_timeline(spans)
        larger = {id for id in mixed if small.trial(id).settings["lora.rank"] == ranks[0]}
        where = {one.trial: one.card for one in spans if one.trial in larger}
        report.check("big trials went where they fit", {*where.values()} == {big.uuid}, where)
        best = best_makespan([(one.trial in larger, one.end_s - one.start_s) for one in spans])
        ratio = round(makespan(spans) / best, 3)
        report.check("makespan on unequal cards, of the best order's", ratio <= 1.1, ratio)


def _fits(model: Path, rank: int, card: CardRow, lengths: Lengths) -> bool:
    """Return True if a trial of that rank has a plan on the whole card."""
    recipe = Recipe.model_validate(
        {
            "name": "mixed",
            "model": {"name": str(model)},
            "data": {"train": "rows.jsonl"},
            "train": {"batch_size": 4},
            "lora": {"rank": rank},
            "evaluate": {"batch_size": 4},
        }
    )
    config = json.loads((model / "config.json").read_text())
    try:
        plan_trial(recipe, config, card_of(card), lengths=lengths)
    except DoesNotFit:
        return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="GSM8K's train.jsonl; the demo's rows without")
    parser.add_argument("--shape", default="llama-3.2-1b", help="`8b`, …, or `demo`: the shipped")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--steps", type=int, default=150, help="optimizer steps of each trial")
    parser.add_argument("--every", type=int, default=50, help="steps between held-out losses")
    parser.add_argument("--search-trials", type=int, default=16)
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--only", default="scaling,searching,moving,killing,sharing,at_rest,busy,unequal"
    )
    options = parser.parse_args()
    data = training_rows(options.data)
    model = shaped_model(options.shape)
    report = Report()
    few = min(options.steps, SHORT_STEPS)
    trials, steps = options.trials, options.steps
    every = min(options.every, max(1, steps // 3))  # ASHA compares before the last step
    asked = options.only.split(",")
    with lab(model, data) as here:
        found = here.service.snapshot().cards
        cards = [card.uuid for card in found]
        report.check("cards", bool(cards), cards)
        report.figures["card"] = found[0].name
        checks: dict[str, Callable[[], None]] = {
            "scaling": lambda: scaling(here, report, cards, trials, steps, every),
            "searching": lambda: searching(here, report, options.search_trials, steps, every),
            "moving": lambda: moving(here, report, cards, few),
            "killing": lambda: killing(here, report, cards, few),
            "sharing": lambda: sharing(here, report, cards, few),
            "at_rest": lambda: host_load.at_rest(here, report),
            "busy": lambda: busy(here, report, cards, ENDLESS * few),
        }
        for name, check in checks.items():
            if name in asked:
                check()
                report.write(options.out)
    if "unequal" in asked:
        unequal(report, model, data, cards, steps)
        report.write(options.out)
    print(json.dumps(report.figures, indent=1, default=str))
    print(f"failed: {report.failed or 'nothing'}; skipped: {report.skipped or 'nothing'}")
    return 1 if report.failed else 0


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
