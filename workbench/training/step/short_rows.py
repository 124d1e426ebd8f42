"""Attention in Triton, for rows that are short, and for scores that are capped.

Flash Attention 2's algorithm (Dao 2023, arXiv 2307.08691). On rows of some hundred tokens the
libraries' kernels wait more than they compute: theirs takes five launches going backward, with an
fp32 accumulator of dq and with dk and dv of every query head, which are then summed. Here it is
two, a program sums the query heads that share keys, and gradients of q, k and v lie beside each
other, so that the projections before them go backward in one product. On long rows the libraries'
are faster: scores are computed twice going backward here.
"""

# T tokens, H query heads, G key/value heads, D head width, R rows

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import torch
from torch import Tensor


@cache
def _kernels() -> Any:
    return importlib.import_module("workbench.training.step.attention_kernels")


BLOCKS: dict[int, dict[str, tuple[int, int, int, int]]] = {
    64: {"attend": (64, 64, 4, 2), "q": (64, 64, 4, 2), "kv": (64, 64, 4, 1)},
    128: {"attend": (64, 64, 4, 3), "q": (64, 32, 4, 3), "kv": (64, 64, 4, 1)},
    256: {"attend": (64, 32, 4, 2), "q": (32, 32, 4, 2), "kv": (32, 32, 4, 2)},
}
"""Width of heads and kernel: (queries, keys, warps, stages) of a program. In 16 bits all take
less than the 99 KiB of shared memory of compute capability 8.6 to 12.0."""
FP32 = (32, 32, 4, 1)
"""The same for tests: no plan attends so in fp32."""


class ShortRows(torch.autograd.Function):
    """Causal attention of concatenated rows; keeps its inputs, its output and one fp32 number for
    each query.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q_THD: Tensor,
        k_TGD: Tensor,
        v_TGD: Tensor,
        cu: Tensor,
        max_length: int,
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        q_THD, k_TGD, v_TGD = (_dense_heads(x) for x in (q_THD, k_TGD, v_TGD))
        out_THD = q_THD.new_empty(q_THD.shape)
        lse_HT = q_THD.new_empty(q_THD.shape[1], q_THD.shape[0], dtype=torch.float32)
        ctx.told = (max_length, scale, window, softcap)
        more, rows = _settings("attend", q_THD, k_TGD, window, softcap), cu.numel() - 1
        _kernels().attend[(_split(max_length, more["M"]), q_THD.shape[1], rows)](
            q_THD, k_TGD, v_TGD, out_THD, lse_HT, cu, q_THD.shape[0], scale, softcap or 1.0,
            q_THD.stride(0), k_TGD.stride(0), v_TGD.stride(0), **more,
        )  # fmt: skip
        ctx.save_for_backward(q_THD, k_TGD, v_TGD, out_THD, lse_HT, cu)
        return out_THD

    @staticmethod
    def backward(ctx: Any, dout_THD: Tensor) -> tuple[Tensor | None, ...]:
        q_THD, k_TGD, v_TGD, out_THD, lse_HT, cu = ctx.saved_tensors
        (tokens, heads, width), groups = q_THD.shape, k_TGD.shape[1]
        dout_THD = dout_THD.contiguous()
        grads = q_THD.new_empty(tokens, heads + 2 * groups, width)
        dq_THD, dk_TGD, dv_TGD = torch.split(grads, [heads, groups, groups], dim=1)
        delta_HT = torch.empty_like(lse_HT)
        max_length, scale, window, softcap = ctx.told
        strides, rows = (q_THD.stride(0), k_TGD.stride(0), v_TGD.stride(0)), cu.numel() - 1
        more = _settings("q", q_THD, k_TGD, window, softcap)
        _kernels().attend_backward_q[(_split(max_length, more["M"]), heads, rows)](
            q_THD, k_TGD, v_TGD, out_THD, lse_HT, dout_THD, dq_THD, delta_HT, cu, tokens, scale,
            softcap or 1.0, *strides, dq_THD.stride(0), **more,
        )  # fmt: skip
        more = _settings("kv", q_THD, k_TGD, window, softcap)
        _kernels().attend_backward_kv[(_split(max_length, more["N"]), groups, rows)](
            q_THD, k_TGD, v_TGD, lse_HT, dout_THD, delta_HT, dk_TGD, dv_TGD, cu, tokens, scale,
            softcap or 1.0, *strides, dk_TGD.stride(0), dv_TGD.stride(0), **more,
        )  # fmt: skip
        return dq_THD, dk_TGD, dv_TGD, None, None, None, None, None


def _settings(
    kernel: str, q_THD: Tensor, k_TGD: Tensor, window: int | None, softcap: float | None
) -> dict[str, Any]:
    heads, width = q_THD.shape[1:]
    block = max(16, 1 << (width - 1).bit_length())
    half = q_THD.dtype.itemsize == 2
    queries, keys, warps, stages = BLOCKS[max(block, 64)][kernel] if half else FP32
    return {
        "GROUP": heads // k_TGD.shape[1], "H": heads, "WINDOW": window or 0,
        "CAPPED": softcap is not None, "D": width, "BLOCK_D": block, "M": queries, "N": keys,
        "num_warps": warps, "num_stages": stages,
    }  # fmt: skip


def _dense_heads(x_THD: Tensor) -> Tensor:
    """As it lies, where its heads lie beside each other in a token."""
    return x_THD if x_THD.stride()[1:] == (x_THD.shape[2], 1) else x_THD.contiguous()


def _split(count: int, size: int) -> int:
    return -(-count // size)
