"""Counts the weights of a model on its class, whose tensors may be on `meta`."""

from __future__ import annotations

from collections import defaultdict

from torch import nn

from workbench.footprint.model.weight_counts import ProjectionCount, WeightCounts
from workbench.training.model.linear_layers import adaptable, decoder_layers, head_of


def count_weights(model: nn.Module) -> WeightCounts:
    """Return the numbers of a model's weights; takes milliseconds, whatever the model's size.

    Linear are the weights that bitsandbytes quantises: those of linear layers, except the head.
    """
    head = head_of(model)
    numbers: dict[int, tuple[int, int]] = {}
    """Linear and other parameters of each tensor, by identity: a tied tensor counts once."""
    for module in model.modules():
        quantised = _is_quantised(module) and module is not head
        for name, parameter in module.named_parameters(recurse=False):
            size = parameter.numel()
            linear = quantised and name == "weight"
            # A tied tensor is an embedding at one of its places, so that it stays in 16 bits.
            if id(parameter) not in numbers or not linear:
                numbers[id(parameter)] = (size, 0) if linear else (0, size)
    every = [numbers[id(parameter)] for parameter in model.parameters()]
    return WeightCounts(
        linear=sum(linear for linear, _ in every),
        other=sum(other for _, other in every),
        largest=max((linear for linear, _ in every), default=0),
        layers=tuple(
            (
                sum(numbers[id(one)][0] for one in layer.parameters()),
                sum(numbers[id(one)][1] for one in layer.parameters()),
            )
            for layer in decoder_layers(model)
        ),
        projections=_projections(model),
    )


def _projections(model: nn.Module) -> dict[str, ProjectionCount]:
    found: dict[str, list[tuple[nn.Module, int | None]]] = defaultdict(list)
    for name, module, layer in adaptable(model):
        found[name.rpartition(".")[2]].append((module, layer))
    return {
        name: ProjectionCount(
            modules=len(ones),
            params=sum(_weight(module).numel() for module, _ in ones),
            sides=sum(sum(_weight(module).shape) for module, _ in ones),
            layers=tuple(sorted({layer for _, layer in ones if layer is not None})),
        )
        for name, ones in found.items()
    }


def _weight(module: nn.Module) -> nn.Parameter:
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    return weight


def _is_quantised(module: nn.Module) -> bool:
    """Return True for the layers that transformers hands to bitsandbytes: no subclasses."""
    return type(module) is nn.Linear or type(module).__name__ == "Conv1D"
