"""The fleet of a cluster: workers on the cards of the head and of every box."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from workbench.attempts.assignment import Assignment
from workbench.fleet import Phase, Report
from workbench.fleet.boxes.carried import Carried
from workbench.fleet.boxes.ray_boxes import BoxLink, RayBoxes, on_node
from workbench.fleet.inline_fleet import WORKER
from workbench.fleet.ray_fleet import RayFleet, WorkerActor, _Actor, worker_env
from workbench.home import Home
from workbench.machine.cards import Card, is_elsewhere
from workbench.machine.sampler import CardReading


class ClusterFleet(RayFleet):
    """A RayFleet whose cards called `box:card` are on other machines.

    The scheduler notices no difference: an attempt whose files travel counts as run by its worker,
    until its end has come home.
    """

    def __init__(
        self,
        home: str,
        address: str,
        next_generation: Callable[[str], int],
        worker: str = WORKER,
    ) -> None:
        super().__init__(home, address, next_generation, worker)
        self._boxes: RayBoxes | None = None
        self._node_of: dict[str, str] = {}
        """The node of each box's card on which its worker was started."""

    def connect(self) -> bool:
        if not super().connect():
            return False
        if self._boxes is None:
            self._boxes = RayBoxes(self._ray, Home(Path(self._home)), self._start_on_box)
            self._boxes.look()
        return True

    def readings(self) -> list[tuple[CardReading, str]]:
        """Return the cards of all boxes, each with why it takes no trial now."""
        return self._boxes.readings() if self._boxes is not None else []

    def take_notes(self) -> list[tuple[str, str]]:
        """Return what happened to boxes since the last call, as (level, text)."""
        if self._boxes is None:
            return []
        notes = list(self._boxes.notes)
        self._boxes.notes.clear()
        return notes

    def has_base(self, card: str, base: str) -> bool:
        link = self._link(card)
        return link is None or link.has_base(base)

    def has_room(self, card: str, base: str) -> bool:
        link = self._link(card)
        return link is None or link.has_room(base)

    # --- starting

    def warm(self, card: Card) -> None:
        if not is_elsewhere(card.uuid) or self._link(card.uuid) is not None:
            super().warm(card)

    def start(self, card: Card, assignment: Assignment) -> None:
        if not is_elsewhere(card.uuid):
            super().start(card, assignment)
            return
        link = self._link(card.uuid)
        if link is None or link.courier is None:  # the box is lost: `recover` places it again
            return
        self.warm(card)
        carried = link.courier.take(assignment)
        if carried.mapped is not None:
            self._start_on_box(card.uuid, carried.mapped)

    def _start_on_box(self, card: str, given: Assignment) -> None:
        if (actor := self._actors.get(card)) is not None:  # else its worker has just gone
            actor.handle.start.remote(given.to_json())

    def _create_actor(self, card: Card) -> _Actor:
        link = self._link(card.uuid)
        if link is None:
            return super()._create_actor(card)
        generation = self._next_generation(card.uuid)
        self._node_of[card.uuid] = link.node_id
        local = replace(card, uuid=card.uuid.partition(":")[2])
        handle = (
            self._ray.remote(WorkerActor)
            .options(
                name=f"card-{card.uuid}-{generation}",
                lifetime="detached",
                get_if_exists=True,
                num_cpus=0,
                num_gpus=0,
                max_restarts=0,
                max_task_retries=0,
                runtime_env={"env_vars": worker_env(local)},
                scheduling_strategy=on_node(self._ray, link.node_id),
            )
            .remote(self._worker, local.to_json(), generation, link.work)
        )
        now = time.monotonic()
        starting = Report(card=card.uuid, generation=generation, phase=Phase.STARTING)
        return _Actor(handle, generation, handle.report.remote(), now, now, starting)

    def _where(self) -> dict[str, Any]:
        assert self._boxes is not None
        return {"scheduling_strategy": on_node(self._ray, self._boxes.head_node)}

    def _set_driver_env(self) -> None:
        super()._set_driver_env()
        del os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"]  # it would mean loopback alone

    # --- reports

    def observe(self) -> dict[str, Report]:
        if self._boxes is not None:
            self._boxes.look()
            for card in [card for card in self._actors if is_elsewhere(card)]:
                if not self._node_lives(card):
                    self._lose(card)
        return {card: self._seen(card, report) for card, report in super().observe().items()}

    def _node_lives(self, card: str) -> bool:
        """Return False once the node of the card's worker has ended, also where its box has another
        one by now.
        """
        link = self._link(card)
        return link is not None and link.node_id == self._node_of[card]

    def _lose(self, card: str) -> None:
        """Report the worker of a card whose box is lost as gone, with nobody to blame."""
        actor = self._actors.pop(card)
        why = f"box {card.partition(':')[0]} was lost"
        self._gone[card] = replace(self._gone_report(card, actor, why), is_blameless=True)

    def _seen(self, card: str, report: Report) -> Report:
        """Return a worker's report, with the attempt that is on its way to or from its box."""
        link = self._link(card)
        if report.phase is Phase.GONE:
            self._forget(card)
            full = link is not None and link.health.disk_is_low
            return replace(report, is_blameless=report.is_blameless or full)
        carried = self._carried(card)
        if link is not None and carried is not None and carried.failure:
            if not carried.has_room:
                link.note_no_room(carried.base or "")
            self.end(card, carried.failure)
            self._forget(card)
            return replace(self._gone.pop(card), is_blameless=not carried.has_room)
        if carried is None or report.phase is not Phase.IDLE:
            return report
        if not carried.is_under_way(report.last_attempt):
            return report
        still_s = time.monotonic() - carried.moved_s
        data = {**(report.data or {}), "still_s": still_s}
        attempt = carried.given.attempt
        return replace(report, phase=Phase.BUSY, attempt=attempt, data=data)

    def _carried(self, card: str) -> Carried | None:
        link = self._link(card)
        if link is None or link.courier is None:
            return None
        every = list(link.courier.carried.values())
        now = [one for one in every if one.given.card["uuid"] == card and not one.is_over]
        return max(now, key=lambda each: each.given.attempt, default=None)

    def _forget(self, card: str) -> None:
        """Carry no attempt of a card whose worker has gone."""
        link = self._link(card)
        if link is not None and link.courier is not None:
            for carried in list(link.courier.carried.values()):
                carried.is_over |= carried.given.card["uuid"] == card

    def _link(self, card: str) -> BoxLink | None:
        return self._boxes.link_of(card) if self._boxes is not None else None

    def _report_death(self, card: str, actor: _Actor, now: float) -> None:
        if is_elsewhere(card):  # a worker that died with its node is not lost by itself
            assert self._boxes is not None
            self._boxes.look(at_once=True)
            if not self._node_lives(card):
                self._lose(card)
                return
        super()._report_death(card, actor, now)

    def _is_passing(self, error: Exception) -> bool:
        return isinstance(error, self._ray.exceptions.ActorUnavailableError)

    def close(self) -> None:
        super().close()
        if self._boxes is not None:
            self._boxes.end()
            self._boxes = None
