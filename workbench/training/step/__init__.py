"""The fast training step (design §8): nine levers, each its own module, tied by Step."""

from workbench.training.step.options import LEVERS, Lever, StepOptions
from workbench.training.step.rows import Rows, collate
from workbench.training.step.step import Step

__all__ = ["LEVERS", "Lever", "Rows", "Step", "StepOptions", "collate"]
