"""The data of step.py's runs, and the clock and the model that its contestants share."""

from __future__ import annotations

import gc
import json
import os
import re
import statistics
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # as a worker has it

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from torch._C._autograd import DeviceType
from transformers import PrinterCallback, TrainerCallback, set_seed

from workbench.training.model.base import BaseState
from workbench.training.model.targets import all_linear

warnings.simplefilter("ignore")
CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda", 0) if CUDA else torch.device("cpu")
PERIOD = 12
"""Optimizer batches before the rows repeat: a warm-up of so many has seen every shape."""
REPORTED = slice(22, 30)
"""Steps whose mean loss is reported."""
DROPOUT = 0.05
"""Dropout of all but the peer, whose fast path has none."""
PLANNED = (
    "tokens_per_micro", "recompute_layers", "long_recompute_layers", "offload",
    "dequantised_layers", "optimizer",
)  # fmt: skip
"""Settings that a plan decides, by their name in both Plan and StepOptions."""
HEADER = 48
"""Tokens of a chat header and system line before each row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A batch size and the rows to train on."""

    rows: int
    """Rows of an optimizer batch."""
    max_length: int
    full: bool = False
    """Rows of exactly max_length tokens instead of GSM8K's."""
    tail: int = 0
    """Every so many rows, one has exactly max_length tokens; 0: none."""
    answers: bool = False
    """The loss is on GSM8K's answers alone, as in recipes/gsm8k-chat.yaml."""


SETTINGS = {
    "guide": Setting(rows=4, max_length=512),
    "answers": Setting(rows=4, max_length=512, answers=True),
    "tailed": Setting(rows=4, max_length=2048, tail=16),
    "8x512": Setting(rows=8, max_length=512, full=True),
    "8x2048": Setting(rows=8, max_length=2048, full=True),
    "1x8192": Setting(rows=1, max_length=8192, full=True),
}


@dataclass(slots=True)
class Result:
    """The measurements of one run of one contestant."""

    tokens_per_s: float = 0.0
    gpu_ms_per_1k_tokens: float = 0.0
    launches_per_step: float = 0.0
    peak_gib: float = 0.0
    reserved_gib: float = 0.0
    loss: float = float("nan")
    losses: list[float] = field(default_factory=list)
    kernels: dict[str, float] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


def rows_of(file: Path, setting: Setting, vocabulary: int) -> Dataset:
    """Return PERIOD batches: GSM8K's text in pieces hashed to ids, or random ids to full length."""
    examples = []
    chance = torch.Generator().manual_seed(3)
    lines = file.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines[: PERIOD * setting.rows]):
        row = json.loads(line)
        question, answer = (
            re.findall(r"[A-Za-z]+|\d|[^\w\s]|\n", text)
            for text in (row["question"] + "\n", row["answer"])
        )
        ids = list(range(3, 3 + HEADER))
        ids += [
            zlib.crc32(piece.encode()) % (vocabulary - 600) + 100 for piece in question + answer
        ]
        if setting.full or (setting.tail and number % setting.tail == setting.tail // 2):
            ids = torch.randint(
                3, vocabulary - 600, (setting.max_length,), generator=chance
            ).tolist()
        ids = ids[: setting.max_length]
        labels = list(ids)
        if setting.answers:
            labels[: HEADER + len(question)] = [-100] * min(len(ids), HEADER + len(question))
        examples.append({"input_ids": ids, "labels": labels, "length": len(ids)})
    return Dataset.from_list(examples)


class Clock(TrainerCallback):  # type: ignore[misc]
    """A callback that times a window of steps and sums the kernels' times in another."""

    def __init__(
        self, tokens: list[int], warm: int, timed: int, profiled: int, *, ops: bool
    ) -> None:
        self.tokens = tokens
        self.ops = ops
        self.warm, self.timed, self.profiled = warm, timed, profiled
        self.result = Result()
        self._profiler: Any = None
        self._since = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        step = state.global_step
        if step == self.warm:
            synchronize()
            self._since = time.perf_counter()
        if self.profiled and CUDA and step == self.warm + self.timed:
            synchronize()
            kinds = torch.profiler.ProfilerActivity
            self._profiler = torch.profiler.profile(
                activities=[kinds.CUDA, kinds.CPU] if self.ops else [kinds.CUDA],
                record_shapes=self.ops,
            )
            self._profiler.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        done = state.global_step
        if done == self.warm + self.timed:
            synchronize()
            seconds = time.perf_counter() - self._since
            self.result.tokens_per_s = self._tokens(self.warm, self.timed) / seconds
        if self._profiler is not None and done == self.warm + self.timed + self.profiled:
            synchronize()
            self._profiler.stop()
            if self.ops:
                table = self._profiler.key_averages(group_by_input_shape=True)
                print(
                    table.table(
                        sort_by="self_cuda_time_total",
                        row_limit=70,
                        max_name_column_width=50,
                        max_shapes_column_width=60,
                    )
                )
            self._read(self._profiler)
            self._profiler = None

    def _tokens(self, first: int, count: int) -> int:
        return sum(self.tokens[step % len(self.tokens)] for step in range(first, first + count))

    def _read(self, profiler: Any) -> None:
        times: Counter[str] = Counter()
        counts: Counter[str] = Counter()
        launches = 0
        for event in profiler.profiler.kineto_results.events():
            if event.device_type() == DeviceType.CUDA:
                times[event.name()] += event.duration_ns()
                counts[event.name()] += 1
            elif "Launch" in event.name():
                launches += 1
        tokens = self._tokens(self.warm + self.timed, self.profiled)
        per_1k = 1e-6 * 1000 / tokens
        self.result.gpu_ms_per_1k_tokens = sum(times.values()) * per_1k
        self.result.launches_per_step = launches / self.profiled
        self.result.notes["kernels_per_step"] = sum(counts.values()) / self.profiled
        self.result.kernels = {
            f"{counts[name] / self.profiled:.0f} x {_short(name)}": round(time_ns * per_1k, 3)
            for name, time_ns in times.most_common(40)
        }


def _short(name: str) -> str:
    """Return a kernel's name without its first template arguments, which are all alike."""
    return name if len(name) <= 110 else name[:40] + " … " + name[-66:]


def synchronize() -> None:
    """Wait for the card, where there is one."""
    if CUDA:
        torch.cuda.synchronize()


@dataclass(slots=True)
class Bench:
    """One model and its rows, which one contestant after another trains on."""

    shape: str
    base: Any
    snapshot: BaseState
    rows: Dataset
    setting: Setting
    ops: bool = False
    dropout: float = DROPOUT

    @property
    def tokens(self) -> list[int]:
        lengths, each = self.rows["length"], self.setting.rows
        return [sum(lengths[i : i + each]) for i in range(0, len(lengths), each)]

    def adapted(self) -> PeftModel:
        set_seed(42)
        return get_peft_model(
            self.base,
            LoraConfig(
                r=16, lora_alpha=16, lora_dropout=self.dropout, task_type="CAUSAL_LM",
                target_modules=all_linear(self.base),
            ),
        )  # fmt: skip

    def run(
        self, make: Callable[[Bench, int], Any], steps: tuple[int, int, int], end: int
    ) -> Result:
        """Train with what `make(bench, total)` returns, and leave the base as it was.

        `steps` are those before the clock, by the clock and in the profiler; at least `end` in all.
        """
        warm, timed, profiled = steps
        total = max(end, warm + timed + profiled)
        clean()
        clock = Clock(self.tokens, warm, timed, profiled, ops=self.ops)
        trainer = None
        try:
            trainer = make(self, total)
            trainer.remove_callback(PrinterCallback)
            trainer.add_callback(clock)
            trainer.train()
            result = clock.result
            result.losses = [round(float(loss), 4) for loss in trainer.kept]
            result.loss = statistics.mean(result.losses[REPORTED] or result.losses)
            if (step := getattr(trainer, "step", None)) is not None:
                result.notes["plan"] = {key: getattr(step.options, key) for key in PLANNED}
                # The key is older than the word "optimizations"; stored results have it.
                result.notes["levers"] = {one.name: one.why for one in step.optimizations()}
                result.notes["host_ms"] = round(1000 * statistics.median(trainer.host_s), 2)
                result.notes["graphs"] = step._runner.captured
                result.notes["skipped"] = float(step.optimizer.skipped)
            if CUDA:
                result.peak_gib = torch.cuda.max_memory_allocated() / 2**30
                result.reserved_gib = torch.cuda.max_memory_reserved() / 2**30
            return result
        finally:
            if (step := getattr(trainer, "step", None)) is not None:
                step.restore()
            del trainer, step
            self.snapshot.restore()
            clean()


def clean() -> None:
    """Give cached blocks back to the card, and begin to count its peak."""
    gc.collect()
    if CUDA:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
