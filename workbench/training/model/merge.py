"""The merge of an adapter whose changes are not those of single weights, with all of it in memory.

`workbench.export.merge` writes most merges shard by shard. Left to this module is what needs the
loaded model: biases that were trained too, layers that keep their weights transposed, and families
whose modules are named otherwise than the weights in their files. Each sum of a weight and its
adapter is made in 32 bits and rounded once, so that no merge in the same dtype can be nearer.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.adapters.adapter_folder import WEIGHTS
from workbench.errors import DataError, ModelError, UsageError, WorkbenchError
from workbench.machine.files import is_full_disk
from workbench.machine.packages import package_problems
from workbench.recipe.names import is_local, local_path
from workbench.text import safe_line
from workbench.training.model.portable import as_ids, end_ids_of

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from torch import nn
    from transformers import GenerationConfig, PreTrainedModel

PROBE = "The quick brown fox jumps over the lazy dog. 17 + 25 = 42"
"""The text whose logits are compared before and after the merge."""
DTYPES = ("bfloat16", "float16", "float32")
"""The dtypes that a merged model can be asked for."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
SHARD = "4GB"
"""The largest size of one safetensors file of the merged model."""


def free_place(out: Path) -> Path:
    """Return the absolute path of `out`; raise UsageError where files there would be lost."""
    whole = Path(os.path.abspath(out))
    empty = whole.is_dir() and not whole.is_symlink() and not any(whole.iterdir())
    if os.path.lexists(whole) and (not empty or whole == Path.cwd()):
        raise UsageError(
            f"{safe_line(whole)} exists already", hint="name a folder that does not exist yet"
        )
    return whole


def apply_umask(folder: Path) -> None:
    """Give the files the modes of the umask; safetensors makes them readable by the owner alone."""
    umask = os.umask(0o077)
    os.umask(umask)
    for file in folder.iterdir():
        file.chmod(0o666 & ~umask)


@dataclass(frozen=True, slots=True)
class InMemory:
    """A merged model that was written, and the logits of each batch before and after it."""

    model: PreTrainedModel
    dequantised: bool
    untied: bool
    """Embedding and head were one weight of the base, and are two now."""
    before: list[torch.Tensor]
    after: list[torch.Tensor]


def merge_in_memory(
    adapter_folder: Path,
    staged: Path,
    base: str,
    revision: str | None,
    dtype: str | None,
    rows: Sequence[torch.Tensor],
) -> InMemory:
    """Write the merged model's weights and configuration; takes the base's size in memory.

    `rows` are batches of token ids. Raises ModelError for what cannot be merged.
    """
    import torch
    from peft import PeftModel

    from workbench.training.model.saved_adapter import refuse_other_names

    model, dequantised = load_base(base, revision)
    untied = _head_is_tied(model) and _changes_one_of_two(adapter_folder)
    with as_model_error(adapter_folder), warnings.catch_warnings():
        # Merging tied weights "can lead to complications": the head is untied below.
        warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")
        adapted = PeftModel.from_pretrained(model, adapter_folder).eval()
        refuse_other_names(adapted, adapter_folder)
    before = [_logits(adapted, ids) for ids in rows]
    if untied:
        _untie_head(model)
    with as_model_error(adapter_folder):
        merged = merge_layers(adapted, None if dtype is None else getattr(torch, dtype))
    after = [_logits(merged, ids) for ids in rows]
    merged.config.__dict__.pop("quantization_config", None)
    merged.save_pretrained(staged, max_shard_size=SHARD)
    return InMemory(merged, dequantised, untied, before, after)


def _head_is_tied(model: PreTrainedModel) -> bool:
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    return head is not None and head.weight is embedding.weight


def _changes_one_of_two(adapter_folder: Path) -> bool:
    """Return True for a LoRA of head or embedding; raise ModelError where one was trained whole."""
    from safetensors import safe_open

    with safe_open(adapter_folder / WEIGHTS, framework="numpy") as file:
        found = [name for name in file.keys() if "lm_head" in name or "embed_tokens" in name]  # noqa: SIM118
    whole = [name for name in found if "lora_" not in name and ".base_layer." not in name]
    if whole:
        raise ModelError(
            f"the adapter changes {safe_line(whole[0], 120)}, and head and embedding of this base "
            "are one weight",
            hint="merge it where it was trained: load it, clone the head's weight, then merge",
        )
    return bool(found)


def _untie_head(model: PreTrainedModel) -> None:
    """Give the head below its adapter a weight of its own, equal to the embedding.

    Head and embedding each have a change, which one weight would take up both
    (findings/peft-merges-a-tied-change-twice.sh).
    """
    import torch

    head = model.get_output_embeddings()
    head = getattr(head, "base_layer", head)
    head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    model.config.tie_word_embeddings = model.config.get_text_config().tie_word_embeddings = False


def tokenizer_of(
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


def merge_layers(adapted: PeftModel, dtype: torch.dtype | None) -> PreTrainedModel:
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


def find_end_ids(
    generation: GenerationConfig | None, tokenizer: Any, adapter_folder: Path
) -> list[int]:
    """Return the ids that end an answer of the merged model.

    These are the base's own, the tokenizer's, and those that ended the trained turns: the adapter's
    folder names them; for an adapter that PEFT saved, the chat template's are taken.
    """
    from workbench.training.dataset.chat.turn_ends import find_turn_format

    ids = {*as_ids(getattr(generation, "eos_token_id", None))}
    ids |= {*as_ids(tokenizer.eos_token_id)}
    trained = end_ids_of(adapter_folder)
    if not trained:
        with suppress(DataError):  # a template that leaves out plain text ends no answer
            trained = sorted(find_turn_format(tokenizer).end_ids)
    return sorted(ids.union(trained))


@contextmanager
def as_model_error(adapter_folder: Path) -> Iterator[None]:
    """Raise ModelError for any error inside the block: readers of foreign files raise anything.

    What a full disk gives is raised as it is: a merge writes while it reads.
    """
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
        if is_full_disk(broken):
            raise
        raise ModelError(
            f"the adapter in {safe_line(adapter_folder)} cannot be used: "
            f"{type(broken).__name__}: {safe_line(broken, 160)}",
            hint="give an adapter as PEFT or the workbench wrote it, for this base",
        ) from broken


def path_of(name: str) -> str:
    """Return the folder or hub id of the base that an adapter or a person names."""
    folder = local_path(name)
    return name if folder is None else str(folder)


def check_base_is_here(base: str) -> None:
    """Raise ModelError for a base that is named as a folder where none is.

    transformers would take the path for a hub id that is spelled wrong.
    """
    is_path = is_local(base) or base.startswith((".", "~")) or base.count("/") > 1
    if is_path and not os.path.isdir(base):
        raise ModelError(
            f"the base {safe_line(base, 200)} is not here",
            hint="name the folder where it is now, or its name on the hub: --base PATH",
        )


def load_base(base: str, revision: str | None) -> tuple[PreTrainedModel, bool]:
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
    return _dequantised(model), True


def _dequantised(model: PreTrainedModel) -> PreTrainedModel:
    """Return the model with its 4-bit weights in 16 or 32 bits.

    Those of rows that are no whole number of blocks are read by our own call: see
    `dequantise_by_library`.
    """
    from workbench.training.step.lora.frozen_weight import dequantise_by_library

    narrow = {}
    for name, module in model.named_modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None and state.shape[-1] % state.blocksize:
            weight: Any = module.weight
            narrow[name] = dequantise_by_library(weight.data, state, state.dtype)
    plain: PreTrainedModel = model.dequantize()
    for name, values in narrow.items():
        weight = plain.get_submodule(name).weight
        weight.data.copy_(values)
    return plain


def _logits(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    import torch

    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=ids).logits
    return logits.float()
