"""python -m workbench.showcase FOLDER: fill that empty home, print `ready`, and play on."""

from __future__ import annotations

import sys
from pathlib import Path

from workbench.home import Home
from workbench.machine.processes import die_with_parent
from workbench.showcase.play import Showcase


def main(folder: str) -> int:
    """Play until the process that started this one ends."""
    die_with_parent()
    showcase = Showcase(Home(Path(folder)))
    showcase.fill()
    print("ready", flush=True)
    showcase.play()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
