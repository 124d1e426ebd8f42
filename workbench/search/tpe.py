"""The Tree-structured Parzen Estimator, by Optuna. The one place that imports it.

The study is made anew for every question, out of the history; nothing is kept in between. Two
traps: a sampler that is rebuilt with the same seed draws the same point each time, so each trial
has a seed of its own; and trials that are still going must stand in the study, or the next one is
drawn where they are (constant liar).
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
from workbench.recipe.space import condition_of, exists, in_order, values_of
from workbench.search.draws import tidy
from workbench.search.history import Tried

optuna.logging.set_verbosity(optuna.logging.ERROR)


def propose(
    sweep: Sweep, up: bool, number: int, again: int, history: Sequence[Tried]
) -> dict[str, Any]:
    """Trial `number`'s point; another one for each `again`."""
    parameters = in_order(sweep.parameters)
    study = optuna.create_study(direction="minimize", sampler=_sampler(sweep, number, again))
    for one in sorted(history, key=lambda one: one.number):
        study.add_trial(_frozen(one, parameters, up))
    asked = study.ask()
    point: dict[str, Any] = {}
    for key, parameter in parameters.items():
        if exists(parameter, point):
            point[key] = _value(parameter, _suggest(asked, key, parameter))
    return point


def _sampler(sweep: Sweep, number: int, again: int) -> TPESampler:
    conditional = any(condition_of(parameter) for parameter in sweep.parameters.values())
    return TPESampler(
        seed=random.Random(f"{sweep.seed}:{number}:{again}").getrandbits(32),
        n_startup_trials=startup(sweep.trials),
        multivariate=not conditional,  # which takes only parameters that every trial has
        constant_liar=True,
    )


def startup(trials: int | None) -> int:
    """Trials drawn at random before the estimator is believed: a third, from 4 to Optuna's 10."""
    return 10 if trials is None else min(10, max(4, trials // 3))


def _frozen(one: Tried, parameters: dict[str, Parameter], up: bool) -> FrozenTrial:
    known = {
        key: _index(parameters[key], v) for key, v in one.settings.items() if key in parameters
    }
    params = {key: value for key, value in known.items() if value is not None}
    state, score, reports = TrialState.FAIL, None, {}
    if one.fate == "going":
        state = TrialState.RUNNING
    elif one.fate == "scored" and one.score is not None:
        state, score = TrialState.COMPLETE, -one.score if up else one.score
    elif one.fate == "cut":
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
    """The values of a list, numbers in their order; None for a range."""
    values = values_of(parameter)
    if values is not None and _numbers(values):
        return sorted(values)
    return values


def _numbers(values: list[Any]) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def _distribution(parameter: Parameter) -> BaseDistribution:
    """Of a list, over its places: next to each other where they are numbers, else unordered."""
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
    """What Optuna calls the value; None where it lies outside the space (an edited clone)."""
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
    return tidy(parameter, suggested)
