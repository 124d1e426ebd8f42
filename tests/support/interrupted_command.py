"""One command of the command line, interrupted by ctrl-c at each of many moments.

`python -m tests.support.interrupted_command FOLDER STAGE,STAGE,… WORD…` runs `workbench WORD…` once
for each stage, in a process group of its own, and sends that SIGINT, as a terminal does, when the
command comes to its STAGEth file, folder, process or sleep. FOLDER gets STAGE.out, STAGE.err,
STAGE.code and, where processes of the group lived on, STAGE.left. The imports happen once, for all.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from workbench.cli.app import main

MOMENTS = ("open", "os.listdir", "os.scandir", "os.rename", "subprocess.Popen", "sqlite3.connect")


def interrupt_at(stage: int) -> None:
    """Let this process send its group SIGINT at its `stage`th moment from now on."""
    seen, sleep = 0, time.sleep

    def count(event: str, _: object) -> None:
        nonlocal seen
        if event in MOMENTS:
            seen += 1
            if seen == stage:
                os.killpg(0, signal.SIGINT)

    def counted_sleep(seconds: float) -> None:
        count(MOMENTS[0], ())
        sleep(min(seconds, 0.02))  # a command that follows comes to its next moments sooner

    time.sleep = counted_sleep  # type: ignore[assignment]
    sys.addaudithook(count)


def run_interrupted(folder: Path, stage: int, words: list[str]) -> None:
    """Run the command in a child, and write what came of it into the folder."""
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        for number, name in ((1, "out"), (2, "err")):
            file = os.open(folder / f"{stage}.{name}", os.O_WRONLY | os.O_CREAT, 0o600)
            os.dup2(file, number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        interrupt_at(stage)
        code = main(words)
        sys.stdout.flush()
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    (folder / f"{stage}.code").write_text(str(code))
    with suppress(ProcessLookupError):
        os.killpg(child, 0)
        (folder / f"{stage}.left").touch()


if __name__ == "__main__":
    for number in sys.argv[2].split(","):
        run_interrupted(Path(sys.argv[1]), int(number), sys.argv[3:])
