"""Times the kernels of LoRA's down-projections in a training step, forward and backward.

    python benchmarks/lora_parts.py [--shape 8b] [--tokens 928] [--rank 16]

One line for each group of projections that share an input: microseconds a layer, the sums of the
kernels' parts included, captured over tensors of 8 layers, medians. As in the step, the input of
down is made from gate and up while they are read, and going backward those of q, k and v, and of
gate and up, from the norm's input; dropout is 0.05. `--shape tiny` with TRITON_INTERPRET=1 tries
the script on a CPU.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from decode_parts import SHAPES, captured_us
from scoring_contestants import shape_parser, usual_device
from torch import Tensor

from workbench.training.step.kernels.lora_down import (
    GatedInput,
    NormedInput,
    lora_down,
    lora_down_backward,
)

LAYERS, DROPOUT = 8, 0.05


class Part:
    """The tensors of one layer's group of projections."""

    def __init__(self, name: str, width: int, count: int, tokens: int, rank: int, like: Any):
        self.name, self.count = name, count
        self.x_TK, self.up_TK, self.dx_TK, self.made_TK = (
            torch.randn(tokens, width, **like) for _ in range(4)
        )
        self.weight_K = torch.randn(width, **like)
        self.rstd_T = torch.rand(tokens, device=like["device"]) + 0.5
        self.low_PTR = torch.randn(count, tokens, rank, **like)
        self.a_PRK, self.grad_PRK = (torch.randn(count, rank, width, **like) for _ in range(2))
        self.keys = torch.arange(1, 2 * count + 1, device=like["device"])

    def forward(self) -> Tensor:
        gated = GatedInput(up_TK=self.up_TK, gelu=False) if self.name == "down" else None
        return lora_down(
            self.x_TK, self.a_PRK, self.keys, DROPOUT, 1.0,
            gated=gated, made_TK=self.made_TK if gated else None,
        )  # fmt: skip

    def backward(self) -> None:
        made: GatedInput | NormedInput | None = None
        if self.name == "down":
            made = GatedInput(up_TK=self.up_TK, gelu=False)
        elif self.name != "out":
            made = NormedInput(rstd_T=self.rstd_T, weight_K=self.weight_K, gemma=False)
        lora_down_backward(
            self.x_TK, self.dx_TK, self.low_PTR, self.a_PRK, self.grad_PRK, self.keys, DROPOUT,
            1.0, add=False, add_dx=True, made=made,
        )  # fmt: skip


def main() -> int:
    parser = shape_parser(__doc__)
    parser.add_argument("--tokens", type=int, default=928, help="of a micro-step")
    parser.add_argument("--rank", type=int, default=16)
    options = parser.parse_args()
    device = usual_device()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    width, ffn, _ = SHAPES[options.shape]
    groups = {"qkv": (width, 3), "out": (width, 1), "gate-up": (width, 2), "down": (ffn, 1)}
    print("group    forward  backward, us a layer", flush=True)
    for name, sizes in groups.items():
        like = {"device": device, "dtype": dtype}
        parts = [Part(name, *sizes, options.tokens, options.rank, like) for _ in range(LAYERS)]
        parts[0].forward()
        parts[0].backward()
        each = [(part,) for part in parts]
        ahead, back = captured_us(Part.forward, each), captured_us(Part.backward, each)
        print(f"{name:7}  {ahead:7.1f}  {back:8.1f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
