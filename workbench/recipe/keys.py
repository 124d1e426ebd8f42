"""The keys of a recipe, derived from its schema: which exist, which values each accepts, and which
known key an unknown one resembles."""

from __future__ import annotations

import difflib
import types
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from workbench.recipe.schema import MixedSource, Recipe

FREE = ("data.columns", "sweep.parameters")
"""Keys whose values are mappings with keys chosen by the user."""

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
    "dataset_config": "data.config",
    "subset": "data.config",
    "model_name": "model.name",
    "model_name_or_path": "model.name",
    "base_model": "model.name",
    "load_in_4bit": "model.quantization",
    "bnb_4bit_use_double_quant": "model.double_quantization",
    "bnb_4bit_compute_dtype": "model.precision",
    "bf16": "model.precision",
    "fp16": "model.precision",
    "attn_implementation": "model.attention",
    "metric_for_best_model": "evaluate.rank_by",
    "load_best_model_at_end": "train.keep",
}
"""Names that transformers, peft and trl use, by lower-case last part, with our setting."""

SHORT = {
    "lr": "train.learning_rate",
    "batch": "train.batch_size",
    "accum": "train.accumulation",
    "decay": "train.weight_decay",
    "tokens": "data.max_tokens",
    "recompute": "train.gradient_checkpointing",
}
"""The abbreviations that lists of trials show, with their settings."""


@cache
def setting_fields() -> dict[str, FieldInfo]:
    """Return every setting by its dotted key, in the schema's order."""
    return dict(_leaves(Recipe, ""))


@cache
def section_models() -> dict[str, type[BaseModel]]:
    """Return the model class of every section by the section's dotted name."""
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
    for kind in type_alternatives(annotation):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def type_alternatives(annotation: Any) -> tuple[Any, ...]:
    """Return the types that a value may have, with unions and Annotated taken apart.

    `int | None` gives `(int, NoneType)`; a Literal or a list type is returned as it is.
    """
    if get_origin(annotation) is Annotated:
        return type_alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(kind for part in get_args(annotation) for kind in type_alternatives(part))
    return (annotation,)


def split_key(key: str) -> tuple[str, ...]:
    """Split a dotted key into a path.

    The part behind `sweep.parameters.` or `data.columns.` stays one name, because it is a dotted
    key itself or a column with dots.
    """
    for free in FREE:
        if key.startswith(f"{free}."):
            return (*free.split("."), key[len(free) + 1 :])
    return tuple(key.split("."))


def full_key(key: str) -> str:
    """Return the dotted key that a short one stands for, such as `lora.rank` for `rank`.

    A key that is known or ambiguous, or stands for nothing, is returned as it is.
    """
    meant = meant_keys(key)
    return meant[0] if len(meant) == 1 else key


def meant_keys(key: str) -> list[str]:
    """Return every setting that a key without a dot may stand for; none for one that is known.

    A setting of `train` comes before one of the same name elsewhere, so that `seed` is what a trial
    trains with and not what a sweep draws with; then one that lies in fewer sections.
    """
    if "." in key or key in setting_fields() or key in section_models():
        return []
    if key in SHORT:
        return [SHORT[key]]
    found = [name for name in setting_fields() if name.endswith(f".{key}")]
    if f"train.{key}" in found:
        return [f"train.{key}"]
    depth = min((name.count(".") for name in found), default=0)
    return [name for name in found if name.count(".") == depth]


def takes_text(key: str) -> bool:
    """Return True if the key accepts text only.

    The value of such a key is kept as written, so that the revision `1234567` is not a number.
    """
    if key.startswith("data.columns."):
        return True
    info = setting_fields().get(key)
    return info is not None and set(type_alternatives(info.annotation)) <= {str, types.NoneType}


def takes_null(key: str) -> bool:
    """Return True if the setting or section may be left empty."""
    info = setting_fields().get(key) or Recipe.model_fields.get(key)
    return info is not None and types.NoneType in type_alternatives(info.annotation)


def takes_numbers(key: str) -> bool:
    """Return True if the setting accepts a whole number or a fraction."""
    info = setting_fields().get(key)
    return info is not None and bool({int, float} & set(type_alternatives(info.annotation)))


def takes_whole_numbers(key: str) -> bool:
    """Return True if the setting accepts whole numbers and no fractions."""
    return takes_numbers(key) and float not in type_alternatives(setting_fields()[key].annotation)


def accepted_words(key: str) -> str:
    """Describe the values that a key accepts: `a whole number`, `one of nf4, none`."""
    if key.startswith("sweep.parameters."):
        if key.endswith(".when"):
            return "settings and their values, like {lora.rslora: true}"
        return "a list of values, or a range with min and max"
    if key.startswith("data.columns."):
        return "text"
    if key == "data.train":
        return "a file, a folder, a hub id, or a list of them"
    info = _of_a_source(key) or setting_fields().get(key)
    if info is None:
        return "settings below it, indented"
    # None is left out: no user needs to be told that a setting may be absent.
    kinds = [kind for kind in type_alternatives(info.annotation) if kind is not types.NoneType]
    return " or ".join(_words(kind) for kind in kinds)


def _of_a_source(key: str) -> FieldInfo | None:
    """Return the field of a key of one source in a list, such as `data.train.0.weight`."""
    if not key.startswith("data.train."):
        return None
    return MixedSource.model_fields.get(key.rsplit(".", 1)[-1])


def _words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        values = [str(value) for value in get_args(kind)]
        return values[0] if len(values) == 1 else f"one of {', '.join(values)}"
    plain = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    named = {list: "a list, like [q_proj, v_proj]", dict: "a mapping, like {question: prompt}"}
    return plain.get(kind) or named.get(get_origin(kind)) or "settings below it"


def nearest_key(key: str) -> str | None:
    """Return the known key that an unknown `key` most probably means, or None.

    Tried in this order: the name that another library uses, the same last part in another section,
    the most similar dotted key, the most similar last part.
    """
    names = [*setting_fields(), *section_models()]
    last = key.rsplit(".", 1)[-1]
    # Names of other libraries first: they are far from ours in spelling, so similarity fails.
    if last.lower() in OLD_NAMES:
        return OLD_NAMES[last.lower()]
    for name in names:
        if name.rsplit(".", 1)[-1] == last and name != key:
            return name
    if found := difflib.get_close_matches(key, names, n=1, cutoff=0.7):
        return found[0]
    # Reversed, so that the first section of the schema wins for a name that several have.
    by_last = {name.rsplit(".", 1)[-1]: name for name in reversed(names)}
    found = difflib.get_close_matches(last, list(by_last), n=1, cutoff=0.7)
    return by_last[found[0]] if found else None


def unknown_key(key: str, shown: str) -> str:
    """Return the message for an unknown key: `lora.rnak is not a setting. Did you mean lora.rank?`

    `shown` is the key made safe to print.
    """
    if len(several := meant_keys(key)) > 1:
        return f"{shown} may be {' or '.join(several)}: write {several[0]}=…, or {several[1]}=…"
    meant = nearest_key(key[:80])
    return f"{shown or 'an empty name'} is not a setting." + (
        f" Did you mean {meant}?" if meant else ""
    )
