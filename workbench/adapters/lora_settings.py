"""The configuration of a LoRA adapter, as PEFT writes it to adapter_config.json.

Every tool writes other keys: older versions of PEFT lack some, newer ones add some, Unsloth notes
its own classes in `auto_mapping`. Keys that do not change what a finished adapter computes are left
out, keys that this reader understands are kept, and any other key that is set is refused, because
leaving it out would silently score another adapter.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.errors import CheckpointError
from workbench.text import safe_line

CONFIG = "adapter_config.json"
MOST_BYTES = 4 << 20
"""Largest configuration that is read; rank patterns of large models have some 0.1 MiB."""
_NAME = re.compile(r"\^?[\w.-]+\Z", re.ASCII)
"""A module's name; PEFT takes any regular expression as key of a pattern."""

_USED = frozenset(
    {
        *{"r", "lora_alpha", "use_rslora", "use_dora", "lora_bias", "bias", "fan_in_fan_out"},
        *{"alpha_pattern", "base_model_name_or_path", "peft_type", "task_type"},
        "init_lora_weights",
    }
)
_WITHOUT_EFFECT = frozenset(
    {
        # Where the weights lie and who made them: the weights themselves name their modules.
        *{"auto_mapping", "peft_version", "revision", "inference_mode", "runtime_config"},
        *{"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"},
        "rank_pattern",
        # Of training alone.
        *{"lora_dropout", "loftq_config", "eva_config", "corda_config", "lora_ga_config"},
        *{"megatron_core", "qalora_group_size", "ensure_weight_tying", "velora_config"},
    }
)
_CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations that change the frozen weights too, so that the adapter alone is not enough.
PEFT, docs/source/developer_guides/lora.md."""
MERGE = "merge it into its base where it was trained, and name the merged model as model.name"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSettings:
    """The settings that decide what an adapter's weights compute."""

    base: str
    """The base's name or folder as it was written; empty where none was."""
    rank: int
    """The rank of modules whose weights do not show another one."""
    alpha: float
    rslora: bool = False
    """Scale by alpha/sqrt(rank) instead of alpha/rank."""
    dora: bool = False
    """Magnitudes are learned apart from directions (arXiv 2402.09353)."""
    bias: str = "none"
    """The base's biases that were trained too: none, all or lora_only."""
    lora_bias: bool = False
    """The second matrix has a bias of its own."""
    fan_in_fan_out: bool = False
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    """Module name, or its end, to an alpha of its own."""

    def alpha_of(self, module: str) -> float:
        """Return the alpha of a module: that of the first entry of `alpha_pattern` for it."""
        for name, alpha in self.alpha_pattern.items():
            whole = name.removeprefix("^")
            if module == whole or (not name.startswith("^") and module.endswith(f".{whole}")):
                return alpha
        return self.alpha


def read_settings(folder: Path) -> LoraSettings:
    """Return the settings in the folder's adapter_config.json.

    Raises CheckpointError, with its hint, for a file that cannot be read, for an adapter that is
    no LoRA of a causal language model, and for settings that change more than its matrices.
    """
    file = folder / CONFIG
    try:
        if file.stat().st_size > MOST_BYTES:
            raise ValueError("it is too large")
        config = json.loads(file.read_bytes())
        if not isinstance(config, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError, RecursionError) as broken:
        raise CheckpointError(
            f"{safe_line(file, 200)} cannot be read: {safe_line(broken, 120)}",
            hint="name a folder that holds adapter_config.json and adapter_model.safetensors",
        ) from broken
    return parse_settings(config)


def parse_settings(config: Mapping[str, Any]) -> LoraSettings:
    """Return the settings in the content of an adapter_config.json; raises as `read_settings`."""
    kind, task = config.get("peft_type"), config.get("task_type")
    if str(kind).rpartition(".")[2].upper() != "LORA":
        raise _refused(f"it is {_shown(kind)}, not a LoRA", MERGE)
    if task not in (None, "CAUSAL_LM", "TaskType.CAUSAL_LM"):
        raise _refused(f"it was trained for {_shown(task)}, not to generate text", "")
    _check_more_layers(config)
    unknown = [
        key
        for key, value in config.items()
        if _is_set(value) and key not in _USED | _WITHOUT_EFFECT
    ]
    if unknown:
        raise _refused(
            f"it sets {_shown(', '.join(sorted(unknown)))}, which is not known here", MERGE
        )
    start = str(config.get("init_lora_weights"))
    if start.lower().startswith(_CHANGE_THE_BASE):
        raise _refused(
            f"it was initialised by {_shown(start)}, which changed the base's weights too",
            "save it converted to a plain LoRA: PEFT's "
            "save_pretrained(…, path_initial_model_for_weight_conversion=…)",
        )
    return _settings(config)


def _check_more_layers(config: Mapping[str, Any]) -> None:
    """Raise CheckpointError where whole layers were trained, added or repeated."""
    if whole := config.get("modules_to_save"):
        raise _refused(
            f"whole layers were trained with it (modules_to_save: {_shown(whole)})", MERGE
        )
    words = {
        "trainable_token_indices": "embeddings of single tokens were trained with it",
        "layer_replication": "it repeats layers of its base",
        "target_parameters": "it changes parameters outside linear layers (target_parameters)",
        "megatron_config": "it belongs to a Megatron model",
    }
    for key, what in words.items():
        if config.get(key):
            raise _refused(what, MERGE)


def _settings(config: Mapping[str, Any]) -> LoraSettings:
    bias = str(config.get("bias") or "none")
    if bias not in ("none", "all", "lora_only"):
        raise _refused(f"its bias is {_shown(bias)}", "one of none, all and lora_only is known")
    pattern = config.get("alpha_pattern") or {}
    if not isinstance(pattern, dict) or not all(_NAME.match(str(key)) for key in pattern):
        raise _refused("alpha_pattern holds a regular expression", "write out the modules' names")
    _check_order(pattern)
    rank = config.get("r")
    if not isinstance(rank, int) or isinstance(rank, bool) or not 0 < rank <= 1 << 16:
        raise _refused(f"its rank r is {_shown(rank)}", "a whole number above zero is expected")
    return LoraSettings(
        base=str(config.get("base_model_name_or_path") or ""),
        rank=rank,
        alpha=_alpha(config.get("lora_alpha")),
        rslora=bool(config.get("use_rslora")),
        dora=bool(config.get("use_dora")),
        bias=bias,
        lora_bias=bool(config.get("lora_bias")),
        fan_in_fan_out=bool(config.get("fan_in_fan_out")),
        alpha_pattern={str(key): _alpha(value) for key, value in pattern.items()},
    )


def _check_order(pattern: Mapping[str, object]) -> None:
    """Raise CheckpointError for an entry of `alpha_pattern` that an earlier one leaves no module.

    The first entry that matches decides, and PEFT sorts the entries when it saves them
    (findings/peft-saving-sorts-patterns.sh): an exception behind its rule probably stood before it.
    """
    names = list(pattern)
    for place, name in enumerate(names):
        whole = name.removeprefix("^")
        for earlier in names[:place]:
            ends = not earlier.startswith("^") and whole.endswith(f".{earlier}")
            if (ends or whole == earlier) and pattern[earlier] != pattern[name]:
                raise _refused(
                    f"alpha_pattern gives {_shown(name)} the alpha {_shown(pattern[name])}, and "
                    f"{_shown(earlier)}, which stands before it, {_shown(pattern[earlier])}: PEFT "
                    "sorts the entries when it saves, so it was probably trained in another order",
                    f"put the entry that counted, probably {_shown(name)}, first in {CONFIG}",
                )


def _alpha(value: object) -> float:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    if not known or not math.isfinite(value):  # type: ignore[arg-type]
        raise _refused(f"its lora_alpha is {_shown(value)}", "a number is expected")
    return float(value)  # type: ignore[arg-type]


def _is_set(value: object) -> bool:
    return value not in (None, False, 0, "") and value != {} and value != []


def _shown(value: object) -> str:
    return safe_line(value, 120) if value is not None else "not given"


def _refused(what: str, hint: str) -> CheckpointError:
    return CheckpointError(f"the adapter cannot be scored: {what}", hint=hint)
