"""A preparation that leaves its process's id; it kills itself where a folder has a file `kill`."""

import json
import os
import signal
import sys
from pathlib import Path

first, _cache, *then = [word for word in sys.argv[1:] if word != "--then"]
for folder in map(Path, (first, *then)):
    if (folder / "kill").exists():
        (folder / "kill").unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / "prepared.json").write_text(json.dumps({"ok": True, "pid": os.getpid()}))
