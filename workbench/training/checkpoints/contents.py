"""The contents of a checkpoint in memory, and the files that they become."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from workbench.errors import CheckpointError
from workbench.training.checkpoints.checkpoint import WEIGHTS
from workbench.training.memory.host_copy import copy_bytes, copy_to_host

RANDOM, STATE = "rng_state.pth", "trainer_state.json"
"""The names under which transformers looks for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointContents:
    """Everything that a resumed trial needs, as it is at the end of one step."""

    weights: dict[str, Tensor]
    """The adapter's tensors under PEFT's names."""
    saved: dict[str, Any]
    """The other files' contents, by name; without pickled code, as torch.load(weights_only=True)
    wants them."""
    state: Any
    """transformers' TrainerState."""

    def copy_bytes(self) -> int:
        """Return the bytes of host memory that `copied` takes."""
        return copy_bytes([self.weights, self.saved])

    def copied(self) -> CheckpointContents:
        """Return the same contents in memory of their own, which later steps leave alone.

        An adapter of 42 million parameters takes 60 ms on a CPU.
        """
        weights, saved = copy_to_host([self.weights, self.saved])
        return replace(self, weights=weights, saved=saved, state=copy.deepcopy(self.state))

    def fill(self, staged: Path) -> None:
        """Write the files of a checkpoint; raise CheckpointError for weights that are not finite.

        training_args.bin is none of them: it would be a pickle.
        """
        write_weights(self.weights, staged / WEIGHTS)
        for name, content in self.saved.items():
            torch.save(content, staged / name)
        self.state.save_to_json(str(staged / STATE))


def write_weights(weights: dict[str, Tensor], file: Path) -> None:
    """Write an adapter's tensors as safetensors; raise CheckpointError where one is not finite."""
    for name, tensor in weights.items():
        # A sum is finite only if every number is, and takes a quarter of the time.
        if not bool(tensor.sum().isfinite()) and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"adapter weights are not finite: {name}",
                hint="lower train.learning_rate and start again",
            )
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    save_file(plain, file, metadata={"format": "pt"})


def random_states() -> dict[str, Any]:
    """Return the states of all random numbers, as transformers' Trainer restores them."""
    states = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "cpu": torch.random.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.random.get_rng_state()
    return states
