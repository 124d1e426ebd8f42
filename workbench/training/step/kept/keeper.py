"""The step of the last trial on a base, kept for a next trial that its captured graphs serve."""

from __future__ import annotations

import gc
import logging
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import nn

from workbench.training.step.kept.layers import adapted_layers, describe_layer
from workbench.training.step.options import StepOptions
from workbench.training.step.step import Step

log = logging.getLogger(__name__)

FREE_OPTIONS = (
    "optimizer",
    "learning_rate",
    "weight_decay",
    "max_grad_norm",
    "seed",
    "log_every",
)
"""Options that no captured pass depends on: those of the optimizer, which lies outside, and of what
is read by the host. A seed is an input of every pass."""


def fixed_options(options: StepOptions) -> StepOptions:
    """Return the options with those set to their defaults that no captured pass depends on."""
    usual = StepOptions()
    free: dict[str, Any] = {name: getattr(usual, name) for name in FREE_OPTIONS}
    return replace(options, **free)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepKey:
    """Everything that captured graphs hold besides the base and the contents of their buffers.

    Trials of equal keys on one base share a step: the micro-step's settings, and of each adapted
    layer its name, the shapes of A and B, the scaling and the dropout.
    """

    options: StepOptions
    adapters: tuple[tuple[object, ...], ...]

    @classmethod
    def of(cls, model: nn.Module, options: StepOptions) -> Self | None:
        """Return the key of the step of a PEFT model; None where an adapter is on a table.

        Layers that look rows of A and B up are PEFT's own, and no other trial's.
        """
        layers = adapted_layers(model)
        if any(layer.lora_embedding_A for layer in layers.values()):
            return None
        return cls(
            options=fixed_options(options),
            adapters=tuple((name, *describe_layer(layer)) for name, layer in layers.items()),
        )


class StepKeeper:
    """The holder of at most one step between trials, with its captured graphs and buffers.

    The base's holder releases it with the base. Each attempt calls `begin`, trains with `make`, and
    gives the step back with `put`.
    """

    def __init__(self) -> None:
        self._step: Step | None = None
        self._key: StepKey | None = None
        self._keeps = False

    @property
    def holds(self) -> bool:
        """True while a step is kept."""
        return self._step is not None

    def begin(self, options: StepOptions | None) -> None:
        """Begin an attempt, and release what it has no use for, before it takes memory.

        `options` are those of its step; None: it trains nothing, or its plan has no room for graphs
        that stay.
        """
        self._keeps = options is not None
        known = self._key.options if self._key is not None else None
        if options is None or fixed_options(options) != known:
            self.release()

    def make(self, model: Any, options: StepOptions) -> Step:
        """Return the kept step with the model's adapter in it, or a new one.

        The kept step's layers then stand in the model in the place of its own, with their values.
        """
        key, kept = StepKey.of(model, options), self._step
        if kept is not None and key == self._key and kept.serves(model):
            self._step = None
            kept.resume(model, options)
            return kept
        del kept
        self.release()
        self._key = key
        return Step(model, options)

    def put(self, step: Step) -> None:
        """Keep the step of a trial that has ended where that was asked for and it can be kept."""
        if self._keeps and self._key is not None and step.can_be_kept:
            step.suspend()
            self._step = step
        else:
            step.restore()
            self._key = None

    def release(self) -> None:
        """Give the memory of graphs and buffers back."""
        held, self._key = self._step is not None, None
        self._step = None
        if held:
            # A step lies in cycles of references; its weights would stay until the next collection.
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
