"""The views by their names, imported when they are first opened.

The first picture is the Dashboard's, and must not wait for the five others.
"""

from __future__ import annotations

from importlib import import_module
from typing import cast

from tui.screens.view import View


def view_class(name: str) -> type[View]:
    """Return the class of a view; its module has the same name in lower case."""
    return cast(type[View], getattr(import_module(f"tui.screens.{name.lower()}"), name))
