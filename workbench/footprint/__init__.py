"""Predicts the peak bytes of a trial on a card and plans how the trial runs there.

`planner.plan_trial` is the one function that makes a plan; the scheduler, the commands `plan`,
`check` and `run`, and the foreground `train` all call it. `buckets` predicts bytes, `plan_search`
compares the ways to run a recipe, `suggestions` finds settings that fit, `outlook` joins plan and
suggestions for a card, and `model` reads a model's `config.json`. Everything here is arithmetic on
values: it imports recipe, machine and errors, never torch, the store or a clock.
"""

from workbench.footprint.card_limits import precision_for
from workbench.footprint.model.known_models import named_config
from workbench.footprint.model.shape import ModelShape
from workbench.footprint.peak.buckets import predict
from workbench.footprint.plan import Plan
from workbench.footprint.planner import NO_HISTORY, History, plan_trial

__all__ = [
    "NO_HISTORY",
    "History",
    "ModelShape",
    "Plan",
    "named_config",
    "plan_trial",
    "precision_for",
    "predict",
]
