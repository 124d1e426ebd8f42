"""The tables by which keys of another trainer become settings of a recipe."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from workbench.recipe.keys import setting_fields
from workbench.text import safe_line


class NoCounterpart(ValueError):
    """The value of a foreign key that our setting cannot have; the text says why."""


class OtherValue(NoCounterpart):
    """A value that our setting cannot have, so that another one is used, which is named."""


@dataclass(frozen=True, slots=True)
class Rule:
    """The setting that a foreign key becomes, and how its value is read."""

    setting: str
    """Dotted key of ours, such as `lora.rank`."""
    read: Callable[[Any], Any] = lambda value: value
    """Returns our value; None leaves the setting out. Raises NoCounterpart, or another ValueError,
    TypeError or ArithmeticError, for a value that has no counterpart."""
    null: str = ""
    """The meaning of null to the trainer where it is not its default; empty where it is."""


@dataclass(slots=True)
class Translation:
    """The outcome of translating a foreign file: what became of each of its keys."""

    trainer: str
    settings: dict[str, Any] = field(default_factory=dict)
    """Our settings by dotted key, in the order in which they were found."""
    left: dict[str, str] = field(default_factory=dict)
    """Foreign keys that have no counterpart, each with the reason."""
    hub_eval_split: str = ""
    """The split that the trainer holds out of a hub data set where its file names none; empty for
    none."""
    defaults: dict[str, Any] = field(init=False)
    """The settings before the file was read: what the trainer takes for keys not given."""

    def __post_init__(self) -> None:
        """Keep the defaults."""
        self.defaults = dict(self.settings)

    def take(self, keys: Mapping[str, Any], rules: Mapping[str, Rule]) -> None:
        """Translate every key that has a rule; a value without a counterpart is kept in `left`."""
        refused: list[tuple[str, Rule, Exception]] = []
        for key, value in keys.items():
            rule = rules.get(key)
            if rule is None or (value is None and not rule.null):
                continue
            try:
                if value is None:
                    raise OtherValue(f"({rule.null}) has no counterpart")
                found = rule.read(value)
            except (ArithmeticError, ValueError, TypeError) as why:
                refused.append((key, rule, why))
                continue
            if found is not None:
                self.settings[rule.setting] = found
        for key, rule, error in refused:  # last, because another key may have given the setting
            self._leave_value(key, keys[key], rule.setting, error)

    def _leave_value(self, key: str, value: Any, setting: str, refused: Exception) -> None:
        """Remember that a value has no counterpart, and which one is used in its place."""
        known = isinstance(refused, NoCounterpart)
        words = str(refused) if known else "is not readable"
        if not known or isinstance(refused, OtherValue):
            used = self.settings.get(setting, setting_fields()[setting].default)
            words += f"; {setting}: {shown_value(used)} is used" if used is not None else ""
        self.leave(key, f"{shown_value(value)} {words}")

    def name_full_precision(self, keys: Mapping[str, Any]) -> None:
        """Remember that a file which switches bf16 off, and names no other, trains in 32 bits."""
        if keys.get("bf16") is False and "model.precision" not in self.settings:
            why = "false trains in 32 bits: write model.precision: fp32; auto is used"
            self.leave("bf16", why)

    def take_eval_strategy(self, keys: Mapping[str, Any]) -> None:
        """Keep `evaluate.every` only where transformers' Trainer evaluates every `eval_steps`.

        A strategy other than steps or no is kept in `left`, and so are steps without a number.
        """
        given = [key for key in EVAL_STRATEGY if keys.get(key) is not None]
        strategy = keys[given[0]] if given else "no"
        if strategy == "steps":
            if "evaluate.every" not in self.settings and not keys.get("eval_steps"):
                self.leave(given[0], f"steps is without eval_steps: {_WRITE_EVERY}")
            return
        self.settings.pop("evaluate.every", None)
        if strategy in ("no", False):
            return
        self.leave(given[0], f"{shown_value(strategy)} has no counterpart: {_WRITE_EVERY}")
        if keys.get("eval_steps"):
            why = f"is not used: {given[0]} is {shown_value(strategy)}, not steps"
            self.leave("eval_steps", why)

    def leave(self, key: str, why: str) -> None:
        """Remember that a key has no counterpart."""
        self.left[safe_line(key, 80)] = why

    def leave_unknown(self, keys: Mapping[str, Any], known: Mapping[str, object]) -> None:
        """Remember the keys that no table names; NEEDLESS ones with what stands for them."""
        for key, value in keys.items():
            if key in known or key in self.left or value in (None, "", [], {}):
                continue
            self.leave(key, NEEDLESS.get(key, "has no counterpart"))


EVAL_STRATEGY = ("eval_strategy", "evaluation_strategy")
"""The key of transformers' Trainer that says when it evaluates, and its older name."""
_WRITE_EVERY = "write evaluate.every as a number of optimizer steps"

NEEDLESS = {
    **dict.fromkeys(
        ("output_dir", "dataset_prepared_path", "overwrite_output_dir", "overwrite_cache"),
        "is not needed: the home keeps every trial's files",
    ),
    **dict.fromkeys(
        ("preprocessing_num_workers", "dataset_num_proc", "dataloader_num_workers"),
        "is not needed: rows are tokenised once",
    ),
    "ddp_timeout": "is not needed: a trial never spans cards",
    "ds_type": "is not needed: the ending of a file's name says it",
    **dict.fromkeys(
        ("do_train", "do_eval", "strict", "plot_loss", "include_num_input_tokens_seen"),
        "is not needed",
    ),
    **dict.fromkeys(
        ("deepspeed", "fsdp", "fsdp_config", "ddp"),
        "is not needed: a trial trains on one card (docs/decisions)",
    ),
    **dict.fromkeys(
        ("trust_remote_code", "trust_remote_code_model"),
        "cannot be given by a recipe (docs/security.md)",
    ),
    **dict.fromkeys(
        ("save_total_limit", "save_only_model", "save_strategy", "saves_per_epoch"),
        "is not needed: old checkpoints are pruned",
    ),
}
"""Keys without an effect on what is learned, and why ours has none."""


def shown_value(value: Any) -> str:
    """Return a value as YAML writes it, on one line."""
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return safe_line(f"[{', '.join(value)}]", 60)
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else safe_line(value, 60)


def whole(value: Any) -> int:
    """Return a whole number."""
    count = int(value)
    if isinstance(value, bool) or count != float(value):
        raise OtherValue("is not a whole number")
    return count


def positive(value: Any) -> int:
    """Return a whole number above 0."""
    if (count := whole(value)) < 1:
        raise OtherValue("is not above 0")
    return count


def positive_or_off(value: Any) -> int | None:
    """Return a whole number above 0; None for one below, by which trainers say "off"."""
    return count if (count := whole(value)) > 0 else None


def number(value: Any) -> float:
    """Return a number, also from text such as `2e-4`, which YAML 1.1 reads as text."""
    if isinstance(value, bool):
        raise OtherValue("is no number")
    return float(value)


def one_of(*names: str, **others: str) -> Callable[[Any], str]:
    """Return a reader that accepts `names` as they are, and `others` under our name."""
    table = {**{name: name for name in names}, **others}

    def read(value: Any) -> str:
        if str(value) not in table:
            raise OtherValue(f"is none of {', '.join(sorted(set(table.values())))}")
        return table[str(value)]

    return read


def only(wanted: Any, why: str) -> Callable[[Any], None]:
    """Return a reader that accepts the value which changes nothing, and refuses others."""

    def read(value: Any) -> None:
        if value != wanted:
            raise NoCounterpart(why)

    return read


def switch(on: Any, off: Any) -> Callable[[Any], Any]:
    """Return a reader of true and false."""

    def read(value: Any) -> Any:
        if not isinstance(value, bool):
            raise OtherValue("is neither true nor false")
        return on if value else off

    return read


def share_or_refuse(value: Any) -> float:
    """Return a warm-up as a share of all steps."""
    share = number(value)
    if not 0 <= share < 1:
        raise OtherValue("is a number of steps: write train.warmup as a share of all steps")
    return share


def held_out_rows(value: Any) -> int:
    """Return the number of held-out rows; a share of the rows, and no rows, have no counterpart."""
    size = number(value)
    if 0 < size < 1:
        raise OtherValue("is a share of the rows: write data.eval_rows as a number of rows")
    if size == 0:
        raise OtherValue("holds no rows out, which has no counterpart")
    return positive(value)


_PLAIN_NAME = re.compile(r"[\w.]+\Z", re.ASCII)


def targets(value: Any) -> list[str] | str | None:
    """Return the names of the layers that get an adapter, or `all-linear`; None for no names.

    A regular expression, as PEFT takes it from a text, has no counterpart.
    """
    names = re.split(r"[,\s]+", value.strip(", \t\n")) if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
        raise OtherValue("is no list of names")
    if names in (["all"], ["all-linear"]):
        return "all-linear"
    if not all(_PLAIN_NAME.match(one) for one in names if one):
        raise OtherValue("is a regular expression: write the names of layers in lora.targets")
    return [one for one in names if one] or None


def held_out_loss(value: Any) -> None:
    """Accept the held-out loss as the metric of the best weights, and refuse others."""
    if value not in ("loss", "eval_loss"):
        raise NoCounterpart("has no counterpart: train.keep: best compares held-out losses")


RECOMPUTE = switch("auto", "off")
"""Recomputing changes no loss, so that it is left to the plan where a file asks for it."""
SCHEDULE = one_of("constant", "linear", "cosine", constant_with_warmup="constant")
OPTIMIZER = one_of(
    "adamw_torch",
    "adamw_8bit",
    "paged_adamw_8bit",
    "paged_adamw_32bit",
    "sgd",
    adamw_torch_fused="adamw_torch",
    adamw_bnb_8bit="adamw_8bit",
    paged_adamw="paged_adamw_32bit",
)
ATTENTION = one_of("flash_attention_2", "sdpa", "eager", auto="auto", fa2="flash_attention_2")
PRECISION = one_of("auto", "bf16", "fp16", "fp32", bfloat16="bf16", float16="fp16", float32="fp32")

NO_EIGHT_BITS = only(False, "bases are loaded in 4 or 16 bits")
NO_DORA = only(False, "DoRA has no counterpart")
LOWER_IS_BETTER = only(False, "has no counterpart: train.keep: best keeps the lowest held-out loss")

SHARED_RULES: dict[str, Rule] = {
    "lora_alpha": Rule("lora.alpha", number),
    "lora_dropout": Rule("lora.dropout", number),
    "max_steps": Rule("train.max_steps", positive_or_off),
    "gradient_accumulation_steps": Rule("train.accumulation", positive),
    "learning_rate": Rule("train.learning_rate", number),
    "weight_decay": Rule("train.weight_decay", number),
    "max_grad_norm": Rule("train.max_grad_norm", number),
    "warmup_ratio": Rule("train.warmup", share_or_refuse),
    "warmup_steps": Rule("train.warmup", share_or_refuse),
    "gradient_checkpointing": Rule("train.gradient_checkpointing", RECOMPUTE),
    "save_steps": Rule("train.save_every", positive),
    "logging_steps": Rule("train.log_every", positive),
    "seed": Rule("train.seed", whole),
    "eval_steps": Rule("evaluate.every", positive_or_off),
    "load_best_model_at_end": Rule("train.keep", switch("best", None)),
    "metric_for_best_model": Rule("train.keep", held_out_loss),
    "greater_is_better": Rule("train.keep", LOWER_IS_BETTER),
}
"""Keys that all three trainers call alike."""

TRAINER_RULES: dict[str, Rule] = {
    **SHARED_RULES,
    "model_name_or_path": Rule("model.name", str),
    "max_grad_norm": Rule("train.max_grad_norm", number, null="no gradient is scaled down"),
    "model_revision": Rule("model.revision", lambda value: None if value == "main" else str(value)),
    "bf16": Rule("model.precision", switch("bf16", None)),
    "fp16": Rule("model.precision", switch("fp16", None)),
    "use_rslora": Rule("lora.rslora", switch(True, False)),
    "use_dora": Rule("lora.rslora", NO_DORA),
    "packing": Rule("data.packing", switch(True, False)),
    "num_train_epochs": Rule("train.epochs", number),
    "per_device_train_batch_size": Rule("train.batch_size", positive),
    "lr_scheduler_type": Rule("train.schedule", SCHEDULE),
    "optim": Rule("train.optimizer", OPTIMIZER),
    "per_device_eval_batch_size": Rule("evaluate.batch_size", positive),
}
"""Keys of transformers' TrainingArguments, and those that TRL and LLaMA-Factory put beside them."""
