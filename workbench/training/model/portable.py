"""Files of adapters and merged models in the words that other programs read.

transformers 5 writes names that transformers 4 and the converters built on it (vLLM, llama.cpp) do
not know: they would refuse the tokenizer, or take a model's rotary base for 10,000. Both readings
are written side by side.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from workbench.text import safe_line

TOKENIZER_CONFIG = "tokenizer_config.json"
GENERATION_CONFIG = "generation_config.json"
_ONLY_IN_5 = ("TokenizersBackend", "SentencePieceBackend", None)
_PLAIN_CLASS = "PreTrainedTokenizerFast"
_NEOX = ("gpt_neox", "gpt_neox_japanese")
"""Model types with names of their own for the rotary base and share."""
_OF_THE_FILES = ("quantization_config", "torch_dtype", "dtype", "auto_map", "_name_or_path")
"""Keys of a base's configuration that say how its files are stored; a merged model has others."""
_OF_THE_LOADING = ("backend", "is_local", "local_files_only")
"""Keys that say how transformers 5 loaded a tokenizer; they mean nothing elsewhere."""


def save_tokenizer(tokenizer: Any, folder: Path, source: str, revision: str | None) -> None:
    """Save the tokenizer with the class name that its `source` gives, readable by transformers 4.

    `source` is the folder or hub id that the tokenizer was loaded from.
    """
    tokenizer.save_pretrained(folder)
    file = folder / TOKENIZER_CONFIG
    saved = json.loads(file.read_text(encoding="utf-8"))
    for key in _OF_THE_LOADING:
        saved.pop(key, None)
    named = _class_in(source, revision) or saved.get("tokenizer_class")
    saved["tokenizer_class"] = _PLAIN_CLASS if named in _ONLY_IN_5 else named
    extra = saved.get("extra_special_tokens")
    if isinstance(extra, list):  # transformers 4 takes a dictionary under this name
        saved["additional_special_tokens"] = saved.pop("extra_special_tokens")
    file.write_text(json.dumps(saved, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _class_in(source: str, revision: str | None) -> str | None:
    """Return the tokenizer class that the source's own tokenizer_config.json names."""
    from transformers.utils import cached_file

    try:
        file = cached_file(source, TOKENIZER_CONFIG, revision=revision)
        named = json.loads(Path(str(file)).read_text(encoding="utf-8")).get("tokenizer_class")
    except (OSError, ValueError, AttributeError):
        return None
    return safe_line(named, 80) if isinstance(named, str) else None


def end_ids_of(folder: Path) -> list[int]:
    """Return the ids that end a turn by generation_config.json of a folder; empty without it."""
    try:
        config = json.loads((folder / GENERATION_CONFIG).read_text(encoding="utf-8"))
        return as_ids(config.get("eos_token_id"))
    except (OSError, ValueError, AttributeError):
        return []


def write_end_ids(folder: Path, tokenizer: Any, ids: Iterable[int]) -> None:
    """Write generation_config.json with every token that ends a turn, which `generate` reads."""
    config = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": sorted(set(ids)),
        "pad_token_id": tokenizer.pad_token_id,
    }
    kept = {name: value for name, value in config.items() if value not in (None, [])}
    (folder / GENERATION_CONFIG).write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def as_ids(value: object) -> list[int]:
    """Return token ids of a configuration, where one id may stand without a list."""
    ids = value if isinstance(value, list | tuple) else [value]
    return [id for id in ids if isinstance(id, int) and not isinstance(id, bool)]


def add_older_names(folder: Path, base: str | None = None, revision: str | None = None) -> None:
    """Add transformers 4's names to the folder's config.json, unless transformers 5 then differs.

    These are the keys of the `base`'s own config.json (a folder or hub id) that transformers 5
    renamed, then `rope_theta`, `rope_scaling` and their like beside `rope_parameters`, and
    `torch_dtype` beside `dtype`.
    """
    _untie_own_head(folder)
    file = folder / "config.json"
    text = file.read_text(encoding="utf-8")
    before = _read_by_5(folder)
    for own in (_own_config(base, revision), {}):
        config = json.loads(text)
        _keep_keys(config, own)
        for part in (config, config.get("text_config")):
            if isinstance(part, dict):
                _add_names(part)
        file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if _holds(_read_by_5(folder), before):
            return
    file.write_text(text, encoding="utf-8")


def _untie_own_head(folder: Path) -> None:
    """Say in config.json that the head is no embedding, where the folder has other numbers for it.

    transformers 5 then keeps the head whatever config.json says; transformers 4 and converters put
    the embedding in its place.
    """
    import torch
    from safetensors import safe_open

    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    if not config.get("tie_word_embeddings"):
        return
    found = {}
    for part in sorted(folder.glob("*.safetensors")):
        with safe_open(part, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                if name.endswith(("lm_head.weight", "embed_tokens.weight")):
                    found[name.rsplit(".", 2)[-2]] = opened.get_tensor(name)
    if len(found) == 2 and not torch.equal(found["lm_head"], found["embed_tokens"]):
        config["tie_word_embeddings"] = False
        file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _read_by_5(folder: Path) -> Any:
    from transformers import AutoConfig

    return json.loads(json.dumps(AutoConfig.from_pretrained(folder).to_dict(), default=str))


def _holds(found: Any, wanted: Any) -> bool:
    """Return whether a configuration says all that another says; it may have further keys."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        return all(key in found and _holds(found[key], value) for key, value in wanted.items())
    return bool(found == wanted)


def _own_config(base: str | None, revision: str | None) -> dict[str, Any]:
    """Return the content of the base's own config.json, as whoever published it wrote it."""
    from transformers.utils import cached_file

    if base is None:
        return {}
    try:
        file = cached_file(base, "config.json", revision=revision)
        config = json.loads(Path(str(file)).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _keep_keys(config: dict[str, Any], own: dict[str, Any]) -> None:
    """Add the keys of the base's own configuration that the written one lacks."""
    for key, value in own.items():
        if key not in config and key not in _OF_THE_FILES:
            config[key] = value
        elif key == "text_config" and isinstance(value, dict) and isinstance(config[key], dict):
            _keep_keys(config[key], value)


def _add_names(config: dict[str, Any]) -> None:
    if "dtype" in config:
        config.setdefault("torch_dtype", config["dtype"])
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict) or str(config.get("model_type")).startswith("gemma4"):
        return  # transformers 4 has no Gemma 4
    if "full_attention" in rope:  # Gemma 3: one rotary table for each kind of attention
        local = rope.get("sliding_attention") or {}
        config.setdefault("rope_local_base_freq", local.get("rope_theta"))
        rope = rope["full_attention"]
    share = rope.get("partial_rotary_factor")
    named = {"rope_theta": rope.get("rope_theta"), "partial_rotary_factor": share}
    if config.get("model_type") in _NEOX:
        named |= {"rotary_emb_base": rope.get("rope_theta"), "rotary_pct": share}
    for key, value in named.items():
        if value is not None:
            config.setdefault(key, value)
    # Without the key, gpt-oss takes a scaling of its own.
    config.setdefault("rope_scaling", _older_scaling(config, rope))


def _older_scaling(config: dict[str, Any], rope: dict[str, Any]) -> dict[str, Any] | None:
    """Return `rope_scaling` for the rotary parameters, None where they scale nothing."""
    kind = rope.get("rope_type", "default")
    if kind == "default":
        return None
    if kind == "longrope":  # Phi-3 takes these three keys and no others
        length = rope.get("original_max_position_embeddings")
        config.setdefault("original_max_position_embeddings", length)
        return {"type": kind, **{key: rope.get(key) for key in ("short_factor", "long_factor")}}
    return {k: v for k, v in rope.items() if k not in ("rope_theta", "partial_rotary_factor")}
