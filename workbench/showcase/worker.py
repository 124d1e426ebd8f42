"""A worker that trains nothing, and reports what a real one would have reported by now.

The third implementation of `fleet.WorkerLike`. Losses and answers are drawn by the trial's
settings and seed, so that a good learning rate wins; nothing is read from the recipe's data.
"""

from __future__ import annotations

import math
import os
import random
from pathlib import Path
from typing import Any

from workbench.attempts.assignment import Assignment
from workbench.attempts.events import EventWriter
from workbench.attempts.results_file import (
    ResultsHead,
    questions_path,
    write_lines,
    write_results,
)
from workbench.showcase.clock import CLOCK

STEP_S = {"NVIDIA GeForce RTX 4090": 1.1}
"""Seconds of an optimizer step by the card's name; OTHER_STEP_S on any other card."""
OTHER_STEP_S = 1.8
LOADING_S, SCORING_S = 9.0, 6.0
ROWS = 96
"""Held-out rows."""
TARGETS = 24
"""Target tokens of each row."""
TOKENS_PER_STEP = 2_300
BEST_RATE, DIVERGES_FROM = 2e-4, 2e-3
"""Learning rates: that with the lowest loss, and that from which the loss is no number."""


class ScriptedWorker:
    """The worker of one made-up card; it advances each time it is asked for a report."""

    def __init__(self, card: dict[str, Any], generation: int, home: str) -> None:
        self._card = card
        self._generation = generation
        self._home = Path(home)
        self._given: Assignment | None = None
        self._last: int | None = None
        self._halted = ""
        self._step = 0
        self._events: EventWriter | None = None
        self._course = Course({}, 0)
        self._ready_s = 0.0
        """Time at which loading or scoring ends, by the showcase's clock."""
        self._scoring = False

    # --- what a fleet asks ---

    def start(self, assignment: dict[str, Any]) -> dict[str, Any]:
        """Take an attempt, unless it was seen before or another one is under way."""
        given = Assignment.from_json(assignment)
        if given.attempt <= (self._last or 0):
            return {"ok": given.attempt == self._last, "reason": "seen"}
        if self._given is not None:
            return {"ok": False, "reason": "busy"}
        self._given, self._last = given, given.attempt
        self._halted, self._scoring = "", False
        self._step = self._newest_checkpoint()
        self._course = Course(given.recipe, given.trial)
        self._ready_s = CLOCK() + LOADING_S
        self._events = EventWriter(Path(given.folder) / "events.jsonl", CLOCK)
        self._write("started", pid=os.getpid(), generation=self._generation, plan=given.plan)
        self._write("phase", name="loading", detail="the base", from_step=self._step)
        return {"ok": True}

    def halt(self, attempt: int, how: str) -> None:
        """End that attempt at its next report: `yield` at a checkpoint, or `finish` scored."""
        if self._given is not None and self._given.attempt == attempt:
            self._halted = how

    def report(self) -> dict[str, Any]:
        """Do what is due by the clock; return the worker's state."""
        if self._given is not None:
            self._advance(self._given)
        return {
            "phase": "busy" if self._given else "idle",
            "attempt": self._given.attempt if self._given else None,
            "last_attempt": self._last,
            "pid": os.getpid(),
        }

    def close(self) -> None:
        """Forget the attempt and close its file."""
        self._given = None
        if self._events is not None:
            self._events.close()

    # --- the course of an attempt ---

    def _advance(self, given: Assignment) -> None:
        if self._halted == "yield":
            if given.kind == "tune" and self._step:
                self._checkpoint(given)
            self._end("yielded")
        elif CLOCK() < self._ready_s:
            return
        elif given.kind == "chat":
            self._end("failed", "there is no model to chat with", "chat with a trial of your own")
        elif self._scoring:
            self._score(given)
            self._end("stopped" if self._halted or given.finish else "done")
        elif given.kind != "tune" or self._halted == "finish" or given.finish:
            self._begin_scoring()
        else:
            self._train(given)

    def _train(self, given: Assignment) -> None:
        """Take the steps that are due since the last report."""
        steps = int(given.recipe["train"]["max_steps"])
        if self._course.is_new:
            self._course.is_new = False
            self._write("phase", name="training", steps=steps)
            self._write("log", level="info", text="the base is loaded: nf4, 224 projections")
        step_s = STEP_S.get(str(self._card.get("name")), OTHER_STEP_S)
        while self._ready_s <= CLOCK() and self._step < steps:
            self._ready_s += step_s
            self._step += 1
            self._report_step(given, steps, step_s)
            if self._course.diverges_at(self._step):
                why = "the loss became NaN"
                self._end("diverged", why, "lower train.learning_rate", cause="recipe")
                return
        if self._step >= steps:
            self._begin_scoring()

    def _report_step(self, given: Assignment, steps: int, step_s: float) -> None:
        loss = self._course.loss(self._step)
        values = {
            "loss": loss,
            "grad_norm": self._course.gradient_norm(self._step),
            "learning_rate": float(given.recipe["train"]["learning_rate"]),
            "tokens_per_s": TOKENS_PER_STEP / step_s,
            "peak_bytes": int(given.plan["predicted_bytes"] * 0.97),
        }
        every = given.recipe["evaluate"]["every"]
        if every and self._step % every == 0:
            values["eval_loss"] = loss + 0.05
        left_s = (steps - self._step) * step_s
        self._write("metric", step=self._step, values=values, steps=steps, seconds_left=left_s)
        if self._step % int(given.recipe["train"]["save_every"]) == 0:
            self._checkpoint(given)

    def _begin_scoring(self) -> None:
        self._scoring = True
        self._ready_s = CLOCK() + SCORING_S
        self._write("phase", name="evaluating", detail="held-out rows")

    def _score(self, given: Assignment) -> None:
        """Write scores, results by row, three samples and an adapter."""
        step = int((given.score or {}).get("step") or 0) if given.kind == "score" else self._step
        loss = self._course.held_out(given.kind, step)
        rows = (given.score or {}).get("rows") or "eval"
        losses, right = made_up_rows(loss, given.trial, rows)
        questions = [question_of(row, rows) for row in range(ROWS)]
        answers = [
            answer_line(row, text, expected, right[row])
            for row, (text, expected) in enumerate(questions)
        ]
        evaluation = ("f" if rows == "test" else "e") * 32
        head = ResultsHead(
            evaluation=evaluation,
            tokens="a" * 32,
            step=step,
            scored=True,
            targets=[TARGETS] * ROWS,
            sums={"loss": [one * TARGETS for one in losses]},
            means={"exact_match": [float(one) for one in right]},
        )
        sha256 = write_results(Path(given.trial_folder), head, answers)
        asked = [{"question": text, "expected": expected} for text, expected in questions]
        write_lines(questions_path(self._home, evaluation), asked)
        about = {"evaluation": evaluation, "tokens": head.tokens, "scored": True}
        self._write("results", **about, step=step, rows=ROWS, sha256=sha256)
        mean = sum(losses) / ROWS
        values = {"exact_match": sum(right) / ROWS, "loss": mean, "perplexity": math.exp(mean)}
        self._write("score", subject=given.kind, values=values, step=step)
        for line, one in zip(answers[:3], asked, strict=False):
            shown = {"answer": line["text"], "right": line["right"]}
            self._write("sample", **one, **shown)
        if given.kind == "tune":
            self._keep_adapter(given)

    def _keep_adapter(self, given: Assignment) -> None:
        folder = Path(given.trial_folder) / "adapter"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "README.md").write_text("A made-up adapter: it holds no weights.\n")
        self._write("adapter", path=str(folder), bytes=84_000_000, sha256="0" * 64)

    def _checkpoint(self, given: Assignment) -> None:
        path = Path(given.trial_folder) / "checkpoints" / str(self._step)
        path.mkdir(parents=True, exist_ok=True)
        self._write("checkpoint", step=self._step, path="", bytes=0)

    def _newest_checkpoint(self) -> int:
        assert self._given is not None
        folder = Path(self._given.trial_folder) / "checkpoints"
        steps = [int(path.name) for path in folder.iterdir()] if folder.exists() else []
        return max(steps, default=0)

    def _end(self, outcome: str, reason: str = "", hint: str = "", **about: str) -> None:
        self._write("end", outcome=outcome, step=self._step, reason=reason, hint=hint, **about)
        self.close()

    def _write(self, kind: str, **data: Any) -> None:
        assert self._events is not None
        self._events.write(kind, **data)


class Course:
    """The losses of one trial, drawn by its settings and its number."""

    def __init__(self, recipe: dict[str, Any], trial: int) -> None:
        self.is_new = True
        train, lora = recipe.get("train") or {}, recipe.get("lora") or {}
        self._rate = float(train.get("learning_rate") or BEST_RATE)
        rank = float(lora.get("rank") or 16)
        away = math.log10(self._rate / BEST_RATE)
        self._floor = 0.92 + 0.28 * away**2 + 0.03 * math.log2(64 / rank) / 3
        self._seed = trial

    def loss(self, step: int) -> float:
        """Return the training loss in nats per target token."""
        dice = random.Random(f"{self._seed} {step}")
        fall = math.exp(-step * self._rate / (BEST_RATE * 45))
        return self._floor + 1.15 * fall + dice.gauss(0, 0.035)

    def gradient_norm(self, step: int) -> float:
        """Return the norm of the gradient at that step."""
        dice = random.Random(f"{step} {self._seed}")
        return 0.3 + abs(dice.gauss(0, 0.15)) + math.exp(-step / 60)

    def held_out(self, kind: str, step: int) -> float:
        """Return the held-out loss in nats per target token; that of the base is fixed."""
        if kind == "base":
            return 1.74
        return self._floor + 0.06 + 0.8 * math.exp(-step * self._rate / (BEST_RATE * 45))

    def diverges_at(self, step: int) -> bool:
        """Return True where the loss is no number any more."""
        return self._rate >= DIVERGES_FROM and step >= 30


def made_up_rows(loss: float, seed: int, rows: str) -> tuple[list[float], list[bool]]:
    """Return the loss of each row in nats per token, and which rows are answered right.

    Hard rows are hard for every trial, so that paired differences are smaller than scores'.
    """
    shared, own = random.Random(rows), random.Random(f"{rows} {seed}")
    losses = [
        shared.lognormvariate(0, 0.6) * own.lognormvariate(0, 0.12) * loss for _ in range(ROWS)
    ]
    ease = [shared.gauss(0, 1) + own.gauss(0, 0.45) for _ in range(ROWS)]
    share = min(0.95, max(0.05, 1.62 - 0.95 * loss))
    best = set(sorted(range(ROWS), key=lambda row: -ease[row])[: round(share * ROWS)])
    scale = loss * ROWS / sum(losses)
    return [one * scale for one in losses], [row in best for row in range(ROWS)]


def question_of(row: int, rows: str) -> tuple[str, str]:
    """Return the question of a row and its expected answer."""
    dice = random.Random(f"{rows} question {row}")
    boxes, screws = dice.randint(3, 19), dice.randint(4, 48)
    question = f"A shelf holds {boxes} boxes of {screws} screws. How many screws are there?"
    return question, f"{boxes} times {screws} is {boxes * screws}.\n#### {boxes * screws}"


def answer_line(row: int, question: str, expected: str, right: bool) -> dict[str, Any]:
    """Return a row's line in the file of results."""
    result = int(expected.rpartition(" ")[2])
    given = result if right else result + 10 * (1 + row % 3)
    text = expected.replace(str(result), str(given))
    return {
        "row": row,
        "text": text,
        "extracted": str(given),
        "right": right,
        "tokens": len(text) // 4 + len(question) % 3,
        "ended_by": "end",
    }
