"""A folder from which vLLM serves the adapter beside its base, checked against what vLLM takes.

Source of the limits: vLLM's `LoRAConfig` (the values of max_lora_rank) and `PEFTHelper`, which
refuses DoRA, trained biases and whole layers (docs.vllm.ai, Features, LoRA Adapters).
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

from workbench.adapters.adapter_folder import TEMPLATE, WEIGHTS, AdapterFolder, read_adapter
from workbench.adapters.lora_settings import CONFIG
from workbench.adapters.published_base import published_base
from workbench.adapters.weights_header import TensorInfo, read_header
from workbench.errors import CheckpointError, UsageError
from workbench.machine import staging
from workbench.text import safe_line

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values that vLLM's --max-lora-rank takes."""
MODULES = frozenset(
    {
        *{"q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj"},
        *{"gate_proj", "up_proj", "down_proj", "gate_up_proj"},
    }
)
"""Names of modules that vLLM adapts in Llama, Qwen, Gemma, Mistral and Phi."""
COPIED = (
    *(CONFIG, WEIGHTS, "tokenizer.json", "tokenizer_config.json", TEMPLATE),
    *("generation_config.json", "README.md", "recipe.yaml"),
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmFolder:
    """A folder that vLLM can serve, and the command that does."""

    folder: str
    base: str
    rank: int
    modules: tuple[str, ...]
    command: str


def write_vllm_folder(adapter: Path, out: Path, name: str) -> VllmFolder:
    """Copy the adapter's files to `out`, whole or not at all, and return how vLLM serves them.

    Raises CheckpointError for an adapter that is not whole or that vLLM does not take, and
    UsageError for a name that cannot be one or where `out` exists, WorkbenchError where it cannot
    be written.
    """
    if not _NAME.match(name):
        raise UsageError(
            f"{safe_line(name, 80)} cannot name a model",
            hint="give it another by --name: letters, digits, dots, dashes and underscores",
        )
    out = out.absolute()
    staging.refuse_existing(out)
    found = read_adapter(adapter)
    modules = _checked_modules(found)
    stored = json.loads((adapter / CONFIG).read_bytes()).get("revision")
    base = published_base(found.settings.base, stored)
    _check_base(found, Path(base.name))
    with staging.new_folder(out) as staged:
        for file in COPIED:
            if (adapter / file).is_file():
                shutil.copyfile(adapter / file, staged / file)
    rank = min(one for one in RANKS if one >= found.rank)
    words = ["vllm", "serve", base.name]
    words += [] if base.revision is None else ["--revision", base.revision]
    words += ["--enable-lora", "--max-lora-rank", str(rank)]
    words += ["--lora-modules", f"{name}={out}"]
    if (out / TEMPLATE).is_file():  # else vLLM asks with the base's, which may ask for reasoning
        words += ["--chat-template", str(out / TEMPLATE)]
    return VllmFolder(
        folder=str(out), base=base.name, rank=found.rank, modules=modules, command=shlex.join(words)
    )


def _checked_modules(found: AdapterFolder) -> tuple[str, ...]:
    """Return the names of adapted modules; raise CheckpointError for what vLLM does not take."""
    settings = found.settings
    if settings.dora or settings.lora_bias or settings.bias != "none":
        raise _refused("DoRA" if settings.dora else "trained biases")
    if settings.alpha_pattern or len({rank for _, _, rank in found.modules.values()}) > 1:
        raise _refused("modules with a rank or an alpha of their own")
    if found.rank > RANKS[-1]:
        raise _refused(f"a rank above {RANKS[-1]}")
    names = {module.rpartition(".")[2] for module in found.modules}
    if other := sorted(names - MODULES):
        raise _refused(f"an adapter on {safe_line(other[0], 80)}")
    return tuple(sorted(names))


def _check_base(found: AdapterFolder, base: Path) -> None:
    """Raise CheckpointError where the base is a folder here, and has other layers.

    Weights whose names or numbers are packed (NF4) are not compared.
    """
    stored: dict[str, TensorInfo] = {}
    for file in sorted(base.glob("*.safetensors")) if base.is_absolute() else ():
        try:
            stored |= read_header(file)
        except CheckpointError:  # packed numbers; the base is checked where it is loaded
            return
    known = {name: stored.get(f"{name}.weight") for name in found.modules}
    if not any(known.values()):
        return
    for name, (inputs, outputs, _) in found.modules.items():
        there = known[name]
        if there is None or there.shape != (outputs, inputs):
            has = "no such layer" if there is None else list(there.shape)
            raise CheckpointError(
                f"the adapter's weights for {safe_line(name, 120)} are for {[outputs, inputs]}, "
                f"and {safe_line(base, 160)} has {has}",
                hint="it was trained on another base",
            )


def _refused(what: str) -> CheckpointError:
    return CheckpointError(
        f"vLLM does not take {what}",
        hint="serve the merged model instead: workbench merge TRIAL -o DIR, then vllm serve DIR",
    )
