"""The merge of an adapter into its base: one plain transformers folder, never in 4 bits.

A merge into 4-bit weights would round the adapter away. The base's original weights are used; where
a base exists only quantised, its weights are dequantised first.
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
"""The text whose logits are compared before and after the merge."""
SHARD = "4GB"
"""The largest size of one safetensors file of the merged model."""


def merge_adapter(adapter_folder: Path, out: Path, base_path: str | None = None) -> dict[str, Any]:
    """Write base and adapter as one model to `out`, whole or not at all, and return a report.

    Runs on the CPU and takes the base's 16-bit size in memory and on disk. The report holds `base`,
    `dtype`, `dequantized`, `bytes`, `max_logits_difference` (base with adapter against merged, on
    PROBE, in the merged dtype) and `max_logit`, to compare it with. Raises NotThere and ModelError
    for adapter and base, UsageError where `out` exists, WorkbenchError where it cannot be written.
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
        # The folder is made before the model is loaded, so that a refusal comes at once.
        with staging.whole_folder(out, replace=False) as staged:
            report = _merge(adapter_folder, staged, base_path)
            _apply_umask(staged)
            return report
    except OSError as refused:
        raise WorkbenchError(
            f"{safe_line(out)} cannot be written: {safe_line(refused.strerror or refused)}",
            hint="free space on that disk, or name a folder of yours",
        ) from refused


def free_place(out: Path) -> Path:
    """Return the absolute path of `out`; raise UsageError where files there would be lost."""
    whole = Path(os.path.abspath(out))
    empty = whole.is_dir() and not whole.is_symlink() and not any(whole.iterdir())
    if os.path.lexists(whole) and (not empty or whole == Path.cwd()):
        raise UsageError(
            f"{safe_line(whole)} exists already", hint="name a folder that does not exist yet"
        )
    return whole


def _apply_umask(folder: Path) -> None:
    """Give the files the modes of the umask; safetensors makes them readable by the owner alone."""
    umask = os.umask(0o077)
    os.umask(umask)
    for file in folder.iterdir():
        file.chmod(0o666 & ~umask)


def _merge(adapter_folder: Path, staged: Path, base_path: str | None) -> dict[str, Any]:
    libraries.import_libraries(threads=None)
    import torch
    from peft import PeftConfig, PeftModel
    from transformers import AutoTokenizer

    with _as_model_error(adapter_folder):
        config = PeftConfig.from_pretrained(adapter_folder)
        tokenizer = AutoTokenizer.from_pretrained(adapter_folder, trust_remote_code=False)
    base = base_path or _path_of(str(config.base_model_name_or_path))
    model, dequantized = _load(base, None if base_path else config.revision)
    ids = torch.tensor([tokenizer(PROBE)["input_ids"]])
    with _as_model_error(adapter_folder):
        adapted = PeftModel.from_pretrained(model, adapter_folder).eval()
    apart = _logits(adapted, ids)
    merged = adapted.merge_and_unload(safe_merge=True)
    together = _logits(merged, ids)
    merged.config.__dict__.pop("quantization_config", None)
    merged.save_pretrained(staged, max_shard_size=SHARD)
    tokenizer.save_pretrained(staged)
    return {
        "base": base_path or str(config.base_model_name_or_path),
        "dtype": str(merged.dtype).removeprefix("torch."),
        "dequantized": dequantized,
        "bytes": sum(file.stat().st_size for file in staged.iterdir()),
        "max_logits_difference": float((apart - together).abs().max()),
        "max_logit": float(apart.abs().max()),
    }


@contextmanager
def _as_model_error(adapter_folder: Path) -> Iterator[None]:
    """Raise ModelError for any error inside the block: readers of foreign files raise anything."""
    try:
        yield
    except Exception as broken:
        raise ModelError(
            f"the adapter in {safe_line(adapter_folder)} cannot be used: "
            f"{type(broken).__name__}: {safe_line(broken, 160)}",
            hint="give an adapter as PEFT or the workbench wrote it, for this base",
        ) from broken


def _path_of(name: str) -> str:
    """Return the folder or hub id of the base that an adapter names."""
    folder = local_path(name)
    return name if folder is None else str(folder)


def _load(base: str, revision: str | None) -> tuple[PreTrainedModel, bool]:
    """Return the base in its published 16 or 32 bits, and True when it had to be dequantised."""
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        trusted = may_run_its_code(base, revision)
        config = AutoConfig.from_pretrained(base, revision=revision, trust_remote_code=trusted)
        # Whatever the configuration names: it could be code from the hub.
        config._attn_implementation = "eager"
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
    """Merge as the command line asks, print the report as JSON and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--base")
    parser.add_argument("--json", action="store_true", help="accepted; JSON is always printed")
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
