"""Compares the parts of a decode step as it is with candidates for a faster one.

    python benchmarks/decode_parts.py [--shape 8b] [--lanes 64] [--part down gate-up …]

A part is one of a layer's four products with what follows it: `qkv` (B, rotary embeddings, keys and
values to the cache), `out` and `down` (B, the residual sum, the next norm) and `gate-up` (B, the
gated activation). Each way of a part is captured over the weights of 20 layers, more than a card's
cache holds, and replayed in turn with the others: medians in microseconds a layer, with the time of
reading the weights once at the measured copy speed. Before it is timed, each candidate's result is
compared with today's way. `--shape tiny` with TRITON_INTERPRET=1 compares on a CPU, untimed.
"""

# B lanes, K inputs, N outputs, M outputs with A below them, C columns of A, H query heads,
# G key/value heads, D head width

from __future__ import annotations

import itertools
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from decode_candidates import gated, heads_to_cache, residual_norm, split_product
from scoring import copy_speed
from scoring_contestants import shape_parser, usual_device, wait_for_card
from torch import Tensor

from workbench.training.decode.kernels.cached_attention import store_keys_values
from workbench.training.step.kernels.gated_linear import gated_linear
from workbench.training.step.kernels.norm import rms_norm
from workbench.training.step.kernels.rotary import Rotary

LAYERS = 20
COLUMNS = {"qkv": 48, "out": 16, "gate-up": 32, "down": 16}
"""Columns of A: rank 16 for each projection of a part."""
AT, SLOT = 300, 512
"""The position of each lane, and the positions of a slot."""
SHAPES = {
    "8b": (4096, 14336, 32, 8, 128),
    "3b": (3072, 8192, 24, 8, 128),
    "1b": (2048, 8192, 32, 8, 64),
    "tiny": (128, 256, 4, 2, 32),
}
"""Width, width of the feed-forward block, query heads, key/value heads, width of a head."""


@dataclass(frozen=True, slots=True)
class Part:
    """One product of every layer, with the tensors that it and what follows read."""

    x_BK: Tensor
    weights: list[Tensor]
    """M rows of each layer's weights; the last C of them are A."""
    b_NC: Tensor
    residual_BN: Tensor
    weight_N: Tensor
    cos_1BD: Tensor
    sin_1BD: Tensor
    keys_SGCD: Tensor
    values_SGCD: Tensor
    slots_B: Tensor
    positions_B: Tensor
    heads: int


def main() -> int:
    parser = shape_parser(__doc__)
    parser.add_argument("--lanes", type=int, default=64)
    parser.add_argument("--part", nargs="*", default=["qkv", "out", "gate-up", "down"])
    parser.add_argument("--top", type=int, default=6, help="configurations to list")
    options = parser.parse_args()
    device = usual_device()
    speed = copy_speed(device)
    print(f"copies {speed / 1e9:.0f} GB/s")
    for name in options.part:
        part = _part(name, SHAPES[options.shape], options.lanes, device)
        weight = part.weights[0]
        floor_us = weight.numel() * weight.element_size() / speed * 1e6
        print(f"\n{name}: {tuple(weight.shape)}, {floor_us:.1f} us to read once", flush=True)
        ways = {"today": _TODAY[name], **dict(_candidates(name, part))}
        _compare(ways, part)
        if device.type == "cuda":
            _time(ways, part, options.top)
    return 0


def _part(name: str, shape: tuple[int, ...], lanes: int, device: torch.device) -> Part:
    width, wide, heads, groups, each = shape
    inputs, outputs = {
        "qkv": (width, (heads + 2 * groups) * each),
        "out": (heads * each, width),
        "gate-up": (width, 2 * wide),
        "down": (wide, width),
    }[name]
    columns = COLUMNS[name]
    chance = torch.Generator(device).manual_seed(0)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    like: dict[str, Any] = {"device": device, "dtype": dtype}

    def normal(*sizes: int, scale: float = 1.0) -> Tensor:
        made = torch.empty(*sizes, **like)
        return made.normal_(generator=chance).mul_(scale)

    layers = LAYERS if device.type == "cuda" else 1
    angles = torch.arange(each, device=device, dtype=torch.float32).mul(0.3)
    cos, sin = (wave(angles).to(dtype).expand(1, lanes, each) for wave in _WAVES)
    return Part(
        normal(lanes, inputs),
        [normal(outputs + columns, inputs, scale=inputs**-0.5) for _ in range(layers)],
        normal(outputs, columns, scale=0.1),
        normal(lanes, outputs),
        normal(outputs),
        cos.contiguous(),
        sin.contiguous(),
        torch.zeros(lanes + 1, groups, SLOT, each, **like),
        torch.zeros(lanes + 1, groups, SLOT, each, **like),
        torch.arange(lanes, device=device),
        torch.full((lanes,), AT, device=device),
        heads,
    )


_WAVES = (torch.cos, torch.sin)


# -- as the decode path computes it today


def _product(part: Part, w_MK: Tensor) -> Tensor:
    all_BM = part.x_BK @ w_MK.T
    out_BN, low_BC = torch.split(all_BM, [*part.b_NC.shape], dim=1)
    return out_BN.addmm_(low_BC, part.b_NC.T)


def _today_residual(part: Part, w_MK: Tensor) -> Tensor:
    summed = part.residual_BN + _product(part, w_MK)
    return rms_norm(summed, part.weight_N, eps=1e-5, gemma=False)[0]


def _today_qkv(part: Part, w_MK: Tensor) -> Tensor:
    groups, each = part.keys_SGCD.shape[1], part.keys_SGCD.shape[3]
    sizes = [part.heads * each, groups * each, groups * each]
    q, k, v = torch.split(_product(part, w_MK), sizes, dim=1)
    q_1HBD, k_1GBD = (x.view(1, len(x), -1, each).transpose(1, 2) for x in (q, k))
    for x in (q_1HBD, k_1GBD):
        Rotary.apply(x, part.cos_1BD, part.sin_1BD, True)  # type: ignore[no-untyped-call]
    store_keys_values(
        k_1GBD[0].transpose(0, 1), v.view(len(v), -1, each), part.keys_SGCD, part.values_SGCD,
        part.slots_B, part.positions_B,
    )  # fmt: skip
    return q_1HBD[0].transpose(0, 1)


def _today_gated(part: Part, w_MK: Tensor) -> Tensor:
    gate, up = _product(part, w_MK).chunk(2, dim=1)
    return gated_linear(gate, up, gelu=False)


Way = Callable[[Part, Tensor], Tensor]
_TODAY: dict[str, Way] = {
    "qkv": _today_qkv,
    "out": _today_residual,
    "gate-up": _today_gated,
    "down": _today_residual,
}


# -- the candidates


def _candidates(name: str, part: Part) -> Iterator[tuple[str, Way]]:
    """Yield each configuration whose tiles divide the part's inputs, by what names it."""
    b_CN = part.b_NC.T.contiguous()
    width = part.x_BK.shape[1]
    on_card = part.x_BK.is_cuda
    splits = (1, 2) if name == "gate-up" else (1, 2, 4, 8)
    alone = {"splits": 0, "block_m": 0, "block_k": 0, "stages": 0, "warps": 0}
    yield "S0 M0 K0 stages 0 warps 0: torch's product", _candidate(name, b_CN, alone)
    rows, depths = ((64, 128), (64, 128)) if on_card else ((32,), (32,))
    for each in itertools.product(splits, rows, depths, (3, 4, 5), (4, 8)):
        how = dict(zip(("splits", "block_m", "block_k", "stages", "warps"), each, strict=True))
        split, block_m, block_k, stages, warps = each
        too_deep = stages * block_k * (block_m + 64) * 2 > 200_000
        if width % split or (width // split) % block_k or too_deep:
            continue
        if not on_card and (stages, warps) != (3, 4):
            continue
        yield "S{} M{} K{} stages {} warps {}".format(*each), _candidate(name, b_CN, how)


def _candidate(name: str, b_CN: Tensor, how: dict[str, int]) -> Way:
    def way(part: Part, w_MK: Tensor) -> Tensor:
        parts = split_product(part.x_BK, w_MK, **how)
        if name == "gate-up":
            return gated(parts, part.b_NC, part.x_BK.dtype)
        if name == "qkv":
            return heads_to_cache(
                parts, part.b_NC, part.cos_1BD, part.sin_1BD, part.keys_SGCD, part.values_SGCD,
                part.slots_B, part.positions_B, heads=part.heads, dtype=part.x_BK.dtype,
            )  # fmt: skip
        return residual_norm(parts, b_CN, part.residual_BN, part.weight_N, 1e-5, 8)[1]

    return way


# -- comparing and timing


def _compare(ways: dict[str, Way], part: Part) -> None:
    """Stop where a candidate's result or the cache's new rows are not today's within rounding."""
    cache = (part.keys_SGCD, part.values_SGCD)
    want = [ways["today"](part, part.weights[0]).float(), *(one.float() for one in cache)]
    for name, way in list(ways.items()):
        for one in cache:
            one.zero_()
        try:
            got = [way(part, part.weights[0]).float(), *(one.float() for one in cache)]
        except Exception as failed:
            print(f"  {name}: {type(failed).__name__}: {str(failed)[:80]}")
            del ways[name]
            continue
        for there, here in zip(want, got, strict=True):
            far = float((here - there).norm() / there.norm().clamp(min=1e-9))
            assert far < 0.02, f"{name} differs by {far:.3f}"
    print(f"  {len(ways) - 1} candidates agree with today's way", flush=True)


def _time(ways: dict[str, Way], part: Part, top: int) -> None:
    graphs = {name: _captured(way, part) for name, way in ways.items()}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(8):
        for name, graph in graphs.items():
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            began.record()
            graph.replay()
            ended.record()
            ended.synchronize()
            times[name].append(began.elapsed_time(ended) * 1e3 / len(part.weights))
    medians = {name: statistics.median(found[2:]) for name, found in times.items()}
    today = medians.pop("today")
    print(f"  {today:7.1f} us  today")
    for name, us in sorted(medians.items(), key=lambda one: one[1])[:top]:
        print(f"  {us:7.1f} us  {us / today:.2f}  {name}", flush=True)


def _captured(way: Way, part: Part) -> Any:
    wait_for_card()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for w_MK in part.weights:
            way(part, w_MK)
    return graph


if __name__ == "__main__":
    sys.exit(main())
