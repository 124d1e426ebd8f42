"""The verdict in plain words: one sentence for the last line of a board."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from workbench.text import safe_line
from workbench.verdict.types import BoardVerdict, Interval

NAMED_TIES = 4
"""Most tied trials that are named; more are counted."""


def describe_verdict(
    verdict: BoardVerdict,
    settings: Mapping[int, Mapping[str, object]],
    space: Mapping[str, object] | None = None,
    *,
    names: Mapping[int, str] | None = None,
    rows_only: bool = True,
) -> str:
    """Return the verdict as one sentence, without a full stop.

    For example "trial 5 is best: exact match 0.80 [0.71, 0.87]; better than 4 of 5; tied with trial
    4; its learning rate is at the edge of the range: widen it". `settings` are the trials' points
    by trial id, `space` is the recipe's `sweep.parameters` as plain JSON. `names` are those of
    trials that score an adapter from elsewhere, such as "trial 5 of demo". `rows_only` appends that
    a board of one seed holds row noise only.
    """
    names = names or {}
    if verdict.leader is None:
        return "no verdict yet: no trial has a score"
    leader = verdict.trials[verdict.leader]
    compared = sum(one.vs_leader is not None for one in verdict.trials.values())
    uncompared = len(verdict.trials) - 1 - compared
    tied = [
        trial
        for trial, one in sorted(verdict.trials.items())
        if one.tied_for_first and trial != verdict.leader
    ]
    who = names.get(leader.trial, f"trial {leader.trial}")
    digits = 3 if verdict.score == "loss" else 2
    score = f"{score_name(verdict.score)} {interval_words(leader.score, digits)}"
    if not compared and not uncompared:
        alone = "finalist with a score" if verdict.seeds > 1 else "one with a score"
        parts = [f"{who} is the only {alone}: {score}"]
    elif not compared:
        one_row = leader.score.rows == 1
        why = (
            "a single row cannot compare trials" if one_row else "no other trial has the same rows"
        )
        parts = [f"{who} has the best {score}", why]
    elif len(tied) == compared:
        parts = [f"no trial stands out: {_everybody(compared + 1)} tied for first"]
        parts.append(f"{who} has the best {score}")
    elif tied and not leader.better_than:
        parts = [f"{_trials(sorted([*tied, leader.trial]), names)} are tied for first"]
        parts += [f"{who} has the best {score}", _better_words(0, compared)]
    else:
        parts = [f"{who} is best: {score}"]
        parts.append(_better_words(len(leader.better_than), compared))
        if tied:
            parts.append(f"tied with {_trials(tied, names)}")
    if compared and uncompared:
        parts.append(f"{uncompared} not compared")
    rows = {one.score.rows for one in verdict.trials.values() if one.vs_leader is not None}
    if rows - {leader.score.rows}:
        parts.append("scores are of different rows, differences of those that all have")
    parts.append(_base_words(verdict))
    if leader.better_than:  # else what leads is chance, and says nothing of values beyond
        parts.append(edge_words(settings.get(leader.trial, {}), space or {}))
    if rows_only and verdict.seeds == 1 and compared:
        parts.append("row noise only: one seed each")
    return "; ".join(part for part in parts if part)


def score_name(score: str) -> str:
    """Return a score's name in words: `exact match` for `exact_match`."""
    return safe_line(score.replace("_", " "), 40)


def interval_words(interval: Interval, digits: int) -> str:
    """Return `0.80 [0.71, 0.87]`, with `about` where approximate; one row has no interval."""
    value = f"{interval.value:.{digits}f}"
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return f"{value} (one row, no interval)"
    about = "about " if interval.approximate else ""
    return f"{value} [{about}{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def edge_words(point: Mapping[str, object], space: Mapping[str, object]) -> str:
    """Return which settings of the best point lie on the end of their range or list, or ''.

    Only numbers count, and only lists of at least two of them: a better value may lie beyond.
    """
    found = [
        (key, kind) for key, parameter in space.items() if (kind := _edge(point, key, parameter))
    ]
    if not found:
        return ""
    names = [key.rsplit(".", 1)[-1].replace("_", " ") for key, _ in found]
    if len(found) == 1:
        return f"its {safe_line(names[0], 60)} is at the edge of the {found[0][1]}: widen it"
    words = f"{', '.join(names[:-1])} and {names[-1]}"
    return f"its {safe_line(words, 160)} are at the edge of what was tried: widen them"


def _edge(point: Mapping[str, object], key: str, parameter: object) -> str:
    """Return `range` or `list` if the point's value is an end of the parameter's, or ''."""
    value = _number(point.get(key))
    ends, kind = _ends(parameter)
    if value is None or not ends:
        return ""
    # A range's draw comes near its end without touching it: 1 % of the way counts as the end.
    at_end = any(math.isclose(value, end, rel_tol=1e-9) for end in ends)
    return kind if at_end or (kind == "range" and _close(value, ends, parameter)) else ""


def _close(value: float, ends: Sequence[float], parameter: object) -> bool:
    low, high = ends
    if isinstance(parameter, Mapping) and parameter.get("log") and low > 0 and value > 0:
        low, high, value = math.log(low), math.log(high), math.log(value)
    share = (value - low) / (high - low) if high > low else 0.5
    return share <= 0.01 or share >= 0.99


def _ends(parameter: object) -> tuple[list[float], str]:
    """Return a parameter's smallest and largest number, and whether it is a range or a list."""
    if isinstance(parameter, Mapping) and "values" not in parameter:
        low, high = _number(parameter.get("min")), _number(parameter.get("max"))
        return ([low, high], "range") if low is not None and high is not None else ([], "")
    values = parameter.get("values") if isinstance(parameter, Mapping) else parameter
    if not isinstance(values, Sequence) or isinstance(values, str):
        return [], ""
    numbers = {number for value in values if (number := _number(value)) is not None}
    if len(numbers) < 2 or len(numbers) < len({str(value) for value in values}):
        return [], ""
    return [min(numbers), max(numbers)], "list"


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _better_words(better: int, others: int) -> str:
    if not better:
        return "better than none of the others by the stricter test of all pairs"
    return f"better than {better} of {others}" if others > 1 else "better than the other"


def _base_words(verdict: BoardVerdict) -> str:
    """Return how the leader stands to the base, only where that is news: it is not better."""
    assert verdict.leader is not None
    difference = verdict.trials[verdict.leader].vs_base
    if difference is None:
        return "" if verdict.base else "not compared with the base, which has no score"
    gain = difference.difference if verdict.higher_is_better else -difference.difference
    if not difference.significant:
        return "not shown to differ from the base"
    return "" if gain > 0 else "worse than the base"


def _trials(trials: Sequence[int], names: Mapping[int, str]) -> str:
    if len(trials) > NAMED_TIES:
        return f"{len(trials)} others"
    if any(trial in names for trial in trials):
        named = [names.get(trial, f"trial {trial}") for trial in trials]
        return " and ".join([part for part in (", ".join(named[:-1]), named[-1]) if part])
    if len(trials) == 1:
        return f"trial {trials[0]}"
    return f"trials {', '.join(map(str, trials[:-1]))} and {trials[-1]}"


def _everybody(count: int) -> str:
    return "both are" if count == 2 else f"all {count} are"
