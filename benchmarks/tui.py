"""Measure the screen on the wire and at the keyboard: `python benchmarks/tui.py --help`.

The measurements are in `screen_bench.py`: mypy cannot tell a module `tui` from the package.
"""

from screen_bench import main

if __name__ == "__main__":
    main()
