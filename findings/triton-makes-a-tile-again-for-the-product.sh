#!/usr/bin/env bash
# Triton 3.7.1, seen on 2026-11-30 (Python 3.11, Linux x86_64, no GPU; 3.6.0 does the same).
#
# A loop loads a tile, computes an activation of it, stores that and multiplies with it. Triton computes the activation
# twice: once as it is stored, and once more in the layout of the product, from a second reading of the tile. For the
# second it reads shared memory that is not swizzled, one element of two bytes at a time, since both layouts read the
# same bytes. However many operations the activation takes does not matter. A `where` in between that changes nothing
# (by a mask that is known to be true wherever it counts) ends it: the activation is computed once, and passes swizzled
# shared memory to the product. So adding work makes such a kernel faster. Ours, the low-rank product of a gated
# activation of 928 × 14,336, took 72 µs on an H200 without dropout and 24 with dropout, whose masks are such a `where`.
#
# What the workbench does: the kernel has that `where` where there are no masks
# (workbench/training/step/kernels/lora_down.py), and a test counts how often its compiled code makes the activation.
#
# Passes while that is so; fails if it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'triton==3.7.1'
cd "$folder"
cat > count.py <<'PY'
"""Prints, with and without `where`: exponentials, and how many elements are read at once for the product."""
import re
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def product(x, made, a, out, K, T, TIMES: tl.constexpr, WHERE: tl.constexpr):
    t, r = tl.arange(0, 16), tl.arange(0, 16)
    total = tl.zeros((16, 16), tl.float32)
    for start in range(0, K, 128):
        k = start + tl.arange(0, 128)
        at = t[:, None] * K + k[None, :]
        inside = (t < T)[:, None] & (k < K)[None, :]
        value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        for _ in tl.static_range(TIMES):
            value = value / (1 + tl.exp(-value))
        active = value.to(tl.bfloat16)
        tl.store(made + at, active, mask=inside)
        if WHERE:
            active = tl.where(inside, active, 0.0)
        total += tl.dot(active, tl.load(a + r[None, :] * K + k[:, None]))
    tl.store(out + t[:, None] * 16 + r[None, :], total)


names = {"x": "*bf16", "made": "*bf16", "a": "*bf16", "out": "*fp32", "K": "i32", "T": "i32"}
names |= {"TIMES": "constexpr", "WHERE": "constexpr"}
aligned = {(place,): [["tt.divisibility", 16]] for place in range(5)}
for capability in (80, 86, 90):
    for times in (1, 8):
        seen = []
        for where in (False, True):
            source = ASTSource(product, names, {(6,): times, (7,): where}, aligned)
            made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_stages": 3})
            code = made.asm["ttgir"]
            width = dict(re.findall(r"(#shared\d*) = #ttg.swizzled_shared<\{vec = (\d+)", code))
            [read] = re.findall(r"local_load .*memdesc<16x128xbf16, (#shared\d*).*-> .*#ttg.dot_op", code)
            seen.append(f"{code.count('math.exp')} {width[read]}")
        print(capability, *seen, sep=" | ")
PY
TRITON_CACHE_DIR="$folder/cache" venv/bin/python count.py | tee seen
diff seen - <<'SEEN'
80 | 2 1 | 1 8
80 | 16 1 | 8 8
86 | 2 1 | 1 8
86 | 16 1 | 8 8
90 | 2 1 | 1 8
90 | 16 1 | 8 8
SEEN
echo "an activation that is stored and multiplied is still made twice without a where"
