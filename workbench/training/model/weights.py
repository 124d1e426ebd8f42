"""The reading of a base model's weights: whole, or refused with the names of what is wrong.

transformers fills a weight that it does not find with random numbers, in every process with others,
and reports it in one log line. Everything that loads a base therefore uses `load_whole`.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from workbench.adapters.lora_settings import CONFIG as ADAPTER_CONFIG
from workbench.errors import ModelError, WorkbenchError
from workbench.footprint.model.loadable import loader_name, refuse_unloadable
from workbench.text import safe_line
from workbench.user_config import may_run_its_code

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_OUTSIDE = re.compile(r"(^|\.)[^.]*(vision|visual|audio|image|multi_modal)|(^|\.)(mm_|mtp)")
"""Weights of towers and heads that text never passes; a text model has no place for them."""
_QUANTISED = re.compile(r"\.weight\.(absmax|nested_absmax|quant_map|nested_quant_map|quant_state)")
"""bitsandbytes' additions to a weight that is stored in 4 bits."""
_SHOWN = 3
_POINTER = b"version https://git-lfs.github.com/spec/"
_FEW_BITS = ("F4", "F6_", "F8_", "I8", "U8")
"""Beginnings of safetensors' names for number formats that need a scale to be weights."""


def load_whole(path: str, revision: str | None, **settings: Any) -> PreTrainedModel:
    """Load a causal language model, or one for text and images, with every weight from its files.

    `settings` go to transformers' `from_pretrained`. Only safetensors are read, and code from the
    model's repository runs only where the user's configuration trusts it. Raises ModelError for a
    model that transformers cannot load, and for weights that are missing, left over or of another
    shape than config.json says.
    """
    loader = model_loader(read_config(path, revision).model_type)
    with _as_model_error(path), _without_report():
        model, report = loader.from_pretrained(
            path,
            revision=revision,
            trust_remote_code=may_run_its_code(path, revision),
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # so that they are listed, and refused below by name
            output_loading_info=True,
            **settings,
        )
    refuse_incomplete(path, report)
    loaded: PreTrainedModel = model
    return loaded


def model_loader(kind: str) -> Any:
    """Return transformers' class that loads a model_type for training on text."""
    import transformers

    return getattr(transformers, loader_name(kind))


def check_weights(
    path: str, revision: str | None, *, attention: str = "sdpa"
) -> tuple[PreTrainedModel, bool]:
    """Check the weights' names and shapes; return the model without data, and if it is quantised.

    The model's tensors are on the device `meta`. Only headers are read: 30 ms for a model of 2 GB.
    Raises ModelError as `load_whole` does, and before that for files that are cut short or missing.
    """
    if (folder := Path(path)).is_dir():
        check_files(folder)
    config = read_config(path, revision)
    if getattr(config, "quantization_config", None) is None and folder.is_dir():
        _refuse_few_bits(folder)
    if getattr(config, "quantization_config", None) is not None:
        return _check_quantised(config, path, revision, attention), True
    model = load_whole(path, revision, device_map={"": "meta"}, attn_implementation=attention)
    return model, False


def read_config(path: str, revision: str | None) -> PretrainedConfig:
    """Return the model's configuration.

    Raises ModelError where transformers cannot read it, or has no causal language model for it.
    """
    from transformers import AutoConfig

    trusted = may_run_its_code(path, revision)
    with _as_model_error(path):
        config: PretrainedConfig = AutoConfig.from_pretrained(
            path, revision=revision, trust_remote_code=trusted
        )
    if not trusted:
        text = getattr(config, "text_config", None)
        inside = {"model_type": getattr(text, "model_type", None)}
        refuse_unloadable({"model_type": config.model_type, "text_config": inside}, path)
    return config


def check_files(folder: Path) -> None:
    """Raise ModelError where a safetensors file of the folder is missing, cut short or damaged.

    Also refuses a folder that holds an adapter: transformers would load the adapter's base instead.
    """
    refuse_adapter_beside((path.name for path in folder.iterdir()), safe_line(folder, 200))
    for name in sorted(named_files(folder)):
        try:
            with safe_open(folder / name, framework="numpy") as file:
                file.keys()
        except FileNotFoundError as gone:
            raise ModelError(
                f"{safe_line(folder, 200)} has no {safe_line(name, 80)}, which {INDEX} names",
                hint="finish the download, or copy the whole folder again",
            ) from gone
        except (OSError, SafetensorError) as damaged:
            refuse_pointer(folder / name)
            raise ModelError(
                f"{safe_line(name, 80)} in {safe_line(folder, 200)} is cut short or damaged: "
                f"{safe_line(damaged, 120)}",
                hint="download the file again",
            ) from damaged


def refuse_pointer(file: Path) -> None:
    """Raise ModelError for a file that holds a pointer of Git LFS and not the data."""
    try:
        with file.open("rb") as opened:
            start = opened.read(len(_POINTER))
    except OSError:
        return
    if start == _POINTER:
        raise ModelError(
            f"{safe_line(file.name, 80)} in {safe_line(file.parent, 200)} is a pointer of Git LFS, "
            "and not the data",
            hint="fetch the data: git lfs pull, in the folder that was cloned",
        )


def refuse_adapter_beside(names: Iterable[str], shown: str) -> None:
    """Raise ModelError where an adapter's configuration is among the files of a model."""
    if ADAPTER_CONFIG in names:
        raise ModelError(
            f"{shown} holds an adapter beside the model: {ADAPTER_CONFIG}; transformers would load "
            "the adapter with the base that it names, and not this model",
            hint=f"move {ADAPTER_CONFIG} and the adapter's weights out, or merge them first: "
            "workbench merge",
        )


def _refuse_few_bits(folder: Path) -> None:
    """Raise ModelError for matrices of 8 or fewer bits in a folder that names no quantisation.

    Their scales are not known, so that the bare numbers would be taken for the weights.
    """
    for name in sorted(named_files(folder)):
        with safe_open(folder / name, framework="numpy") as file:
            for key in file.keys():  # noqa: SIM118
                part = file.get_slice(key)
                matrix = len(part.get_shape()) > 1 and not key.endswith(".bias")  # GPT-Neo's masks
                if matrix and part.get_dtype().startswith(_FEW_BITS):
                    raise ModelError(
                        f"{safe_line(key, 120)} in {safe_line(folder, 200)} is stored as "
                        f"{safe_line(part.get_dtype(), 20)}, and config.json names no quantisation",
                        hint="pick the model's original weights, in 16 or 32 bits",
                    )


def named_files(folder: Path) -> set[str]:
    """Return the names of the files that transformers reads the folder's weights from."""
    index = folder / INDEX
    if (folder / WEIGHTS).is_file() or not index.is_file():
        return {WEIGHTS} if (folder / WEIGHTS).is_file() else set()
    try:
        return set(map(str, json.loads(index.read_bytes())["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as broken:
        raise ModelError(
            f"{INDEX} of {safe_line(folder, 200)} cannot be used: {type(broken).__name__}",
            hint="download the file again",
        ) from broken


def build_empty(
    config: PretrainedConfig, path: str, revision: str | None, attention: str
) -> PreTrainedModel:
    """Build the model in 16 bits without data (on `meta`); raise ModelError where it cannot be."""
    import torch

    config.__dict__.pop("quantization_config", None)
    with _as_model_error(path), torch.device("meta"):
        model: PreTrainedModel = model_loader(config.model_type).from_config(
            config,
            attn_implementation=attention,
            trust_remote_code=may_run_its_code(path, revision),
        )
    return model


def _check_quantised(
    config: PretrainedConfig, path: str, revision: str | None, attention: str
) -> PreTrainedModel:
    """Compare the names alone: transformers cannot load stored 4-bit weights without their data."""
    model = build_empty(config, path, revision, attention)
    folder = Path(path)
    if not folder.is_dir():  # in the hub's cache, which a finished download has checked
        return model
    stored: set[str] = set()
    for name in named_files(folder):
        with safe_open(folder / name, framework="numpy") as file:
            stored.update(key for key in file.keys() if not _QUANTISED.search(key))  # noqa: SIM118
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    missing = set(model.state_dict()) - stored - tied
    refuse_incomplete(path, {"missing_keys": missing})
    return model


def refuse_incomplete(path: str, report: Mapping[str, Any]) -> None:
    """Raise ModelError for a loading report of transformers that names any weight.

    Tied weights are in no report. Left-over weights of towers that text never passes are ignored.
    """
    shown = safe_line(path, 200)
    if missing := sorted(report.get("missing_keys") or ()):
        raise ModelError(
            f"{shown} lacks {_count(missing)} that its config.json asks for: {_names(missing)}",
            hint="finish the download, or copy the whole folder again; a missing weight would be "
            "filled with random numbers",
        )
    if mismatched := sorted(report.get("mismatched_keys") or ()):
        name, stored, expected = mismatched[0]
        raise ModelError(
            f"{shown} has {_count(mismatched)} of another shape than its config.json says: "
            f"{safe_line(name, 120)} is {list(stored)}, not {list(expected)}",
            hint="take config.json and weights from the same release",
        )
    left = sorted(name for name in report.get("unexpected_keys") or () if not _OUTSIDE.search(name))
    if left:
        raise ModelError(
            f"{shown} has {_count(left)} that its config.json has no place for: {_names(left)}",
            hint="take config.json and weights from the same release",
        )


@contextmanager
def _without_report() -> Iterator[None]:
    """Keep transformers from printing a progress bar and its report, which `load_whole` judges."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _as_model_error(path: str) -> Iterator[None]:
    """Turn the errors of transformers' loading into ModelError with a hint that fits.

    Out of memory and CUDA errors pass: they say nothing about the model.
    """
    try:
        yield
    except (WorkbenchError, RuntimeError, MemoryError):
        raise
    except (OSError, ValueError, ImportError, SafetensorError) as refused:
        text = str(refused)
        if "does not support an attention implementation" in text:
            raise ModelError(
                f"{safe_line(path, 200)} cannot be loaded with that attention: transformers has "
                f"none but eager attention for its architecture ({text.partition(' ')[0]})",
                hint="set model.attention: eager",
            ) from refused
        raise ModelError(
            f"the model {safe_line(path, 200)} cannot be loaded: {safe_line(refused, 300)}",
            hint="check model.name and model.revision; only safetensors weights of architectures "
            "that transformers itself knows are loaded",
        ) from refused
    except Exception as refused:  # a value in config.json that the model's code stumbles over
        raise ModelError(
            f"the model {safe_line(path, 200)} cannot be built as its config.json says: "
            f"{type(refused).__name__}: {safe_line(refused, 240)}",
            hint="compare config.json with the model's original; a newer transformers may know "
            "what it says",
        ) from refused


def _count(names: list[Any]) -> str:
    return "1 weight" if len(names) == 1 else f"{len(names)} weights"


def _names(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(safe_line(name, 120) for name in names[:_SHOWN]) + more
