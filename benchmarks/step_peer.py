"""The peer (Unsloth) on the rows of step.py, in a process and an environment of its own.

    python benchmarks/step_peer.py --data train.jsonl --model FOLDER [--turns N] [--few]

FOLDER is a Llama-shaped checkpoint (`write_shaped_model` of nf4_model.py makes one). Prints one
line a turn: ROW, and the measurements as JSON. step.py runs it as its contestant c with `--asked`:
each turn then waits for a line on standard input, so that it alternates with the others. `--few`
takes three steps where there are 12 or 15 else, for a model whose steps take seconds. The seconds
of each step go to standard error.

Loading in 4 bits, LoRA (dropout 0, which its fast path needs), gradient checkpointing and kernels
are the peer's own. The loop around them is plain PyTorch with bitsandbytes' 8-bit AdamW and
clipping at 0.3, which takes less host time than a Trainer. Rows are padded to the longest of their
batch. Nothing of the workbench is needed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unsloth import FastLanguageModel  # isort: skip  (wants to be first)

import torch
from bitsandbytes.optim import AdamW8bit
from torch._C._autograd import DeviceType

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PERIOD, HEADER, ROWS, LONGEST = 12, 48, 4, 512
WARM, WARM_AGAIN, TIMED, PROFILED, STEPS, FEW = PERIOD + 3, 3, PERIOD, PERIOD, 30, 3


def batches(file: Path, vocabulary: int) -> list[dict[str, Any]]:
    """Return step.py's batches: GSM8K's text in pieces hashed to ids, padded to the longest row."""
    rows: list[torch.Tensor] = []
    for line in file.read_text(encoding="utf-8").splitlines()[: PERIOD * ROWS]:
        row = json.loads(line)
        pieces = re.findall(r"[A-Za-z]+|\d|[^\w\s]|\n", row["question"] + "\n" + row["answer"])
        pieces_ids = list(range(3, 3 + HEADER))
        pieces_ids += [zlib.crc32(piece.encode()) % (vocabulary - 600) + 100 for piece in pieces]
        rows.append(torch.tensor(pieces_ids[:LONGEST]))
    made = []
    for first in range(0, len(rows), ROWS):
        part = rows[first : first + ROWS]
        ids = torch.nn.utils.rnn.pad_sequence(part, batch_first=True)
        masks = [torch.ones_like(row) for row in part]
        mask = torch.nn.utils.rnn.pad_sequence(masks, batch_first=True)
        labels = ids.masked_fill(mask == 0, -100)
        batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        made.append({k: v.cuda() for k, v in batch.items()} | {"tokens": int(mask.sum())})
    return made


def main() -> int:
    options = parse()
    model, _ = FastLanguageModel.from_pretrained(
        str(options.model), max_seq_length=LONGEST, dtype=torch.bfloat16, load_in_4bit=True,
        fix_tokenizer=False,
    )  # fmt: skip
    model = FastLanguageModel.get_peft_model(
        model, r=16, target_modules=LINEARS, lora_alpha=16, lora_dropout=0, bias="none",
        use_gradient_checkpointing="unsloth", random_state=42,
    )  # fmt: skip
    model.train()
    trained = [param for param in model.parameters() if param.requires_grad]
    optimizer = AdamW8bit(trained, lr=2e-4, weight_decay=0.001)
    rows = batches(options.data, model.config.vocab_size)
    losses: list[torch.Tensor] = []

    def step(number: int) -> int:
        batch, began = dict(rows[number % len(rows)]), time.perf_counter()
        tokens = batch.pop("tokens")
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 0.3)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
        print(f"step {number}: {time.perf_counter() - began:.2f} s", file=sys.stderr, flush=True)
        return int(tokens)

    torch.cuda.reset_peak_memory_stats()
    for turn in range(options.turns):
        if options.asked and not sys.stdin.readline():
            break
        row = {**measured(step, turn, losses, few=options.few), "shape": options.shape}
        print("ROW", json.dumps(row), flush=True)
    return 0


def measured(
    step: Callable[[int], int], turn: int, losses: list[torch.Tensor], *, few: bool
) -> dict[str, Any]:
    """Run one turn: steps to warm up, by the clock, in the profiler. Return its measurements."""
    number = itertools.count(len(losses))
    timed, profiled_steps, steps = (FEW, FEW, 3 * FEW) if few else (TIMED, PROFILED, STEPS)
    for _ in range(WARM_AGAIN if turn or few else WARM):
        step(next(number))
    torch.cuda.synchronize()
    began = time.perf_counter()
    tokens = sum(step(next(number)) for _ in range(timed))
    torch.cuda.synchronize()
    speed = tokens / (time.perf_counter() - began)
    kinds = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[kinds.CUDA]) as profiler:
        profiled = sum(step(next(number)) for _ in range(profiled_steps))
        torch.cuda.synchronize()
    nanoseconds, launches, kernels = 0, 0, Counter[str]()
    for event in profiler.profiler.kineto_results.events():
        if event.device_type() == DeviceType.CUDA:
            nanoseconds += event.duration_ns()
            kernels[event.name()] += event.duration_ns()
        elif "Launch" in event.name():
            launches += 1
    while len(losses) < steps:
        step(next(number))
    first = [round(float(loss), 4) for loss in losses[:steps]]  # as step.py reports the others
    return {
        "contestant": "c",
        "setting": "guide",
        "turn": turn,
        "dropout": 0.0,
        "card": torch.cuda.get_device_name(),
        "tokens_per_s": round(speed, 1),
        "gpu_ms_per_1k_tokens": round(nanoseconds / profiled / 1000, 2),
        "launches_per_step": launches / profiled_steps,
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
        "reserved_gib": round(torch.cuda.max_memory_reserved() / 2**30, 2),
        "matmul_share": None,
        "loss": round(sum(first[-8:]) / 8, 4),
        "losses": first,
        "kernels": {
            name[:110]: round(time_ns / profiled / 1000, 3)
            for name, time_ns in kernels.most_common(20)
        },
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="GSM8K's train.jsonl")
    parser.add_argument("--model", type=Path, required=True, help="a checkpoint's folder")
    parser.add_argument("--shape", default="8b", help="the model's name in the printed row")
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--few", action="store_true", help="three steps of each kind")
    parser.add_argument("--asked", action="store_true", help="each turn waits for a line")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
