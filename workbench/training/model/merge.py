"""An adapter merged into its base: one plain transformers folder, in 16 bits, never in 4.

Merging into 4-bit weights would round the adapter away; the original weights are used, or, where
a base exists only quantised, those weights dequantised first.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import ModelError, NotThere, UsageError, WorkbenchError
from workbench.machine import staging
from workbench.recipe.names import local_path
from workbench.text import safe_line
from workbench.training import libraries
from workbench.user_config import may_run_its_code

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

PROBE = "The quick brown fox jumps over the lazy dog. 17 + 25 = 42"
SHARD = "4GB"


def merge_adapter(adapter_folder: Path, out: Path, base_path: str | None = None) -> dict[str, Any]:
    """Write base + adapter to `out`, whole or not at all; what was done, and how near it came.

    Runs on the CPU; takes the base's 16-bit size in memory and on disk. The report: `base`,
    `dtype`, `dequantized`, `bytes`, `max_logits_difference` (base with adapter against merged, on
    PROBE, in the merged dtype) and `max_logit`, to compare it with. NotThere, ModelError;
    UsageError where something stands at `out`, WorkbenchError where nothing can be written there.
    """
    out = free_place(out)
    if not (adapter_folder / "adapter_config.json").is_file():
        raise NotThere(f"{safe_line(adapter_folder)} holds no adapter", hint="give its folder")
    if not (adapter_folder / "adapter_model.safetensors").is_file():
        raise ModelError(
            f"{safe_line(adapter_folder)} holds no safetensors weights; pickled ones can run code",
            hint="give an adapter with adapter_model.safetensors",
        )
    try:
        # Before anything is loaded: it may be refused.
        with staging.whole_folder(out, replace=False) as staged:
            report = _merge(adapter_folder, staged, base_path)
            _as_others_are(staged)
            return report
    except OSError as refused:
        raise WorkbenchError(
            f"{safe_line(out)} cannot be written: {safe_line(refused.strerror or refused)}",
            hint="free space on that disk, or name a folder of yours",
        ) from refused


def free_place(out: Path) -> Path:
    """`out` in full; UsageError where something stands there that would be lost."""
    whole = Path(os.path.abspath(out))
    empty = whole.is_dir() and not whole.is_symlink() and not any(whole.iterdir())
    if os.path.lexists(whole) and (not empty or whole == Path.cwd()):
        raise UsageError(
            f"{safe_line(whole)} is there already", hint="name a folder that is not there yet"
        )
    return whole


def _as_others_are(folder: Path) -> None:
    """safetensors makes its files for their owner alone; the person's umask decides."""
    umask = os.umask(0o077)
    os.umask(umask)
    for file in folder.iterdir():
        file.chmod(0o666 & ~umask)


def _merge(adapter_folder: Path, staged: Path, base_path: str | None) -> dict[str, Any]:
    libraries.warm(threads=None)
    import torch
    from peft import PeftConfig, PeftModel
    from transformers import AutoTokenizer

    with _in_words(adapter_folder):
        named = PeftConfig.from_pretrained(adapter_folder)
        tokenizer = AutoTokenizer.from_pretrained(adapter_folder, trust_remote_code=False)
    base = base_path or _path_of(str(named.base_model_name_or_path))
    model, dequantized = _load(base, None if base_path else named.revision)
    ids = torch.tensor([tokenizer(PROBE)["input_ids"]])
    with _in_words(adapter_folder):
        adapted = PeftModel.from_pretrained(model, adapter_folder).eval()
    apart = _logits(adapted, ids)
    merged = adapted.merge_and_unload(safe_merge=True)
    together = _logits(merged, ids)
    merged.config.__dict__.pop("quantization_config", None)
    merged.save_pretrained(staged, max_shard_size=SHARD)
    tokenizer.save_pretrained(staged)
    return {
        "base": base_path or str(named.base_model_name_or_path),
        "dtype": str(merged.dtype).removeprefix("torch."),
        "dequantized": dequantized,
        "bytes": sum(file.stat().st_size for file in staged.iterdir()),
        "max_logits_difference": float((apart - together).abs().max()),
        "max_logit": float(apart.abs().max()),
    }


@contextmanager
def _in_words(adapter_folder: Path) -> Iterator[None]:
    """What is wrong with a stranger's files, as ModelError: their readers raise anything."""
    try:
        yield
    except Exception as broken:
        raise ModelError(
            f"the adapter in {safe_line(adapter_folder)} cannot be used: "
            f"{type(broken).__name__}: {safe_line(broken, 160)}",
            hint="give an adapter as PEFT or the workbench wrote it, for this base",
        ) from broken


def _path_of(name: str) -> str:
    """Folder or hub id of the base that an adapter names."""
    folder = local_path(name)
    return name if folder is None else str(folder)


def _load(base: str, revision: str | None) -> tuple[PreTrainedModel, bool]:
    """The base in the 16 (or 32) bits it was published in; True when they had to be made."""
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        trusted = may_run_its_code(base, revision)
        config = AutoConfig.from_pretrained(base, revision=revision, trust_remote_code=trusted)
        config._attn_implementation = "eager"  # whatever it names: that could be code from the hub
        quantized = getattr(config, "quantization_config", None) is not None
        model = AutoModelForCausalLM.from_pretrained(
            base,
            revision=revision,
            config=config,
            dtype="auto",
            device_map={"": "cpu"},
            trust_remote_code=trusted,
            use_safetensors=True,
        )
    except (OSError, ValueError, ImportError, KeyError) as refused:
        raise ModelError(
            f"the base model cannot be loaded: {safe_line(refused)}",
            hint="give the base's folder, or download it again",
        ) from refused
    return (model.dequantize() if quantized else model), quantized


def _logits(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    import torch

    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=ids).logits
    return logits.float()


def main() -> int:
    """Merge as the command line asks, and print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--base")
    parser.add_argument("--json", action="store_true", help="what it prints in any case")
    options = parser.parse_args()
    try:
        report = merge_adapter(options.adapter, options.out, options.base)
    except WorkbenchError as refused:
        print(f"error: {refused.what}\n  → {refused.hint}", file=sys.stderr)
        return refused.exit_code
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
