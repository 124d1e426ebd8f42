"""python -m workbench.showcase FOLDER: fill FOLDER/home, print `ready`, and play on.

Ends with its standard input and removes FOLDER then. That input is a pipe of the process that
started this one: it ends with that process, however that process ends.
"""

from __future__ import annotations

import select
import shutil
import sys
from pathlib import Path

from workbench.home import Home
from workbench.showcase.play import Showcase


def input_ends(within_s: float = 0.0) -> bool:
    """Return whether standard input ends within so many seconds; nothing is ever written to it."""
    return bool(select.select([sys.stdin], [], [], within_s)[0])


def main(folder: str) -> int:
    """Play until standard input ends."""
    showcase = Showcase(Home(Path(folder) / "home"))
    try:
        showcase.fill(ended=input_ends)
        if not input_ends():
            print("ready", flush=True)
            showcase.play(input_ends)
        showcase.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
