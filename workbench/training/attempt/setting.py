"""What the steps of one attempt share: its recipe, plan and rows, the base, and the scorer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from workbench import __version__, fault_points
from workbench.attempts.assignment import Assignment
from workbench.attempts.events import AttemptEnd, Outcome
from workbench.errors import DataError, Diverged, ModelError
from workbench.footprint import Plan
from workbench.machine.cards import Card
from workbench.recipe import Recipe, local_path
from workbench.training import libraries
from workbench.training.checkpoints.background_writer import BackgroundWriter
from workbench.training.control import Control, Emit
from workbench.training.dataset.chat.template import unthinking_by_default
from workbench.training.dataset.prepared import (
    Prepared,
    check_unchanged,
    known_rows,
    load_prepared,
    load_test_rows,
    prepare_data,
)
from workbench.training.dataset.scored_rows import prepare_scored_rows
from workbench.training.memory.card_memory import Meter
from workbench.training.memory.host_memory import MemoryMonitor, loading_bytes
from workbench.training.model.base import BaseSpec, ResidentBase, find_nonfinite
from workbench.training.prepare import evaluation_digest
from workbench.training.scoring.generation import GenerateRows, generate_rows
from workbench.training.scoring.results_writer import ResultsWriter
from workbench.training.scoring.scorers.answer_scores import OwnScorerRun
from workbench.training.scoring.scorers.own_scorers import scorer_digests, scorers_folder
from workbench.training.scoring.scores import Scorer
from workbench.training.step.in_trainer import options_from
from workbench.training.time_left import TimeLeft
from workbench.training.training_arguments import read_prepared


class AttemptSetting:
    """The assignment of one attempt, and everything that is made of it once.

    `host` replaces the monitor of the machine's memory in tests.
    """

    def __init__(
        self,
        assignment: Assignment,
        resident: ResidentBase,
        meter: Meter,
        emit: Emit,
        control: Control,
        host: MemoryMonitor | None = None,
    ) -> None:
        self.assignment = assignment
        self.recipe = Recipe.model_validate(assignment.recipe)
        self.plan = Plan.from_json(assignment.plan)
        self.card = Card.from_json(assignment.card)
        self.resident, self.meter, self.emit, self.control = resident, meter, emit, control
        keeps_best = self.recipe.train.keep == "best"
        self.time_left = TimeLeft(
            emit,
            evaluate_every=self.recipe.evaluate.every,
            last_passes=2 if keeps_best and assignment.kind == "tune" else 1,
        )
        control.rows_done = self.time_left.rows_done
        self._scorer: Scorer | None = None
        self.generate: GenerateRows = generate_rows
        """The function that generates the answers; score trials replace it."""
        self.reached = 0
        """The optimizer step of the checkpoint that training resumes from; 0 without one."""
        self.trial = Path(assignment.trial_folder)
        self.home = Path(assignment.experiment_folder).parent.parent
        self.host = host or MemoryMonitor(emit, control, self.home)
        self.checkpoints = self.trial / "checkpoints"
        self.writer = BackgroundWriter()
        """Writes checkpoints and the adapter; `TuningRun` waits for its last write."""
        self.versions = {"workbench": __version__, **libraries.versions()}

    def load_rows(self) -> None:
        """Set rows, eval_rows and rows_digest, tokenizer, and the digests of the evaluation.

        Raises DataError where a file changed since it was prepared, or has no training row.
        """
        prepared_json = read_prepared(Path(self.assignment.experiment_folder))
        model = prepared_json["model"]
        # A model that ships is where the package is now; an upgrade may have moved that.
        folder = local_path(self.recipe.model.name)
        brought = self.assignment.brought or {}
        self.model_path = str(brought.get("model") or (folder or model["path"]))
        self.revision = model.get("revision")
        self.tokenizer = self.resident.tokenizer.take(self.model_path, self._revision_to_load)
        prepared = self._prepared(prepared_json["data"]["sources"])
        if self.recipe.data.drops_reasoning and isinstance(self.tokenizer.chat_template, str):
            # For chats and tasks: rows and their prompts have it already.
            self.tokenizer.chat_template = unthinking_by_default(self.tokenizer.chat_template)
        scorers = scorer_digests(self.recipe.evaluate.scorers, scorers_folder(self.home))
        self.evaluation_digest = evaluation_digest(self.recipe, prepared, scorers)
        self.turn_end_ids = prepared.turn_end_ids
        self.rows, self.eval_rows = load_prepared(prepared)
        self.rows_digest = prepared.digest
        if (self.assignment.score or {}).get("rows") == "test":
            self.eval_rows = load_test_rows(prepared)
        if len(self.rows) == 0 and self.assignment.kind == "tune":
            raise DataError("there are no training rows", hint="check data.train and data.max_rows")

    def begin_keeping(self) -> None:
        """Release the step of the trial before where this attempt has no use or room for it."""
        keeps = self.assignment.kind == "tune" and self.plan.keeps_graphs
        options = options_from(self.plan, self.recipe) if keeps else None
        self.resident.keeper.begin(options)

    @property
    def _revision_to_load(self) -> str | None:
        """The revision of a hub model; None for a folder, into which a cluster's head brings it."""
        return None if (self.assignment.brought or {}).get("model") else self.revision

    def _prepared(self, sources: list[str | None]) -> Prepared:
        """Return the prepared rows: those that were brought here, or those of this machine's data,
        which must not have changed.
        """
        cache = self.home / "cache" / "data"
        if self.assignment.brought is not None:
            return known_rows(cache, str(self.assignment.brought["rows"]))
        check_unchanged(self.recipe.data, sources, cache)
        prepare = prepare_scored_rows if sources[0] is None else prepare_data
        return prepare(self.recipe, self.tokenizer, cache, lambda *_: self.control.beat())

    @contextmanager
    def load_base(self) -> Iterator[nn.Module]:
        """Load the base, or take the resident one, once the machine has memory for the load."""
        spec = self.base_spec()
        where = "resident" if self.resident.spec == spec else ""
        self.enter_phase("loading", where, from_step=self.reached)
        fault_points.at("worker.loading")
        need = loading_bytes(self.plan, self.card.kind, spec.path)
        held = self.resident.spec == spec
        with ExitStack() as held_now:
            with self.host.reserve(0 if held else need):
                base = held_now.enter_context(self.resident.acquire(spec))
            self.control.beat()
            yield base

    def base_spec(self) -> BaseSpec:
        """Return the base of this attempt, as it is loaded."""
        model = self.recipe.model
        return BaseSpec(
            path=self.model_path,
            revision=self._revision_to_load,
            quantization=model.quantization,
            double_quantization=model.double_quantization,
            precision=self.plan.precision,
            attention=self.plan.attention,
            device=self.card.kind,
            host_tables=self.plan.host_tables,
        )

    def scorer(self, base: nn.Module) -> Scorer:
        """Return the attempt's one scorer of the held-out rows, which scores `base` as it is."""
        if self._scorer is None:
            self._scorer = self._new_scorer(base)
            if self.control.fence is not None:  # else there are no other trials to compare with
                self._scorer.warn_of_fewer_rows()
        return self._scorer

    @property
    def missing_scores(self) -> list[str]:
        """The reasons of scores that are missing."""
        return list(self._scorer.missing.values()) if self._scorer is not None else []

    def _new_scorer(self, base: nn.Module) -> Scorer:
        return Scorer(
            model=base,
            rows=self.eval_rows,
            tokenizer=self.tokenizer,
            evaluate=self.recipe.evaluate,
            precision=self.plan.precision,
            emit=self.emit,
            control=self.control,
            rows_at_once=self.plan.eval_batch,
            dequantised=self.plan.eval_dequantised,
            generate=self.generate,
            turn_end_ids=self.turn_end_ids,
            results=ResultsWriter(
                trial_folder=self.trial,
                home=self.home,
                rows=self.eval_rows,
                evaluate=self.recipe.evaluate,
                emit=self.emit,
                control=self.control,
            ),
            own_scorers=OwnScorerRun(
                folder=scorers_folder(self.home),
                trial=self.trial,
                attempt=self.assignment.attempt,
                progress=self.control.check,
            ),
        )

    def check_base(self, base: nn.Module, divergence: Diverged) -> None:
        """Raise ModelError when the base's own weights are the reason for a loss that is NaN."""
        if names := find_nonfinite(base):
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ModelError(
                f"the base model holds weights that are NaN or infinite: {names[0]}{more}",
                hint="download the model again, or pick another one",
            ) from divergence

    def wait_for_write(self) -> None:
        """Wait until the checkpoint or adapter that is being written is on the disk.

        Raises what its write raised, as an error of the stage "saving".
        """
        with self.control.doing("saving"):
            self.writer.wait()

    def warn(self, text: str) -> None:
        """Write a warning into the trial's log."""
        self.emit("log", level="warning", text=text)

    def enter_phase(self, name: str, detail: str = "", **more: Any) -> None:
        """Report the phase that begins; `more` are further keys of its event."""
        self.control.beat()
        self.control.stage = name
        self.emit("phase", name=name, detail=detail, **more)


def yielded_end(step: int, when: str = "") -> AttemptEnd:
    """Return the end of an attempt that gives its card back after `step` optimizer steps."""
    reason = f"asked to give the card back{when}"
    return AttemptEnd(outcome=Outcome.YIELDED, step=step, reason=reason)
