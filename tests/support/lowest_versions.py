"""Print the lowest versions that pyproject.toml allows, as constraints for pip.

`make test-lowest` installs them into a virtual environment of their own. Needs no package, so that
any Python can run it.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
LEFT_TO_PIP = {"torch"}
"""The oldest wheels of torch bring gigabytes of CUDA with them; a GPU machine tests those."""


def lowest_versions(requirements: list[str]) -> dict[str, str]:
    """Return the lowest version by name. Raises ValueError for a requirement without a bound."""
    found = {}
    for text in requirements:
        name = re.match(r"[A-Za-z0-9._-]+", text)
        bound = re.search(r"(?:>=|==)\s*([0-9][0-9.]*)", text)
        if name is None or bound is None:
            raise ValueError(f"{text} has no lower bound")
        found[name[0]] = bound[1]
    return found


def declared() -> list[str]:
    """Return what pyproject.toml requires, with the extra that the tests need."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["test"]]


if __name__ == "__main__":
    for package, version in lowest_versions(declared()).items():
        if package not in LEFT_TO_PIP:
            print(f"{package}=={version}")
