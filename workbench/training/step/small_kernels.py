"""Norms, rotary embeddings and gated activations by kernels, on the modules of one model.

The model's own code takes several launches and trips through memory for each of them. Their forward
is replaced while the model trains, and the scalar of Gemma 4's layers by a number; restore() undoes
it.
"""

# T tokens

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from workbench.footprint.model.shape import PAIRED_ROTARY
from workbench.training.step.kernels import triton_support
from workbench.training.step.kernels.gated_linear import GatedLinear, gated_linear
from workbench.training.step.kernels.lora_down import NormedInput
from workbench.training.step.kernels.norm import RmsNorm, rms_norm
from workbench.training.step.kernels.rotary import Rotary
from workbench.training.step.lora.functions import project_gated
from workbench.training.step.lora.patch import FusedProjections
from workbench.training.step.lora.remake import attach_remake
from workbench.training.step.model_parts import ModelParts

TANH_GELU = frozenset({"gelu_pytorch_tanh", "gelu_tanh"})
"""Names in a config of GELU by tanh; the exact GELU takes the model's own code."""
ZERO_CENTRED = ("gemma", "qwen3_5")
"""Beginnings of the model_type of families whose norms multiply by 1 + weight."""
ROUNDED_ONCE = frozenset({"gemma4_text", "gemma4_unified_text", "olmo2", "olmo3"})
"""model_type of families whose norms multiply by the weight before they round to 16 bits."""
SINGLE_ROTARY = frozenset({"gemma4_text", "gemma4_unified_text"})
"""Families whose apply_rotary_pos_emb turns queries or keys, one tensor a call."""


class SmallKernels:
    """The kernels for RMSNorm, rotary embeddings and gated activations on one model."""

    def __init__(
        self, parts: ModelParts, fused: FusedProjections | None, *, turn_in_place: bool
    ) -> None:
        """Replace the forwards.

        `turn_in_place`: attention keeps queries and keys as they come, so turning them where they
        are saves a copy.
        """
        self._replaced: list[tuple[dict[str, Any], str, Any]] = []
        kind = parts.config.model_type
        device = parts.head.weight_VD.device
        for module, width in find_norms(parts.decoder):
            norm = NormConstants.of(module, kind, width, device)
            self._replace_forward(module, _norm_forward(module, norm, in_attention=width > 0))
        for layer in parts.layers:
            if (mlp := getattr(layer, "mlp", None)) is not None:
                forward = _mlp_forward(mlp, parts.config, fused)
                if forward is not None:
                    self._replace_forward(mlp, forward)
            if (scalar := getattr(layer, "layer_scalar", None)) is not None:  # Gemma 4's
                # A number in the launch: for one on the card PyTorch takes a kernel that loads an
                # element at a time. It hides the buffer, which model.to() would move.
                self._replaced.append((layer.__dict__, "layer_scalar", None))
                layer.__dict__["layer_scalar"] = float(scalar)
        # Attention modules look this function up in their own module, so it is replaced there, for
        # all models of the family in the process; it calls the original unless gradients are on.
        names = sys.modules[type(parts.decoder).__module__].__dict__
        if "apply_rotary_pos_emb" in names and kind not in PAIRED_ROTARY:
            original = names["apply_rotary_pos_emb"]
            self._replaced.append((names, "apply_rotary_pos_emb", original))
            make = _single_rotary_function if kind in SINGLE_ROTARY else _rotary_function
            names["apply_rotary_pos_emb"] = make(original, in_place=turn_in_place)

    def restore(self) -> None:
        """Put back what was replaced."""
        for attributes, name, before in reversed(self._replaced):
            if before is None:
                attributes.pop(name, None)
            else:
                attributes[name] = before
        self._replaced = []

    def _replace_forward(self, module: nn.Module, forward: Callable[..., Tensor]) -> None:
        self._replaced.append((module.__dict__, "forward", module.__dict__.get("forward")))
        module.__dict__["forward"] = forward


@dataclass(frozen=True, slots=True, kw_only=True)
class NormConstants:
    """Facts that the kernels of RMSNorm need of a norm, whose weight is frozen."""

    weight_K: Tensor
    eps: float
    gemma: bool
    """Rows are multiplied by 1 + weight and rounded once, at the end."""

    @classmethod
    def of(cls, module: Any, kind: str, width: int, device: torch.device) -> NormConstants:
        """Return the constants of a norm of a model of that model_type.

        `width` and `device` are those of a norm without a weight (Gemma 4's of values).
        """
        # Llama's norms call it variance_epsilon, Gemma's eps.
        eps: float = getattr(module, "variance_epsilon", 0.0) or getattr(module, "eps", 1e-6)
        if getattr(module, "weight", None) is None:
            return cls(weight_K=torch.zeros(width, device=device), eps=eps, gemma=True)
        if kind in ROUNDED_ONCE:  # as Gemma's, but with the weight itself: 1 + (weight - 1)
            return cls(weight_K=module.weight.detach().float() - 1, eps=eps, gemma=True)
        return cls(weight_K=module.weight, eps=eps, gemma=kind.startswith(ZERO_CENTRED))


def find_norms(decoder: nn.Module) -> Iterator[tuple[nn.Module, int]]:
    """Yield each RMSNorm of a decoder with the width of its parent's heads, 0 where it has none."""
    for parent in decoder.modules():
        for module in parent.children():
            if type(module).__name__.endswith("RMSNorm"):
                yield module, int(getattr(parent, "head_dim", 0))


def _norm_forward(
    module: Any, norm: NormConstants, *, in_attention: bool
) -> Callable[[Tensor], Tensor]:
    """Return a forward of an RMSNorm by kernels, whose output carries how to make it again."""
    original, weight_K, eps, gemma = module.forward, norm.weight_K, norm.eps, norm.gemma

    def forward(x: Tensor) -> Tensor:
        if not module.training:
            result: Tensor = original(x)
            return result
        of_heads = in_attention and x.ndim == 4
        made: tuple[Tensor, Tensor] = RmsNorm.apply(x, weight_K, eps, gemma, of_heads)  # type: ignore[no-untyped-call]
        out, rstd = made
        # Attention keeps what it reads, so that norms of heads need not be made again; nor are
        # those that lie in four dimensions elsewhere (Gemma 4's of embeddings for each layer).
        return out if out.ndim == 4 else attach_remake(out, again, x, rstd, normed=as_input)

    def again(x: Tensor, _: Tensor) -> Tensor:
        return rms_norm(x, weight_K, eps=eps, gemma=gemma)[0]

    def as_input(rstd_T: Tensor) -> NormedInput:
        return NormedInput(rstd_T=rstd_T, weight_K=weight_K, gemma=gemma)

    return forward


def _mlp_forward(
    mlp: Any, config: Any, projections: FusedProjections | None
) -> Callable[[Tensor], Tensor] | None:
    """Return a forward of a feed-forward block by kernels; None where its activation is unknown."""
    act = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", None)
    if act not in TANH_GELU and act != "silu":
        return None
    gelu, original, is_joint = act in TANH_GELU, mlp.forward, hasattr(mlp, "gate_up_proj")
    down = None if projections is None else projections.group_of(mlp.down_proj)

    def forward(x: Tensor) -> Tensor:
        if not mlp.training:
            result: Tensor = original(x)
            return result
        parts = [mlp.gate_up_proj(x)] if is_joint else [mlp.gate_proj(x), mlp.up_proj(x)]
        gate, up = parts[0], None if is_joint else parts[1]
        if down is not None and down.can_read_gated:
            return project_gated(down, gate, up, gelu=gelu)
        inner: Tensor = GatedLinear.apply(gate, up, gelu)  # type: ignore[no-untyped-call]
        out: Tensor = mlp.down_proj(attach_remake(inner, again, *parts))
        return out

    again = partial(gated_linear, gelu=gelu)
    return forward


def _single_rotary_function(
    original: Callable[..., Tensor], *, in_place: bool
) -> Callable[..., Tensor]:
    """Return Gemma 4's apply_rotary_pos_emb by kernels, for one concatenated row with gradients."""

    def apply(x: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> Tensor:
        fits = x.shape[0] == 1 and unsqueeze_dim == 2 and cos.shape[-1] == x.shape[-1]
        if not (fits and torch.is_grad_enabled() and triton_support.is_usable(x.device)):
            return original(x, cos, sin, unsqueeze_dim=unsqueeze_dim)
        turned: Tensor = Rotary.apply(x.transpose(1, 2), cos, sin, in_place)  # type: ignore[no-untyped-call]
        return turned.transpose(1, 2)

    return apply


def _rotary_function(
    original: Callable[..., tuple[Tensor, Tensor]], *, in_place: bool
) -> Callable[..., tuple[Tensor, Tensor]]:
    """Return apply_rotary_pos_emb by kernels, for one concatenated row with gradients."""

    def apply(
        q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1
    ) -> tuple[Tensor, Tensor]:
        fits = q.shape[0] == 1 and unsqueeze_dim == 1 and cos.shape[-1] == q.shape[-1]
        if not (fits and torch.is_grad_enabled() and triton_support.is_usable(q.device)):
            return original(q, k, cos, sin, unsqueeze_dim=unsqueeze_dim)
        turned = [Rotary.apply(x, cos, sin, in_place) for x in (q, k)]  # type: ignore[no-untyped-call]
        return turned[0], turned[1]

    return apply
