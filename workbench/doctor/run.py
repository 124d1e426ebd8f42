"""Run all checks; the slow ones run at the same time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from functools import partial
from typing import Any

from workbench.doctor import libraries, machine, probes
from workbench.doctor.check import Check
from workbench.home import Home, find_home


def run_checks(env: Mapping[str, str] | None = None, home: Home | None = None) -> Iterator[Check]:
    """Generate the result of every check as it finishes.

    Libraries and the driver are probed by child processes at the same time, so the whole takes as
    long as importing torch, and at most the probes' deadline of 30 s. Raises nothing.
    """
    asked = dict(os.environ if env is None else env)
    home = home or find_home()
    quick: list[Callable[[], Check]] = [
        machine.check_python,
        machine.check_packages,
        partial(machine.check_home, home),
        machine.check_config,
        partial(machine.check_sinks, home),
        machine.check_kernels,
        partial(machine.check_disk, home),
        machine.check_temp,
        partial(machine.check_terminal, asked),
        partial(machine.check_hub, asked),
    ]
    for check in quick:
        yield check()
    # Threads only wait for the children, so five of them cost nothing.
    with ThreadPoolExecutor(max_workers=5) as pool:
        questions: dict[str, Future[dict[str, Any]]] = {
            "cards": pool.submit(probes.probe_cards, asked),
            "torch": pool.submit(probes.run_probe, probes.TORCH, asked),
            "bitsandbytes": pool.submit(probes.run_probe, probes.BITSANDBYTES, asked),
            "ray": pool.submit(probes.run_probe, probes.RAY, asked),
            "sqlite": pool.submit(probes.run_probe, probes.SQLITE, asked),
        }
        names = {future: name for name, future in questions.items()}
        answers: dict[str, dict[str, Any]] = {}
        for future in as_completed(names):
            answers[names[future]] = future.result()
            yield from _judge(names[future], answers)


def _judge(name: str, answers: Mapping[str, dict[str, Any]]) -> Iterator[Check]:
    """Generate the checks of one answer; cards and torch are judged once both have answered."""
    answer = answers[name]
    if name == "sqlite":
        yield libraries.check_sqlite(answer)
    elif name == "ray":
        yield libraries.check_ray(answer)
    elif name == "bitsandbytes":
        yield libraries.check_bitsandbytes(answer)
    elif "cards" in answers and "torch" in answers:
        sample = libraries.reading_from(answers["cards"])
        yield libraries.check_driver(sample)
        yield libraries.check_torch(answers["torch"], sample)
        if any(reading.card.kind == "cuda" for reading in sample.cards):
            yield machine.check_locks()
        for card in sample.cards:
            yield libraries.check_card(card, answers["torch"])
