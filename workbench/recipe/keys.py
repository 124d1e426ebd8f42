"""The recipe's keys, read off its schema: which exist, what each takes, which one was meant."""

from __future__ import annotations

import difflib
import types
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from workbench.recipe.schema import Recipe

FREE = ("data.columns", "sweep.parameters")
"""Keys whose mapping has keys of the person's own."""

OLD_NAMES = {
    "r": "lora.rank",
    "lora_r": "lora.rank",
    "lora_alpha": "lora.alpha",
    "lora_dropout": "lora.dropout",
    "use_rslora": "lora.rslora",
    "target_modules": "lora.targets",
    "num_train_epochs": "train.epochs",
    "per_device_train_batch_size": "train.batch_size",
    "gradient_accumulation_steps": "train.accumulation",
    "lr": "train.learning_rate",
    "lr_scheduler_type": "train.schedule",
    "warmup_ratio": "train.warmup",
    "warmup_steps": "train.warmup",
    "optim": "train.optimizer",
    "save_steps": "train.save_every",
    "logging_steps": "train.log_every",
    "activation_checkpointing": "train.gradient_checkpointing",
    "eval_steps": "evaluate.every",
    "max_seq_length": "data.max_tokens",
    "max_length": "data.max_tokens",
    "dataset": "data.train",
    "dataset_name": "data.train",
    "model_name": "model.name",
    "model_name_or_path": "model.name",
    "base_model": "model.name",
    "load_in_4bit": "model.quantization",
    "bnb_4bit_use_double_quant": "model.double_quantization",
    "bnb_4bit_compute_dtype": "model.precision",
    "bf16": "model.precision",
    "fp16": "model.precision",
    "attn_implementation": "model.attention",
}
"""What transformers, peft and trl call a setting of ours."""


@cache
def leaves() -> dict[str, FieldInfo]:
    """Every setting by its dotted key, in the schema's order."""
    return dict(_leaves(Recipe, ""))


@cache
def sections() -> dict[str, type[BaseModel]]:
    """Every section by its dotted name."""
    return dict(_sections(Recipe, ""))


def _sections(section: type[BaseModel], prefix: str) -> list[tuple[str, type[BaseModel]]]:
    found: list[tuple[str, type[BaseModel]]] = []
    for name, info in section.model_fields.items():
        inner = _section(info.annotation)
        found += (
            [(f"{prefix}{name}", inner), *_sections(inner, f"{prefix}{name}.")] if inner else []
        )
    return found


def _leaves(section: type[BaseModel], prefix: str) -> list[tuple[str, FieldInfo]]:
    found: list[tuple[str, FieldInfo]] = []
    for name, info in section.model_fields.items():
        inner = _section(info.annotation)
        found += _leaves(inner, f"{prefix}{name}.") if inner else [(f"{prefix}{name}", info)]
    return found


def _section(annotation: Any) -> type[BaseModel] | None:
    for kind in alternatives(annotation):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """The types a value may have, Optional and Annotated taken apart."""
    if get_origin(annotation) is Annotated:
        return alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(kind for part in get_args(annotation) for kind in alternatives(part))
    return (annotation,)


def split(key: str) -> tuple[str, ...]:
    """A dotted key as a path; what follows `sweep.parameters.` or `data.columns.` is one name."""
    for free in FREE:
        if key.startswith(f"{free}."):
            return (*free.split("."), key[len(free) + 1 :])
    return tuple(key.split("."))


def takes_text(key: str) -> bool:
    """True where a value is text whatever it looks like, e.g. a revision `1234567`."""
    if key.startswith("data.columns."):
        return True
    info = leaves().get(key)
    return info is not None and set(alternatives(info.annotation)) <= {str, types.NoneType}


def takes_null(key: str) -> bool:
    info = leaves().get(key) or Recipe.model_fields.get(key)
    return info is not None and types.NoneType in alternatives(info.annotation)


def takes_numbers(key: str) -> bool:
    info = leaves().get(key)
    return info is not None and bool({int, float} & set(alternatives(info.annotation)))


def takes_whole_numbers(key: str) -> bool:
    return takes_numbers(key) and float not in alternatives(leaves()[key].annotation)


def wanted(key: str) -> str:
    """What a setting takes, in words: `a whole number`, `one of nf4, none`."""
    if key.startswith("sweep.parameters."):
        if key.endswith(".when"):
            return "settings and their values, like {lora.rslora: true}"
        return "a list of values, or a range with min and max"
    if key.startswith("data.columns."):
        return "text"
    info = leaves().get(key)
    if info is None:
        return "settings below it, indented"
    kinds = [kind for kind in alternatives(info.annotation) if kind is not types.NoneType]
    return " or ".join(_words(kind) for kind in kinds)


def _words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        values = [str(value) for value in get_args(kind)]
        return values[0] if len(values) == 1 else f"one of {', '.join(values)}"
    plain = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    named = {list: "a list, like [q_proj, v_proj]", dict: "a mapping, like {question: prompt}"}
    return plain.get(kind) or named.get(get_origin(kind)) or "settings below it"


def nearest(key: str) -> str | None:
    """The setting that was probably meant by `key`, which is none."""
    names = [*leaves(), *sections()]
    last = key.rsplit(".", 1)[-1]
    if last.lower() in OLD_NAMES:
        return OLD_NAMES[last.lower()]
    for name in names:
        if name.rsplit(".", 1)[-1] == last and name != key:
            return name
    if found := difflib.get_close_matches(key, names, n=1, cutoff=0.7):
        return found[0]
    by_last = {name.rsplit(".", 1)[-1]: name for name in reversed(names)}
    found = difflib.get_close_matches(last, list(by_last), n=1, cutoff=0.7)
    return by_last[found[0]] if found else None


def unknown(key: str, shown: str) -> str:
    """`lora.rnak is not a setting. Did you mean lora.rank?`"""
    meant = nearest(key[:80])
    return f"{shown or 'an empty name'} is not a setting." + (
        f" Did you mean {meant}?" if meant else ""
    )
