"""The merge of an adapter into its base: one plain transformers folder, never in 4 bits.

A merge into 4-bit weights would round the adapter away. The base's original weights are used; where
a base exists only quantised, its weights are dequantised first. Each sum of a weight and its
adapter is made in 32 bits and rounded once, so that no merge in the same dtype can be nearer.
"""

from __future__ import annotations

import os
import signal
import sys

if __name__ == "__main__":  # ctrl-c while the imports below run would print a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import DataError, ModelError, NotThere, UsageError, WorkbenchError
from workbench.machine import staging
from workbench.machine.packages import package_problems
from workbench.recipe.names import local_path
from workbench.text import safe_line
from workbench.training import libraries
from workbench.training.model.portable import (
    add_older_names,
    as_ids,
    end_ids_of,
    save_tokenizer,
)

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from torch import nn
    from transformers import PreTrainedModel

PROBE = "The quick brown fox jumps over the lazy dog. 17 + 25 = 42"
"""The text whose logits are compared before and after the merge."""
DTYPES = ("bfloat16", "float16", "float32")
"""The dtypes that a merged model can be asked for."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
SHARD = "4GB"
"""The largest size of one safetensors file of the merged model."""


def merge_adapter(
    adapter_folder: Path, out: Path, base_path: str | None = None, dtype: str | None = None
) -> dict[str, Any]:
    """Write base and adapter as one model to `out`, whole or not at all, and return a report.

    Runs on the CPU and takes the base's size in memory and on disk. `dtype` is one of DTYPES; by
    default every weight keeps the dtype of the base's file. The report holds `base`, `dtype`,
    `dequantized`, `bytes`, `eos_token_id` (the tokens that end an answer), `max_logits_difference`
    (base with adapter against merged, on PROBE) and `max_logit`, to compare it with. Raises
    NotThere and ModelError for adapter and base, UsageError where `out` exists, WorkbenchError
    where it cannot be written.
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
            report = _merge(adapter_folder, staged, base_path, dtype)
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


def _merge(
    adapter_folder: Path, staged: Path, base_path: str | None, dtype: str | None
) -> dict[str, Any]:
    libraries.import_libraries(threads=None)
    import torch
    from peft import PeftConfig, PeftModel

    with _as_model_error(adapter_folder):
        config = PeftConfig.from_pretrained(adapter_folder)
    base = _path_of(base_path or str(config.base_model_name_or_path))
    revision = None if base_path else config.revision
    tokenizer, source = _tokenizer_of(adapter_folder, base, revision)
    model, dequantized = _load(base, revision)
    ids = torch.tensor([tokenizer(PROBE)["input_ids"]])
    with _as_model_error(adapter_folder):
        adapted = PeftModel.from_pretrained(model, adapter_folder).eval()
    apart = _logits(adapted, ids)
    with _as_model_error(adapter_folder):
        merged = _merged(adapted, None if dtype is None else getattr(torch, dtype))
    together = _logits(merged, ids)
    ends = _end_ids(merged, tokenizer, adapter_folder)
    merged.config.__dict__.pop("quantization_config", None)
    merged.generation_config.eos_token_id = ends
    merged.save_pretrained(staged, max_shard_size=SHARD)
    add_older_names(staged)
    save_tokenizer(tokenizer, staged, *source)
    return {
        "base": base_path or str(config.base_model_name_or_path),
        "dtype": str(merged.dtype).removeprefix("torch."),
        "dequantized": dequantized,
        "bytes": sum(file.stat().st_size for file in staged.iterdir()),
        "eos_token_id": ends,
        "max_logits_difference": float((apart - together).abs().max()),
        "max_logit": float(apart.abs().max()),
    }


def _tokenizer_of(
    adapter_folder: Path, base: str, revision: str | None
) -> tuple[Any, tuple[str, str | None]]:
    """Return the adapter's tokenizer and where it is from; the base's where the adapter has none.

    An adapter that PEFT saved holds weights and configuration alone.
    """
    from workbench.training.model.tokenizer import load_tokenizer

    if not any((adapter_folder / name).is_file() for name in TOKENIZER_FILES):
        return load_tokenizer(base, revision), (base, revision)
    try:
        return load_tokenizer(str(adapter_folder), None), (str(adapter_folder), None)
    except ModelError as broken:
        raise ModelError(
            f"the adapter in {safe_line(adapter_folder)} cannot be used: {broken.what}",
            hint="restore its tokenizer's files, or remove them: then the base's tokenizer is used",
        ) from broken


def _merged(adapted: PeftModel, dtype: torch.dtype | None) -> PreTrainedModel:
    """Merge layer by layer: in 32 bits, then rounded once to `dtype` or to the layer's own dtype.

    One layer at a time is held in 32 bits. Raises ModelError for a weight beyond `dtype`'s range.
    """
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in [one for one in adapted.modules() if isinstance(one, BaseTunerLayer)]:
        base = layer.get_base_layer()
        kept = [(param, param.dtype) for param in base.parameters()]
        for param, _ in kept:
            param.data = param.data.float()
        layer.merge(safe_merge=True)  # refuses an adapter that is not finite
        for param, own in kept:
            param.data = param.data.to(dtype or own)
    merged: PreTrainedModel = adapted.unload()
    for name, param in merged.named_parameters():
        if dtype is not None:
            param.data = param.data.to(dtype)
        if dtype is torch.float16 and not bool(torch.isfinite(param).all()):
            raise ModelError(
                f"{name} has numbers beyond float16's range", hint="take --dtype bfloat16"
            )
    return merged


def _end_ids(model: PreTrainedModel, tokenizer: Any, adapter_folder: Path) -> list[int]:
    """Return the ids that end an answer of the merged model.

    These are the base's own, the tokenizer's, and those that ended the trained turns: the adapter's
    folder names them; for an adapter that PEFT saved, the chat template's are taken.
    """
    from workbench.training.dataset.chat.turn_ends import find_turn_format

    ids = {*as_ids(getattr(model.generation_config, "eos_token_id", None))}
    ids |= {*as_ids(tokenizer.eos_token_id)}
    trained = end_ids_of(adapter_folder)
    if not trained:
        with suppress(DataError):  # a template that leaves out plain text ends no answer
            trained = sorted(find_turn_format(tokenizer).end_ids)
    return sorted(ids.union(trained))


@contextmanager
def _as_model_error(adapter_folder: Path) -> Iterator[None]:
    """Raise ModelError for any error inside the block: readers of foreign files raise anything."""
    try:
        yield
    except WorkbenchError:
        raise
    except ImportError as broken:
        problems = [one for one in package_problems() if one.breaks]
        raise ModelError(
            "; ".join(one.what for one in problems) or f"a library cannot be imported: {broken}",
            hint="; ".join(one.hint for one in problems) or "run `workbench doctor`",
        ) from broken
    except Exception as broken:
        raise ModelError(
            f"the adapter in {safe_line(adapter_folder)} cannot be used: "
            f"{type(broken).__name__}: {safe_line(broken, 160)}",
            hint="give an adapter as PEFT or the workbench wrote it, for this base",
        ) from broken


def _path_of(name: str) -> str:
    """Return the folder or hub id of the base that an adapter or a person names."""
    folder = local_path(name)
    return name if folder is None else str(folder)


def _load(base: str, revision: str | None) -> tuple[PreTrainedModel, bool]:
    """Return the base in its published 16 or 32 bits, and True when it had to be dequantised."""
    from workbench.training.model.base import keep_layout
    from workbench.training.model.weights import check_weights, load_whole, read_config

    check_weights(base, revision, attention="eager")
    config = read_config(base, revision)
    # Whatever the configuration names: it could be code from the hub.
    config._attn_implementation = "eager"
    quantized = getattr(config, "quantization_config", None) is not None
    model = load_whole(base, revision, config=config, dtype="auto", device_map={"": "cpu"})
    if not quantized:
        return model, False
    # Before any forward: on a CPU with AVX-512-BF16 the first one would repack the weights.
    keep_layout(model)
    return model.dequantize(), True


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
    parser.add_argument("--dtype", choices=DTYPES)
    parser.add_argument("--json", action="store_true", help="accepted; JSON is always printed")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        report = merge_adapter(options.adapter, options.out, options.base, options.dtype)
    except WorkbenchError as refused:
        print(f"error: {refused.what}\n  → {refused.hint}", file=sys.stderr)
        return refused.exit_code
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return 130
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
