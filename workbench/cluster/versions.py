"""The versions that head and boxes must share, and how those of a box differ."""

from __future__ import annotations

import platform
from collections.abc import Collection
from importlib import metadata

from workbench.machine.packages import OURS

ALWAYS_EQUAL = ("python", "ray", OURS)
"""Without these being equal, head and box do not understand each other."""
PACKAGES = ("ray", "torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate", "datasets")


def installed_versions() -> dict[str, str]:
    """Return the version of Python, the workbench and each package; `none` for a missing one.

    Of torch without its CUDA build, which may differ between boxes.
    """
    found = {"python": platform.python_version()}
    for name in (OURS, *PACKAGES):
        try:
            found[name] = metadata.version(name).split("+")[0]
        except metadata.PackageNotFoundError:
            found[name] = "none"
    return found


def differing_packages(here: dict[str, str], there: dict[str, str]) -> list[str]:
    """Return the names whose versions differ between the head (`here`) and a box."""
    names = sorted({*here, *there})
    return [name for name in names if here.get(name, "none") != there.get(name, "none")]


def version_differences(
    here: dict[str, str], there: dict[str, str], names: Collection[str] | None = None
) -> str:
    """Return in one line what a box has and the head has not; an empty string where both agree.

    `names` limits which packages are compared.
    """
    return "; ".join(
        f"{name} is {there.get(name, 'none')} there and {here.get(name, 'none')} on the head"
        for name in differing_packages(here, there)
        if names is None or name in names
    )
