"""The decision whether a configuration is that of a model for text which can be trained.

Plans, preparation and loading ask here, so that none accepts what another refuses. The list of
architectures is read from the source text of the installed transformers, because importing it
takes longer than a plan.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from workbench.errors import ModelError
from workbench.text import safe_line

_PAIR = re.compile(r'^\s*\(\s*"([^"]+)",\s*"([^"]+)"', re.MULTILINE)
_CAUSAL = ("modeling_auto.py", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES")
_IMAGES = ("modeling_auto.py", "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES")
_CONFIGS = ("auto_mappings.py", "CONFIG_MAPPING_NAMES")
WITH_IMAGES = frozenset({"mistral3"})
"""model_type of models for text and images that transformers does not list for text alone. They
are loaded whole, and the text model inside is trained."""


def refuse_unloadable(config: Mapping[str, Any], name: str) -> None:
    """Raise ModelError where transformers has no causal language model for that config.json.

    The hint names the text model inside, where the configuration has one that can be trained.
    Nothing is raised where transformers' list cannot be read: loading decides then.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or is_loadable(kind) is not False:
        return
    shown, release = safe_line(name, 120), _release()
    if kind not in (_mapping(*_CONFIGS) or {kind: ""}):
        raise ModelError(
            f"{shown} is a {safe_line(kind, 60)}, an architecture that transformers {release} does "
            "not have",
            hint="check model_type in its config.json; a newer transformers may have it",
        )
    text = config.get("text_config")
    inside = text.get("model_type") if isinstance(text, Mapping) else None
    hint = "choose a causal language model, such as Llama, Mistral, Qwen, Gemma or Phi"
    if isinstance(inside, str) and is_loadable(inside):
        hint = (
            f"its text model is a {safe_line(inside, 60)}, which can be trained alone: choose a "
            f"release of it whose config.json says model_type: {safe_line(inside, 60)}"
        )
    raise ModelError(
        f"{shown} is a {safe_line(kind, 60)}, for which transformers {release} has no causal "
        "language model, so that it cannot be trained on text",
        hint=hint,
    )


def is_loadable(kind: str) -> bool | None:
    """Return whether transformers has a causal language model for a model_type.

    None where its list cannot be read.
    """
    causal = _mapping(*_CAUSAL)
    return None if causal is None else causal_class(kind) is not None


def loader_name(kind: str) -> str:
    """Return the name of transformers' class that loads a model_type for training on text."""
    return "AutoModelForImageTextToText" if kind in WITH_IMAGES else "AutoModelForCausalLM"


def causal_class(kind: str) -> str | None:
    """Return the name of the class that `loader_name` takes for a model_type, or None.

    As transformers does, it takes another model_type of the same configuration class where the
    model_type itself has no model.
    """
    if kind in WITH_IMAGES:
        return (_mapping(*_IMAGES) or {}).get(kind)
    causal, configs = _mapping(*_CAUSAL) or {}, _mapping(*_CONFIGS) or {}
    if kind not in configs:  # transformers adds a few old names elsewhere
        return causal.get(kind)
    same = [other for other, name in configs.items() if name == configs[kind]]
    return next((causal[one] for one in (same[-1], *same) if one in causal), None)


@cache
def _mapping(file: str, name: str) -> Mapping[str, str] | None:
    """Return one of transformers' mappings from model_type to a class; None where it has none."""
    spec = find_spec("transformers")
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / "models" / "auto" / file
    try:
        source = path.read_text(encoding="utf-8")
    except OSError:
        return None
    _, found, rest = source.partition(f"\n{name} = OrderedDict(")
    pairs = dict(_PAIR.findall(rest.partition("\n)\n")[0]))
    return pairs if found and pairs else None


def _release() -> str:
    try:
        return version("transformers")
    except PackageNotFoundError:
        return ""
