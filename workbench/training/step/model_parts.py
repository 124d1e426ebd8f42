"""The parts of a causal language model that the fused path needs, and which models have them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peft import PeftModel
from torch import nn

from workbench.footprint.model.config_values import WRAPPER_FAMILIES
from workbench.footprint.model.shape import FUSED_FAMILIES, OWN_DROPOUTS
from workbench.training.step.head import Head


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelParts:
    """A causal language model, taken apart."""

    causal: Any
    """The whole model without PEFT's wrapper."""
    decoder: Any
    """Embeddings, layers and the last norm: ids in, hidden states out."""
    layers: nn.ModuleList
    head: Head
    config: Any
    """The config that its attention modules read."""

    @property
    def head_width(self) -> int:
        """Values of a head, of the narrowest where layers are unlike (Gemma 4)."""
        modules = [getattr(layer, "self_attn", None) for layer in self.layers]
        widths = [int(getattr(module, "head_dim", 0)) for module in modules]
        whole = int(self.config.hidden_size // self.config.num_attention_heads)
        return min((width for width in widths if width), default=whole)


def find_parts(model: PeftModel | nn.Module) -> ModelParts | str:
    """Return the model's parts, or why it takes the plain path.

    A model is fused where its family is in the allow-list, it has no dropout of its own, and its
    head is a plain linear layer.
    """
    causal: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    kind = causal.config.model_type
    known = FUSED_FAMILIES | WRAPPER_FAMILIES
    if kind not in known:
        return f"{kind} is not in the allow-list ({', '.join(sorted(known))})"
    decoder = causal.model.language_model if kind in WRAPPER_FAMILIES else causal.model
    inside = decoder.config.model_type
    if kind in WRAPPER_FAMILIES and inside not in FUSED_FAMILIES:
        return f"its text model, {inside}, is not in the allow-list ({', '.join(sorted(known))})"
    for name in OWN_DROPOUTS:
        if getattr(decoder.config, name, None):
            return f"its config has {name}, for which the fused path has no masks"
    head = getattr(causal, "lm_head", None)
    # A subclass, or PEFT's wrapper of a head that is trained, may do more than a product.
    if type(head) is not nn.Linear:
        return f"its head is a {type(head).__name__}, not a plain linear layer"
    bias = None if head.bias is None else head.bias.data
    softcap = getattr(decoder.config, "final_logit_softcapping", None)
    divisor = getattr(decoder.config, "logits_scaling", None)
    return ModelParts(
        causal=causal,
        decoder=decoder,
        layers=decoder.layers,
        head=Head(weight_VD=head.weight.data, bias_V=bias, softcap=softcap, divisor=divisor),
        config=decoder.config,
    )
