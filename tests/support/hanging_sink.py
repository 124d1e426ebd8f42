"""A sink whose server never answers: it hears no SIGTERM and hands nothing on."""

import signal
import sys
import time
from pathlib import Path

signal.signal(signal.SIGTERM, signal.SIG_IGN)
(Path(sys.argv[2]) / "hangs").touch()
time.sleep(600)
