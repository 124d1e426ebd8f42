"""A model whose layers are in memory one at a time, to compare models larger than the memory.

Weights outside the layers stay views of their file. A layer's weights are read before its forward
and let go after it. Everything is computed in fp32, so that two models differ by their weights
alone. The adapter is PEFT's own, so that a comparison with it is no comparison with ourselves.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from workbench.export.changes import EMBED, HEAD, NotByWeight

Read = Callable[[str], torch.Tensor]
_CHUNK_ROWS = 8_192
"""Rows of the head that are in fp32 at a time: 128 MiB for a width of 4,096."""


class StreamedModel:
    """A causal language model that reads its layers from `read` in each forward."""

    def __init__(self, config: Any, read: Read, names: set[str], adapter: Path | None) -> None:
        """Build the model without data; raises NotByWeight where its weights have other names."""
        from accelerate import init_empty_weights

        from workbench.training.model.weights import model_loader

        with init_empty_weights(include_buffers=False):
            model = model_loader(config.model_type).from_config(
                config, attn_implementation="eager", dtype=torch.float32
            )
        self._read, self._names = read, names
        self._layers = _find_layers(model)
        if adapter is not None:
            model = _with_adapter(model, adapter)
        self.model = model.eval()
        self._full_name = {id(module): name for name, module in model.named_modules()}
        inside = {id(module) for layer in self._layers for module in layer.modules()}
        for module in list(model.modules()):
            if id(module) not in inside:
                self._fill_resident(module)
        for layer in self._layers:
            layer.register_forward_pre_hook(lambda module, _: self._fill(module))
            layer.register_forward_hook(lambda module, _, __: _empty(module))

    def logits(self, ids_BT: torch.Tensor) -> torch.Tensor:
        """Return the logits, fp32, of rows of token ids."""
        with torch.inference_mode():
            found: torch.Tensor = self.model(input_ids=ids_BT, use_cache=False).logits
        return found.float()

    def _fill_resident(self, module: nn.Module) -> None:
        for name, param in _own_empty(module):
            stored = self._source(module, name)
            large = isinstance(module, nn.Embedding | nn.Linear)
            if stored is None:
                continue
            _set(module, name, stored if large else stored.float())
            if isinstance(module, nn.Embedding):
                module.register_forward_hook(lambda _, __, found: found.float())
            elif isinstance(module, nn.Linear) and name == "weight":
                vars(module)["forward"] = _chunked_linear(module)
            del param

    def _fill(self, layer: nn.Module) -> None:
        for module in layer.modules():
            for name, _ in _own_empty(module):
                stored = self._source(module, name)
                if stored is not None:
                    _set(module, name, stored.float())

    def _source(self, module: nn.Module, name: str) -> torch.Tensor | None:
        """Return the weight of the base's files for a parameter; None for one that is not used."""
        whole = f"{self._full_name[id(module)]}.{name}".removeprefix("base_model.model.")
        whole = whole.replace(".base_layer.", ".")
        if ".original_module." in whole:
            return None  # another weight was trained in its place
        if whole not in self._names and whole.endswith(HEAD):
            whole = next((one for one in self._names if one.endswith(EMBED)), whole)
        if whole not in self._names:
            raise NotByWeight
        return self._read(whole)


def _with_adapter(model: Any, adapter: Path) -> Any:
    from peft import PeftModel
    from peft.utils.save_and_load import load_peft_weights

    with warnings.catch_warnings():
        # PEFT warns of tied embeddings that a merge must untie, which ours does.
        warnings.simplefilter("ignore", UserWarning)
        adapted = PeftModel.from_pretrained(model, adapter, low_cpu_mem_usage=True)
    # PEFT moves a new adapter to the device of its base layer, where this base has no numbers.
    stored = load_peft_weights(str(adapter), device="cpu")
    weights = {_plain(name): value.float() for name, value in stored.items()}
    for path, module in adapted.named_modules():
        for name, _ in _own_empty(module):
            found = weights.get(_plain(f"{path}.{name}"))
            if found is not None:
                module._parameters[name] = nn.Parameter(found, requires_grad=False)
    return adapted


def _plain(name: str) -> str:
    """Return the name as an adapter's file may have it, without the adapter's own name."""
    plain = name.replace(".modules_to_save.", ".").replace(".default", "")
    return plain.replace("lora_magnitude_vector.weight", "lora_magnitude_vector")


def _find_layers(model: nn.Module) -> list[nn.Module]:
    """Return the decoder's layers: the longest list of modules. Raises NotByWeight without one."""
    lists = [list(one) for one in model.modules() if isinstance(one, nn.ModuleList)]
    if not lists:
        raise NotByWeight
    return max(lists, key=len)


def _own_empty(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    own = module.named_parameters(recurse=False)
    return [(name, param) for name, param in own if param.device.type == "meta"]


def _set(module: nn.Module, name: str, value: torch.Tensor) -> None:
    module._parameters[name] = nn.Parameter(value, requires_grad=False)
    module.__dict__.setdefault("_streamed", []).append(name)


def _empty(layer: nn.Module) -> None:
    """Let a layer's weights go; its adapter stays."""
    for module in layer.modules():
        for name in module.__dict__.pop("_streamed", []):
            param = module._parameters[name]
            assert param is not None
            module._parameters[name] = nn.Parameter(param.to("meta"), requires_grad=False)


def _chunked_linear(module: nn.Linear) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(x: torch.Tensor) -> torch.Tensor:
        bias = None if module.bias is None else module.bias.float()
        parts = [x @ part.float().T for part in torch.split(module.weight, _CHUNK_ROWS)]
        out = torch.cat(parts, dim=-1)
        return out if bias is None else out + bias

    return forward
