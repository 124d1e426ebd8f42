"""Asking the engine for something: requests as files, and its answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from workbench.cluster.settings import read_joined
from workbench.engine_status import stop_reason
from workbench.errors import EngineError, WorkbenchError
from workbench.service.reading import StoreReading
from workbench.store.requests import drop_request
from workbench.store.rows import RequestAnswer

if TYPE_CHECKING:  # pydantic costs a front end 0.1 s at its start
    from workbench.recipe import Recipe

POLL_S = 0.02
"""Seconds between two looks while waiting for the engine."""
GRACE_S = 8.0
"""Seconds that a new keeper may take to acquire its lock before it counts as dead."""
ANSWER_S = 60.0
"""Seconds that a request waits for the engine's answer."""


class Requesting(StoreReading):
    """The part of a service that sends requests.

    Each method returns the request's id at once. The engine answers when it runs, also much later.
    """

    def submit(self, recipe: Recipe, warm_trial: int | None = None) -> str:
        """Ask for an experiment; the answer's data has its id and name as `experiment`, `name`."""
        return self.send("submit", recipe=recipe.model_dump(mode="json"), warm_trial=warm_trial)

    def evaluate(
        self, recipe: Recipe, adapters: Sequence[int | str], *, same_base: bool = False
    ) -> str:
        """Ask to score adapters, by trial or folder, on the recipe's `data.eval`.

        The answer's data is that of `submit`. `same_base` says that folders belong to the recipe's
        base, whatever their configurations name.
        """
        given = recipe.model_dump(mode="json")
        return self.send("evaluate", recipe=given, subjects=list(adapters), same_base=same_base)

    def send(self, verb: str, **args: Any) -> str:
        """Ask for anything that docs/control.md lists. Raises EngineError on a cluster's box."""
        self.refuse_on_box()
        return drop_request(self.home.make().requests, verb, args)

    def refuse_on_box(self) -> None:
        """Raise EngineError where this machine is a box of a cluster: the head has the engine."""
        if (joined := read_joined(self.home)) is not None:
            raise EngineError(
                f"this machine is a box of the cluster at {joined.head}",
                hint="give the command there; `workbench cluster leave` makes it one machine again",
            )

    def stop(self, trial: int, *, kill: bool = False) -> str:
        """Ask to end a trial, with its last checkpoint kept as the adapter, or nothing (`kill`)."""
        return self.send("kill" if kill else "stop", trial=trial)

    def pause(self, trial: int) -> str:
        """Ask to checkpoint a trial and give its card back."""
        return self.send("pause", trial=trial)

    def resume(self, trial: int) -> str:
        """Ask to let a paused trial go on."""
        return self.send("resume", trial=trial)

    def answer(self, request: str) -> RequestAnswer | None:
        """Return the engine's answer to a request; None while there is none."""
        reader = self.reader()
        return reader.answer(request) if reader else None

    def wait_for_answer(
        self, request: str, timeout_s: float = ANSWER_S, left: Callable[[], bool] = lambda: False
    ) -> RequestAnswer:
        """Wait for the engine's answer to a request and return it.

        Raises a refusal as WorkbenchError, with its hint and the exit code that the engine chose.
        Raises EngineError where the engine does not start or has ended, with the reason if that is
        known, has not answered within `timeout_s`, or nobody waits any more because `left` returns
        True. The request stays queued.
        """
        began = time.monotonic()
        while True:
            answer = self.answer(request)
            if answer is not None:
                if answer.ok:
                    return answer
                raise _refusal(answer)
            if left():
                raise EngineError("nobody waits for the answer any more; the request is kept")
            waited_s = time.monotonic() - began
            if (why := stop_reason(self.home)) and why[0]:
                raise EngineError(
                    f"the engine does not start: {why[0]}; the request is kept", hint=why[1]
                )
            if waited_s > GRACE_S and self.engine().has_ended:
                raise EngineError(
                    "the engine ended before it answered; the request is kept for its next start",
                    hint=f"see {self.home.logs}/keeper.log, or run `workbench doctor`",
                )
            if waited_s > timeout_s:
                raise EngineError(
                    f"the engine has not answered within {timeout_s:.0f} s; the request is kept",
                    hint=f"see `workbench engine status` and the logs in {self.home.logs}",
                )
            time.sleep(POLL_S)


def _refusal(answer: RequestAnswer) -> WorkbenchError:
    error = WorkbenchError(answer.text, hint=answer.hint)
    error.exit_code = int(answer.data.get("exit_code", 1))
    return error
