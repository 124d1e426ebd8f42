"""The fast training step: an optimizer batch becomes gradients and one update (docs/step.md).

`Step` runs what assembly.py puts onto a PEFT model. lora/, attention/ and optimizer/ replace the
model's own parts, kernels/ holds their Triton kernels, graphs.py captures the whole. trainer.py and
rehearsal.py use it through in_trainer.py; it may import the footprint's and the recipe's plain
values, and nothing else of training.
"""

from workbench.training.step.optimizations import OPTIMIZATIONS, Optimization
from workbench.training.step.options import StepOptions
from workbench.training.step.rows import Rows, collate_rows
from workbench.training.step.step import Step

__all__ = ["OPTIMIZATIONS", "Optimization", "Rows", "Step", "StepOptions", "collate_rows"]
