"""The finals of an experiment, judged: means over new seeds, and the adapter that ships."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.formatting import plural
from workbench.formatting import score as score_text
from workbench.store.board_rows import (
    FinalistRow,
    JudgedBoard,
    ScoreDifference,
    score_difference,
)
from workbench.store.reader import Reader
from workbench.store.row_results import read_row_results
from workbench.store.rows import Experiment
from workbench.text import safe_line
from workbench.trial import State, up_is_better

if TYPE_CHECKING:  # numpy costs 0.1 s, which only finals that are judged need
    from workbench.verdict.types import FinalsVerdict, RowResults

_TRIALS = """
select t.id, t.finals_of, t.state, t.reason,
       coalesce(json_extract(t.settings, '$."train.seed"'),
                json_extract(e.recipe, '$.train.seed')) as seed,
       f.settings, s.value as score, s.step, d.path as adapter,
       (select outcome from attempts a where a.trial = t.id order by a.id desc limit 1) as outcome
from trials t
join trials f on f.id = t.finals_of
join experiments e on e.id = t.experiment
left join scores s on s.trial = t.id and s.name = e.rank_by
left join adapters d on d.trial = t.id
where t.experiment = ? order by t.id
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalTrial:
    """One trial of finals."""

    id: int
    finalist: int
    settings: Mapping[str, object]
    """The finalist's settings."""
    seed: int
    state: State
    diverged: bool
    reason: str
    score: float | None
    step: int | None
    """Optimizer step of the weights that were scored."""
    adapter: str | None
    """The adapter's folder."""

    @property
    def finished(self) -> bool:
        """True where it was trained to its end and has a score: only such ones are averaged."""
        return self.state is State.DONE and self.score is not None


def read_finals(reader: Reader, experiment: int) -> list[FinalTrial]:
    """Return the trials of an experiment's finals, oldest first."""
    return [
        FinalTrial(
            id=row["id"],
            finalist=row["finals_of"],
            settings=json.loads(row["settings"]),
            seed=int(row["seed"]),
            state=State(row["state"]),
            diverged=row["outcome"] == "diverged",
            reason=row["reason"],
            score=row["score"],
            step=row["step"],
            adapter=None if row["adapter"] is None else str(reader.root / row["adapter"]),
        )
        for row in reader.db.execute(_TRIALS, (experiment,))
    ]


def judge_final_trials(
    reader: Reader,
    experiment: Experiment,
    trials: Sequence[FinalTrial],
    compared_with: int | None = None,
) -> FinalsVerdict | None:
    """Return the verdict on finals; None where no trial has finished with results by row.

    Its `vs_base` is from the trial `compared_with`, which is the base's unless one is named.
    """
    finished = {trial.id: trial for trial in trials if trial.finished}
    found = [
        one for one in read_row_results(reader, finished) if one.step == finished[one.trial].step
    ]
    if not found:
        return None
    from workbench.verdict.finals import judge_finals

    by_finalist: dict[int, list[RowResults]] = {}
    for one in found:
        by_finalist.setdefault(finished[one.trial].finalist, []).append(one)
    up = up_is_better(experiment.rank_by)
    subject = experiment.base_trial if compared_with is None else compared_with
    base = _results_of(reader, subject, found[0].evaluation)
    return judge_finals(by_finalist, experiment.rank_by, higher_is_better=up, base=base)


def _results_of(reader: Reader, trial: int | None, evaluation: str) -> RowResults | None:
    found = [] if trial is None else read_row_results(reader, [trial], evaluation)
    return next(iter(found), None)


def finalist_rows(
    experiment: Experiment, trials: Sequence[FinalTrial], verdict: FinalsVerdict | None
) -> tuple[FinalistRow, ...]:
    """Return a row for each finalist, those tied for first before the others, each best first.

    Without results by row only the mean is known; the median's adapter ships all the same.
    """
    mine: dict[int, list[FinalTrial]] = {}
    for trial in trials:
        mine.setdefault(trial.finalist, []).append(trial)
    rows = [_row(finalist, own, verdict) for finalist, own in mine.items()]
    sign = -1.0 if up_is_better(experiment.rank_by) else 1.0
    rows.sort(key=lambda row: (row.mean is None, sign * (row.mean or 0.0), row.trial))
    ranked = [
        dataclasses.replace(row, rank=None if row.mean is None else place)
        for place, row in enumerate(rows, start=1)
    ]
    return tuple(sorted(ranked, key=lambda row: not row.tied_for_first))


def _row(finalist: int, own: Sequence[FinalTrial], verdict: FinalsVerdict | None) -> FinalistRow:
    finished = [trial for trial in own if trial.finished]
    scores = {trial.id: trial.score for trial in finished if trial.score is not None}
    claims = verdict.board.trials.get(finalist) if verdict else None
    score = claims.score if claims else None
    mean = score.value if score else None
    if scores and verdict is None:  # an older build kept no results by row
        mean = sum(scores.values()) / len(scores)
    shipped = median_trial(scores)
    return FinalistRow(
        rank=None,
        trial=finalist,
        settings=dict(own[0].settings),
        seeds=[trial.seed for trial in finished],
        trials=[trial.id for trial in finished],
        scores=list(scores.values()),
        asked=len(own),
        mean=mean,
        low=score.low if score else None,
        high=score.high if score else None,
        rows=score.rows if score else None,
        approximate=score.approximate if score else False,
        tied_for_first=claims.tied_for_first if claims else None,
        vs_base=score_difference(claims.vs_base) if claims else None,
        vs_leader=score_difference(claims.vs_leader) if claims else None,
        shipped=shipped,
        adapter=next((trial.adapter for trial in finished if trial.id == shipped), None),
        notes=tuple(_seed_notes(own)),
    )


def finals_against(
    reader: Reader, experiment: Experiment, trial: int
) -> dict[int, ScoreDifference | None]:
    """Return the difference of each finalist's mean over new seeds from the score of a trial.

    Empty without finals, and for a trial that is part of them.
    """
    trials = read_finals(reader, experiment.id)
    if not trials or trial in {one.id for one in trials}:
        return {}
    verdict = judge_final_trials(reader, experiment, trials, compared_with=trial)
    claims = verdict.board.trials if verdict else {}
    return {finalist: score_difference(one.vs_base) for finalist, one in claims.items()}


def median_trial(scores: Mapping[int, float]) -> int | None:
    """Return the trial with the median score, of an even number the lower one; None without any.

    An adapter that ships was trained: averages of weights are another model that nobody scored.
    """
    ordered = sorted(scores, key=lambda trial: (scores[trial], trial))
    return ordered[(len(ordered) - 1) // 2] if ordered else None


def _seed_notes(own: Sequence[FinalTrial]) -> Iterator[str]:
    """Yield a sentence about every seed that is not averaged, those that diverged first."""
    for trial in sorted(own, key=lambda one: not one.diverged):
        name = f"seed {trial.seed} (trial {trial.id})"
        if trial.diverged:
            yield f"{name} diverged"
        elif trial.state is State.DONE and trial.score is None:
            yield f"{name} left no score"
        elif trial.state.final and not trial.finished:
            yield f"{name} {trial.state}" + (f": {safe_line(trial.reason)}" if trial.reason else "")
        elif not trial.state.final:
            yield f"{name} is {trial.state}"


def with_finals(
    board: JudgedBoard, trials: Sequence[FinalTrial], verdict: FinalsVerdict | None
) -> JudgedBoard:
    """Return the board with its finals, and with a verdict that speaks of them."""
    rows = finalist_rows(board.experiment, trials, verdict)
    sentence = describe_finals(board, trials, rows, verdict)
    notes = verdict.board.notes if verdict else ()
    return dataclasses.replace(board, finals=rows, verdict=sentence, notes=(*board.notes, *notes))


def describe_finals(
    board: JudgedBoard,
    trials: Sequence[FinalTrial],
    rows: Sequence[FinalistRow],
    verdict: FinalsVerdict | None,
) -> str:
    """Return the verdict with the finals, in one sentence.

    The verdict on the sweep stays as long as finals are still training.
    """
    sentence = board.verdict
    ended = sum(trial.state.final for trial in trials)
    if ended < len(trials):
        return f"{sentence}; finals: {ended} of {len(trials)} trials have ended"
    best = next((row for row in rows if row.rank == 1), None)
    if best is None:
        return f"{sentence}; none of the {plural(len(trials), 'trial')} of its finals has a score"
    return "; ".join(
        [
            _claims(board.experiment, best, rows, verdict),
            f"mean of {_seeds_words(rows)}",
            f"the adapter that ships is trial {best.shipped}'s, of the median seed",
            *_lost_seeds(rows),
            *_newcomer(board, rows),
        ]
    )


def _claims(
    experiment: Experiment,
    best: FinalistRow,
    rows: Sequence[FinalistRow],
    verdict: FinalsVerdict | None,
) -> str:
    if verdict is None:
        name = safe_line(experiment.rank_by)
        return f"trial {best.trial} has the best {name} in the finals, {score_text(best.mean)}"
    from workbench.verdict.words import describe_verdict

    space = (experiment.recipe.get("sweep") or {}).get("parameters")
    settings = {row.trial: row.settings for row in rows}
    return f"finals: {describe_verdict(verdict.board, settings, space)}"


def _seeds_words(rows: Sequence[FinalistRow]) -> str:
    counts = sorted({len(row.seeds) for row in rows})
    if len(counts) == 1:
        return plural(counts[0], "new seed")
    between = "or" if counts[-1] == counts[0] + 1 else "to"
    return f"{counts[0]} {between} {counts[-1]} new seeds"


def _lost_seeds(rows: Sequence[FinalistRow]) -> Iterator[str]:
    for row in rows:
        lost = row.asked - len(row.seeds)
        diverged = sum(note.endswith("diverged") for note in row.notes)
        if diverged:
            yield f"{plural(diverged, 'seed')} of trial {row.trial} diverged"
        if lost - diverged:
            yield f"{plural(lost - diverged, 'seed')} of trial {row.trial} did not finish"


def _newcomer(board: JudgedBoard, rows: Sequence[FinalistRow]) -> Iterator[str]:
    """Yield that the best trial of the board was in no finals, for example because it is newer."""
    leader = board.leader
    if leader is not None and _apart_from_seed(leader.settings) not in [
        _apart_from_seed(row.settings) for row in rows
    ]:
        yield f"trial {leader.trial} has the best single score and was in no finals"


def _apart_from_seed(settings: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in settings.items() if key != "train.seed"}
