"""Checks of this machine, each with its mend: `workbench doctor`."""

from workbench.doctor.check import Check
from workbench.doctor.run import checks

__all__ = ["Check", "checks"]
