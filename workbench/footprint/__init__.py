"""What a trial takes on a card, and how to run it there. Pure arithmetic; no GPU, no torch."""

from workbench.footprint.buckets import predict
from workbench.footprint.choose import choose_plan, precision_for
from workbench.footprint.plan import Plan
from workbench.footprint.shape import ModelShape
from workbench.footprint.shapes import named_config

__all__ = [
    "ModelShape",
    "Plan",
    "choose_plan",
    "named_config",
    "precision_for",
    "predict",
]
