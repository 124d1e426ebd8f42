#!/usr/bin/env bash
# safetensors 0.8.0, seen on 2026-11-30 (Python 3.11, Linux x86_64).
#
# Where the operating system refuses a write, Python's own files raise OSError with its number. `save_file` raises
# SafetensorError, which is no OSError: no `errno`, no `filename`, and the number only within the text, "(os error
# N)". Code that waits for room on a full disk by `except OSError` or by `errno.ENOSPC` takes a full disk for a fault
# of the file's content. Seen here with a limit on the size of files, which gives EFBIG (27); a full disk gives ENOSPC
# (28) the same way.
#
# What the workbench does: it reads the number from the text (workbench/machine/files.py, is_full_disk), so that a
# checkpoint that met a full disk waits for room.
#
# Passes while that is so; fails if it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'safetensors==0.8.0' 'numpy==2.4.6'
cd "$folder"
ulimit -f 64 # blocks of 1 KiB
venv/bin/python - <<'PY'
import errno

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

values = np.zeros(1 << 20, dtype=np.float32)  # 4 MiB
try:
    with open("values.npy", "wb") as file:
        file.write(values.tobytes())
except OSError as refused:
    print("Python's file:", type(refused).__name__, refused.errno)
    assert refused.errno == errno.EFBIG
else:
    raise SystemExit("the limit on files is not in force")
try:
    save_file({"values": values}, "values.safetensors")
except Exception as refused:
    print("safetensors:", type(refused).__name__, "·", refused)
    assert isinstance(refused, SafetensorError)
    assert not isinstance(refused, OSError)
    assert not hasattr(refused, "errno")
    assert f"os error {errno.EFBIG}" in str(refused)
else:
    raise SystemExit("safetensors wrote the file")
PY
