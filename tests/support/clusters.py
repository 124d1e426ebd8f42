"""A cluster of three hosts, and what tests ask of it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.namespaces import Host
from tests.support.ssh_server import HOST, ssh_server
from tests.support.waiting import wait_for
from tests.support.whole import short_recipe
from workbench.machine.processes import LOOPBACK
from workbench.recipe.shipped import shipped_file
from workbench.store.rows import AttemptRow, TrialRow

LIMIT_S = 150.0


class Three:
    """The head and two boxes."""

    def __init__(self, made: list[Host], folder: Path) -> None:
        self.head, self.two, self.three = made
        self.folder = folder

    def join(self, box: Host, name: str) -> str:
        token = str(self.head.home.token)
        return box.run("cluster", "join", self.head.address, "--token-file", token, "--name", name)

    @contextmanager
    def ssh_to(self, box: Host, folder: Path) -> Iterator[tuple[str, str]]:
        """Run an sshd on the box; yield the host with its workbench, and the head's PATH."""
        command = folder / "workbench"
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -m workbench "$@"\n')
        command.chmod(0o755)
        there = {
            "WORKBENCH_HOME": str(box.home.root),
            "WORKBENCH_CARDS": box.cards,
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        ssh, inside = folder / "ssh", tuple(box.command())
        with ssh_server(ssh, there, address=box.address, inside=inside):
            yield f"{HOST}:{command}", f"{ssh}:{os.environ['PATH']}"

    def boxes(self) -> dict[str, str]:
        """Return box → state, as `cluster ls` says."""
        listed = json.loads(self.head.run("cluster", "ls", "--json"))["boxes"]
        return {one["box"]: one["state"] for one in listed}

    def until_up(self, *names: str) -> None:
        up = lambda: all(self.boxes().get(name) == "up" for name in names)  # noqa: E731
        wait_for(up, f"{names} are up", LIMIT_S)

    def live(self) -> dict[str, AttemptRow]:
        """Return card → live attempt."""
        reader = self.head.service.reader()
        return {one.card: one for one in reader.live_attempts()} if reader else {}

    def until_committed(self, *cards: str) -> dict[str, AttemptRow]:
        """Wait until live attempts on these cards have a checkpoint at home."""

        def committed() -> dict[str, AttemptRow]:
            live = self.live()
            return live if all(c in live and live[c].checkpoint_step for c in cards) else {}

        return wait_for(committed, f"checkpoints of {cards} come home", LIMIT_S)

    def attempts(self, trial: int) -> list[AttemptRow]:
        return self.head.service.trial(trial).attempts

    def until_empty(self, folder: Path) -> None:
        wait_for(lambda: not list(folder.iterdir()), f"nothing is left in {folder}", LIMIT_S)

    def has_moved_on(self, old: AttemptRow) -> bool:
        """Return True once a later attempt of the trial, on another box, has a later checkpoint."""
        newest = self.attempts(old.trial)[-1]
        further = (newest.checkpoint_step or 0) > (old.checkpoint_step or 0)
        same_box = newest.card.partition(":")[0] == old.card.partition(":")[0]
        return newest.id > old.id and further and not same_box

    def base(self) -> str:
        """Return a base and rows that no box has: the demo's, in a folder of the head."""
        folder = self.folder / "base"
        if not folder.exists():
            shutil.copytree(shipped_file("workbench:demo/model"), folder)
        return f"model.name={folder}"

    def obeyed(self, request: str) -> int:
        answer = self.head.service.wait_for_answer(request, LIMIT_S)
        return int(answer.data.get("experiment") or 0)

    def until_ended(self, experiment: int) -> list[TrialRow]:
        """Wait until all trials of the experiment have ended, and return them."""

        def ended() -> list[TrialRow]:
            trials = self.head.service.trials(experiment)
            return trials if all(trial.state.final for trial in trials) else []

        return wait_for(ended, f"experiment {experiment} ends", LIMIT_S)

    def run_long(self, count: int) -> int:
        """Submit trials that run until they are ended; return the experiment."""
        rates = [0.001 * (1 + number) for number in range(count)]
        sweep = f"{{parameters: {{train.learning_rate: {rates}}}}}"
        return self.obeyed(self.head.service.submit(short_recipe(self.base(), sweep=sweep)))

    def end_all(self) -> None:
        """Kill every trial."""
        for trial in self.head.service.snapshot().trials:
            if not trial.state.final:
                self.obeyed(self.head.service.stop(trial.id, kill=True))
        over = lambda: all(t.state.final for t in self.head.service.snapshot().trials)  # noqa: E731
        wait_for(over, "all trials have ended", LIMIT_S)


def open_ports(host: Host) -> list[int]:
    """Return every TCP port on which the host listens beyond loopback."""
    tables = host.python("-c", "print(*(open(f'/proc/net/{t}').read() for t in ('tcp', 'tcp6')))")
    found = set()
    for fields in (line.split() for line in tables.splitlines()):
        if len(fields) > 3 and fields[3] == "0A":  # listening, proc(5)
            address, port = fields[1].split(":")
            if address not in LOOPBACK:
                found.add(int(port, 16))
    return sorted(found)
