"""Measures what one step of the decode path takes, and which kernels take it.

    python benchmarks/decode_step.py [--shape 8b] [--lanes 16 64 256] [--top 12]

For each number of lanes, with 4-bit weights as they are and with 16-bit copies of them:
milliseconds of a captured step whose lanes are at token 300, as a multiple of reading the 4-bit
weights and the head once at the measured copy speed; then the kernels that take most of it, by
torch's profiler, with launches and microseconds a step. Weights are random. `--shape tiny` tries
the script on a CPU, without the floor's meaning.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
from scoring import copy_speed, weight_bytes
from scoring_contestants import adapted_model, shape_parser, usual_device, wait_for_card
from torch.profiler import ProfilerActivity, profile

from workbench.training.decode.forward import fast_forward
from workbench.training.decode.lanes import Lanes, Prompt

AT = 300
"""Tokens that each lane has read: the middle of a GSM8K answer."""
STEPS = 16
"""Steps that are timed at once."""


def main() -> int:
    parser = shape_parser(__doc__)
    parser.add_argument("--lanes", nargs="*", type=int, default=[16, 64, 256])
    parser.add_argument("--top", type=int, default=12, help="kernels to list")
    options = parser.parse_args()
    device = usual_device()
    speed = copy_speed(device)
    model = adapted_model(options.shape, device)
    floor_ms = weight_bytes(model) / speed * 1e3
    print(f"copies {speed / 1e9:.0f} GB/s, floor {floor_ms:.3f} ms")
    for kept in (False, True):
        with fast_forward(model, torch.bfloat16, dequantised=kept) as forward:
            for lanes in options.lanes:
                way = "16-bit copies" if kept else "4-bit weights"
                _show(forward, lanes, f"{lanes} lanes, {way}", floor_ms, options.top)
    return 0


def _show(forward: Any, lanes: int, name: str, floor_ms: float, top: int) -> None:
    most = 4 * STEPS + 8
    held = Lanes(forward, lanes, positions=AT + most, most=most, ends=[])
    every = list(range(lanes))
    for lane in every:  # one by one, so that reading them takes little memory
        held.start([lane], [Prompt(ids=[5 + lane % 1_000] * AT, most=most)])
    held.advance(every, STEPS)
    wait_for_card()
    began = time.perf_counter()
    held.advance(every, STEPS)
    wait_for_card()
    step_ms = (time.perf_counter() - began) / STEPS * 1e3
    print(
        f"\n{name}: {step_ms:.3f} ms a step, {step_ms / floor_ms:.2f} times the floor", flush=True
    )
    on_card = forward.device.type == "cuda"
    activity = ProfilerActivity.CUDA if on_card else ProfilerActivity.CPU
    with profile(activities=[activity]) as found:
        held.advance(every, STEPS)
        wait_for_card()
    kernels = sorted(found.key_averages(), key=lambda one: -_own_us(one, on_card=on_card))
    for one in kernels[:top]:
        us, launches = _own_us(one, on_card=on_card) / STEPS, one.count / STEPS
        print(f"  {us:8.1f} us  {launches:5.1f} launches  {one.key[:90]}")
    whole = sum(_own_us(one, on_card=on_card) for one in kernels) / STEPS / 1e3
    print(f"  {whole:8.3f} ms in all kernels")
    held.release()


def _own_us(event: Any, *, on_card: bool) -> float:
    return float(event.self_device_time_total if on_card else event.self_cpu_time_total)


if __name__ == "__main__":
    sys.exit(main())
