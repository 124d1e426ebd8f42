#!/usr/bin/env bash
# Triton 3.7.1, seen on 2026-11-30 (Python 3.11, Linux x86_64, no GPU; 3.6.0 does the same).
#
# A loop of products whose tiles are loaded ahead of their turn (`num_stages=3`) loads none ahead, once any value, here
# a single number, is handed on over two turns (`now = after; after = tl.load(…)`). Nothing is said. In the compiled loop
# of this example there are 9 asynchronous copies where the number is loaded in its own turn, 6 where it is handed on
# over one turn, and 0 where it is handed on over two; so for compute capability 8.0, 8.6 and 9.0. Whoever fetches a
# number earlier, to wait less for it, then waits for every tile.
#
# What the workbench does: no loop of its kernels hands a value on over more than one turn; a scale of 4-bit weights is
# loaded in its own turn (workbench/training/decode/kernels/nf4_product.py).
#
# Passes while that is so; fails if it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'triton==3.7.1'
cd "$folder"
cat > copies.py <<'PY'
"""Prints the asynchronous copies in the loop of a product, by how many turns a number is handed on."""
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def product(a, b, scales, out, K, TURNS: tl.constexpr):
    m, k = tl.arange(0, 64), tl.arange(0, 32)
    from_a, from_b = a + m[:, None] * K + k[None, :], b + m[None, :] * K + k[:, None]
    total = tl.zeros((64, 64), tl.float32)
    now = tl.load(scales)
    after = tl.load(scales + 1)
    for block in tl.range(0, K // 32, num_stages=3):
        ahead = tl.load(scales + block + TURNS)
        if TURNS == 0:
            now = ahead
        total += tl.dot(tl.load(from_a), tl.load(from_b)) * now
        if TURNS == 1:
            now = ahead
        if TURNS == 2:
            now = after
            after = ahead
        from_a += 32
        from_b += 32
    tl.store(out + m[:, None] * 64 + m[None, :], total)


names = {"a": "*fp16", "b": "*fp16", "scales": "*fp32", "out": "*fp32", "K": "i32", "TURNS": "constexpr"}
aligned = {(place,): [["tt.divisibility", 16]] for place in range(5)}
for capability in (80, 86, 90):
    copies = []
    for turns in (0, 1, 2):
        source = ASTSource(product, names, {(5,): turns}, aligned)
        made = triton.compile(source, target=GPUTarget("cuda", capability, 32))
        copies.append(made.asm["ttgir"].count("async_copy_global_to_local"))
    print(capability, *copies)
PY
TRITON_CACHE_DIR="$folder/cache" venv/bin/python copies.py | tee seen
diff seen - <<'SEEN'
80 9 6 0
86 9 6 0
90 9 6 0
SEEN
echo "a value handed on over two turns still ends all loads ahead"
