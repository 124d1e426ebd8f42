"""The result of one check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The result of one check, as `workbench doctor` prints it."""

    name: str
    status: Literal["ok", "warn", "fail"]
    """fail: trials cannot run here. warn: they can, with a limitation."""
    finding: str
    hint: str = ""
    """The next step for a person; empty if there is nothing to do."""
