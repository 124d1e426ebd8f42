"""The workbench: which fine-tune of this model on this data is best?

`import workbench` gives the public Python API, which `workbench.api` describes: a `Workbench`, the
frozen types that it returns, and the errors that it raises. The names are loaded at their first
use, so that importing a part of the package loads nothing else. Everything that is not in
`__all__` may change from one version to the next.
"""

import os
import sys

# `python -m workbench` puts the working directory first on the import path, where a random.py
# beside a recipe would run as code. runpy imports this package, while sys.argv[0] is still "-m",
# before it imports anything else of ours. A working directory that contains this very package is
# the source tree, which must stay importable.
if (
    sys.argv[:1] == ["-m"]
    and not sys.flags.safe_path
    and sys.orig_argv[-len(sys.argv)].removeprefix("-m").split(".")[0] == "workbench"
    and not __file__.startswith(f"{sys.path[0]}/")
):
    del sys.path[0]
# An empty entry of PYTHONPATH means the working directory, too; it is what
# `export PYTHONPATH=$PYTHONPATH:/x` leaves behind. Programs that import this package keep theirs.
if (
    "" in os.environ.get("PYTHONPATH", "x").split(os.pathsep)
    and (sys.argv[:1] == ["-m"] or "".join(sys.argv[:1]).rpartition("/")[2] == "workbench")
    and not __file__.startswith(f"{os.path.abspath('')}/")
):
    sys.path[:] = [entry for entry in sys.path if entry != os.path.abspath("")]

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.api import NewTrial, Workbench
    from workbench.chat.client import ChatSession
    from workbench.engine_status import EngineStatus
    from workbench.errors import EngineError, NotThere, RecipeError, WorkbenchError
    from workbench.judging.comparison import Comparison
    from workbench.recipe import Recipe
    from workbench.service import ImportanceReport, TrialDetail
    from workbench.store.board_rows import BoardRow, FinalistRow, ScoreDifference
    from workbench.store.rows import CardRow, EventRow, Experiment, Point, TrialRow
    from workbench.trial import State

__version__ = "0.1.0"

__all__ = [
    "BoardRow",
    "CardRow",
    "ChatSession",
    "Comparison",
    "EngineError",
    "EngineStatus",
    "EventRow",
    "Experiment",
    "FinalistRow",
    "ImportanceReport",
    "NewTrial",
    "NotThere",
    "Point",
    "Recipe",
    "RecipeError",
    "ScoreDifference",
    "State",
    "TrialDetail",
    "TrialRow",
    "Workbench",
    "WorkbenchError",
    "__version__",
]

_MODULES = {
    "workbench.api": ("NewTrial", "Workbench"),
    "workbench.chat.client": ("ChatSession",),
    "workbench.engine_status": ("EngineStatus",),
    "workbench.errors": ("EngineError", "NotThere", "RecipeError", "WorkbenchError"),
    "workbench.judging.comparison": ("Comparison",),
    "workbench.recipe": ("Recipe",),
    "workbench.service": ("ImportanceReport", "TrialDetail"),
    "workbench.store.board_rows": ("BoardRow", "FinalistRow", "ScoreDifference"),
    "workbench.store.rows": ("CardRow", "EventRow", "Experiment", "Point", "TrialRow"),
    "workbench.trial": ("State",),
}


def __getattr__(name: str) -> Any:
    """Load a public name from its module at first use (PEP 562)."""
    from importlib import import_module

    for module, names in _MODULES.items():
        if name in names:
            found = getattr(import_module(module), name)
            globals()[name] = found
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
