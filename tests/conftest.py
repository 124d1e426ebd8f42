"""What holds for every test: the configuration of whoever runs them is not read, and ctrl-c works
also where a shell started them in the background, which hands on that it is ignored."""

from __future__ import annotations

import os
import signal

os.environ["XDG_CONFIG_HOME"] = "/nonexistent"
signal.signal(signal.SIGINT, signal.default_int_handler)
