"""What a model is made of, which families take the fused path, and their small kernels.

Saves, for norms, rotary embeddings and gated activations, several launches and trips through
memory each (triton_ops.py); replaced on the modules of one model, undone by restore().
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from workbench.footprint.model.shape import AROUND, FAMILIES, OWN_DROPOUTS
from workbench.training.step import triton_ops
from workbench.training.step.head import Head
from workbench.training.step.lora import FusedProjections
from workbench.training.step.remake import remember

GELU = frozenset({"gelu_pytorch_tanh", "gelu_tanh"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A causal language model, taken apart."""

    causal: Any
    decoder: Any
    layers: nn.ModuleList
    head: Head
    config: Any
    """The one that its attention modules read."""


def parts_of(model: PeftModel | nn.Module) -> Parts | str:
    """The parts, or why the model takes the plain path."""
    causal: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    kind = causal.config.model_type
    if kind not in FAMILIES | AROUND:
        return f"{kind} is not in the allow-list ({', '.join(sorted(FAMILIES | AROUND))})"
    decoder = causal.model.language_model if kind in AROUND else causal.model
    for name in OWN_DROPOUTS:
        if getattr(decoder.config, name, None):
            return f"its config has {name}, for which the fused path has no masks"
    head = getattr(causal, "lm_head", None)
    if type(head) is not nn.Linear:
        return f"its head is a {type(head).__name__}, not a plain linear layer"
    bias = None if head.bias is None else head.bias.data
    softcap = getattr(decoder.config, "final_logit_softcapping", None)
    return Parts(
        causal=causal,
        decoder=decoder,
        layers=decoder.layers,
        head=Head(weight_VD=head.weight.data, bias_V=bias, softcap=softcap),
        config=decoder.config,
    )


class SmallKernels:
    """RMSNorm, rotary and gated-linear kernels on one model, while it is training."""

    def __init__(
        self, parts: Parts, fused: FusedProjections | None, *, turn_in_place: bool
    ) -> None:
        """`turn_in_place`: attention keeps queries and keys as they come, so turning them where
        they are saves a copy."""
        self._were: list[tuple[dict[str, Any], str, Any]] = []
        gemma = parts.config.model_type.startswith("gemma")
        for module in parts.decoder.modules():
            if type(module).__name__.endswith("RMSNorm"):
                self._put(module, _norm(module, gemma))
        for layer in parts.layers:
            if (mlp := getattr(layer, "mlp", None)) is not None:
                gated = _gated(mlp, parts.config, fused)
                if gated is not None:
                    self._put(mlp, gated)
        names = sys.modules[type(parts.decoder).__module__].__dict__
        if "apply_rotary_pos_emb" in names:
            plain = names["apply_rotary_pos_emb"]
            self._were.append((names, "apply_rotary_pos_emb", plain))
            names["apply_rotary_pos_emb"] = _rotary(plain, in_place=turn_in_place)

    def restore(self) -> None:
        for attributes, name, was in reversed(self._were):
            if was is None:
                attributes.pop(name, None)
            else:
                attributes[name] = was
        self._were = []

    def _put(self, module: nn.Module, forward: Callable[..., Tensor]) -> None:
        self._were.append((module.__dict__, "forward", module.__dict__.get("forward")))
        module.__dict__["forward"] = forward


def _norm(module: Any, gemma: bool) -> Callable[[Tensor], Tensor]:
    plain = module.forward
    eps: float = getattr(module, "variance_epsilon", 0.0) or getattr(module, "eps", 1e-6)

    def forward(x: Tensor) -> Tensor:
        if not module.training:
            result: Tensor = plain(x)
            return result
        made: tuple[Tensor, Tensor] = triton_ops.RmsNorm.apply(x, module.weight, eps, gemma)  # type: ignore[no-untyped-call]
        out, rstd = made
        heads = out.ndim == 4  # attention reads them, which keeps what it reads
        return out if heads else remember(out, again, x, rstd, normed=as_read)

    def again(x: Tensor, _: Tensor) -> Tensor:
        return triton_ops.normed(x, module.weight, eps=eps, gemma=gemma)[0]

    def as_read(rstd_T: Tensor) -> triton_ops.Normed:
        return triton_ops.Normed(rstd_T=rstd_T, weight_K=module.weight, gemma=gemma)

    return forward


def _gated(
    mlp: Any, config: Any, projections: FusedProjections | None
) -> Callable[[Tensor], Tensor] | None:
    act = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", None)
    if act not in GELU and act != "silu":
        return None
    gelu, plain, fused = act in GELU, mlp.forward, hasattr(mlp, "gate_up_proj")
    down = None if projections is None else projections.group_of(mlp.down_proj)

    def forward(x: Tensor) -> Tensor:
        if not mlp.training:
            result: Tensor = plain(x)
            return result
        parts = [mlp.gate_up_proj(x)] if fused else [mlp.gate_proj(x), mlp.up_proj(x)]
        gate, up = parts[0], None if fused else parts[1]
        if down is not None and down.reads_gated:
            return down.gated(gate, up, gelu=gelu)
        inner: Tensor = triton_ops.GatedLinear.apply(gate, up, gelu)  # type: ignore[no-untyped-call]
        out: Tensor = mlp.down_proj(remember(inner, again, *parts))
        return out

    again = partial(triton_ops.gated, gelu=gelu)
    return forward


def _rotary(
    plain: Callable[..., tuple[Tensor, Tensor]], *, in_place: bool
) -> Callable[..., tuple[Tensor, Tensor]]:
    def apply(
        q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1
    ) -> tuple[Tensor, Tensor]:
        one = q.shape[0] == 1 and unsqueeze_dim == 1 and cos.shape[-1] == q.shape[-1]
        if not (one and torch.is_grad_enabled() and triton_ops.usable(q.device)):
            return plain(q, k, cos, sin, unsqueeze_dim=unsqueeze_dim)
        turned = [triton_ops.Rotary.apply(x, cos, sin, in_place) for x in (q, k)]  # type: ignore[no-untyped-call]
        return turned[0], turned[1]

    return apply
