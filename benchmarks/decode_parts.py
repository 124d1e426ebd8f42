"""Compares the ways in which a decode step multiplies a few tokens with 4-bit weights.

    python benchmarks/decode_parts.py [--shape 8b] [--lanes 1 16 64 128] [--part qkv out …]

A part is one of a layer's four products with an adapter of rank 16: with 16-bit copies of the
weights, with the 4-bit weights as they are, and with weights that are unpacked first. Each way is
captured over the weights of 16 layers, more than a card's cache holds: medians in microseconds a
layer, and how far its outputs are from those in fp64 (root mean square, relative). `--shape tiny`
with TRITON_INTERPRET=1 compares on a CPU, untimed.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from scoring_contestants import shape_parser, usual_device
from torch import Tensor

from workbench.training.decode.kernels.nf4_product import Nf4Product
from workbench.training.step.kernels.nf4 import nf4_dequantize

LAYERS, REPEATS, RANK = 16, 7, 16
SHAPES = {
    "8b": (4096, 14336, 1024),
    "3b": (3072, 8192, 1024),
    "1b": (2048, 8192, 512),
    "tiny": (128, 256, 64),
}
"""Width, width of the feed-forward block, width of keys."""


class Part:
    """One product of every layer, in three ways."""

    def __init__(
        self, widths: list[int], inputs: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        from bitsandbytes.functional import quantize_4bit

        how: dict[str, Any] = {"quant_type": "nf4", "compress_statistics": True}
        like: dict[str, Any] = {"device": device, "dtype": dtype}
        self.weights = [
            [quantize_4bit(torch.randn(n, inputs, **like) / 16, **how) for n in widths]
            for _ in range(LAYERS if device.type == "cuda" else 1)
        ]
        outputs, columns = sum(widths), RANK * len(widths)
        self.a_CK = torch.randn(columns, inputs, **like) / inputs**0.5
        self.b_NC = torch.randn(outputs, columns, **like) / 8
        self.products = [
            Nf4Product([w for w, _ in each], [state for _, state in each], dtype)
            for each in self.weights
        ]
        self.copies = [torch.empty(outputs + columns, inputs, **like) for _ in self.weights]
        self.room = torch.empty_like(self.copies[0])
        for layer, into in enumerate(self.copies):
            self._unpack(layer, into)

    def as_they_are(self, layer: int, x_TK: Tensor) -> Tensor:
        return self.products[layer].multiply(x_TK, self.a_CK, self.b_NC)

    def by_copies(self, layer: int, x_TK: Tensor) -> Tensor:
        return self._multiply(x_TK, self.copies[layer])

    def unpacked(self, layer: int, x_TK: Tensor) -> Tensor:
        self._unpack(layer, self.room)
        return self._multiply(x_TK, self.room)

    def in_fp64(self, x_TK: Tensor) -> Tensor:
        """Return the outputs of the first layer with weights and sums in fp64."""
        from bitsandbytes.functional import dequantize_4bit

        dense = []
        for packed, state in self.weights[0]:
            state.dtype = torch.float32
            dense.append(dequantize_4bit(packed, state).double())
            state.dtype = x_TK.dtype
        x, a, b = x_TK.double(), self.a_CK.double(), self.b_NC.double()
        want: Tensor = x @ torch.cat(dense).T + (x @ a.T) @ b.T
        return want

    def _unpack(self, layer: int, into_MK: Tensor) -> None:
        at = 0
        for packed, state in self.weights[layer]:
            nf4_dequantize(packed, state, into_MK[at : (at := at + state.shape[0])])
        into_MK[at:] = self.a_CK

    def _multiply(self, x_TK: Tensor, w_MK: Tensor) -> Tensor:
        outputs, columns = self.b_NC.shape
        out_TN, low_TC = torch.split(x_TK @ w_MK.T, [outputs, columns], dim=1)
        return out_TN.addmm_(low_TC, self.b_NC.T)


def main() -> int:
    parser = shape_parser(__doc__)
    parser.add_argument("--lanes", nargs="*", type=int, default=[1, 16, 64, 128])
    parser.add_argument("--part", nargs="*", default=["qkv", "out", "gate-up", "down"])
    options = parser.parse_args()
    device = usual_device()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    width, ffn, keys = SHAPES[options.shape]
    parts = {
        "qkv": ([width, keys, keys], width),
        "out": ([width], width),
        "gate-up": ([ffn, ffn], width),
        "down": ([width], ffn),
    }
    print(
        "part      tokens  16-bit copies  4-bit as they are  unpacked first, us (error)", flush=True
    )
    for name in options.part:
        part = Part(*parts[name], device, dtype)
        for tokens in options.lanes:
            x_TK = torch.randn(tokens, parts[name][1], device=device, dtype=dtype)
            want = part.in_fp64(x_TK)
            told = []
            for way in (part.by_copies, part.as_they_are, part.unpacked):
                off = float((way(0, x_TK).double() - want).norm() / want.norm())
                us = captured_us(way, [(layer, x_TK) for layer in range(len(part.copies))])
                told.append(f"{us:8.1f} ({off:.1e})")
            print(f"{name:8}  {tokens:6}  {'  '.join(told)}", flush=True)
    return 0


def captured_us(run: Callable[..., object], calls: Sequence[tuple[Any, ...]]) -> float:
    """Return the median microseconds of a call, all of them captured; NaN without a card."""
    if not torch.cuda.is_available():
        return float("nan")
    for arguments in calls:
        run(*arguments)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for arguments in calls:
            run(*arguments)
    took = []
    for _ in range(REPEATS):
        began, ended = torch.cuda.Event(True), torch.cuda.Event(True)  # type: ignore[no-untyped-call]
        began.record()
        graph.replay()
        ended.record()
        torch.cuda.synchronize()
        took.append(float(began.elapsed_time(ended)) * 1e3 / len(calls))
    return statistics.median(took)


if __name__ == "__main__":
    sys.exit(main())
