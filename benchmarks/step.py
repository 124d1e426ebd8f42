"""The training step against TRL and the peer, in one run on one machine.

    python benchmarks/step.py --data train.jsonl [--shapes 8b,1b] [--settings guide]
        [--contestants a,b,c,d,e] [--peer FOLDER] [--repeats 3] [--out FILE]

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

All train the same rows in the same order, rank 16 on all seven projections, a whole optimizer step
with clipping. A useful token is one that is not padding. Timed windows hold no first run of a
shape. GPU time is the sum of kernel times in a profiled window of its own; each window holds every
batch once. Contestants alternate, and each turn is warmed up again.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # as a worker has it

import torch
from datasets import Dataset
from nf4_model import make_nf4_model, measures, write_shaped_model
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AttentionInterface, PrinterCallback, TrainerCallback, set_seed
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from workbench.footprint import plan_trial
from workbench.footprint.row_lengths import Lengths
from workbench.machine.cards import Card
from workbench.recipe.schema import Recipe
from workbench.training.model.base import BaseState
from workbench.training.step import OPTIMIZATIONS, StepOptions, collate_rows
from workbench.training.step.attention.implementations import IMPLEMENTATIONS
from workbench.training.step.attention.interface import as_attention_function
from workbench.training.step.in_trainer import StepTraining, step_config

warnings.simplefilter("ignore")
CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda", 0) if CUDA else torch.device("cpu")
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
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
            if event.device_type() == torch.autograd.DeviceType.CUDA:
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


class Noting(SFTTrainer):  # type: ignore[misc]
    """TRL's trainer, which keeps each step's loss on the card."""

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        loss = super().training_step(*args, **kwargs)
        self.__dict__.setdefault("kept", []).append(loss.detach().clone())
        return loss


class Workbench(StepTraining, SFTTrainer):  # type: ignore[misc]
    """TRL's trainer with the workbench's step, which keeps losses and the host's time a step."""

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        loss = super().training_step(*args, **kwargs)
        self.__dict__.setdefault("host_s", []).append(time.perf_counter() - began)
        self.__dict__.setdefault("kept", []).append(loss)
        if self.state.global_step % 25 == 24:
            assert self.step is not None
            self.step.measured()
        return loss


@dataclass(slots=True)
class Bench:
    """One model and its rows, which one contestant after another trains on."""

    shape: str
    base: Any
    snapshot: BaseState
    rows: Dataset
    setting: Setting
    ops: bool = False

    @property
    def tokens(self) -> list[int]:
        lengths, each = self.rows["length"], self.setting.rows
        return [sum(lengths[i : i + each]) for i in range(0, len(lengths), each)]

    def adapted(self) -> PeftModel:
        set_seed(42)
        return get_peft_model(
            self.base,
            LoraConfig(
                r=16, lora_alpha=16, lora_dropout=DROPOUT, target_modules=LINEARS,
                task_type="CAUSAL_LM",
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


def common(setting: Setting, total: int) -> dict[str, Any]:
    """Return the trainer's arguments that all contestants share."""
    return {
        "output_dir": "/tmp/step-benchmark",
        "max_steps": total,
        "learning_rate": 2e-4,
        "weight_decay": 0.001,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": 2,
        "train_sampling_strategy": "sequential",
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "max_length": None,
        "logging_steps": 25,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not CUDA,
        "dataloader_pin_memory": CUDA,
        "seed": 42,
    }


def stock(setting: Setting, total: int, **more: Any) -> SFTConfig:
    """Return the configuration of TRL's own trainer, as the guide sets it."""
    return SFTConfig(
        **common(setting, total),
        per_device_train_batch_size=setting.rows,
        max_grad_norm=0.3,
        bf16=True,
        optim="adamw_8bit" if CUDA else "adamw_torch",
        **more,
    )


class Tokenizer:
    """The demo's tokenizer: SFTTrainer asks for one although the rows come tokenised."""

    @staticmethod
    def load() -> Any:
        from workbench.recipe import shipped_file
        from workbench.training.model.tokenizer import load_tokenizer

        return load_tokenizer(str(shipped_file("workbench:demo/model")), None)


def trl_guide(bench: Bench, total: int) -> Any:
    """Return contestant a."""
    tokenizer = Tokenizer.load()
    args = stock(
        bench.setting, total,
        activation_checkpointing=True, activation_checkpointing_kwargs={"use_reentrant": False},
    )  # fmt: skip
    return Noting(
        model=bench.adapted(), args=args, train_dataset=bench.rows, processing_class=tokenizer,
        data_collator=DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id),
    )  # fmt: skip


def trl_best(bench: Bench, total: int) -> Any:
    """Return contestant b."""
    if CUDA:
        from liger_kernel.transformers import apply_liger_kernel_to_llama

        apply_liger_kernel_to_llama(
            cross_entropy=False, fused_linear_cross_entropy=False, model=bench.base
        )
    kernel = IMPLEMENTATIONS["torch" if CUDA else "loop"]
    # Not by its own name: under that, short rows would get the workbench's kernel.
    attend = as_attention_function(lambda *qkv, **more: kernel(*qkv, **more))
    AttentionInterface.register("library", attend)
    bench.base.config._attn_implementation_internal = "library"
    args = stock(bench.setting, total, padding_free=True, activation_checkpointing=False)
    return Noting(
        model=bench.adapted(), args=args, train_dataset=bench.rows,
        processing_class=Tokenizer.load(),
    )  # fmt: skip


def planned(bench: Bench, gib: int, *, read: bool) -> dict[str, Any]:
    """Return PLANNED as the planner chooses it for a card of so many GiB, capability 8.6.

    With `read` it knows the rows' lengths, else it takes all for as long as the longest.
    """
    setting, lengths = bench.setting, bench.rows["length"]
    recipe = Recipe.model_validate(
        {
            "name": "step",
            "model": {"name": bench.shape, "precision": "bf16"},
            "data": {"train": "rows", "max_tokens": setting.max_length},
            "train": {"batch_size": setting.rows},
        }
    )
    card = Card(uuid="GPU-0", kind="cuda", name="planned", total_bytes=gib << 30, capability=(8, 6))
    config = measures(bench.shape)
    sample = lengths if read else None
    rows: Lengths = {"longest": max(lengths), "sample": sample, "scored": None}
    plan = plan_trial(recipe, config, card, lengths=rows)
    return {key: getattr(plan, key) for key in PLANNED}


def workbench(
    *, card_gib: int | None = None, read: bool = True, **changes: Any
) -> Callable[[Bench, int], Any]:
    """Return the maker of a contestant d: planned for `card_gib`, with `changes` of StepOptions."""

    def make(bench: Bench, total: int) -> Any:
        setting = bench.setting
        model = bench.adapted()
        masters = {n: p.data for n, p in model.named_parameters() if p.requires_grad}
        trainer = Workbench(
            model=model,
            args=SFTConfig(**common(setting, total), **step_config(setting.rows)),
            data_collator=collate_rows,
            train_dataset=bench.rows,
            processing_class=Tokenizer.load(),
        )
        for name, param in model.named_parameters():
            if param.requires_grad:
                param.data = masters[name].float()
        options = {
            "precision": "bf16", "rows_per_micro": setting.rows, "max_length": setting.max_length,
            **(planned(bench, card_gib, read=read) if card_gib else {}), **changes,
        }  # fmt: skip
        trainer.step_options = StepOptions(**options)
        return trainer

    return make


CONTESTANTS: dict[str, Callable[[Bench, int], Any]] = {
    "a": trl_guide,
    "b": trl_best,
    "d": workbench(card_gib=24),
    "d-unread": workbench(card_gib=24, read=False),
    "d-16gib": workbench(card_gib=16),
    "d-12gib": workbench(card_gib=12),
    "d-12gib-unread": workbench(card_gib=12, read=False),
    "d-nf4": workbench(),
    "d-recompute": workbench(recompute_layers=10_000, optimizer="adamw_8bit"),
    "d-offload": workbench(recompute_layers=10_000, optimizer="adamw_8bit", offload=True),
    "d-16bit": workbench(dequantised_layers=10_000),
    "d-t4": workbench(precision="fp16", pretend_capability=(7, 5)),
    **{f"e-{name}": workbench(card_gib=24, off=frozenset({name})) for name in OPTIMIZATIONS},
}
FP16 = frozenset({"d-t4"})
"""Contestants whose base is in fp16."""


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


@contextmanager
def llama_names() -> Iterator[None]:
    """Put the names of transformers' module back that Liger replaces inside."""
    from transformers.models.llama import modeling_llama

    names = dict(vars(modeling_llama))
    try:
        yield
    finally:
        vars(modeling_llama).update(names)


def matmul_peak() -> float:
    """Measure the operations a second of one large bf16 product; NaN without a card."""
    if not CUDA:
        return float("nan")
    a, b = (torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16) for _ in "ab")
    times = []
    for _ in range(12):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in "ab")
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
    linear = sum(
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
            bench = Bench(shape, base, snapshot, data, setting)
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
    row |= {"turn": turn, "dropout": DROPOUT}
    try:
        with llama_names():
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
        return statistics.median(run[name] for run in runs)

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
