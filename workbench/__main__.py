"""`workbench` and `python -m workbench`: the command line."""

import os
import signal
import sys


def run_command_line() -> int:
    """Run the command line and return its exit code.

    Ctrl-c during the imports below, which take some tenths of a second, would print a traceback.
    """
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    from workbench.cli import load_command

    run = load_command(sys.argv[1:])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return run()


if __name__ == "__main__":
    sys.exit(run_command_line())
