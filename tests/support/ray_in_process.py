"""Ray's calls for actors, over objects of this process: for what needs no other machine.

A call runs when its answer is fetched. `silent` lets every answer wait, as a cut network does.
Imports no ray, which reads its addresses and its token once in a process: other tests set them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class RayInProcess:
    """As much of the module ray as the boxes of a cluster and the spare worker use."""

    exceptions = SimpleNamespace(ActorDiedError=ChildProcessError)
    util = SimpleNamespace(
        scheduling_strategies=SimpleNamespace(NodeAffinitySchedulingStrategy=SimpleNamespace)
    )

    def __init__(self, make: Callable[[], Any]) -> None:
        """Let every actor be what `make` returns."""
        self._make = make
        self.living: list[dict[str, Any]] = []
        self.silent = threading.Event()
        """While it is set, nothing answers."""
        self.goes_on = threading.Event()
        """Ends the silence of answers that wait."""

    def nodes(self) -> list[dict[str, Any]]:
        return self.living

    def remote(self, cls: type) -> Any:
        return _Class(self._make)

    def get(self, question: Callable[[], Any], timeout: float | None = None) -> Any:
        if self.silent.is_set():
            self.goes_on.wait()
        return question()

    def wait(self, questions: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        return ([], questions) if self.silent.is_set() else (questions, [])

    def kill(self, handle: _Handle, no_restart: bool) -> None:
        handle._actor.close()


class _Class:
    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    def options(self, **_: Any) -> _Class:
        return self

    def remote(self) -> Any:
        return _Handle(self._make())


class _Handle:
    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> Any:
        return _Method(getattr(self._actor, name))


class _Method:
    def __init__(self, method: Callable[..., Any]) -> None:
        self._method = method

    def remote(self, *arguments: Any) -> Callable[[], Any]:
        return lambda: self._method(*arguments)


def node(box: str, number: int, address: str = "127.0.0.1") -> dict[str, Any]:
    """Return what Ray says of a living node of a box."""
    resources = {f"box:{box}": 1.0}
    node_id = f"{number:056x}"
    return {
        "NodeID": node_id,
        "Alive": True,
        "NodeManagerAddress": address,
        "Resources": resources,
    }
