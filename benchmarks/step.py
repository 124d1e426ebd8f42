"""The training step against TRL and the peer, in one run on one machine.

    python benchmarks/step.py --data train.jsonl [--shapes 8b,1b] [--settings guide]
        [--contestants a,b,c,d,e] [--peer FOLDER] [--repeats 3] [--dropout 0.05] [--out FILE]

Contestants:

a  TRL as the 2024 guide's settings run today
b  TRL with its best stock options: padding-free, PyTorch's varlen attention, Liger's kernels, no
   recompute
c  Unsloth in a process of its own (step_peer.py), with what `--peer` holds before other packages
d  the workbench as it plans for a card of 24 GiB
e  d with each optimization removed alone

d-16gib and d-12gib are planned for such cards; -unread plans know only the longest row. d-nf4 keeps
no layer dequantised and recomputes none; in d-recompute every layer recomputes, with 8-bit AdamW;
in d-offload their inputs wait in the machine's memory as well; d-16bit keeps all layers
dequantised; d-t4 runs fp16 with attention as on a T4.

Shapes qwen3.5 (9B), gemma4-12b, gemma4 (E4B) and ministral3 (8B) are the text models alone. TRL
pads rows of qwen3.5, whose gated delta layers would let rows without padding see each other.

All train the same rows in the same order, rank 16 on all linear layers but the head, a whole
optimizer step with clipping. A useful token is one that is not padding. Timed windows hold no first
run of a shape. GPU time is the sum of kernel times in a profiled window of its own; each window
holds every batch once. Contestants alternate, and each turn is warmed up again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from step_bench import (  # isort: skip  (sets the allocator up before torch is imported)
    CUDA, DEVICE, DROPOUT, PERIOD, SETTINGS, Bench, clean, rows_of,
)  # fmt: skip

import torch
from nf4_model import make_nf4_model, write_shaped_model
from step_contestants import CONTESTANTS, FP16, kept_names

from workbench.training.model.base import BaseState


class Peer:
    """Contestant c, which is loaded once in another process and waits between its turns."""

    def __init__(self, options: argparse.Namespace) -> None:
        model = write_shaped_model(Path("/tmp/shaped-llama-3-8b"), "8b")
        arguments = ["--data", str(options.data), "--model", str(model), "--asked"]
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("step_peer.py")), *arguments,
             "--turns", str(options.repeats)],
            env={**os.environ, "PYTHONPATH": str(options.peer), "UNSLOTH_DISABLE_STATISTICS": "1"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def turn(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("ROW "):
                return dict(json.loads(line.removeprefix("ROW ")))
        raise RuntimeError(f"the peer ended with exit code {self._process.wait()}")

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def matmul_peak() -> float:
    """Measure the operations a second of one large bf16 product; NaN without a card."""
    if not CUDA:
        return float("nan")
    a, b = (torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16) for _ in "ab")
    times = []
    for _ in range(12):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in "ab")  # type: ignore[no-untyped-call]
        start.record()
        a @ b
        stop.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(stop) / 1000)
    return float(2 * 8192**3 / statistics.median(times[2:]))


def operations_per_token(base: Any) -> float:
    """Return 4 operations a weight: forward, and the inputs' gradient, as weights are frozen.

    Attention and the adapters are left out.
    """
    linear: int = sum(
        m.in_features * m.out_features for m in base.modules() if hasattr(m, "in_features")
    )
    return 4.0 * linear


def main() -> int:
    options = parse()
    peak = matmul_peak()
    versions = {name: version(name) for name in ("torch", "transformers", "trl", "peft", "triton")}
    name = torch.cuda.get_device_name() if CUDA else "cpu"
    print(f"{name}; matmul {peak / 1e12:.0f} TFLOP/s; {versions}", flush=True)
    rows: list[dict[str, Any]] = []
    wanted = [c for c in options.contestants if c != "e"]
    wanted += [c for c in CONTESTANTS if c.startswith("e-") and "e" in options.contestants]
    if "c" in wanted and (options.peer is None or options.shapes != ["8b"]):
        wanted.remove("c")
        print("c (the peer) is skipped: it wants --peer, and shape 8b alone")
    peer = Peer(options) if "c" in wanted else None
    for shape, dtype in itertools.product(options.shapes, (torch.bfloat16, torch.float16)):
        mine = [c for c in wanted if (c in FP16) == (dtype is torch.float16)]
        if not mine:
            continue
        base = make_nf4_model(shape, DEVICE, dtype)
        snapshot = BaseState(base)
        for label in options.settings:
            setting = SETTINGS[label]
            data = rows_of(options.data, setting, base.config.vocab_size)
            bench = Bench(shape, base, snapshot, data, setting, dropout=options.dropout)
            for turn in range(options.repeats):
                for contestant in mine:
                    if turn and contestant.startswith("e-"):
                        continue
                    if contestant == "c":
                        assert peer is not None
                        row = peer.turn()
                        print(line_of(row), flush=True)
                    else:
                        row = measured(bench, contestant, label, turn, peak, options)
                    rows.append(row | {"card": name, "versions": versions})
                    options.out.parent.mkdir(parents=True, exist_ok=True)
                    options.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        del base, snapshot, bench
        clean()
    if peer is not None:
        peer.close()
    report(rows)
    return 0


def measured(
    bench: Bench, contestant: str, label: str, turn: int, peak: float, options: argparse.Namespace
) -> dict[str, Any]:
    began = time.perf_counter()
    warm = PERIOD + 3 if contestant[0] != "a" else 3
    steps = (warm, options.timed, options.profiled)
    row: dict[str, Any] = {"contestant": contestant, "shape": bench.shape, "setting": label}
    row |= {"turn": turn, "dropout": bench.dropout}
    try:
        with kept_names(bench.base):
            bench.ops = options.ops and contestant == "e-graphs"  # a replay has no operations
            end = options.steps if turn == 0 else 0
            result = bench.run(CONTESTANTS[contestant], steps, end)
    except Exception as broken:
        if options.strict:
            raise
        row["error"] = f"{type(broken).__name__}: {str(broken)[:300]}"
        print(f"{contestant:18} {row['error']}", flush=True)
        return row
    share = result.tokens_per_s * operations_per_token(bench.base) / peak
    row |= {
        "tokens_per_s": round(result.tokens_per_s, 1),
        "gpu_ms_per_1k_tokens": round(result.gpu_ms_per_1k_tokens, 2),
        "launches_per_step": round(result.launches_per_step, 1),
        "peak_gib": round(result.peak_gib, 2),
        "reserved_gib": round(result.reserved_gib, 2),
        "matmul_share": round(share, 3),
        "loss": round(result.loss, 4),
        "losses": result.losses,
        "kernels": result.kernels,
        "notes": result.notes,
    }
    notes = {k: v for k, v in result.notes.items() if k != "levers"}
    off = [k for k, v in result.notes.get("levers", {}).items() if "fail" in v]
    print(f"{line_of(row)} {notes} {off} [{time.perf_counter() - began:.0f} s]", flush=True)
    return row


def line_of(row: dict[str, Any]) -> str:
    share = row["matmul_share"]
    return (
        f"{row['contestant']:18} {row['shape']} {row['setting']} {row['tokens_per_s']:9.0f} tok/s "
        f"{row['gpu_ms_per_1k_tokens']:7.1f} ms/1k {row['launches_per_step']:8.0f} launches "
        f"{row['peak_gib']:6.2f} GiB ({row['reserved_gib']:.2f} reserved) "
        f"{'-' if share is None else f'{share:.2f}'} of matmul loss {row['loss']:.4f}"
    )


def report(rows: list[dict[str, Any]]) -> None:
    """Print medians over repeats, and how d compares with each."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if "error" not in row:
            groups.setdefault((row["shape"], row["setting"], row["contestant"]), []).append(row)

    def middle(runs: list[dict[str, Any]], name: str) -> float:
        return float(statistics.median(run[name] for run in runs))

    for (shape, setting, contestant), runs in groups.items():
        ours = groups.get((shape, setting, "d"))
        speed, gpu = middle(runs, "tokens_per_s"), middle(runs, "gpu_ms_per_1k_tokens")
        line = f"{shape} {setting} {contestant:18} median {speed:9.0f} tok/s {gpu:7.1f} ms/1k"
        if ours and contestant != "d":
            line += f"  d is {middle(ours, 'tokens_per_s') / speed:5.2f} x"
            if gpu:
                share = middle(ours, "gpu_ms_per_1k_tokens") / gpu
                line += f" and takes {share:.3f} of its GPU time"
        print(line)


def version(name: str) -> str:
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as of

    try:
        return of(name)
    except PackageNotFoundError:
        return "absent"


def parse() -> argparse.Namespace:
    def names(text: str) -> list[str]:
        return text.split(",")

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="GSM8K's train.jsonl")
    parser.add_argument("--shapes", type=names, default=["8b"])
    parser.add_argument("--settings", type=names, default=["guide"])
    parser.add_argument("--contestants", type=names, default=["a", "b", "c", "d", "e"])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--dropout", type=float, default=DROPOUT, help="0 is the peer's")
    parser.add_argument("--steps", type=int, default=30, help="at least, in a first turn")
    parser.add_argument("--timed", type=int, default=PERIOD)
    parser.add_argument("--profiled", type=int, default=PERIOD)
    parser.add_argument("--peer", type=Path, help="a folder with the peer's packages")
    parser.add_argument(
        "--ops", action="store_true", help="print operations of the profiled window"
    )
    parser.add_argument("--strict", action="store_true", help="stop at the first error")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/step.json"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
