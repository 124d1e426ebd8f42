"""Answers of several adapters of one base, generated in one pass.

A score trial generates its own answers and those of trials that wait beside it; a trial that trains
generates those of its experiment's base. Each waiting trial's are written to its own folder as soon
as all of its rows are answered, and its own attempt reads them there: a pass that ends early costs
only what was not finished. Of several passes that could answer a trial, the first takes its lock.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import nn

from workbench.attempts.assignment import AHEAD, ANSWERS
from workbench.errors import WorkbenchError
from workbench.fleet.trial_fence import live_attempt
from workbench.machine.files import write_durably
from workbench.machine.locks import Lock
from workbench.training.control import Control
from workbench.training.decode.forward import CannotFuse
from workbench.training.decode.generate import Generated
from workbench.training.decode.lanes import Prompt
from workbench.training.evaluation.scored_adapter import BASE_ALONE, ScoredAdapter, check_scored
from workbench.training.model.saved_adapter import add_saved, check_fits_base, load_saved
from workbench.training.scoring.generation import (
    GenerationPlan,
    by_lanes,
    generate_rows,
    longest_first,
)

_LOCK = f"{AHEAD}/lock"
"""The file in a trial's folder whose lock the pass holds that answers it."""
_OWN = "default"
"""PEFT's name of the adapter of the trial itself (`saved_adapter.load_saved`, `add_adapter`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    """A trial that waits beside, and what it scores."""

    folder: Path
    subject: ScoredAdapter
    live: int | None = None
    """Its live attempt when it was chosen."""

    def still_waits(self) -> bool:
        """Return False where it was placed, called off or removed since."""
        return self.folder.is_dir() and live_attempt(self.folder) == self.live


class AnswersTogether:
    """The answers of one trial, generated beside those of others."""

    def __init__(
        self,
        trial_folder: Path,
        subject: ScoredAdapter | None,
        beside: Sequence[Mapping[str, Any]] = (),
        *,
        lanes: int = 0,
        about: Mapping[str, Any],
    ) -> None:
        """`beside` are the other trials as `Assignment.beside` has them; `subject` is None for the
        adapter that the trial has trained, beside which only the base alone can be.

        `lanes` rows of all of them are answered at once; `about` holds what answers depend on
        besides adapter, prompts and plan.
        """
        self.model: PeftModel | None = None
        """The base with the trial's own adapter; None while it has none."""
        self._folder, self._subject = trial_folder, subject
        self._beside = [dict(one) for one in beside]
        bases = [one for one in self._beside if one.get("folder") is None]
        self._waiting = [_waiting(one, BASE_ALONE) for one in bases]
        self._lanes, self._about = lanes, dict(about)

    def check_beside(self, base: nn.Module) -> None:
        """Choose the adapters beside that can be answered in one pass, on the bare base.

        What is wrong with an adapter is left for its own attempt to report.
        """
        for source in self._beside:
            with suppress(WorkbenchError):
                subject = check_scored(source, _say_nothing)
                if subject.found is not None:
                    check_fits_base(base, subject.found)
                    if _can_wait(subject):
                        self._waiting.append(_waiting(source, subject))

    def generate_rows(
        self,
        model: nn.Module,
        prompts: Mapping[int, list[int]],
        plan: GenerationPlan,
        control: Control,
        *,
        shrunk: Callable[[int], None],
        fell_back: Callable[[str], None],
    ) -> dict[int, Generated]:
        """Return the trial's own answers; those of the trials beside are left in their folders.

        A `generation.GenerateRows`. Takes the answers that another trial's pass left here.
        """
        how: dict[str, Any] = {"shrunk": shrunk, "fell_back": fell_back}
        own = self._subject
        if own is not None:
            if not _can_wait(own):
                return generate_rows(model, prompts, plan, control, **how)
            left = _read_answers(self._folder, self._key(own, prompts, plan))
            if left is not None:
                return left
        with ExitStack() as locks:
            missing = [
                one for one in self._waiting if prompts and self._claim(one, prompts, plan, locks)
            ]
            if not missing:
                return generate_rows(model, prompts, plan, control, **how)
            names, trials = self._load(model, missing)
            try:
                return self._in_one_pass(model, names, trials, prompts, plan, control, shrunk)
            except CannotFuse:
                if own is not None and own.found is None and self.model is not None:
                    self.model.base_model.disable_adapter_layers()
        return generate_rows(model, prompts, plan, control, **how)

    def _claim(
        self,
        one: _Waiting,
        prompts: Mapping[int, list[int]],
        plan: GenerationPlan,
        locks: ExitStack,
    ) -> bool:
        """Return whether this pass is to answer a trial, whose lock `locks` then holds.

        Another one has answered it, is about to, or the trial was placed or ended by itself.
        """
        lock = Lock(one.folder / _LOCK)
        if not one.still_waits():
            return False
        try:
            lock.path.parent.mkdir(mode=0o700, exist_ok=True)
            if not lock.take():
                return False
        except OSError:  # the disk is full
            return False
        locks.callback(lock.release)
        return _read_answers(one.folder, self._key(one.subject, prompts, plan)) is None

    def forget(self) -> None:
        """Remove the answers that were left for this trial, which is scored."""
        shutil.rmtree(self._folder / AHEAD, ignore_errors=True)

    def _in_one_pass(
        self,
        model: nn.Module,
        names: Sequence[str | None],
        trials: Sequence[_Waiting | None],
        prompts: Mapping[int, list[int]],
        plan: GenerationPlan,
        control: Control,
        shrunk: Callable[[int], None],
    ) -> dict[int, Generated]:
        # One adapter after the other, so that the first ones are finished first; the lanes that
        # one leaves free are filled with rows of the next.
        asked = {
            (which, row): Prompt(ids=prompts[row], most=plan.most, adapter=which)
            for which in range(len(names))
            for row in longest_first(prompts)
        }
        made: list[dict[int, Generated]] = [{} for _ in names]

        def answered(key: tuple[int, int], new: Generated) -> None:
            which, row = key
            made[which][row] = new
            one = trials[which]
            if one is not None and len(made[which]) == len(prompts) and one.still_waits():
                _write_answers(one.folder, self._key(one.subject, prompts, plan), made[which])

        def fewer(lanes: int) -> None:
            if lanes < plan.rows_at_once:
                shrunk(lanes)

        wide = replace(plan, rows_at_once=max(plan.rows_at_once, self._lanes))
        by_lanes(model, asked, wide, control, adapters=names, shrunk=fewer, answered=answered)
        return made[0]

    def _load(
        self, model: nn.Module, waiting: Sequence[_Waiting]
    ) -> tuple[list[str | None], list[_Waiting | None]]:
        """Put the adapters beside the trial's own; return all names and trials, its own first.

        An adapter that cannot be loaded is left for its own attempt. The trial that trained its
        adapter, which is scored once, is None: its answers are not kept for another attempt.
        """
        own = self._subject
        names: list[str | None] = [None if own is not None and own.found is None else _OWN]
        live = live_attempt(self._folder)
        trials = [None if own is None else _Waiting(folder=self._folder, subject=own, live=live)]
        for number, one in enumerate(waiting):
            name, subject = f"beside_{number}", one.subject
            try:
                if subject.found is None:
                    names.append(None)
                elif self.model is None:
                    self.model = load_saved(model, subject.found, subject.sha256, name=name)
                    names.append(name)
                else:
                    add_saved(self.model, subject.found, subject.sha256, name=name)
                    names.append(name)
            except WorkbenchError:
                continue
            trials.append(one)
        return names, trials

    def _key(
        self, subject: ScoredAdapter, prompts: Mapping[int, list[int]], plan: GenerationPlan
    ) -> str:
        """Return a digest of everything that the answers depend on."""
        what = {
            **self._about,
            "adapter": [subject.name, subject.identity],
            "prompts": sorted(prompts.items()),
            "most": plan.most,
            "ends": list(plan.ends),
            "precision": plan.precision,
        }
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def _waiting(source: Mapping[str, Any], subject: ScoredAdapter) -> _Waiting:
    """Return a trial that waits, of an entry of `Assignment.beside`."""
    folder = Path(str(source["trial_folder"]))
    return _Waiting(folder=folder, subject=subject, live=source.get("live"))


def _can_wait(subject: ScoredAdapter) -> bool:
    """Return whether the adapter can be answered beside others.

    decode/ has to compute it, PEFT to keep it beside others, and a digest to identify its weights.
    """
    if subject.found is None:
        return True
    settings = subject.found.settings
    plain = not (settings.dora or settings.lora_bias or settings.bias != "none")
    return plain and bool(subject.identity)


def _say_nothing(kind: str, *, durable: bool = False, **data: Any) -> None:
    """Take an event that the adapter's own attempt will report."""


def _write_answers(trial_folder: Path, key: str, made: Mapping[int, Generated]) -> None:
    """Write the answers of one trial; nothing where the disk is full."""
    rows = [[row, one.ids, one.ended] for row, one in made.items()]
    file = trial_folder / ANSWERS
    with suppress(OSError):  # then they are generated again
        file.parent.mkdir(mode=0o700, exist_ok=True)
        write_durably(file, json.dumps({"key": key, "rows": rows}).encode())


def _read_answers(trial_folder: Path, key: str) -> dict[int, Generated] | None:
    """Return the answers that were left for a trial; None without any, or where they are others."""
    try:
        left = json.loads((trial_folder / ANSWERS).read_bytes())
        if left["key"] != key:
            return None
        return {
            int(row): Generated(ids=[int(id) for id in ids], ended=bool(ended))
            for row, ids, ended in left["rows"]
        }
    except (OSError, ValueError, TypeError, KeyError):
        return None
