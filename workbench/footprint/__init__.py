"""What a trial takes on a card, and how to run it there. Pure arithmetic; no GPU, no torch."""

from workbench.footprint.buckets import predict
from workbench.footprint.choose import choose_plan, precision_for
from workbench.footprint.model.known_models import named_config
from workbench.footprint.model.shape import ModelShape
from workbench.footprint.plan import Plan

__all__ = [
    "ModelShape",
    "Plan",
    "choose_plan",
    "named_config",
    "precision_for",
    "predict",
]
