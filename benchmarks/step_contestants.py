"""The contestants of step.py: each makes a trainer for one bench."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from step_bench import CUDA, PLANNED, Bench, Setting  # isort: skip  (sets the allocator up)

from nf4_model import measures
from transformers import AttentionInterface
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from workbench.footprint import plan_trial
from workbench.footprint.peak.attention_path import WIDEST_HEAD
from workbench.footprint.row_lengths import Lengths
from workbench.machine.cards import Card
from workbench.recipe.schema import Recipe
from workbench.training.step import OPTIMIZATIONS, StepOptions, collate_rows
from workbench.training.step.attention.implementations import IMPLEMENTATIONS
from workbench.training.step.attention.interface import as_attention_function
from workbench.training.step.delta.mixer import find_mixers
from workbench.training.step.in_trainer import StepTraining, step_config


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


def apply_liger(base: Any) -> None:
    """Give the model Liger's kernels for its family, where Liger has any."""
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    kind = base.config.model_type
    apply = MODEL_TYPE_TO_APPLY_LIGER_FN.get(kind)
    if apply is None:
        print(f"Liger has no kernels for {kind}: b runs without them", flush=True)
        return
    apply(cross_entropy=False, fused_linear_cross_entropy=False, model=base)


def library_attention(q_THD: Any, *kv: Any, **more: Any) -> Any:
    """Return attention by PyTorch's kernels: varlen, or memory-efficient for heads beyond it.

    Not by its own name: under that, short rows would get the workbench's kernel.
    """
    wide = q_THD.shape[-1] > WIDEST_HEAD
    kind = "loop" if not CUDA else "efficient" if wide else "torch"
    return IMPLEMENTATIONS[kind](q_THD, *kv, **more)


def trl_best(bench: Bench, total: int) -> Any:
    """Return contestant b.

    Gated delta layers take padded rows: without padding rows would see each other there.
    """
    if CUDA:
        apply_liger(bench.base)
    padding_free = not find_mixers(bench.base.model.layers)
    if padding_free:
        AttentionInterface.register("library", as_attention_function(library_attention))
        bench.base.config._attn_implementation_internal = "library"
    args = stock(bench.setting, total, padding_free=padding_free, activation_checkpointing=False)
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


@contextmanager
def kept_names(base: Any) -> Iterator[None]:
    """Put back the names of the model's module in transformers that Liger replaces inside."""
    module = vars(sys.modules[type(base).__module__])
    names = dict(module)
    try:
        yield
    finally:
        module.update(names)
