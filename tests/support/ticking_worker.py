"""A worker that trains nothing: it takes one step each time it is asked for a report.

A second implementation of fleet.WorkerLike, without threads or clocks, so that scheduler tests
are exact. It writes the same events to the same files as the real one.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from workbench.attempts.assignment import ANSWERS, Assignment
from workbench.attempts.events import EventWriter
from workbench.attempts.results_file import ResultsHead, write_results
from workbench.fleet.trial_fence import live_attempt

ROWS = 20
"""Held-out rows of every experiment."""


def held_out(rate: float, step: int) -> float:
    """Lower for a higher rate and with every step; courses never cross."""
    return (2.0 - rate) / step


class TickingWorker:
    def __init__(self, card: dict[str, Any], generation: int, home: str) -> None:
        self.card = card
        self.generation = generation
        self.given: Assignment | None = None
        self.last_attempt: int | None = None
        self.step = 0
        self.halted: str | None = None
        self.base: str | None = None
        self.events: EventWriter | None = None

    def start(self, assignment: dict[str, Any]) -> dict[str, Any]:
        given = Assignment.from_json(assignment)
        if given.attempt <= (self.last_attempt or 0):
            return {"ok": given.attempt == self.last_attempt, "reason": "seen"}
        if self.given is not None:
            return {"ok": False, "reason": "busy"}
        self.given, self.last_attempt, self.halted = given, given.attempt, None
        self.step = self._newest_checkpoint()
        self.events = EventWriter(Path(given.folder) / "events.jsonl")
        self._write("started", pid=os.getpid(), generation=self.generation, plan=given.plan)
        if given.kind == "tune":
            self._write("phase", name="training", steps=given.recipe["train"]["max_steps"])
        return {"ok": True}

    def halt(self, attempt: int, how: str) -> None:
        if self.given is not None and self.given.attempt == attempt:
            self.halted = how

    def report(self) -> dict[str, Any]:
        self._advance()
        return {
            "phase": "busy" if self.given else "idle",
            "attempt": self.given.attempt if self.given else None,
            "last_attempt": self.last_attempt,
            "pid": os.getpid(),
            "base": self.base,
        }

    def close(self) -> None:
        self.given = None
        if self.events is not None:
            self.events.close()

    def _write(self, kind: str, **data: Any) -> None:
        assert self.events is not None
        self.events.write(kind, **data)

    def _checkpoints(self) -> Path:
        assert self.given is not None
        return Path(self.given.trial_folder) / "checkpoints"

    def _newest_checkpoint(self) -> int:
        folder = self._checkpoints()
        steps = [int(p.name) for p in folder.iterdir()] if folder.exists() else []
        return max(steps, default=0)

    def _checkpoint(self) -> None:
        (self._checkpoints() / str(self.step)).mkdir(parents=True, exist_ok=True)
        self._write("checkpoint", step=self.step, path="", bytes=0)

    def _advance(self) -> None:
        if self.given is None:
            return
        if self.events is not None and not self.events.is_read():
            self.close()
            return
        train = self.given.recipe["train"]
        if self.halted == "yield":
            if self.given.kind == "tune":
                self._checkpoint()
            self._end("yielded")
        elif self.halted == "finish" or self.given.finish:
            if not self.given.finish:
                self._checkpoint()
            self._score()
            self._end("stopped")
        elif self.given.kind in ("base", "score"):
            self._score()
            self._end("done")
        else:
            self.step += 1
            loss = 5.0 / (self.step + float(train["learning_rate"]))
            values = {"loss": loss, "tokens_per_s": 100.0, "peak_bytes": 1 << 20}
            every = self.given.recipe["evaluate"]["every"]
            if every and self.step % every == 0:
                values["eval_loss"] = held_out(train["learning_rate"], self.step)
            steps = train["max_steps"]
            left_s = None if steps is None else float(steps - self.step)
            self._write("metric", step=self.step, values=values, seconds_left=left_s)
            if train["learning_rate"] == 0.777 and self.step == 4:
                if self._newest_checkpoint():
                    self._score()
                self._end("diverged", reason="the loss became NaN", hint="lower the rate")
            elif train["learning_rate"] == 0.666:
                self._end("failed", reason="the loss is NaN", hint="lower train.learning_rate")
            elif self.step >= train["max_steps"]:
                self._score()
                self._end("done")
            elif self.step % train["save_every"] == 0:
                self._checkpoint()

    def _score(self) -> None:
        assert self.given is not None
        rate = self.given.recipe["train"]["learning_rate"]
        if self.given.score is not None:
            self.step = int(self.given.score.get("step") or 0)
        score = 0.1 if self.given.kind == "base" else min(1.0, rate * self.step)
        loss = 1.0 - score
        values = {"exact_match": score, "loss": loss, "perplexity": math.exp(loss)}
        self._keep_rows(score, loss)
        self._answer_beside()
        self._write("score", subject=self.given.kind, values=values, step=self.step)
        if self.given.kind == "tune":
            folder = Path(self.given.trial_folder) / "adapter"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "adapter_model.safetensors").write_bytes(b"0" * 10)
            self._write("adapter", path=str(folder), bytes=10, sha256="0" * 64)

    def _answer_beside(self) -> None:
        """Leave answers for the trials beside this one that were not placed since."""
        assert self.given is not None
        (Path(self.given.trial_folder) / ANSWERS).unlink(missing_ok=True)
        for one in self.given.beside or ():
            folder = Path(one["trial_folder"])
            if folder.is_dir() and live_attempt(folder) == one["live"]:
                (folder / ANSWERS).parent.mkdir(exist_ok=True)
                (folder / ANSWERS).write_text("{}")

    def _keep_rows(self, score: float, loss: float) -> None:
        """Write results of ROWS held-out rows that give these scores."""
        assert self.given is not None
        right = round(score * ROWS)
        head = ResultsHead(
            evaluation=("f" if (self.given.score or {}).get("rows") == "test" else "e") * 32,
            tokens="a" * 32,
            step=self.step,
            scored=True,
            targets=[10] * ROWS,
            sums={"loss": [10 * loss * (row + 0.5) / (ROWS / 2) for row in range(ROWS)]},
            means={"exact_match": [float(row < right) for row in range(ROWS)]},
        )
        sha256 = write_results(Path(self.given.trial_folder), head)
        about = {"evaluation": head.evaluation, "tokens": head.tokens, "scored": True}
        self._write("results", **about, step=self.step, rows=ROWS, sha256=sha256)

    def _end(self, outcome: str, reason: str = "", hint: str = "") -> None:
        assert self.given is not None
        self.base = self.given.recipe["model"]["name"]
        self._write("end", outcome=outcome, step=self.step, reason=reason, hint=hint)
        self.close()
