"""Save a picture of the app over a filled home, for the documentation.

TERM=xterm-256color COLORTERM=truecolor python -m tests.tui.picture OUT.svg [120x40] [KEY …]

Keys are as Textual names them. The README's pictures are `120x36`, and `120x40 4
left_square_bracket j b home` for the Board, each photographed by a browser at 1,200 pixels.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from tests.tui.conftest import frame, settled, shown
from tests.tui.filled import engine_running, fill
from workbench.home import Home


async def picture(home: Home, out: Path, width: int, height: int, keys: list[str]) -> list[str]:
    """Press the keys, save the screen as SVG, and return it as text."""
    async with shown(home, width, height) as (app, pilot):
        for key in keys:
            await pilot.press(key)
            await settled(app, pilot)
        app.save_screenshot(str(out))
        return frame(app)


def main(out: str, size: str = "120x40", *keys: str) -> None:
    width, height = (int(part) for part in size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        fill(home)
        with engine_running(home):
            print(*asyncio.run(picture(home, Path(out), width, height, list(keys))), sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
