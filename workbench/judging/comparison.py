"""The comparison of trials: settings that differ, scores on the same rows, and disagreeing rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import formatting
from workbench.errors import NotThere, UsageError
from workbench.store.answers import RowAnswer, read_answers
from workbench.store.queries.metrics import read_series
from workbench.store.reader import Reader
from workbench.store.row_results import read_row_results
from workbench.store.rows import Point, TrialRow
from workbench.trial import Kind

if TYPE_CHECKING:  # numpy costs a front end 0.1 s at its start
    from workbench.verdict.types import Difference, RowResults

CURVE_POINTS = 60
"""Points of each curve."""
LEFT_OUT = ("name", "sweep")
"""Parts of a recipe that change nothing about a trial."""
NOT_ALIKE = (
    "they were not scored on the same rows, asked and judged alike: only settings are compared"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedScore:
    """One score of all compared trials."""

    name: str
    values: list[float | None]
    """The score of each trial; None where it has none."""
    differences: list[Difference | None]
    """The paired difference of each trial from the first: its score minus the first's. None for the
    first itself, and where the two were not scored on the same rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRow:
    """One held-out row with what each trial made of it."""

    row: int
    """The row's number in the evaluation set, from 0."""
    question: str
    expected: str
    answers: list[RowAnswer]
    """The result of each trial on this row, in the order of the trials."""

    @property
    def disagrees(self) -> bool:
        """True where one trial is right and another is wrong."""
        return {answer.right for answer in self.answers} >= {True, False}

    @property
    def loss_gap(self) -> float:
        """The largest difference between two trials' losses on this row, in nats per token."""
        losses = [a.loss_sum / a.targets for a in self.answers if a.targets]
        return max(losses) - min(losses) if losses else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Everything that `workbench compare` shows."""

    trials: list[TrialRow]
    """The compared trials; differences are taken from the first."""
    settings: dict[str, list[Any]]
    """Each recipe key whose value is not the same for all trained trials, with the value of each;
    None for the base, which has none."""
    scores: list[ComparedScore]
    """The score that the first trial's experiment ranks by comes first."""
    rows: list[ComparedRow]
    """Rows on which one is right and another wrong come first, then those whose losses differ
    most."""
    curves: dict[int, list[Point]]
    """Held-out loss by optimizer step of each trial that was evaluated during training."""
    notes: list[str]
    """Sentences about what could not be compared."""

    @property
    def disagreements(self) -> int:
        """Number of rows on which one trial is right and another is wrong."""
        return sum(row.disagrees for row in self.rows)

    @property
    def rows_words(self) -> str:
        """The words above the rows: how many tell the trials apart."""
        count = formatting.plural(len(self.rows), "row")
        answers = [answer for row in self.rows for answer in row.answers]
        if any(answer.right is not None for answer in answers):
            return f"they disagree on {self.disagreements} of {count}"
        answered = any(answer.text is not None for answer in answers)
        what = "whose answers were not judged" if answered else "with losses alone"
        return f"{count} {what}, those first whose losses differ most"

    @property
    def no_settings_words(self) -> str:
        """The words in place of a table of settings in which no setting differs."""
        trained = sum(trial.kind is not Kind.BASE for trial in self.trials)
        return "their settings are the same" if trained > 1 else "the base is untrained"


def compare_trials(reader: Reader, home_root: Path, ids: Sequence[int]) -> Comparison:
    """Return the comparison of two or more trials, the base's among them.

    Raises UsageError for fewer than two, and NotThere for an unknown one. Takes some tenths of a
    second.
    """
    if len(set(ids)) < 2:
        raise UsageError("compare takes at least two trials", hint="workbench compare 5 4")
    trials = [reader.trial(id) for id in dict.fromkeys(ids)]
    results = _common_results(reader, [trial.id for trial in trials])
    notes = [] if results else [NOT_ALIKE]
    experiments = {trial.experiment for trial in trials}
    rank_by = reader.experiment(trials[0].experiment).rank_by
    rows: list[ComparedRow] = []
    try:
        rows = _compared_rows(home_root, results)
    except NotThere as lost:  # the scores are in the database, and stand without the texts
        notes.append(lost.what)
    return Comparison(
        trials=trials,
        settings=_settings_of(reader, trials),
        scores=_compared_scores(results, rank_by),
        rows=rows,
        # Trials of one experiment are evaluated on the same rows, also before they are scored.
        curves=_read_curves(reader, trials) if results or len(experiments) == 1 else {},
        notes=notes,
    )


def _read_curves(reader: Reader, trials: Sequence[TrialRow]) -> dict[int, list[Point]]:
    found = {t.id: read_series(reader, t.id, "eval_loss", CURVE_POINTS) for t in trials}
    return {id: points for id, points in found.items() if len(points) > 1}


def _settings_of(reader: Reader, trials: Sequence[TrialRow]) -> dict[str, list[Any]]:
    """Return the settings that differ between the trained trials; None stands for the base's."""
    tuned = [trial for trial in trials if trial.kind is not Kind.BASE]
    found = differing_settings([_all_settings(reader, trial) for trial in tuned])
    places = {trial.id: place for place, trial in enumerate(tuned)}
    return {
        key: [values[places[t.id]] if t.id in places else None for t in trials]
        for key, values in found.items()
    }


def _all_settings(reader: Reader, trial: TrialRow) -> dict[str, Any]:
    """Return a trial's whole recipe by dotted key."""
    recipe = reader.experiment(trial.experiment).recipe
    flat = flat_settings({key: value for key, value in recipe.items() if key not in LEFT_OUT})
    return {**flat, **trial.settings}


def flat_settings(recipe: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return a nested recipe as dotted keys and values; mappings that are values stay whole."""
    found: dict[str, Any] = {}
    for key, value in recipe.items():
        if isinstance(value, Mapping) and not before:
            found |= flat_settings(value, f"{key}.")
        else:
            found[f"{before}{key}"] = value
    return found


def differing_settings(settings: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the keys whose values differ, with the value of each trial; None where it has none."""
    keys = sorted({key for one in settings for key in one})
    found = {key: [one.get(key) for one in settings] for key in keys}
    return {key: values for key, values in found.items() if any(v != values[0] for v in values)}


def _common_results(reader: Reader, ids: Sequence[int]) -> list[RowResults]:
    """Return one result of each trial on one evaluation set that all of them were scored on.

    Empty where there is none. Of several sets the one with most rows is taken.
    """
    found: dict[str, dict[int, RowResults]] = {}
    for result in read_row_results(reader, ids):
        found.setdefault(result.evaluation, {})[result.trial] = result
    whole = [by_trial for by_trial in found.values() if len(by_trial) == len(ids)]
    if not whole:
        return []
    best = max(whole, key=lambda by_trial: len(next(iter(by_trial.values())).targets))
    return [best[id] for id in ids]


def _compared_scores(results: Sequence[RowResults], rank_by: str) -> list[ComparedScore]:
    """Return the scores that every result has, the one that ranks first."""
    if not results:
        return []
    names = set.intersection(*({*result.sums, *result.means} for result in results))
    order = sorted(names, key=lambda name: (name != rank_by, name))
    return [_compared_score(results, name) for name in order]


def _compared_score(results: Sequence[RowResults], name: str) -> ComparedScore:
    from workbench.verdict.rows import own_matrix

    return ComparedScore(
        name=name,
        values=[float(own_matrix(one, name).scores_K[0]) for one in results],
        differences=[None, *(paired_difference(one, results[0], name) for one in results[1:])],
    )


def paired_difference(one: RowResults, first: RowResults, name: str) -> Difference | None:
    """Return the paired difference of the score `name`: one's minus the first's.

    None where either lacks that score, and for losses of rows that were not tokenised alike.
    """
    from workbench.verdict.paired import compare_pairs
    from workbench.verdict.rows import common_matrix, find_kind

    pair = [one, first]
    if any(name not in {*each.sums, *each.means} for each in pair):
        return None
    if name in one.sums and one.tokens != first.tokens:
        return None
    return compare_pairs(common_matrix(pair, name), find_kind(pair, name)).difference(0, 1)


def _compared_rows(home_root: Path, results: Sequence[RowResults]) -> list[ComparedRow]:
    """Return every row that all results have, those where the trials disagree first."""
    if not results:
        return []
    each = [
        {answer.row: answer for answer in read_answers(home_root, one.trial, one.evaluation)}
        for one in results
    ]
    shared = set.intersection(*(set(by_row) for by_row in each))
    rows = [
        ComparedRow(
            row=row,
            question=each[0][row].question,
            expected=each[0][row].expected,
            answers=[by_row[row] for by_row in each],
        )
        for row in shared
    ]
    return sorted(rows, key=lambda one: (not one.disagrees, -one.loss_gap, one.row))
