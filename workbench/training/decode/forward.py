"""A model's decoder with every layer's forward replaced, for reading prompts and adding tokens.

The modules stay the model's own, so every family of the fused step runs here; what they call is
replaced: linear layers by groups over frozen weights, norms, rotary embeddings and gated
activations by kernels where Triton runs, attention by one that keeps keys and values.
"""

# T tokens, B lanes, R prompts, V vocabulary, H query heads, D width

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import AttentionInterface

from workbench.footprint.model.shape import PAIRED_ROTARY, UNDECODED_FAMILIES
from workbench.training.decode.cache import CacheShape, KeyValueCache, reuses_keys
from workbench.training.decode.kernels.cached_attention import (
    cached_attention,
    store_keys_values,
)
from workbench.training.decode.projections import AdapterNames, CannotFuse, find_groups
from workbench.training.step.attention.choice import AttentionChoice, choose_attention
from workbench.training.step.attention.implementations import IMPLEMENTATIONS
from workbench.training.step.attention.interface import as_attention_function
from workbench.training.step.attention.query_scale import unscaled_queries
from workbench.training.step.kernels import triton_support
from workbench.training.step.kernels.gated_linear import gated_linear
from workbench.training.step.kernels.norm import RmsNorm
from workbench.training.step.kernels.rotary import Rotary
from workbench.training.step.lora.patch import linear_children
from workbench.training.step.model_parts import ModelParts, find_parts
from workbench.training.step.small_kernels import (
    SINGLE_ROTARY,
    TANH_GELU,
    NormConstants,
    find_norms,
)

ATTENTION = "workbench_cached"
"""The name under which transformers knows the attention of this path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """The tokens of one pass through the decoder, as attention and adapters need to know them."""

    cache: KeyValueCache | None
    """None: nothing is kept, as for losses."""
    slots_T: Tensor
    """The slot of each token."""
    positions_T: Tensor
    adapter_T: Tensor | None
    """The index of each token's adapter; None where there is only one."""
    cu: Tensor | None = None
    """Cumulative lengths of the prompts; None where every token is a lane of its own."""
    max_length: int = 0

    @property
    def most_positions(self) -> int:
        """Positions that a token of this pass, or of a replay of its capture, may have."""
        return self.cache.positions if self.cu is None and self.cache else self.max_length


class FastForward:
    """A model's decoder for inference; restore() gives the modules back what they had."""

    def __init__(
        self,
        model: nn.Module,
        dtype: torch.dtype,
        *,
        adapters: AdapterNames | None = None,
        dequantised: bool = False,
        for_steps: bool = True,
    ) -> None:
        """Replace the forwards. Raise CannotFuse, with nothing changed, for a model unknown here.

        `adapters` are PEFT's names (None: those that are switched on). `dequantised`: 4-bit weights
        are kept in `dtype`, for 2 bytes a weight. Otherwise a pass of a few tokens multiplies them
        as they are, for a sixteenth of a byte a weight, and a longer one unpacks them.
        `for_steps`: passes of a few tokens will follow, for which the adapters' matrices are held
        as the products read them; else those of one group are made in each pass, which spares
        their bytes and costs a pass of thousands of tokens little.
        """
        found = find_parts(model)
        if not isinstance(found, ModelParts):
            raise CannotFuse(found)
        kind = found.config.model_type
        if kind in UNDECODED_FAMILIES:
            raise CannotFuse(f"{kind} keeps more than keys and values: transformers computes it")
        self.parts, self.dtype = found, dtype
        embedding = found.decoder.embed_tokens
        if not isinstance(embedding, nn.Embedding):
            raise CannotFuse(f"its embedding is a {type(embedding).__name__}")
        self.device: torch.device = embedding.weight.device
        if embedding.weight.dtype != dtype:
            raise CannotFuse(f"its embeddings are in {embedding.weight.dtype}, not in {dtype}")
        self.adapters = active_adapters(model) if adapters is None else list(adapters)
        self.cache_shape = CacheShape.of_layers(found.layers, found.config.num_attention_heads)
        self.groups = find_groups(
            found.layers, self.adapters, dtype,
            dequantised=dequantised, for_steps=for_steps,
            outside=linear_children(found.decoder),
        )  # fmt: skip
        self._pass: Pass | None = None
        self._choice = self._choose_attention()
        kind = self._choice.kind
        if kind == "dense":
            if self.device.type == "cuda":
                why = f"{self._choice.why}: it would hold the scores of all pairs of tokens"
                raise CannotFuse(why)
            # Over all rows at once, values that overflow in one adapter's row, times weights of 0,
            # would make every row NaN.
            kind = "loop"
        self.attend_rows = as_attention_function(IMPLEMENTATIONS[kind])
        """Attention over concatenated rows, in transformers' form."""
        self._replaced: list[tuple[dict[str, Any], str, Any]] = []
        try:
            self._replace_all()
        except BaseException:
            self.restore()
            raise

    def hidden(self, ids_T: Tensor, read: Pass) -> Tensor:
        """Return the last hidden states hidden_TD of the tokens; their keys and values are kept."""
        self._pass = read
        try:
            unscaled = unscaled_queries(self.parts.decoder, read.most_positions)
            with torch.no_grad(), self._attending(), self._without_autocast(), unscaled:
                states: Tensor = self.parts.decoder(
                    input_ids=ids_T[None],
                    position_ids=read.positions_T[None],
                    use_cache=False,
                    cached=(self, read),
                ).last_hidden_state
        except BaseException:
            for group in self.groups:
                group.forget_outputs()
            raise
        finally:
            self._pass = None
        return states.squeeze(0)

    def logits(self, hidden_BD: Tensor) -> Tensor:
        """Return the logits of each hidden state, in fp32."""
        return self.parts.head.logits(hidden_BD).float()

    def restore(self) -> None:
        """Give the modules back the forwards that they had."""
        for attributes, name, before in reversed(self._replaced):
            if before is None:
                attributes.pop(name, None)
            else:
                attributes[name] = before
        self._replaced = []

    # -- what is replaced

    def _replace_all(self) -> None:
        for group in self.groups:
            for index, module in enumerate(group.modules):
                self._replace_forward(module, self._projection_forward(group, index))
        if not triton_support.is_usable(self.device):
            return
        kind = self.parts.config.model_type
        for module, width in find_norms(self.parts.decoder):
            norm = NormConstants.of(module, kind, width, self.device)
            self._replace_forward(module, _norm_forward(norm))
        for layer in self.parts.layers:
            if (mlp := getattr(layer, "mlp", None)) is not None:
                forward = _mlp_forward(mlp, self.parts.config)
                if forward is not None:
                    self._replace_forward(mlp, forward)
        names = sys.modules[type(self.parts.decoder).__module__].__dict__
        if "apply_rotary_pos_emb" in names and kind not in PAIRED_ROTARY:
            original = names["apply_rotary_pos_emb"]
            single = kind in SINGLE_ROTARY
            make = self._single_rotary_function if single else self._rotary_function
            self._replace(names, "apply_rotary_pos_emb", make(original))

    def _replace(self, attributes: dict[str, Any], name: str, value: Any) -> None:
        self._replaced.append((attributes, name, attributes.get(name)))
        attributes[name] = value

    def _replace_forward(self, module: nn.Module, forward: Callable[..., Tensor]) -> None:
        self._replace(module.__dict__, "forward", forward)

    def _projection_forward(self, group: Any, index: int) -> Callable[..., Tensor]:
        def forward(x: Tensor, *_: Any, **__: Any) -> Tensor:
            assert self._pass is not None
            return group.project(index, x, self._pass.adapter_T)  # type: ignore[no-any-return]

        return forward

    def _rotary_function(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Return apply_rotary_pos_emb by kernels for our own passes; others get the original."""

        def apply(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> Any:
            fits = unsqueeze_dim == 1 and cos.shape[-1] == q.shape[-1]
            if self._pass is None or not fits:
                return original(q, k, cos, sin, unsqueeze_dim=unsqueeze_dim)
            in_place = self._choice.keeps_inputs
            turned = [Rotary.apply(x, cos, sin, in_place) for x in (q, k)]  # type: ignore[no-untyped-call]
            return turned[0], turned[1]

        return apply

    def _single_rotary_function(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Return Gemma 4's apply_rotary_pos_emb, which turns queries or keys, for our passes."""

        def apply(x: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> Any:
            fits = unsqueeze_dim == 2 and cos.shape[-1] == x.shape[-1]
            if self._pass is None or not fits:
                return original(x, cos, sin, unsqueeze_dim=unsqueeze_dim)
            in_place = self._choice.keeps_inputs
            turned = Rotary.apply(x.transpose(1, 2), cos, sin, in_place)  # type: ignore[no-untyped-call]
            return turned.transpose(1, 2)

        return apply

    # -- attention

    def _choose_attention(self) -> AttentionChoice:
        config = self.parts.config
        return choose_attention(
            self.device,
            self.dtype,
            softcap=getattr(config, "attn_logit_softcapping", None) is not None,
            head_width=self.parts.head_width,
            triton=triton_support.is_usable(self.device),
        )

    @contextmanager
    def _attending(self) -> Iterator[None]:
        config = self.parts.config
        before = config._attn_implementation_internal
        config._attn_implementation_internal = ATTENTION
        try:
            yield
        finally:
            config._attn_implementation_internal = before

    def _without_autocast(self) -> Any:
        return torch.autocast(self.device.type, enabled=False)


@contextmanager
def fast_forward(
    model: nn.Module,
    dtype: torch.dtype,
    *,
    adapters: AdapterNames | None = None,
    dequantised: bool = False,
    for_steps: bool = True,
) -> Iterator[FastForward]:
    """Give a FastForward inside the block, with the model in eval mode; restore both afterwards."""
    was = model.training
    model.eval()
    try:
        forward = FastForward(
            model, dtype, adapters=adapters,
            dequantised=dequantised, for_steps=for_steps,
        )  # fmt: skip
        try:
            yield forward
        finally:
            forward.restore()
    finally:
        model.train(was)


def active_adapters(model: nn.Module) -> list[str | None]:
    """Return the name of the adapter that is switched on, or None for the base, as a list of one.

    Raise CannotFuse where several are switched on at once.
    """
    names: set[str] = set()
    for module in model.modules():
        if isinstance(module, LoraLayer) and not module.disable_adapters:
            names.update(module.active_adapters)
    if len(names) > 1:
        raise CannotFuse("several adapters are switched on at once")
    return [*names] or [None]


def _attend_cached(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cached: tuple[FastForward, Pass],
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Keep the new keys and values; let lanes attend to their slots, prompts to themselves.

    The form in which transformers calls attention. Raise UnsupportedAttention for anything that
    would change the result and is not known here.
    """
    forward, read = cached
    q_THD, k_TGD, v_TGD = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
    if read.cache is not None:
        keys, values = read.cache.of_layer(module.layer_idx)
        if not reuses_keys(module):
            store_keys_values(k_TGD, v_TGD, keys, values, read.slots_T, read.positions_T)
    how: dict[str, Any] = {"scaling": scaling, "softcap": softcap}
    if read.cu is not None:
        return forward.attend_rows(
            module, query, key, value, attention_mask,
            cu_seq_lens_q=read.cu, max_length_q=read.max_length, sliding_window=sliding_window,
            **how, **{name: more[name] for name in more if name != "dropout"},
        )  # fmt: skip
    out_BHD = cached_attention(
        q_THD, keys, values, read.slots_T, read.positions_T,
        scale=scaling if scaling is not None else query.shape[-1] ** -0.5,
        window=sliding_window or None, softcap=softcap,
    )  # fmt: skip
    return out_BHD[None], None


AttentionInterface.register(ATTENTION, _attend_cached)


def _norm_forward(norm: NormConstants) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        made: tuple[Tensor, Tensor] = RmsNorm.apply(x, norm.weight_K, norm.eps, norm.gemma)  # type: ignore[no-untyped-call]
        return made[0]

    return forward


def _mlp_forward(mlp: Any, config: Any) -> Callable[[Tensor], Tensor] | None:
    """Return a forward of a feed-forward block by kernels; None where its activation is unknown."""
    act = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", None)
    if act not in TANH_GELU and act != "silu":
        return None
    gelu, is_joint = act in TANH_GELU, hasattr(mlp, "gate_up_proj")

    def forward(x: Tensor) -> Tensor:
        parts = (mlp.gate_up_proj(x), None) if is_joint else (mlp.gate_proj(x), mlp.up_proj(x))
        out: Tensor = mlp.down_proj(gated_linear(*parts, gelu=gelu))
        return out

    return forward


__all__ = ["ATTENTION", "CannotFuse", "FastForward", "Pass", "fast_forward"]
