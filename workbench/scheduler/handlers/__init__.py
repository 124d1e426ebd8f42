"""Request handlers: each writes the desired state and answers what will happen and when.

One module for each subject; `warm_start` checks for `creation` which adapter a trial starts from.
`process_requests` calls them inside one commit with their answer, so a request that is sent
twice is carried out once. They may import the store, the recipe, planning and the TickContext.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workbench.scheduler.tick_context import TickContext
from workbench.store.rows import RequestAnswer

Handler = Callable[[TickContext, dict[str, Any]], RequestAnswer]
"""A handler of one kind of request. Raises WorkbenchError to refuse it."""


def accepted(text: str, **data: Any) -> RequestAnswer:
    """Return the answer of a request that was carried out, `data` for programs."""
    return RequestAnswer(ok=True, text=text, hint="", data=data)
