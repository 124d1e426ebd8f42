"""Weights that some families have beside, or in place of, those of a Llama of their sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workbench.footprint.model.config_values import read_size


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtraWeights:
    """Numbers to add to those of a uniform gated decoder; they may be negative."""

    linear: int = 0
    """Parameters of linear layers, which are quantised."""
    other: int = 0
    """Parameters that stay in 16 bits."""
    tables: int = 0
    """Those of `other` that are tables of embeddings, which only the lookup of tokens reads."""
    sides: int = 0
    """Inputs plus outputs of linear layers: an adapter has its rank times as many parameters."""

    def __add__(self, more: ExtraWeights) -> ExtraWeights:
        """Return the sum of both."""
        return ExtraWeights(
            linear=self.linear + more.linear,
            other=self.other + more.other,
            tables=self.tables + more.tables,
            sides=self.sides + more.sides,
        )


def extra_weights(kind: str, config: Mapping[str, Any], layers: int) -> ExtraWeights:
    """Return what a model of that model_type has beyond a uniform gated decoder.

    `config` is the text model's config.json; a wrong size in it raises ModelError.
    """
    if kind.startswith("gemma4"):
        return _gemma4(config, layers)
    if kind.startswith("qwen3_5"):
        return _qwen3_5(config, layers)
    return ExtraWeights()


def _gemma4(config: Mapping[str, Any], layers: int) -> ExtraWeights:
    """Return those of Gemma 4: a table of embeddings for each layer, and norms of unlike heads."""
    head_dim = read_size(config, "head_dim", default=256)
    each = (layer_of_gemma4(config, layers, number) for number in range(layers))
    norms = sum(one.head_dim * (1 if one.reuses else 2) - 2 * head_dim for one in each)
    width = read_size(config, "hidden_size")
    return ExtraWeights(other=norms) + _tables_by_layer(config, layers, width)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gemma4Layer:
    """The parts that only layers of Gemma 4 have."""

    head_dim: int
    kv_heads: int
    ffn: int
    own: int
    """Products for keys and values: 0 where those of another layer are reused, 1 where keys are
    values, else 2."""
    table: int
    """Values of each token's embedding for the layer; 0 without such tables."""

    @property
    def reuses(self) -> bool:
        """True if the layer takes the keys and values of another."""
        return self.own == 0


def layer_of_gemma4(config: Mapping[str, Any], layers: int, number: int) -> Gemma4Layer:
    """Return what layer `number` has of its own, counted from 0.

    Layers of global attention have heads of their own width; the last ones may reuse the keys and
    values of others, with feed-forward blocks of twice the width (transformers, Gemma4TextModel).
    """
    heads = read_size(config, "num_attention_heads")
    wide = read_size(config, "head_dim", default=256)
    kv_heads = read_size(config, "num_key_value_heads", default=heads)
    shared = config.get("num_kv_shared_layers")
    reusing = shared if isinstance(shared, int) and 0 < shared < layers else 0
    reuses = number >= layers - reusing
    # The last layer is one of full attention, whatever the configuration says.
    full = number == layers - 1 or kinds_of(config, layers, 6)[number] == "full_attention"
    if full:
        wide, kv_heads = _global_heads(config, number, (wide, kv_heads))
    twice = reuses and bool(config.get("use_double_wide_mlp"))
    return Gemma4Layer(
        head_dim=wide,
        kv_heads=kv_heads,
        ffn=read_size(config, "intermediate_size") * (2 if twice else 1),
        own=0 if reuses else 1 if full and _keys_are_values(config) else 2,
        table=_table_width(config),
    )


def _keys_are_values(config: Mapping[str, Any]) -> bool:
    return bool(config.get("attention_k_eq_v"))


def _global_heads(
    config: Mapping[str, Any], number: int, others: tuple[int, int]
) -> tuple[int, int]:
    """Return width and number of the key heads in a layer of global attention.

    transformers 5.24 writes those that differ from the `others` to `per_layer_config`, by the
    layer's number as text.
    """
    wide, kv_heads = others
    given = config.get("per_layer_config")
    if not isinstance(given, Mapping):
        if _keys_are_values(config):
            kv_heads = read_size(config, "num_global_key_value_heads", default=kv_heads)
        return read_size(config, "global_head_dim", default=512), kv_heads
    own = {str(key).lstrip("0"): value for key, value in given.items()}.get(f"{number or ''}")
    if not isinstance(own, Mapping):
        return wide, kv_heads
    return (
        read_size(own, "head_dim", default=wide),
        read_size(own, "num_key_value_heads", default=kv_heads),
    )


def _table_width(config: Mapping[str, Any]) -> int:
    """Return the values of a token's embedding for one layer.

    Gemma 4's models for more than text ("unified") have none.
    """
    unified = str(config.get("model_type")).startswith("gemma4_unified")
    if unified or config.get("hidden_size_per_layer_input", 256) == 0:
        return 0
    return read_size(config, "hidden_size_per_layer_input", default=256)


def _tables_by_layer(config: Mapping[str, Any], layers: int, width: int) -> ExtraWeights:
    """Return the weights of Gemma 4's embeddings of each token for each layer.

    They are a table of vocab × layers × 256, and the product for all layers that is added to it.
    """
    each = _table_width(config)
    if not each:
        return ExtraWeights()
    vocab = read_size(config, "vocab_size_per_layer_input", default=262_144)
    return ExtraWeights(
        linear=layers * width * each,
        other=layers * (vocab * each + width) + each,
        tables=layers * vocab * each,
        sides=width + layers * each,
    )


def _qwen3_5(config: Mapping[str, Any], layers: int) -> ExtraWeights:
    """Return those of Qwen 3.5's gated delta layers: convolution, steps, decays and a norm."""
    head_dim = read_size(config, "head_dim", default=256)
    value_heads = read_size(config, "linear_num_value_heads", default=32)
    value_dim = read_size(config, "linear_value_head_dim", default=128)
    keys = read_size(config, "linear_num_key_heads", default=16) * read_size(
        config, "linear_key_head_dim", default=128
    )
    channels = 2 * keys + value_heads * value_dim
    convolution = channels * read_size(config, "linear_conv_kernel_dim", default=4)
    # Steps and decays of each head, and a norm of the values in place of those of queries and keys.
    small = 2 * value_heads + value_dim - 2 * head_dim
    count = kinds_of(config, layers, 4).count("linear_attention")
    return ExtraWeights(other=count * (convolution + small))


def kinds_of(config: Mapping[str, Any], layers: int, interval: int) -> list[str]:
    """Return the kind of attention of each layer; without a list, every `interval`-th is full."""
    kinds = config.get("layer_types")
    if isinstance(kinds, list) and len(kinds) >= layers:
        return [str(kind) for kind in kinds[:layers]]
    stated = config.get("full_attention_interval")
    every = stated if isinstance(stated, int) and stated > 0 else interval
    return [
        "linear_attention" if number % every else "full_attention"
        for number in range(1, layers + 1)
    ]
