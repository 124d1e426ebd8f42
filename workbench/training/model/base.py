"""The frozen base model of a card: loaded once, then shared by one trial after another."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PretrainedConfig

from workbench.machine.packages import hide_kernel_packages
from workbench.training.memory.host_copy import release_pinned_memory
from workbench.training.memory.host_tables import place_tables
from workbench.training.model.tokenizer import KeptTokenizer
from workbench.training.model.weights import check_weights, load_whole
from workbench.training.step.kept.keeper import StepKeeper

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseSpec:
    """The settings that decide a base's bytes; equal specs mean that one base can serve both.

    A base that differs in `host_tables` alone serves, too, once its tables are moved.
    """

    path: str
    """A folder, or a hub id whose files are in the hub's cache."""
    revision: str | None
    quantization: str
    double_quantization: bool
    precision: str
    attention: str
    device: str
    """Either "cpu" or "cuda"."""
    host_tables: bool = False
    """True if tables of embeddings stay in the machine's memory."""


class ResidentBase:
    """A holder of at most one base, which stays on the card between trials."""

    def __init__(self) -> None:
        self._held: _Held | None = None
        self.tokenizer = KeptTokenizer()
        """The tokenizer of the last trial, for the next one."""
        self.keeper = StepKeeper()
        """The step of the last trial, with captured graphs, for the next one on this base."""

    @property
    def spec(self) -> BaseSpec | None:
        """The spec of the base that is held; None without one."""
        return self._held.spec if self._held else None

    @property
    def files(self) -> tuple[tuple[str, int, int], ...]:
        """Name, bytes and modification time (ns) of each file of weights of a base in a folder."""
        return self._held.files if self._held else ()

    @contextmanager
    def acquire(self, spec: BaseSpec) -> Iterator[nn.Module]:
        """Provide the base of `spec`, resident or loaded now, and restore it afterwards.

        A base whose state cannot be restored is released, so that no trial inherits it. Raises
        ModelError when the base cannot be loaded.
        """
        held = self._take(spec)
        try:
            yield held.model
        finally:
            held.state.restore()
            gc.collect()
            if held.state.differences():
                self.release()

    def _take(self, spec: BaseSpec) -> _Held:
        files, held = _files(spec.path), self._held
        if held is None or held.files != files or not _same_weights(held.spec, spec):
            self._release_base()
            held = None
            model = load_base(spec)
        elif held.spec == spec:
            return held
        else:
            model = held.model
        self.keeper.release()
        # The state refers to weights where they are now, and is made again where they move.
        if held is not None or spec.host_tables:
            self._held = held = None
            place_tables(model, on_host=spec.host_tables)
        self._held = _Held(spec, files, model, BaseState(model))
        return self._held

    def release(self) -> None:
        """Release base and tokenizer, and return their memory and unused pinned memory."""
        self.tokenizer.release()
        self._release_base()
        release_pinned_memory()

    def _release_base(self) -> None:
        self.keeper.release()
        self._held = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _same_weights(one: BaseSpec, other: BaseSpec) -> bool:
    return replace(one, host_tables=other.host_tables) == other


@dataclass(slots=True)
class _Held:
    spec: BaseSpec
    files: tuple[tuple[str, int, int], ...]
    """Name, bytes and modification time (ns) of a local folder's weights, which may change between
    trials."""
    model: nn.Module
    state: BaseState


def load_base(spec: BaseSpec) -> nn.Module:
    """Load the model, frozen and in eval mode; weights are quantised as they stream in.

    Only safetensors are read, and no code from the model's repository runs unless the user's own
    configuration trusts it. Embeddings, head and norms stay in the compute dtype: PEFT's usual
    upcast to fp32 would cost 2 GiB on 8B without a gain. Raises ModelError when it cannot be
    loaded.
    """
    dtype = DTYPES[spec.precision]
    if spec.device != "cuda":
        hide_kernel_packages()
    # Names and shapes first: bitsandbytes fails on a missing weight before transformers reports it.
    _, is_quantised = check_weights(spec.path, spec.revision, attention=spec.attention)
    settings: dict[str, Any] = {}
    if spec.quantization == "nf4" and not is_quantised:
        settings["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_use_double_quant=spec.double_quantization,
        )
    model: nn.Module = load_whole(
        spec.path,
        spec.revision,
        dtype=dtype,
        device_map={"": 0 if spec.device == "cuda" else "cpu"},
        attn_implementation=spec.attention,
        **settings,
    )
    if is_quantised:
        _compute_in(model, dtype)
    model.requires_grad_(False)
    keep_layout(model)
    model.eval()
    return model


def find_nonfinite(model: nn.Module) -> list[str]:
    """Return the names of frozen weights that hold NaN or infinity; reads every weight once.

    Of a weight in 4 bits the scales are read, which are made of its numbers.
    """
    found = []
    for name, param in model.named_parameters():
        if param.requires_grad:
            continue
        state = getattr(param, "quant_state", None)
        tensors = (
            [param] if state is None else [state.absmax, getattr(state.state2, "absmax", None)]
        )
        floats = [one for one in tensors if one is not None and one.is_floating_point()]
        if state is not None and state.offset is not None:
            floats.append(state.offset)
        if not all(bool(torch.isfinite(one).all()) for one in floats):
            found.append(name.replace(".base_layer.", "."))  # PEFT's name under an adapter
    return found


def _compute_in(model: nn.Module, dtype: torch.dtype) -> None:
    """Make a model of stored 4-bit weights compute in `dtype` instead of its config.json's dtype.

    transformers 5.24 leaves such a model's embeddings and norms in the dtype of their file,
    whatever dtype it is asked for.
    """
    for param in model.parameters():
        if param.is_floating_point() and getattr(param, "quant_state", None) is None:
            param.data = param.data.to(dtype)
    for module in model.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None:
            setattr(module, "compute_dtype", dtype)  # noqa: B010 - nn.Module types it as a tensor
            state.dtype = dtype


def keep_layout(model: nn.Module) -> None:
    """Keep bitsandbytes from repacking 4-bit weights on a CPU with AVX-512-BF16.

    bitsandbytes 0.50 repacks them at the first forward in eval mode and rounds their scales; the
    packed product has no gradient, so that training or merging afterwards would be silently wrong.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.__dict__["support_avx512bf16_for_cpu"] = False


def _files(path: str) -> tuple[tuple[str, int, int], ...]:
    found = [(file, file.stat()) for file in sorted(Path(path).glob("*.safetensors"))]
    return tuple((file.name, stat.st_size, stat.st_mtime_ns) for file, stat in found)


class BaseState:
    """A copy of everything that a trial can change on a base besides its frozen weights.

    TRL, PEFT, transformers and accelerate leave wrapped layers, a replaced `forward`, hooks,
    checkpointing flags, token ids in the config and other dtypes of trainable biases behind. So
    each module's own dictionary is kept (a reference to each value, one level of dictionaries deep)
    and put back, which also unwraps layers that an exception left wrapped.
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
        """Put every module, config and parameter back to the copied state."""
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

    def differences(self) -> list[str]:
        """Return the names of what differs from the copied state; empty when nothing does.

        No weight is read: a weight written in place shows in its version counter.
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
    """Return a copy of a config's values, with nested configs as dictionaries of their own."""
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
