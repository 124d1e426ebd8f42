"""A ticking worker on a card that is smaller than was predicted."""

from __future__ import annotations

from typing import ClassVar

from tests.support.ticking_worker import TickingWorker
from workbench.footprint import Plan


class CrampedWorker(TickingWorker):
    """Runs out of memory at its third step, or its next one, when its plan asks for more rows at a
    time than `holds` says of its card, or than 1 without recompute when that is 0; and at once in
    the first `taken` attempts, whose card other programs have filled."""

    holds: ClassVar[dict[str, int]] = {}
    taken: ClassVar[int] = 0
    ran: ClassVar[list[tuple[str, int, int, bool]]] = []
    """(card, trial, rows, recompute) of each attempt that began to train."""

    def _advance(self) -> None:
        if self.given is None or self.given.kind == "base":
            super()._advance()
            return
        plan = Plan.from_json(self.given.plan)
        rows, recompute = plan.micro_batch, plan.recompute_layers > 0
        holds = self.holds.get(str(self.card["uuid"]), 1 << 20)
        if self.step == self._newest_checkpoint() and self.halted is None:
            self.ran.append((str(self.card["uuid"]), self.given.trial, rows, recompute))
        if CrampedWorker.taken:
            CrampedWorker.taken -= 1
            self._fall("card_memory", "loading")
        elif self.step >= 3 and rows > holds and not (holds == 0 and rows == 1 and recompute):
            self._fall()
        else:
            super()._advance()

    def _fall(self, cause: str = "out_of_memory", stage: str = "training") -> None:
        self._write(
            "end",
            outcome="failed",
            step=self.step,
            reason=f"out of memory in {stage} at step {self.step}",
            hint="fewer rows",
            cause=cause,
            stage=stage,
        )
        self.close()
