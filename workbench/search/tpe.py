"""The Tree-structured Parzen Estimator of Optuna. No other module imports optuna.

The study is rebuilt from the history for every proposal, so no state is kept between proposals and
a restart changes nothing. Two consequences: a sampler that is rebuilt with the same seed draws the
same point each time, so each trial has its own seed; and trials that are still running must be in
the study, or the next point is drawn next to theirs (the constant-liar option).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from workbench.recipe.schema import Parameter, Range, Sweep
from workbench.recipe.space import condition_of, in_condition_order, parameter_exists, values_of
from workbench.search.draws import round_into_range
from workbench.search.history import PastTrial

optuna.logging.set_verbosity(optuna.logging.ERROR)


def propose_point(
    sweep: Sweep, up: bool, number: int, again: int, history: Sequence[PastTrial]
) -> dict[str, Any]:
    """Propose the point of trial `number`; another one for each value of `again`.

    `up` is True if a higher score is better. Optuna always minimises here: intermediate values are
    losses even if the objective is an accuracy, and one study has one direction.
    """
    parameters = in_condition_order(sweep.parameters)
    # The direction is fixed: a score of which more is better enters the study negated.
    study = optuna.create_study(direction="minimize", sampler=_sampler(sweep, number, again))
    for one in sorted(history, key=lambda one: one.number):
        study.add_trial(_frozen(one, parameters, up))
    asked = study.ask()
    point: dict[str, Any] = {}
    for key, parameter in parameters.items():
        if parameter_exists(parameter, point):
            point[key] = _value(parameter, _suggest(asked, key, parameter))
    return point


def _sampler(sweep: Sweep, number: int, again: int) -> TPESampler:
    conditional = any(condition_of(parameter) for parameter in sweep.parameters.values())
    return TPESampler(
        seed=random.Random(f"{sweep.seed}:{number}:{again}").getrandbits(32),
        n_startup_trials=startup_trials(sweep.trials),
        multivariate=not conditional,  # it accepts only parameters that every trial has
        constant_liar=True,
    )


def startup_trials(trials: int | None) -> int:
    """Return the number of trials drawn at random before the estimator is used.

    It is a third of all trials, at least 4 and at most 10, Optuna's default.
    """
    return 10 if trials is None else min(10, max(4, trials // 3))


def _frozen(one: PastTrial, parameters: dict[str, Parameter], up: bool) -> FrozenTrial:
    known = {
        key: _index(parameters[key], v) for key, v in one.settings.items() if key in parameters
    }
    params = {key: value for key, value in known.items() if value is not None}
    # Optuna ignores failed trials, which is right for uninformative ones.
    state, score, reports = TrialState.FAIL, None, {}
    if one.fate == "running":
        state = TrialState.RUNNING
    elif one.fate == "scored" and one.score is not None:
        state, score = TrialState.COMPLETE, -one.score if up else one.score
    elif one.fate == "ended_early":
        state = TrialState.PRUNED
        if one.step is not None and one.eval_loss is not None:
            reports = {one.step: one.eval_loss}
    return create_trial(
        state=state,
        value=score,
        params=params,
        distributions={key: _distribution(parameters[key]) for key in params},
        intermediate_values=reports,
    )


def _ordered(parameter: Parameter) -> list[Any] | None:
    """Return the values of a list, numbers sorted; None for a range."""
    values = values_of(parameter)
    if values is not None and _numbers(values):
        return sorted(values)
    return values


def _numbers(values: list[Any]) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def _distribution(parameter: Parameter) -> BaseDistribution:
    """Return the Optuna distribution of a parameter.

    A list becomes a distribution over its indices: an integer range if its values are numbers, so
    that the estimator knows which are neighbours, else unordered categories.
    """
    values = _ordered(parameter)
    if values is not None:
        if _numbers(values):
            return IntDistribution(0, len(values) - 1)
        return CategoricalDistribution(range(len(values)))
    assert isinstance(parameter, Range)
    low, high = parameter.min, parameter.max
    if parameter.integer:
        return IntDistribution(_up(low), int(high // 1), log=parameter.log)
    return FloatDistribution(low, high, log=parameter.log)


def _up(number: float) -> int:
    return -int(-number // 1)


def _suggest(asked: optuna.Trial, key: str, parameter: Parameter) -> Any:
    match _distribution(parameter):
        case IntDistribution() as whole:
            return asked.suggest_int(key, whole.low, whole.high, log=whole.log)
        case FloatDistribution() as real:
            return asked.suggest_float(key, real.low, real.high, log=real.log)
        case CategoricalDistribution() as choice:
            return asked.suggest_categorical(key, choice.choices)
    raise AssertionError(key)


def _index(parameter: Parameter, value: Any) -> Any:
    """Return Optuna's internal value of a setting.

    None if the setting lies outside the search space, as in a clone that a person edited.
    """
    values = _ordered(parameter)
    if values is not None:
        return values.index(value) if value in values else None
    assert isinstance(parameter, Range)
    kind = int if parameter.integer else int | float
    return value if isinstance(value, kind) and parameter.min <= value <= parameter.max else None


def _value(parameter: Parameter, suggested: Any) -> Any:
    values = _ordered(parameter)
    if values is not None:
        return values[suggested]
    assert isinstance(parameter, Range)
    return round_into_range(parameter, suggested)
