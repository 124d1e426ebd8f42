#!/usr/bin/env bash
# bitsandbytes 0.50.2 with kernels 0.17.2, seen on 2026-11-30 (Python 3.11, Linux x86_64, torch 2.13.0 on the CPU).
#
# `import bitsandbytes` asks the model hub for a compiled kernel where the package kernels is installed and the CPU has
# AVX512-BF16 (Zen 4, Sapphire Rapids and later). No model has been named by then and no 4-bit layer made. Without
# kernels it asks nothing and logs a warning. Without a network each import waits for the connection to fail, which any
# process pays that imports PEFT or TRL, too.
#
# What the workbench does: the package kernels looks absent in each of its processes that imports these libraries
# (`hide_hub_kernels` in workbench/user_config.py).
#
# Passes while that is so, and on a CPU without AVX512-BF16, where nothing can be seen; fails if it changes.
set -euo pipefail
if ! grep -q avx512_bf16 /proc/cpuinfo; then
    echo "this CPU has no AVX512-BF16: bitsandbytes does not ask here"
    exit 0
fi
folder=$(mktemp -d)
trap 'kill "${hub:-}" 2>/dev/null || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/pip" install --quiet --disable-pip-version-check "$@"; }
pip 'bitsandbytes==0.50.2' 'torch==2.13.0'
cd "$folder"
cat > hub.py <<'PY'
"""A hub on this machine that notes what it is asked and has nothing."""
import http.server


class Hub(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with open("asked", "a") as file:
            file.write(f"{self.path}\n")
        self.send_error(404)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
open("port", "w").write(str(server.server_address[1]))
server.serve_forever()
PY
venv/bin/python hub.py &
hub=$!
until [[ -s port ]]; do sleep 0.1; done
asked() {
    : > asked
    HF_ENDPOINT=http://127.0.0.1:$(<port) venv/bin/python -c 'import bitsandbytes' 2> /dev/null
    grep -c kernels-community asked || true
}
without=$(asked)
pip 'kernels==0.17.2'
with=$(asked)
echo "questions about kernels-community while bitsandbytes is imported: $without without kernels, $with with it"
[[ $without == 0 && $with -gt 0 ]]
