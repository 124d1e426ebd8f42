"""Predicted against measured peak bytes of the fast step, over shapes, tokens, ranks, recompute.

    python benchmarks/footprint_h100.py [--only 8b] [--jobs 1] [--seconds 300] [--out FILE]
    python benchmarks/footprint_h100.py --rehearse     (tiny models, any machine, nothing measured)

Each case trains an adapter on a base of random weights with the real step: two eager micro-steps,
then captured ones, the smaller size before the larger, as rows come. Measured bytes are the most
that PyTorch's allocator reserved, base included. The CUDA context is reported separately
(`context_bytes`: what the card has lost besides; not with --jobs, when cases share the card). Each
model has a process of its own, as in a worker, so that no case inherits an allocator's leftovers.
Results are written to --out after every model; a case that runs out of memory is noted and skipped.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # as a worker has it

import torch
from nf4_model import SHAPES, make_nf4_model, measures
from peft import LoraConfig, get_peft_model

from workbench.footprint import ModelShape
from workbench.footprint.peak.buckets import Run, predict
from workbench.recipe.schema import Recipe
from workbench.training.model.base import BaseState
from workbench.training.step import Step, StepOptions, collate_rows

GIB = 1 << 30
CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda", 0) if CUDA else torch.device("cpu")
ALL = 1_000
SOME = -1
"""Stands for recomputing half of the layers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One way to run the step, whose peak is predicted and measured."""

    shape: str
    tokens: int
    longest: int = 2_048
    """Tokens of the longest row."""
    recompute: int = 0
    offload: bool = False
    resident: int = 0
    rank: int = 8
    optimizer: str = "adamw_torch"
    quantised: bool = True


def cases() -> Iterator[Case]:
    """Yield the cases, grouped by model and rank; the most informative of a model come first."""
    big = Case(shape="8b", tokens=2_048)
    yield big
    yield replace(big, recompute=ALL)
    yield replace(big, recompute=SOME)
    yield replace(big, tokens=512)
    yield replace(big, tokens=512, recompute=ALL, optimizer="adamw_8bit")
    yield replace(big, tokens=8_192)
    yield replace(big, tokens=8_192, recompute=ALL)
    yield replace(big, tokens=8_192, recompute=SOME)
    yield replace(big, tokens=16_384, recompute=ALL)
    yield replace(big, tokens=16_384, recompute=ALL, longest=16_384)
    yield replace(big, tokens=2_048, recompute=ALL, offload=True)
    yield replace(big, tokens=16_384, recompute=ALL, offload=True, longest=16_384)
    yield replace(big, tokens=4_096, resident=16)
    yield replace(big, tokens=1_024, resident=ALL)
    yield replace(big, tokens=1_000)
    yield replace(big, tokens=2_048, rank=64)
    yield replace(big, tokens=512, rank=64, recompute=ALL)
    yield replace(big, tokens=4_096, rank=64, recompute=SOME, optimizer="adamw_8bit")
    for shape in ("1b", "qwen3", "gemma3", "3b"):
        small = Case(shape=shape, tokens=2_048, rank=8)
        yield small
        yield replace(small, tokens=512)
        yield replace(small, tokens=8_192, recompute=ALL)
        yield replace(small, tokens=16_384, recompute=SOME)
        yield replace(small, tokens=8_192, recompute=ALL, offload=True)
        yield replace(small, tokens=4_096, longest=4_096, optimizer="adamw_8bit")
        yield replace(small, tokens=512, rank=64, recompute=ALL)
        yield replace(small, tokens=4_096, rank=64)
        if shape == "1b":
            yield replace(small, tokens=16_384, longest=16_384, rank=64)
    for shape in ("phi3", "qwen2.5"):
        other = Case(shape=shape, tokens=2_048)
        yield other
        yield replace(other, tokens=8_192, recompute=ALL)
        yield replace(other, tokens=1_024, recompute=SOME, optimizer="adamw_8bit")
    for shape in ("gemma4", "gemma4-12b", "qwen3.5", "ministral3"):
        new = Case(shape=shape, tokens=2_048)
        yield new
        yield replace(new, tokens=8_192, recompute=ALL)
        yield replace(new, tokens=1_024, recompute=SOME, optimizer="adamw_8bit")
    plain = Case(shape="1b", tokens=2_048, quantised=False)
    yield plain
    yield replace(plain, tokens=8_192, recompute=ALL)
    yield replace(plain, tokens=512, rank=64, optimizer="adamw_8bit")
    yield Case(shape="qwen3", tokens=1_024, quantised=False)
    yield Case(shape="qwen3", tokens=4_096, recompute=SOME, quantised=False)
    capped = Case(shape="gemma2", tokens=2_048)
    yield capped
    yield replace(capped, tokens=512, longest=512)
    yield replace(capped, tokens=8_192, longest=8_192, recompute=ALL)
    yield replace(capped, tokens=1_024, recompute=SOME, optimizer="adamw_8bit")


class Bench:
    """A base on the card, which one case after another uses."""

    def __init__(self, case: Case, *, tiny: bool) -> None:
        self.tiny = tiny
        self.name = f"tiny-{case.shape}" if tiny else SHAPES[case.shape]
        self.base = make_nf4_model(self.name, DEVICE, torch.bfloat16, quantised=case.quantised)
        clean()
        self.loaded = torch.cuda.memory_allocated() if CUDA else 0
        self.snapshot = BaseState(self.base)
        self.shape = ModelShape.of(measures(self.name))

    def adapted(self, rank: int) -> Any:
        config = LoraConfig(
            r=rank, lora_alpha=rank, lora_dropout=0.05, target_modules="all-linear",
            task_type="CAUSAL_LM",
        )  # fmt: skip
        return get_peft_model(self.base, config)

    def run(self, case: Case, model: Any) -> dict[str, Any]:
        if self.tiny:
            case = replace(case, tokens=case.tokens // 32, longest=case.longest // 32)
        layers = self.shape.layers
        recompute = layers // 2 if case.recompute == SOME else min(case.recompute, layers)
        resident = min(case.resident, layers)
        recipe = recipe_of(case)
        run = Run(
            precision="bf16", kernel="triton" if self.shape.softcap else "torch",
            optimizer=case.optimizer, tokens_per_micro=case.tokens,
            longest=min(case.tokens, case.longest),
            scored=case.longest, recompute_layers=recompute, dequantised_layers=resident,
            offload=case.offload,
            major=torch.cuda.get_device_capability()[0] if CUDA else 9,
        )  # fmt: skip
        buckets = predict(self.shape, recipe, run)
        buckets["evaluation"] = 0  # none runs here
        predicted = sum(buckets.values()) - buckets["context"]
        told: dict[str, Any] = {
            **asdict(case), "model": self.name, "recompute_layers": recompute,
            "resident_layers": resident, "predicted_bytes": predicted, "buckets": buckets,
            "loaded_bytes": self.loaded,
            "card": torch.cuda.get_device_name() if CUDA else "cpu",
        }  # fmt: skip
        clean()
        if CUDA:
            told["before_bytes"] = torch.cuda.memory_reserved()
            torch.cuda.reset_peak_memory_stats()
        options = StepOptions(
            rows_per_micro=-(-case.tokens // case.longest) + 1, tokens_per_micro=case.tokens,
            max_length=case.longest, recompute_layers=recompute, dequantised_layers=resident,
            offload=case.offload, optimizer=case.optimizer,
        )  # fmt: skip
        began = time.perf_counter()
        step = Step(model, options)
        try:
            train(step, case, self.shape.vocab)
            told["graphs"] = step._runner.captured if step._runner else 0
            told["levers_off"] = {
                optimization.name: optimization.why
                for optimization in step.optimizations()
                if not optimization.on
            }
        except (torch.OutOfMemoryError, RuntimeError) as over:
            told["error"] = f"{type(over).__name__}: {str(over).splitlines()[0][:120]}"
        finally:
            if CUDA:
                free, total = torch.cuda.mem_get_info()
                told["measured_bytes"] = torch.cuda.max_memory_reserved()
                told["allocated_bytes"] = torch.cuda.max_memory_allocated()
                told["context_bytes"] = total - free - torch.cuda.memory_reserved()
            step.restore()
            for param in model.parameters():
                param.grad = None
        told["seconds"] = round(time.perf_counter() - began, 2)
        return told


def train(step: Step, case: Case, vocabulary: int) -> None:
    """Optimizer steps of the real step; two micro-steps run eagerly, then sizes are captured."""
    half = case.tokens // 2
    for batch in ([half], [half], [half], [case.tokens], [case.tokens, half]):
        rows = collate_rows(
            {"input_ids": torch.randint(3, vocabulary, (length,)).tolist()}
            for tokens in batch
            for length in lengths_of(tokens, case.longest)
        )
        step.forward_backward(rows)
        step.optimizer_step()
    if CUDA:
        torch.cuda.synchronize()


def lengths_of(tokens: int, longest: int) -> list[int]:
    whole, rest = divmod(tokens, longest)
    return [longest] * whole + ([rest] if rest else [])


def recipe_of(case: Case) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "peaks",
            "model": {"name": "a/b", "quantization": "nf4" if case.quantised else "none"},
            "data": {"train": "a/b", "max_tokens": case.longest},
            "lora": {"rank": case.rank, "targets": "all-linear"},
            "train": {"optimizer": case.optimizer},
        }
    )


def clean() -> None:
    gc.collect()
    if CUDA:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def line(told: dict[str, Any]) -> str:
    how = [told["shape"], f"{told['tokens']:,} tokens", f"rank {told['rank']}"]
    if told["longest"] != 2_048:
        how.append(f"rows of {told['longest']:,}")
    if told["recompute_layers"]:
        how.append(f"{told['recompute_layers']} recompute" + ", offloaded" * told["offload"])
    if told["resident_layers"]:
        how.append(f"{told['resident_layers']} in 16 bits")
    how += [told["optimizer"]] * (told["optimizer"] != "adamw_torch")
    how += ["not quantised"] * (not told["quantised"])
    words = ", ".join(how)
    if "error" in told:
        return f"{words:70} {told['error']}"
    measured = told.get("measured_bytes", 0)
    error = (told["predicted_bytes"] / measured - 1) * 100 if measured else float("nan")
    return (
        f"{words:70} predicted {told['predicted_bytes'] / GIB:6.2f} measured {measured / GIB:6.2f} "
        f"GiB {error:+6.1f} %  allocated {told.get('allocated_bytes', 0) / GIB:6.2f} "
        f"{told.get('graphs', 0)} graphs {told['seconds']:.1f} s"
    )


def main() -> int:
    options = parse()
    if options.model is not None:
        return one_model(options)
    models = list(dict.fromkeys((case.shape, case.quantised) for case in cases()))
    wanted = [model for model in models if not options.only or model[0] in options.only]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    with ThreadPoolExecutor(options.jobs) as pool:
        for made in pool.map(lambda model: in_a_process(options, *model), wanted):
            rows += made
            options.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return table(rows)


def in_a_process(options: argparse.Namespace, shape: str, quantised: bool) -> list[dict[str, Any]]:
    file = options.out.with_suffix(f".{shape}{'' if quantised else '-plain'}.json")
    command = [sys.executable, *sys.argv, "--model", shape, "--model-out", str(file)]
    subprocess.run(command + ["--plain"] * (not quantised), check=False)
    if not file.exists():
        return [{"shape": shape, "error": "the process died"}]
    rows: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    file.unlink()
    return rows


def one_model(options: argparse.Namespace) -> int:
    began = time.perf_counter()
    if CUDA:
        torch.zeros(1, device=DEVICE)
        free, total = torch.cuda.mem_get_info()
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, "
              f"context {(total - free) / GIB:.2f} GiB", flush=True)  # fmt: skip
    rows: list[dict[str, Any]] = []
    mine = [c for c in cases() if (c.shape, c.quantised) == (options.model, not options.plain)]
    bench = Bench(mine[0], tiny=options.rehearse)
    print(f"{bench.name}: {bench.loaded / GIB:.2f} GiB", flush=True)
    for rank, ranked in groupby(mine, lambda case: case.rank):
        model = bench.adapted(rank)
        for case in ranked:
            if time.perf_counter() - began > options.seconds:
                print(f"{options.seconds} s are over; {len(rows)} cases of {bench.name} ran")
                break
            told = bench.run(case, model)
            if options.jobs > 1:
                told.pop("context_bytes", None)
            rows.append(told)
            print(line(told), flush=True)
            options.model_out.write_text(json.dumps(rows), encoding="utf-8")
        del model
        bench.snapshot.restore()
    return 0


def table(rows: list[dict[str, Any]]) -> int:
    """Worst cases; 1 when one is off by more than 5 %, or more than 2 % under."""
    errors = sorted(
        (row["predicted_bytes"] / row["measured_bytes"] - 1, line(row))
        for row in rows
        if row.get("measured_bytes") and "error" not in row
    )
    for error, words in [*errors[:3], *errors[-3:]]:
        print(f"{error:+.3f}  {words}")
    bad = [error for error, _ in errors if not -0.02 <= error <= 0.05]
    lost = sum("error" in row for row in rows)
    print(f"{len(errors)} runs measured, {len(bad)} outside -2 to +5 %, {lost} out of memory")
    return 1 if bad or lost else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=list(SHAPES), help="these shapes alone")
    parser.add_argument("--jobs", type=int, default=1, help="models at once on the card")
    parser.add_argument("--seconds", type=float, default=300, help="begin no case after so many")
    parser.add_argument("--rehearse", action="store_true", help="tiny models")
    parser.add_argument("--model", help=argparse.SUPPRESS)
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--model-out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/footprint-h100.json"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
