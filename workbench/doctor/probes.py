"""Probe libraries and the driver in child processes with a deadline.

A library that hangs or crashes then costs one check and not the command. Each child prints one JSON
object. Children run with -P, so that they import nothing from the working directory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.machine.python_children import python_command, python_environment
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
import json, sys
sys.modules["kernels"] = None  # as hide_hub_kernels() does
import torch, bitsandbytes
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


def run_probe(code: str, env: Mapping[str, str], deadline_s: float = DEADLINE_S) -> dict[str, Any]:
    """Run Python code in a child and return the JSON object on its last line of output.

    Returns `{"problem": …}` if the child failed, and with `"slow": True` if it took too long.
    """
    return _run([sys.executable, "-P", "-c", code], env, deadline_s)


def probe_cards(env: Mapping[str, str], deadline_s: float = DEADLINE_S) -> dict[str, Any]:
    """Return one reading of the cards as JSON, or `{"problem": …}`."""
    package = str(Path(__file__).resolve().parent.parent.parent)
    path = os.pathsep.join(part for part in (package, env.get("PYTHONPATH", "")) if part)
    command = python_command("workbench.machine.sampler", "--once")
    return _run(command, {**env, "PYTHONPATH": path}, deadline_s)


def _run(command: list[str], env: Mapping[str, str], deadline_s: float) -> dict[str, Any]:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            check=False,
            env=python_environment(env),
            stdin=subprocess.DEVNULL,
            timeout=deadline_s,
        )
        if done.returncode == 0:
            return dict(json.loads(done.stdout.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        return {"problem": f"no answer within {deadline_s:.0f} s", "slow": True}
    except (OSError, ValueError, IndexError, TypeError) as broken:
        return {"problem": safe_line(f"{type(broken).__name__}: {broken}", 200)}
    # The last line of a traceback names the error.
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return {"problem": safe_line(said[-1] if said else f"ended with {done.returncode}", 200)}
