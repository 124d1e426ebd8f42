"""LLaMA-Factory's YAML, and the dataset_info.json that its data sets are named in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.recipe.foreign.data_sets import take_held_out_layout
from workbench.recipe.foreign.translation import (
    ATTENTION,
    EVAL_STRATEGY,
    TRAINER_RULES,
    NoCounterpart,
    Rule,
    Translation,
    held_out_rows,
    positive,
    switch,
    targets,
)
from workbench.text import safe_line

DEFAULTS: dict[str, Any] = {
    "lora.rank": 8,
    "lora.dropout": 0.0,
    "lora.targets": "all-linear",
    "train.epochs": 3,
    "train.batch_size": 8,
    "train.learning_rate": 5e-5,
    "train.weight_decay": 0.0,
    "train.max_grad_norm": 1.0,
    "train.schedule": "linear",
    "train.warmup": 0.0,
    "train.optimizer": "adamw_torch",
    "data.max_tokens": 2048,
    "train.keep": "last",
    "model.quantization": "none",
}
"""What LLaMA-Factory takes for a key that is not given, where ours differs (version 0.9). Its
`lora_alpha` is twice the rank."""

MOST_INFO_BYTES = 4 << 20
"""Bytes of a dataset_info.json that is read."""
COLUMNS = {
    "prompt": "instruction",
    "query": "input",
    "response": "output",
    **{name: name for name in ("messages", "system", "tools", "history")},
}
"""Their names of columns, and those of our shapes."""
PARTS = {"subset": "config", "split": "split", "num_samples": "rows"}
"""Keys of one data set in their list, and our settings of a source."""
_FOUND = ("file_name", "hf_hub_url", "ms_hub_url", "om_hub_url", "columns", "formatting", *PARTS)
"""Keys of one data set that are read, or whose effect is recognised from the rows."""


def _bits(value: Any) -> str:
    if int(value) != 4:
        raise NoCounterpart("bits: bases are loaded in 4 or 16 bits")
    return "nf4"


RULES: dict[str, Rule] = {
    **TRAINER_RULES,
    "quantization_bit": Rule("model.quantization", _bits),
    "double_quantization": Rule("model.double_quantization", switch(True, False)),
    "flash_attn": Rule("model.attention", ATTENTION),
    "lora_rank": Rule("lora.rank", positive),
    "lora_target": Rule("lora.targets", targets),
    "cutoff_len": Rule("data.max_tokens", positive),
    "max_samples": Rule("data.max_rows", positive),
    "group_by_length": Rule("data.group_by_length", switch(True, False)),
    "mask_history": Rule("data.loss_on", switch("completion", None)),
    "train_on_prompt": Rule("data.loss_on", switch("all", None)),
    "default_system": Rule("data.system", str),
    "val_size": Rule("data.eval_rows", held_out_rows),
    "disable_gradient_checkpointing": Rule("train.gradient_checkpointing", switch("off", None)),
}


def translate_llama_factory(keys: Mapping[str, Any], folder: Path) -> Translation:
    """Return what the keys of a LLaMA-Factory file become.

    Its data sets are looked up in `dataset_info.json` of `dataset_dir`, relative to `folder` or to
    its parents. Raises NoCounterpart for another task than supervised fine-tuning by LoRA.
    """
    if keys.get("stage", "sft") != "sft":
        raise NoCounterpart(f"its stage is {safe_line(keys['stage'], 20)}, not sft")
    if keys.get("finetuning_type", "lora") != "lora":
        raise NoCounterpart(f"it trains by {safe_line(keys['finetuning_type'], 20)}, not by LoRA")
    found = Translation("LLaMA-Factory", settings=dict(DEFAULTS))
    found.take({"lora_rank": keys.get("lora_rank")}, RULES)
    found.settings["lora.alpha"] = found.defaults["lora.alpha"] = 2 * found.settings["lora.rank"]
    found.take(keys, RULES)
    found.take_eval_strategy(keys)
    known: dict[str, object] = dict.fromkeys(
        ("stage", "finetuning_type", "dataset_dir", "dataset", "eval_dataset", *EVAL_STRATEGY)
    )
    information = _read_information(keys, folder)
    for key, setting in (("dataset", "data.train"), ("eval_dataset", "data.eval")):
        if names := keys.get(key):
            _take_data_set(found, key, names, setting, information)
    if "data.eval" in found.settings:
        found.left.pop("val_size", None)  # no rows are split off beside held-out ones
    if "template" in keys:
        found.leave("template", "is not needed: the tokenizer's own chat template is used")
    found.leave_unknown(keys, {**RULES, **known})
    return found


def _take_data_set(
    found: Translation, key: str, names: Any, setting: str, information: tuple[Path, Any]
) -> None:
    listed = [
        str(one).strip() for one in (names if isinstance(names, list) else str(names).split(","))
    ]
    if len(listed) > 1 and key == "eval_dataset":
        found.leave(key, f"has {len(listed)} data sets, of which the first is taken")
        listed = listed[:1]
    sources = [_source(found, key, name, information) for name in listed]
    if len(sources) > 1:
        found.settings[setting] = sources
        return
    if key == "eval_dataset":
        _take_held_out(found, f"{key} {listed[0]}", sources[0])
        return
    found.settings[setting] = sources[0].pop("path")
    ours = {"rows": "max_rows"}
    found.settings |= {f"data.{ours.get(one, one)}": v for one, v in sources[0].items()}


def _take_held_out(found: Translation, label: str, source: dict[str, Any]) -> None:
    """Take a data set as `data.eval`; `label` names it in messages about its columns and subset."""
    settings = found.settings
    settings["data.eval"] = source["path"]
    settings["data.eval_split"] = source.get("split", "train")
    if "rows" in source:
        settings["data.eval_rows"] = source["rows"]
    take_held_out_layout(found, f"{label}.columns", {"columns": source.get("columns", {})})
    same = settings.get("data.train") == source["path"]
    if source.get("config") != (settings.get("data.config") if same else None):
        why = "has no counterpart: held-out rows are of the data set's only configuration"
        found.leave(f"{label}.subset", f"{safe_line(source.get('config'), 60)} {why}")


def _source(
    found: Translation, key: str, name: str, information: tuple[Path, Any]
) -> dict[str, Any]:
    """Return the path or hub id of a data set, its parts, and its columns with other names."""
    folder, known = information
    about = known.get(name) if isinstance(known, dict) else None
    if not isinstance(about, dict):
        why = "is in no dataset_info.json that was found: name its file or hub id"
        found.leave(f"{key} {name}", why)
        return {"path": name}
    source: dict[str, Any] = {"path": name}
    if file := about.get("file_name"):
        source["path"] = str(folder / str(file))
    elif hub := about.get("hf_hub_url"):
        source["path"] = str(hub)
    else:
        found.leave(f"{key} {name}", "names no file and no hf_hub_url: name its file or hub id")
    source |= {ours: about[theirs] for theirs, ours in PARTS.items() if about.get(theirs)}
    for theirs in sorted(set(about) - set(_FOUND)):
        found.leave(f"{key} {name}.{theirs}", "has no counterpart")
    columns = about.get("columns")
    if isinstance(columns, dict):
        for theirs in sorted(str(one) for one in set(columns) - set(COLUMNS)):
            found.leave(f"{key} {name}.columns.{theirs}", "has no counterpart")
        ours = {str(theirs): COLUMNS[one] for one, theirs in columns.items() if one in COLUMNS}
        if changed := {theirs: one for theirs, one in ours.items() if theirs != one}:
            source["columns"] = changed
    return source


def _read_information(keys: Mapping[str, Any], folder: Path) -> tuple[Path, Any]:
    """Return the folder of dataset_info.json and its contents; an empty object without one."""
    named = str(keys.get("dataset_dir") or "data")
    for place in (folder, *folder.parents[:3]):
        path = place / named / "dataset_info.json"
        try:
            with path.open("rb") as file:
                return path.parent, json.loads(file.read(MOST_INFO_BYTES))
        except (OSError, ValueError, RecursionError):
            continue
    return folder, {}
