"""What a check tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    name: str
    status: Literal["ok", "warn", "fail"]
    finding: str
    hint: str = ""
    """What to do about it; empty when there is nothing to do."""
