"""Questions put to a child with a deadline, so that a library that hangs takes nobody along.

Each child prints one JSON object. It runs Python's own code below, never files of the folder the
person happens to be in.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.text import safe_line

DEADLINE_S = 30.0

SQLITE = """
import json, sqlite3
print(json.dumps({"version": sqlite3.sqlite_version}))
"""

TORCH = """
import json, torch
arches = torch.cuda.get_arch_list()
if not arches and torch.version.cuda:
    arches = (torch._C._cuda_getArchFlags() or "").split()
print(json.dumps({
    "version": torch.__version__,
    "cuda": torch.version.cuda,
    "available": torch.cuda.is_available(),
    "arches": arches,
}))
"""

BITSANDBYTES = """
import json, torch, bitsandbytes
from bitsandbytes import functional as F
device = "cuda" if torch.cuda.is_available() else "cpu"
weight = torch.linspace(-1, 1, 4096, device=device).reshape(64, 64)
packed, state = F.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
back = F.dequantize_4bit(packed, state)
error = (back - weight).abs().mean().item()
print(json.dumps({"version": bitsandbytes.__version__, "device": device, "error": error}))
"""

RAY = """
import json, ray
print(json.dumps({"version": ray.__version__}))
"""


def ask(code: str, env: Mapping[str, str], deadline_s: float = DEADLINE_S) -> dict[str, Any]:
    """What the child printed; `{"problem": …}` where it failed or took too long."""
    return _run(["-P", "-c", code], env, deadline_s)


def ask_cards(env: Mapping[str, str], deadline_s: float = DEADLINE_S) -> dict[str, Any]:
    """One sample of the cards, or `{"problem": …}`."""
    package = str(Path(__file__).resolve().parent.parent.parent)
    path = os.pathsep.join(part for part in (package, env.get("PYTHONPATH", "")) if part)
    asked = {**env, "PYTHONPATH": path}
    return _run(["-P", "-m", "workbench.machine.sampler", "--once"], asked, deadline_s)


def _run(arguments: list[str], env: Mapping[str, str], deadline_s: float) -> dict[str, Any]:
    try:
        done = subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            check=False,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            timeout=deadline_s,
        )
        if done.returncode == 0:
            return dict(json.loads(done.stdout.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        return {"problem": f"no answer within {deadline_s:.0f} s", "slow": True}
    except (OSError, ValueError, IndexError, TypeError) as broken:
        return {"problem": safe_line(f"{type(broken).__name__}: {broken}", 200)}
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return {"problem": safe_line(said[-1] if said else f"ended with {done.returncode}", 200)}
