"""The frozen base model of a card: loaded once, lent to one trial after another, kept clean."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PretrainedConfig

from workbench.errors import ModelError
from workbench.text import safe_line
from workbench.user_config import may_run_its_code

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseSpec:
    """What makes two bases the same, byte for byte."""

    path: str
    """A folder, or a hub id whose files are in the hub's cache."""
    revision: str | None
    quantization: str
    double_quantization: bool
    precision: str
    attention: str
    device: str
    """cpu or cuda."""


class Resident:
    """Holds at most one base between trials."""

    def __init__(self) -> None:
        self._held: _Held | None = None

    @property
    def spec(self) -> BaseSpec | None:
        return self._held.spec if self._held else None

    @contextmanager
    def lend(self, spec: BaseSpec) -> Iterator[nn.Module]:
        """The base of `spec`, resident or loaded now; restored afterwards, whatever happened.

        Raises ModelError when it cannot be loaded. A base that would not come clean is let go.
        """
        held = self._take(spec)
        try:
            yield held.model
        finally:
            held.snapshot.restore()
            gc.collect()
            if held.snapshot.traces():
                self.release()

    def _take(self, spec: BaseSpec) -> _Held:
        files = _files(spec.path)
        if self._held is None or self._held.spec != spec or self._held.files != files:
            self.release()
            model = load_base(spec)
            self._held = _Held(spec, files, model, Snapshot(model))
        return self._held

    def release(self) -> None:
        """Let the base go and give its memory back."""
        self._held = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@dataclass(slots=True)
class _Held:
    spec: BaseSpec
    files: tuple[tuple[str, int, int], ...]
    """Name, size and time of a local folder's weights: a folder may change between trials."""
    model: nn.Module
    snapshot: Snapshot


def load_base(spec: BaseSpec) -> nn.Module:
    """The model, frozen, in eval mode, quantised as its weights stream in.

    Safetensors only, and no code from the model's repository unless the user's own file trusts it.
    Embeddings, head and norms stay in the compute dtype: an upcast to fp32 costs 2 GiB on 8B and
    buys nothing.
    """
    dtype = DTYPES[spec.precision]
    quantization = None
    if spec.quantization == "nf4":
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_use_double_quant=spec.double_quantization,
        )
    try:
        model: nn.Module = AutoModelForCausalLM.from_pretrained(
            spec.path,
            revision=spec.revision,
            quantization_config=quantization,
            dtype=dtype,
            device_map={"": 0 if spec.device == "cuda" else "cpu"},
            attn_implementation=spec.attention,
            trust_remote_code=may_run_its_code(spec.path, spec.revision),
            use_safetensors=True,
        )
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, ImportError, KeyError) as refused:
        raise ModelError(
            f"the model cannot be loaded: {safe_line(refused)}",
            hint="check model.name and model.revision; only safetensors weights of architectures "
            "that transformers itself knows are loaded",
        ) from refused
    model.requires_grad_(False)
    _keep_layout(model)
    return model.eval()


def _keep_layout(model: nn.Module) -> None:
    """Keep 4-bit weights on a CPU as they are.

    bitsandbytes 0.50 repacks them, rounding their scales, in the first evaluation on a CPU with
    AVX512-BF16, and the packed product has no gradient: training after it would be silently wrong.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.__dict__["support_avx512bf16_for_cpu"] = False


def _files(path: str) -> tuple[tuple[str, int, int], ...]:
    found = [(file, file.stat()) for file in sorted(Path(path).glob("*.safetensors"))]
    return tuple((file.name, stat.st_size, stat.st_mtime_ns) for file, stat in found)


class Snapshot:
    """Everything a trial can change on a base without touching a frozen weight.

    TRL, PEFT, transformers and accelerate leave traces: layers wrapped, `forward` replaced,
    hooks, checkpointing flags, token ids in the config, dtypes of trainable biases. So each
    module's own dictionary is kept (a reference to each value, one level of dictionaries deep)
    and put back, which also unwraps what an exception left wrapped.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = [(module, _shallow(module.__dict__)) for module in model.modules()]
        self._configs = [
            (config, _config_values(config))
            for config in (model.config, getattr(model, "generation_config", None))
            if config is not None
        ]
        self._params = [
            (param, param.data, param._version, param.requires_grad) for param in model.parameters()
        ]
        self._biases = [
            (param, param.data.clone())
            for name, param in model.named_parameters()
            if name.endswith("bias")
        ]

    def restore(self) -> None:
        for module, kept in self._modules:
            _put_back(module.__dict__, kept)
        for config, values in self._configs:
            _restore_config(config, values)
        for param, data, _, grad in self._params:
            if param.data.data_ptr() != data.data_ptr() or param.dtype != data.dtype:
                param.data = data
            param.requires_grad_(grad)
            param.grad = None
        with torch.no_grad():
            for param, value in self._biases:  # `lora.bias: all` trains the base's own
                param.copy_(value)

    def traces(self) -> list[str]:
        """What differs from the snapshot, in words; empty when clean. Costs no weight's read:

        a weight written in place shows in its version counter.
        """
        biases = {id(param) for param, _ in self._biases}
        found = [
            f"{type(module).__name__}.{name}"
            for module, kept in self._modules
            for name in _differences(module.__dict__, kept)
        ]
        for param, data, version, grad in self._params:
            moved = param.data.data_ptr() != data.data_ptr() or param.dtype != data.dtype
            written = id(param) not in biases and param._version != version
            if moved or written or param.requires_grad != grad or param.grad is not None:
                found.append(f"parameter of shape {tuple(param.shape)}")
        for config, values in self._configs:
            if _config_values(config) != values:
                found.append(type(config).__name__)
        return found


def _shallow(attributes: dict[str, Any]) -> dict[str, Any]:
    return {
        name: (value, copy.copy(value) if isinstance(value, dict) else None)
        for name, value in attributes.items()
    }


def _put_back(attributes: dict[str, Any], kept: dict[str, Any]) -> None:
    for name in [name for name in attributes if name not in kept]:
        del attributes[name]
    for name, (value, inside) in kept.items():
        attributes[name] = value
        if inside is not None and not _same_items(value, inside):
            value.clear()
            value.update(inside)


def _differences(attributes: dict[str, Any], kept: dict[str, Any]) -> list[str]:
    names = [name for name in attributes if name not in kept]
    for name, (value, inside) in kept.items():
        same = attributes.get(name) is value
        if not same or (inside is not None and not _same_items(value, inside)):
            names.append(name)
    return names


def _same_items(left: dict[Any, Any], right: dict[Any, Any]) -> bool:
    return list(left) == list(right) and all(left[key] is right[key] for key in right)


def _config_values(config: Any) -> dict[str, Any]:
    """A config's values; nested configs as values of their own, so that they stay who they are."""
    return {
        name: _config_values(value) if isinstance(value, PretrainedConfig) else copy.deepcopy(value)
        for name, value in config.__dict__.items()
    }


def _restore_config(config: Any, values: dict[str, Any]) -> None:
    for name in [name for name in config.__dict__ if name not in values]:
        del config.__dict__[name]
    for name, value in values.items():
        here = config.__dict__.get(name)
        if isinstance(here, PretrainedConfig):
            _restore_config(here, value)
        elif here != value or type(here) is not type(value):
            config.__dict__[name] = copy.deepcopy(value)
