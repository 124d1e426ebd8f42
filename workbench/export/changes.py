"""Changes that an adapter makes to each weight of its base: LoRA, DoRA, or another weight.

Every sum is made in 32 bits and rounded once. Names and shapes are compared with the base's before
anything is written; what cannot be expressed as a change of single weights is refused here, or left
to `training.model.merge`, which has the whole model in memory.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file

from workbench.adapters.adapter_folder import WEIGHTS
from workbench.adapters.lora_settings import CONFIG, LoraSettings, parse_settings
from workbench.errors import ModelError
from workbench.export.base_files import BaseFiles
from workbench.text import safe_line

_PREFIX = "base_model.model."
_LORA = re.compile(r"(?P<module>.+)\.lora_(?P<part>A|B|magnitude_vector)(\.default)?(\.weight)?\Z")
_OTHER = re.compile(r"lora_|\.bias\Z|\.base_layer\.weight\Z")
EMBED, HEAD = "embed_tokens.weight", "lm_head.weight"


class NotByWeight(ModelError):
    """The adapter is sound, but changes more than single weights of the base's files."""

    def __init__(self) -> None:
        super().__init__("the adapter changes more than single weights of the base's files")


@dataclass(frozen=True, slots=True)
class LoraChange:
    """A low-rank change of one weight: W + scale · B A, and DoRA's magnitudes where it has them."""

    a_RI: torch.Tensor
    b_OR: torch.Tensor
    scale: float
    """alpha/rank, or alpha/sqrt(rank) for rsLoRA (arXiv 2312.03732)."""
    magnitude_O: torch.Tensor | None = None

    def apply(self, weight_OI: torch.Tensor) -> torch.Tensor:
        """Return the changed weight in fp32. DoRA: arXiv 2402.09353, equation 5."""
        # In PEFT's own order of operations, so that float32 gives its digits too.
        new = (self.b_OR.float() @ self.a_RI.float()).mul_(self.scale).add_(weight_OI.float())
        if self.magnitude_O is not None:
            norm_O = torch.linalg.norm(new, dim=1)
            new *= (self.magnitude_O.float() / norm_O)[:, None]
        return new


@dataclass(frozen=True, slots=True)
class Changes:
    """All changes of an adapter, by the weight's name in the base's files."""

    settings: LoraSettings
    lora: Mapping[str, LoraChange]
    replaced: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Whole weights that were trained beside the LoRA (`modules_to_save`)."""
    keeps_ties: bool = False
    """The adapter trained tied embeddings together with the head (`ensure_weight_tying`)."""

    def names(self) -> set[str]:
        """Return the names of all weights that change."""
        return {*self.lora, *self.replaced}

    def apply(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """Return the weight as it is with the adapter; fp32 where it changed by LoRA."""
        if name in self.replaced:
            return self.replaced[name]
        found = self.lora.get(name)
        return weight if found is None else found.apply(weight)


def read_changes(folder: Path) -> Changes:
    """Return what the adapter in the folder does.

    Raises ModelError for an adapter that is half written, not finite, or no LoRA, and NotByWeight
    for one that needs the whole model.
    """
    config = _read_config(folder)
    settings = parse_settings({**config, "modules_to_save": None})
    if settings.fan_in_fan_out or settings.bias != "none" or settings.lora_bias:
        raise NotByWeight
    tensors = {name.removeprefix(_PREFIX): value for name, value in _tensors(folder).items()}
    parts: dict[str, dict[str, torch.Tensor]] = {}
    replaced: dict[str, torch.Tensor] = {}
    for name, value in tensors.items():
        if found := _LORA.match(name):
            parts.setdefault(found["module"], {})[found["part"]] = value
        elif _OTHER.search(name):
            raise NotByWeight
        else:
            replaced[name.replace(".modules_to_save.default", "")] = value
    if replaced and not config.get("modules_to_save"):
        raise _broken(folder, f"it holds {safe_line(min(replaced), 120)}, which is no part of it")
    if not parts and not replaced:
        raise _broken(folder, "it holds no weights")
    lora = {
        f"{module}.weight": _change(folder, module, found, settings)
        for module, found in parts.items()
    }
    return Changes(settings, lora, replaced, bool(config.get("ensure_weight_tying")))


def check_against_base(changes: Changes, base: BaseFiles, *, tied: bool, shown: str) -> None:
    """Raise ModelError where a change does not fit the base's weights.

    Raises NotByWeight where the base's files name a weight otherwise than the loaded model.
    `tied` says that the base's head is its embedding, so that its files hold no head.
    """
    known = set(base.names)
    for name in sorted(changes.names()):
        source = name
        if tied and name.endswith(HEAD) and name not in known:
            source = embedding_name(known)
        if source not in known:
            raise NotByWeight
        expected = base.shape(source)
        lora, whole = changes.lora.get(name), changes.replaced.get(name)
        if lora is not None:
            found: tuple[int, ...] = (lora.b_OR.shape[0], lora.a_RI.shape[1])
        else:
            assert whole is not None
            found = tuple(whole.shape)
            if name.endswith((EMBED, HEAD)) and found[1:] == expected[1:]:
                continue  # other vocabularies are judged together, by `vocabulary`
        if found != expected:
            raise ModelError(
                f"the adapter's weights for {safe_line(name, 120)} are for {list(found)}, and "
                f"{safe_line(shown, 160)} has {list(expected)}",
                hint="name the model that it was trained on: --base FOLDER",
            )


def vocabulary(changes: Changes, base: BaseFiles, *, tied: bool) -> int | None:
    """Return the rows of embedding and head where the adapter brings others than the base's.

    Raises ModelError where only one of the two has them.
    """
    rows = {n: int(v.shape[0]) for n, v in changes.replaced.items() if n.endswith((EMBED, HEAD))}
    known = set(base.names)
    own = base.shape(embedding_name(known))[0]
    if not any(count != own for count in rows.values()):
        return None
    sizes = set(rows.values())
    if len(sizes) != 1 or (len(rows) == 1 and not (tied and changes.keeps_ties)):
        raise ModelError(
            f"the adapter brings embeddings for {max(sizes)} tokens, the base has {own}, and "
            "embedding and head do not agree",
            hint="train embed_tokens and lm_head together, or merge where it was trained",
        )
    return sizes.pop()


def embedding_name(names: set[str]) -> str:
    """Return the name of the embedding among a base's weights; raise NotByWeight without one."""
    found = sorted(name for name in names if name.endswith(EMBED))
    if len(found) != 1:
        raise NotByWeight
    return found[0]


def _read_config(folder: Path) -> dict[str, object]:
    try:
        config = json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError) as broken:
        raise _broken(folder, f"{CONFIG} cannot be read") from broken
    if not isinstance(config, dict):
        raise _broken(folder, f"{CONFIG} holds no settings")
    return config


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    try:
        tensors = load_file(folder / WEIGHTS)
    except Exception as broken:  # OSError, and safetensors' own
        raise _broken(folder, f"{WEIGHTS} is cut short or damaged") from broken
    for name, value in tensors.items():
        if not bool(torch.isfinite(value).all()):
            raise _broken(folder, f"{safe_line(name, 120)} is not finite")
    return tensors


def _change(
    folder: Path, module: str, parts: Mapping[str, torch.Tensor], settings: LoraSettings
) -> LoraChange:
    magnitude = parts.get("magnitude_vector")
    a, b = parts.get("A"), parts.get("B")
    if a is None or b is None or a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
        raise _broken(folder, f"its matrices for {safe_line(module, 120)} are not a pair")
    if settings.dora is (magnitude is None):
        raise _broken(folder, f"its magnitudes for {safe_line(module, 120)} do not fit")
    rank = a.shape[0]
    divisor = math.sqrt(rank) if settings.rslora else rank
    return LoraChange(a, b, settings.alpha_of(module) / divisor, magnitude)


def _broken(folder: Path, what: str) -> ModelError:
    return ModelError(
        f"the adapter in {safe_line(folder, 200)} cannot be used: {what}",
        hint="give an adapter as PEFT or the workbench wrote it, whole",
    )
