"""All checks, the slow ones at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from functools import partial
from typing import Any

from workbench.doctor import libraries, machine, probes
from workbench.doctor.check import Check
from workbench.home import Home, find_home


def checks(env: Mapping[str, str] | None = None, home: Home | None = None) -> Iterator[Check]:
    """Every check as it finishes; libraries and the driver are asked by children, all at once.

    Takes as long as importing torch does, and never above some 15 s. Raises nothing.
    """
    asked = dict(os.environ if env is None else env)
    home = home or find_home()
    quick: list[Callable[[], Check]] = [
        machine.check_python,
        partial(machine.check_home, home),
        machine.check_config,
        partial(machine.check_disk, home),
        machine.check_temp,
        partial(machine.check_terminal, asked),
        partial(machine.check_hub, asked),
    ]
    for check in quick:
        yield check()
    with ThreadPoolExecutor(max_workers=5) as pool:
        questions: dict[str, Future[dict[str, Any]]] = {
            "cards": pool.submit(probes.ask_cards, asked),
            "torch": pool.submit(probes.ask, probes.TORCH, asked),
            "bitsandbytes": pool.submit(probes.ask, probes.BITSANDBYTES, asked),
            "ray": pool.submit(probes.ask, probes.RAY, asked),
            "sqlite": pool.submit(probes.ask, probes.SQLITE, asked),
        }
        names = {future: name for name, future in questions.items()}
        answers: dict[str, dict[str, Any]] = {}
        for future in as_completed(names):
            answers[names[future]] = future.result()
            yield from _judge(names[future], answers)


def _judge(name: str, answers: Mapping[str, dict[str, Any]]) -> Iterator[Check]:
    """What an answer tells; cards and torch are judged together once both are there."""
    answer = answers[name]
    if name == "sqlite":
        yield libraries.check_sqlite(answer)
    elif name == "ray":
        yield libraries.check_ray(answer)
    elif name == "bitsandbytes":
        yield libraries.check_bitsandbytes(answer)
    elif "cards" in answers and "torch" in answers:
        sample = libraries.sample_of(answers["cards"])
        yield libraries.check_driver(sample)
        yield libraries.check_torch(answers["torch"], sample)
        for card in sample.cards:
            yield libraries.check_card(card, answers["torch"])
