"""The sizes of a model's layers and its parameter counts, from its config.json alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

from workbench.footprint.model.config_values import (
    MOST_LAYERS,
    SHARED_MLP,
    attends_everywhere,
    has_partial_rotary,
    is_nested,
    is_text_alone,
    is_tied,
    read_size,
    text_settings,
    window_of,
)
from workbench.footprint.model.extra_weights import ExtraWeights, extra_weights
from workbench.footprint.model.layer_kinds import layer_kinds
from workbench.footprint.model.linear_attention import DeltaLayers
from workbench.footprint.model.positions import model_positions, unscaled_positions
from workbench.footprint.model.vision_tower import vision_weights
from workbench.footprint.model.weight_counts import WeightCounts, counts_in

# Which kinds of model differ in what; the strings are values of model_type.
_FOUR_NORMS = ("gemma2", "gemma3", "gemma3_text", "gemma4_text", "gemma4_unified_text", "glm4")
_ONE_NORM = ("cohere", "cohere2")
_NORMED_HEADS = (
    "exaone4", "gemma3", "gemma3_text", "gemma4_text", "gemma4_unified_text", "qwen3",
    "qwen3_5_text",
)  # fmt: skip
_NORMED_PROJECTIONS = ("olmo2", "olmo3")
_NORMS_AFTER = ("exaone4", "olmo2", "olmo3")  # of attention and feed-forward blocks, not before
_BIASED_QKV = ("qwen2",)
_FUSED_PROJECTIONS = ("phi3",)
_FUSED_GATE_UP = ("glm", "glm4")
_TABLES_BY_KIND = ("gemma3", "gemma4", "olmo3")  # of rotary embeddings, one for each kind of layer
_OWN_LINEAR_CLASS = ("falcon",)  # bitsandbytes leaves subclasses of nn.Linear in 16 bits
OWN_DROPOUTS = ("attention_dropout", "resid_pdrop", "residual_dropout")
"""Settings of a model's own dropout, for which the fused step has no masks."""
MEASURED_FAMILIES = frozenset(
    {
        "gemma2", "gemma3_text", "gemma4_text", "gemma4_unified_text", "llama", "ministral3",
        "mistral", "phi3", "qwen2", "qwen3", "qwen3_5_text",
    }
)  # fmt: skip
"""model_type of architectures whose predicted peaks in the fused step were compared with peaks that
cards measured."""
FUSED_FAMILIES = MEASURED_FAMILIES | {
    "cwm", "exaone4", "glm4", "granite", "olmo2", "olmo3", "seed_oss", "smollm3",
}  # fmt: skip
"""model_type of architectures whose every layer the fused step knows. Others train by PEFT's own
modules."""
UNDECODED_FAMILIES = frozenset({"qwen3_5_text"})
"""Fused families whose answers and held-out losses transformers computes, not decode/."""
PAIRED_ROTARY = frozenset({"glm4"})
"""Fused families whose rotary embeddings turn neighbouring values (2d, 2d + 1), not (d, d + D/2)
as a Llama's: they keep the code of transformers for it."""
_READ_TOGETHER = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}
"""Projections that read the tensor that another one reads, and the first of those that do."""


class ReadingGroup(NamedTuple):
    """Projections that read one tensor, which decode/ computes as one product."""

    layers: int
    """Number of layers that have such a group."""
    names: list[str]
    inputs: int
    outputs: int
    """Outputs of all of them together."""


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """The shape of a decoder with gated feed-forward blocks, as Llama, Qwen, Gemma and Phi have.

    `width`, `ffn`, `head_dim` and `vocab` are numbers of values. What a plan asks dozens of times
    is computed once (cached properties need a `__dict__`, so there are no slots); nobody changes
    it.
    """

    kind: str
    """model_type of the text model."""
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    tied: bool
    """True if input and output embeddings are one matrix."""
    softcap: bool = False
    """True if attention scores are capped (Gemma 2)."""
    nested: bool = False
    """True if it is the text model inside one for more than text that the step does not know."""
    extra: ExtraWeights = field(default_factory=ExtraWeights)
    """Weights beyond those of `projections` and the usual embeddings, in all layers together; a
    vision tower is among them."""
    delta: DeltaLayers | None = None
    """Its gated delta layers, which take the place of attention in some layers (Qwen 3.5)."""
    gated: bool = False
    """True if q_proj gives gates of attention's output, too (full attention in Qwen 3.5)."""
    table_width: int = 0
    """Values of a token's embedding for one layer, beside the input embedding (Gemma 4)."""
    stated: Mapping[str, tuple[int, int]] | None = None
    """`projections`, where they are not those of a Llama."""
    kinds: tuple[ModelShape, ...] = ()
    """Its kinds of layers, each as a model of such layers alone; () where all are alike."""
    hybrid: bool = False
    """True if some layers are state-space layers (Mamba in Granite 4), which have no formula."""
    dropout: bool = False
    """True if the model has dropout of its own, so that the fused step cannot train it."""
    partial_rotary: bool = False
    """True if rotary embeddings turn only a part of each head (Phi 4 mini)."""
    window: int | None = None
    """The most keys that a query sees, where some layer has such a limit."""
    positions: int | None = None
    """The most tokens of a row that the model reads; None where its config.json does not say."""
    unscaled: int | None = None
    """The most tokens of a row in which queries are not scaled by their position, which makes one
    more tensor; None where none ever are (all but Ministral 3)."""
    counts: WeightCounts | None = None
    """The weights as counted on the model's class, where it was prepared; None from config.json
    alone. They take the place of the formulas, except for what the fused step trains."""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> ModelShape:
        """Return the shape that a config.json describes.

        Raises ModelError where a size is missing or impossible, and for a mixture of experts.
        """
        flat = text_settings(config)
        kind, heads = flat["model_type"], read_size(flat, "num_attention_heads", "n_head")
        width = read_size(flat, "hidden_size", "n_embd")
        layers = read_size(flat, "num_hidden_layers", "n_layer", most=MOST_LAYERS)
        extra = extra_weights(kind, flat, layers)
        if not is_text_alone(config):
            extra += vision_weights(config, width)
        found = cls(
            kind=kind,
            layers=layers,
            extra=extra,
            delta=DeltaLayers.of(flat, layers),
            width=width,
            heads=heads,
            kv_heads=read_size(flat, "num_key_value_heads", default=heads),
            head_dim=read_size(flat, "head_dim", default=max(width // heads, 1)),
            ffn=read_size(flat, "intermediate_size", "n_inner", default=4 * width),
            vocab=read_size(flat, "vocab_size"),
            tied=is_tied(config, flat),
            softcap=bool(flat.get("attn_logit_softcapping")),
            nested=is_nested(config),
            counts=counts_in(config),
            hybrid=kind in SHARED_MLP and not attends_everywhere(flat),
            dropout=any(flat.get(name) for name in OWN_DROPOUTS),
            partial_rotary=has_partial_rotary(flat),
            window=window_of(flat),
            positions=model_positions(config),
            unscaled=unscaled_positions(flat),
        )
        kinds = tuple(replace(found, **changes) for changes in layer_kinds(found, flat))
        return replace(found, kinds=kinds)

    @property
    def fused(self) -> bool:
        """True if the fused step trains it; else transformers' and PEFT's own modules do."""
        return self.kind in FUSED_FAMILIES and not self.nested and not self.dropout

    @property
    def decoded(self) -> bool:
        """True if training/decode/ knows it; else transformers answers and computes losses."""
        return self.fused and self.kind not in UNDECODED_FAMILIES

    @property
    def rotary_tables(self) -> int:
        """Tables of cosines and sines of positions: Gemma 3 has one for each kind of attention."""
        return 2 if self.kind.startswith(_TABLES_BY_KIND) else 1

    @property
    def turns_in_place(self) -> bool:
        """True if rotary embeddings may turn queries and keys where they are."""
        return not self.partial_rotary and self.kind not in PAIRED_ROTARY

    @property
    def norms_after(self) -> bool:
        """True if norms follow attention and feed-forward blocks, which read the residual stream
        itself."""
        return self.kind in _NORMS_AFTER

    @property
    def q_width(self) -> int:
        """Values of all query heads of a token."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Values of all key heads of a token; the value heads have as many."""
        return self.kv_heads * self.head_dim

    @cached_property
    def projections(self) -> Mapping[str, tuple[int, int]]:
        """(in, out) of the linear layers of one block, by name; with kinds, of all of them."""
        if self.kinds:
            return {name: size for one in self.kinds for name, size in one.projections.items()}
        if self.stated is not None:
            return dict(self.stated)
        d, f, q, kv = self.width, self.ffn, self.q_width, self.kv_width
        if self.kind in _FUSED_PROJECTIONS:
            return {
                "qkv_proj": (d, q + 2 * kv),
                "o_proj": (q, d),
                "gate_up_proj": (d, 2 * f),
                "down_proj": (f, d),
            }
        gates = {"gate_proj": (d, f), "up_proj": (d, f)}
        if self.kind in _FUSED_GATE_UP:
            gates = {"gate_up_proj": (d, 2 * f)}
        if self.kind in SHARED_MLP:
            gates = {"input_linear": (d, 2 * f)}
        return {
            "q_proj": (d, q),
            "k_proj": (d, kv),
            "v_proj": (d, kv),
            "o_proj": (q, d),
            **gates,
            "output_linear" if self.kind in SHARED_MLP else "down_proj": (f, d),
        }

    @property
    def linear_params(self) -> int:
        """Parameters of the linear layers, which are quantised."""
        if self.counts and not self.fused:
            return self.counts.linear
        return 0 if self.kind in _OWN_LINEAR_CLASS else self._linear_params

    @property
    def _linear_params(self) -> int:
        return self.block_params + self.extra.linear

    @cached_property
    def cached_values(self) -> int:
        """Values of the keys of one position in all layers; as many are those of the values.

        Layers that reuse the keys of another have none.
        """
        if self.delta is not None or not self.kinds:
            return self.layers * self.kv_width
        own = [kind for kind in self.kinds if "k_proj" in kind.projections]
        return sum(kind.layers * kind.kv_width for kind in own)

    @cached_property
    def widest_ffn(self) -> int:
        """Values between the projections of the widest feed-forward block."""
        return max((kind.ffn for kind in self.kinds), default=self.ffn)

    @cached_property
    def reading_groups(self) -> list[ReadingGroup]:
        """The groups of each kind of layers, and Gemma 4's product for the tables of all."""
        found = []
        for kind in self.kinds or (self,):
            sizes, together = kind.projections, defaultdict[str, list[str]](list)
            for name in sizes:
                together[_READ_TOGETHER.get(name, name)].append(name)
            for names in together.values():
                outputs = sum(sizes[name][1] for name in names)
                found.append(ReadingGroup(kind.layers, names, sizes[names[0]][0], outputs))
        if width := self.all_tables_width:
            found.append(ReadingGroup(1, ["per_layer_model_projection"], self.width, width))
        return found

    @cached_property
    def all_tables_width(self) -> int:
        """Values of a token's embeddings for all layers together (Gemma 4)."""
        return sum(kind.layers * kind.table_width for kind in self.kinds)

    @cached_property
    def block_params(self) -> int:
        """Parameters of the linear layers of all blocks."""
        if self.kinds:
            return sum(one.block_params for one in self.kinds)
        return self.layers * sum(i * o for i, o in self.projections.values())

    @cached_property
    def other_params(self) -> int:
        """Parameters that stay in 16 bits: embeddings, head, norms, biases, a vision tower.

        The norm before the head is not among them.
        """
        if self.counts and not self.fused:
            return self.counts.other - self.width
        embeddings = self.vocab * self.width * (1 if self.tied else 2)
        bias = self.q_width + 2 * self.kv_width if self.kind in _BIASED_QKV else 0
        layers = self.layers * (self.norms * self.width + self.head_norms + bias)
        unquantised = self._linear_params if self.kind in _OWN_LINEAR_CLASS else 0
        return embeddings + layers + self.extra.other + unquantised

    @property
    def table_params(self) -> int:
        """Parameters of tables that only the lookup of tokens reads: Gemma 4's for each layer, and
        the input embedding, unless it is the head's matrix too."""
        return self.extra.tables + (0 if self.tied else self.vocab * self.width)

    @property
    def norms(self) -> int:
        """Number of norms over the width in one block."""
        if self.kind in _ONE_NORM:
            return 1
        return 4 if self.kind in _FOUR_NORMS else 2

    @property
    def head_norms(self) -> int:
        """Parameters of the norms on queries and keys in one block."""
        if self.kind in _NORMED_PROJECTIONS:
            return self.q_width + self.kv_width
        return 2 * self.head_dim if self.kind in _NORMED_HEADS else 0

    @property
    def norms_values(self) -> bool:
        """True if values are normed, too, which makes them tensors of their own (Gemma 4)."""
        return self.kind.startswith("gemma4")

    @property
    def head_norm_rows(self) -> int:
        """Rows that the norms on queries and keys of one token normalise in one block."""
        if self.norms_values:
            return self.heads + (2 * self.kv_heads if "k_proj" in self.projections else 0)
        if self.kind in _NORMED_PROJECTIONS:
            return 2
        return self.heads + self.kv_heads if self.kind in _NORMED_HEADS else 0

    @property
    def params(self) -> int:
        """All parameters; the last term is the norm before the head."""
        return self.linear_params + self.other_params + self.width
