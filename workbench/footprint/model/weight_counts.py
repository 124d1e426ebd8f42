"""The numbers of a model's weights, counted on its class where torch is, used where it is not.

The process that prepares an experiment counts them (training.model.weight_counting) and keeps them
in its copy of config.json, so that whoever plans with that configuration has them too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

KEY = "workbench_weight_counts"
"""The key of a configuration under which the counts are kept; no config.json of a model has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectionCount:
    """The linear layers of one name, for example all `q_proj`."""

    modules: int
    params: int
    """Parameters of their weights together."""
    sides: int
    """Inputs plus outputs of all of them: an adapter has its rank times as many parameters."""
    layers: tuple[int, ...]
    """The decoder layers that have one, counted from 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightCounts:
    """The numbers of parameters of a model as transformers builds it, tied ones counted once."""

    linear: int
    """Parameters of the linear layers that bitsandbytes puts in 4 bits."""
    other: int
    """All others, which stay in 16 bits: embeddings, head, norms, biases, convolutions."""
    largest: int
    """Parameters of the largest of those linear layers."""
    layers: tuple[tuple[int, int], ...]
    """For each decoder layer its linear and its other parameters."""
    projections: Mapping[str, ProjectionCount]
    """Linear layers that can get an adapter, by name: those that text passes, without the head."""

    def to_json(self) -> dict[str, Any]:
        """Return the counts as JSON-ready values."""
        projections = {name: asdict(one) for name, one in self.projections.items()}
        return {
            "linear": self.linear,
            "other": self.other,
            "largest": self.largest,
            "layers": [list(layer) for layer in self.layers],
            "projections": {
                name: {**one, "layers": list(one["layers"])} for name, one in projections.items()
            },
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the counts that `to_json` gave. Raises KeyError and TypeError for others."""
        return cls(
            linear=int(data["linear"]),
            other=int(data["other"]),
            largest=int(data["largest"]),
            layers=tuple((int(linear), int(other)) for linear, other in data["layers"]),
            projections={
                name: ProjectionCount(**{**one, "layers": tuple(one["layers"])})
                for name, one in data["projections"].items()
            },
        )


def with_counts(config: Mapping[str, Any], counts: WeightCounts) -> dict[str, Any]:
    """Return the configuration with the counts of its model."""
    return {**config, KEY: counts.to_json()}


def without_counts(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config.json without counts: those of a stranger's file are not to be believed."""
    return {key: value for key, value in config.items() if key != KEY}


def counts_in(config: Mapping[str, Any]) -> WeightCounts | None:
    """Return the counts that a configuration was given; None for a plain config.json."""
    kept = config.get(KEY)
    return WeightCounts.from_json(kept) if isinstance(kept, Mapping) else None
