"""What each request does: it writes what is wanted, and answers what will happen and when.

Every verb is called inside one commit with its answer; sent twice, it is carried out once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workbench.scheduler.tick_context import TickContext
from workbench.store.rows import Answer

Verb = Callable[[TickContext, dict[str, Any]], Answer]


def done(text: str, **data: Any) -> Answer:
    return Answer(ok=True, text=text, hint="", data=data)
