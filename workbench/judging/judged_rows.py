"""Assemble the judged board: ranked rows, the verdict's fields on each, and its sentence."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from workbench import formatting
from workbench.adapters.subjects import ADAPTER
from workbench.judging.comparison import paired_difference
from workbench.judging.finals import (
    FinalTrial,
    finals_against,
    judge_final_trials,
    read_finals,
    with_finals,
)
from workbench.judging.tested_scores import judge_tested, read_tested, with_tests
from workbench.store.board import rank_adapters
from workbench.store.board_rows import BoardRow, JudgedBoard, ScoreDifference, score_difference
from workbench.store.reader import Reader
from workbench.store.row_results import read_row_results
from workbench.store.rows import Experiment
from workbench.text import safe_line
from workbench.trial import LOWER_SUFFIX, Kind, State, up_is_better

if TYPE_CHECKING:  # numpy costs 0.1 s, which only a board that is judged needs
    from workbench.verdict.types import BoardVerdict, FinalsVerdict, Interval, RowResults

NO_ROWS = "no interval: an older build scored it, and kept no results by row"
NOT_A_NUMBER = "its {score} is not a number"
NO_MATCH = "no held-out row has an answer that matches evaluate.answer_pattern"
NOT_SCORED = "it left no {score}"
HARNESS_ERROR = "the interval is 1.96 standard errors of lm-evaluation-harness to each side"
MOST_JUDGED = 300
"""Trials that are compared by row, the best ones: below 1 s and 300 MiB at 500 rows, where 1,000
take 9 s and 2 GiB (measured by benchmarks/verdict.py on 2 CPU cores)."""
NOT_COMPARED = f"no interval: only the best {MOST_JUDGED} trials are compared by row"
NORMAL_95 = 1.959964
"""Standard errors from the middle to each end of a normal 95 % interval."""


class BoardJudge:
    """A judge that keeps its last verdict for as long as the results behind it are the same.

    A live board is read several times a second, and judged once for each new result.
    """

    def __init__(self) -> None:
        self._version: object = None
        self._verdict: BoardVerdict | None = None
        self._tested: Mapping[int | None, Interval] = {}
        self._finals_version: object = None
        self._finals: FinalsVerdict | None = None
        self._baseline_version: object = None
        self._baseline: Baseline | None = None

    def judge_experiment(self, reader: Reader, key: int | str, now: float) -> JudgedBoard:
        """Return the board of the experiment with this id or name, with its verdict.

        `now` (UTC seconds) ends the wall time of what still runs. Costs as much as ranking where
        nothing was scored since the last call, and else some tenths of a second. Raises NotThere
        where there is no such experiment.
        """
        with reader.one_view():
            experiment = reader.experiment(key)
            rows = rank_adapters(reader, experiment, now)
            version = (experiment.id, results_version(reader, experiment, rows))
            known = version == self._version
            results = None if known else read_board_results(reader, rows)
            tested = {} if known else read_tested(reader, experiment.id)
            trials = read_finals(reader, experiment.id)
            names = read_scored_names(reader, rows)
            self._judge_finals(reader, experiment, trials, version)
        if results is not None:  # outside of the view, which would hold back the store's writer
            self._verdict = judge_results(experiment.rank_by, results)
            self._tested = judge_tested(experiment.rank_by, tested)
            self._version = version
        board = assemble_board(experiment, rows, self._verdict, names)
        board = with_tests(board, self._tested)
        return with_finals(board, trials, self._finals) if trials else board

    def compare_with(self, reader: Reader, key: int | str, trial: int, now: float) -> Baseline:
        """Return the differences of a board's trials from one of them, on the same rows.

        Takes some milliseconds a trial; done once for the same results. Raises NotThere where there
        is no such experiment.
        """
        with reader.one_view():
            experiment = reader.experiment(key)
            rows = rank_adapters(reader, experiment, now)
            version = (experiment.id, trial, results_version(reader, experiment, rows))
            if version == self._baseline_version:
                assert self._baseline is not None
                return self._baseline
            results = read_board_results(reader, rows)
            finals = finals_against(reader, experiment, trial)
        found = [*results.trials, *([results.base] if results.base else [])]
        first = next((one for one in found if one.trial == trial), None)
        self._baseline = Baseline(
            trial=trial,
            differences={
                one.trial: score_difference(paired_difference(one, first, experiment.rank_by))
                for one in found
                if first is not None and one is not first
            },
            finals=finals,
        )
        self._baseline_version = version
        return self._baseline

    def _judge_finals(
        self, reader: Reader, experiment: Experiment, trials: Sequence[FinalTrial], version: object
    ) -> None:
        """Judge the finals again where another trial of them has finished since the last call."""
        key = (version, tuple(trial.id for trial in trials if trial.finished))
        if key != self._finals_version:
            self._finals = judge_final_trials(reader, experiment, trials)
            self._finals_version = key


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """A trial that others are compared with, and their paired differences from it."""

    trial: int
    differences: Mapping[int, ScoreDifference | None]
    """By trial, the base's among them: its score minus the baseline's. None where the two were not
    scored on the same rows."""
    finals: Mapping[int, ScoreDifference | None] = field(default_factory=dict)
    """By finalist, its mean over new seeds minus the baseline's score."""


def results_version(reader: Reader, experiment: Experiment, rows: Sequence[BoardRow]) -> object:
    """Return a value that changes with every score and every result by row of a board."""
    found = reader.db.execute(
        """select r.trial, r.evaluation, r.step, r.attempt, r.scored
           from row_results r join trials t on t.id = r.trial
           where t.experiment = ? or t.id = ? order by 1, 2, 3""",
        (experiment.id, experiment.base_trial),
    )
    # Results are reported before the score that they give.
    scored = tuple((row.trial, row.score_step) for row in rows if row.score is not None)
    return scored, tuple(tuple(row) for row in found)


@dataclass(frozen=True, slots=True)
class BoardResults:
    """The results by row that a board is judged by."""

    trials: list[RowResults]
    """Results of the scored weights of each trial that has a score."""
    base: RowResults | None
    checkpoints: list[RowResults]
    """Results of further weights among which those of a trial were chosen."""
    family: int
    """Trials of the board that have a score, of which `trials` are the best."""


def read_board_results(reader: Reader, rows: Sequence[BoardRow]) -> BoardResults:
    """Return the results by row of a board's trials that have a score, of one evaluation set.

    It is the set that most of them were scored on: a trial may have been scored on others too. Of
    many trials only the best MOST_JUDGED are read.
    """
    ranked = [row for row in rows if row.rank is not None]
    scored = {row.trial: row for row in ranked[:MOST_JUDGED]}
    scored |= {row.trial: row for row in rows if row.kind == "base" and row.score is not None}
    found = read_row_results(reader, scored, all_steps=True)
    sets = Counter(one.evaluation for one in found)
    evaluation = max(sets, key=lambda digest: (sets[digest], digest), default=None)
    found = [one for one in found if one.evaluation == evaluation]
    own = {one.trial: one for one in found if one.step == scored[one.trial].score_step}
    return BoardResults(
        trials=[one for trial, one in own.items() if scored[trial].kind != "base"],
        base=next((one for trial, one in own.items() if scored[trial].kind == "base"), None),
        checkpoints=[one for one in found if own.get(one.trial) is not one],
        family=len(ranked),
    )


def judge_results(rank_by: str, results: BoardResults) -> BoardVerdict | None:
    """Return the verdict on a board; None where no trial has results by row."""
    if not results.trials:
        return None
    from workbench.verdict.board import judge_board

    return judge_board(
        results.trials,
        results.base,
        rank_by,
        higher_is_better=up_is_better(rank_by),
        checkpoints=results.checkpoints,
        family=results.family,
    )


def read_scored_names(reader: Reader, rows: Sequence[BoardRow]) -> dict[int, str]:
    """Return for each trial that only scores an adapter whose it is, in words.

    For example `trial 5 of demo`, or `the folder gsm8k-peft`. Other trials are left out.
    """
    adapters = {row.trial: row.settings.get(ADAPTER) for row in rows if row.kind == Kind.SCORE}
    found = {}
    for trial, adapter in adapters.items():
        name = formatting.scored_name(adapter)
        if isinstance(adapter, str):
            name = f"the folder {name}"
        elif adapter is not None:
            owner = reader.db.execute(
                "select e.name from experiments e join trials t on t.experiment = e.id"
                " where t.id = ?",
                (adapter,),
            ).fetchone()
            name += f" of {safe_line(owner[0], 80)}" if owner else ""
        found[trial] = name
    return found


def assemble_board(
    experiment: Experiment,
    rows: Sequence[BoardRow],
    verdict: BoardVerdict | None,
    names: Mapping[int, str],
) -> JudgedBoard:
    """Return the ranked rows with the verdict's fields; those tied for first come first.

    `names` are those of `read_scored_names`, for the sentence.
    """
    judged = [_judged_row(row, experiment, verdict) for row in rows]
    # Stable: within the tied trials and within the others the order stays that of the score.
    judged.sort(key=lambda row: (row.kind == "base", not row.tied_for_first))
    return JudgedBoard(
        experiment=experiment,
        rows=judged,
        verdict=_sentence(experiment, judged, verdict, names),
        notes=verdict.notes if verdict else (),
    )


def _judged_row(row: BoardRow, experiment: Experiment, verdict: BoardVerdict | None) -> BoardRow:
    note = _missing(row, experiment.rank_by)
    if verdict is None and row.kind == "base" and row.score is not None:
        note = ""  # it is judged beside the first trial that has a score
    if row.score is not None and (error := row.scores.get(error_name(experiment.rank_by))):
        row = dataclasses.replace(
            row, score_low=row.score - NORMAL_95 * error, score_high=row.score + NORMAL_95 * error
        )
        note = HARNESS_ERROR
    if verdict is None or row.score is None:
        return dataclasses.replace(row, score_note=note)
    if row.kind == "base":
        score = verdict.base
        found = None
    else:
        found = verdict.trials.get(row.trial)
        score = found.score if found else None
    if score is None:
        return dataclasses.replace(row, score_note=note)
    return dataclasses.replace(
        row,
        score_low=score.low,
        score_high=score.high,
        score_rows=score.rows,
        score_approximate=score.approximate,
        tied_for_first=found.tied_for_first if found else None,
        vs_base=score_difference(found.vs_base) if found else None,
        vs_leader=score_difference(found.vs_leader) if found else None,
        optimism=verdict.optimism if row.trial == verdict.leader else None,
    )


def error_name(score: str) -> str:
    """Return the name under which lm-evaluation-harness's standard error of a score is kept."""
    return f"{score.removesuffix(LOWER_SUFFIX)}_stderr"


def _missing(row: BoardRow, rank_by: str) -> str:
    """Return why the row has no score, or no interval; empty where it is not due yet."""
    if row.score is not None:
        return NOT_COMPARED if (row.rank or 0) > MOST_JUDGED else NO_ROWS
    if not State(row.state).final:
        return ""
    if row.reason:
        return row.reason
    if rank_by in row.scores:
        return NOT_A_NUMBER.format(score=rank_by)
    if rank_by == "exact_match" and row.scores:
        return NO_MATCH
    return NOT_SCORED.format(score=rank_by)


def _sentence(
    experiment: Experiment,
    rows: Sequence[BoardRow],
    verdict: BoardVerdict | None,
    names: Mapping[int, str],
) -> str:
    """Return the verdict in one sentence; that of an experiment that goes on begins with `so far`.

    Without results by row it names the best score, and says why nothing more may be claimed.
    """
    best = next((row for row in rows if row.rank == 1), None)
    # Not `ended_utc`, which the engine sets a moment after the last trial has ended.
    over = not experiment.searching and all(State(row.state).final for row in rows)
    if best is None:
        return f"no verdict{'' if over and rows else ' yet'}: no trial has a score"
    if verdict is None or best.score_low is None:
        score = formatting.score(best.score)
        name = safe_line(experiment.rank_by)
        who = names.get(best.trial, f"trial {best.trial}")
        return f"{who} has the best score, {name} {score}; {best.score_note}"
    from workbench.verdict.words import describe_verdict

    sweep = experiment.recipe.get("sweep") or {}
    settings = {row.trial: row.settings for row in rows}
    sentence = describe_verdict(verdict, settings, sweep.get("parameters"), names=names)
    return sentence if over else f"so far, {sentence}"
