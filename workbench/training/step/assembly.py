"""The construction of a step: which optimizations are on, why others are off, what is patched.

step.py runs what is put together here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from workbench.footprint.micro_steps import padded_tokens
from workbench.training.step.attention import choice
from workbench.training.step.delta.mixer import DeltaMixers, find_mixers
from workbench.training.step.delta.rule import choose_rule
from workbench.training.step.graphs import MOST_MOVED
from workbench.training.step.kernels import triton_support
from workbench.training.step.lora.patch import (
    CannotFuse,
    FusedProjections,
    adjacent_order,
    linear_children,
)
from workbench.training.step.model_parts import ModelParts, find_parts
from workbench.training.step.offload import Offload
from workbench.training.step.optimizations import OptimizationReport
from workbench.training.step.optimizer.adamw import FlatAdamW
from workbench.training.step.optimizer.flat_optimizer import FlatOptimizer
from workbench.training.step.optimizer.flat_parameters import FlatParameters
from workbench.training.step.optimizer.library_optimizers import (
    FlatLibraryOptimizer,
    TensorwiseAdamW,
)
from workbench.training.step.options import StepOptions
from workbench.training.step.recompute import Recompute
from workbench.training.step.small_kernels import SmallKernels

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class Assembly:
    """The parts of a step, put onto one model; restore() takes them off again.

    A model outside the allow-list has no `parts` and takes the plain path: padded batches through
    its own forward, with the flat optimizer alone.
    """

    fused: FusedProjections | None = None
    small: SmallKernels | None = None
    mixers: DeltaMixers | None = None
    recompute: Recompute | None = None
    attention: choice.AttentionChoice | None = None
    optimizer: FlatOptimizer

    def __init__(self, model: Any, options: StepOptions) -> None:
        """Put the parts onto the model, or raise with the model as it was.

        The flat buffer comes first, because the fused projections are views of it; small kernels
        come after them, because a gated activation is computed with the projection behind it.
        """
        self.model, self.options = model, options
        self.dtype = DTYPES[options.precision]
        self.report = OptimizationReport(options.off)
        found = find_parts(model)
        self.parts = found if isinstance(found, ModelParts) else None
        named = [(name, param) for name, param in model.named_parameters() if param.requires_grad]
        named = [named[index] for index in adjacent_order([name for name, _ in named])]
        self.device = named[0][1].device
        self.flat = FlatParameters(named, self.dtype)
        try:
            if self.parts is None:
                self._use_plain_path(str(found))
            else:
                self._patch(self.parts)
            self._finish()
        except BaseException:  # modules of transformers would stay changed for the whole process
            self.restore()
            raise

    def recomputed_layers(self, *, alone: bool) -> int:
        """Return how many layers recompute in a pass.

        `alone`: the pass is of a row that is longer than tokens_per_micro and goes alone.
        """
        assert self.parts is not None
        options, layers = self.options, len(self.parts.layers)
        asked = options.recompute_layers
        if alone:
            asked = max(asked, options.long_recompute_layers)
        return layers if "no_recompute" in options.off else min(asked, layers)

    def renew(self, model: Any, options: StepOptions, scale: Tensor) -> None:
        """Begin the next trial: another model of the same layers, and an optimizer of its own.

        Its loss scale lies in `scale`.
        """
        self.model, self.options = model, options
        self.optimizer = self._make_optimizer()
        self.optimizer.use_scale(scale)
        self._watch()
        self._report_rest()

    def restore(self) -> None:
        """Leave model and modules as they were, with the trained weights."""
        for part in (self.small, self.mixers, self.fused, self.recompute):
            if part is not None:
                part.restore()
        if self.parts is None and self.options.recompute_layers:
            self.model.activation_checkpointing_disable()
        self.flat.release()

    # -- the fused path

    def _patch(self, parts: ModelParts) -> None:
        report, usable = self.report, triton_support.is_usable(self.device)
        self.attention = self._choose_attention(parts)
        why = self.attention.why
        if find_mixers(parts.layers):
            self.mixers = DeltaMixers(parts.layers, choose_rule(self.device, self.dtype))
            why += f"; {self.mixers.choice.why}"
        if report.is_requested("padding_free"):
            report.turn_on("padding_free", why)
        if report.is_requested("fused_lora"):
            self._fuse(parts)
        if report.is_requested("small_kernels"):
            if usable:
                in_place = self.attention.keeps_inputs
                self.small = SmallKernels(parts, self.fused, turn_in_place=in_place)
                report.turn_on("small_kernels", "Triton")
            else:
                report.turn_off("small_kernels", triton_support.why_unusable(self.device))
        if report.is_requested("chunked_head"):
            report.turn_on("chunked_head", "gradient in the forward pass, chunk by chunk")

    def _choose_attention(self, parts: ModelParts) -> choice.AttentionChoice:
        config = parts.config
        return choice.choose_attention(
            self.device,
            self.dtype,
            capability=self.options.pretend_capability,
            softcap=getattr(config, "attn_logit_softcapping", None) is not None,
            head_width=parts.head_width,
            triton=triton_support.is_usable(self.device),
        )

    def _fuse(self, parts: ModelParts) -> None:
        kept = self.options.dequantised_layers
        try:
            self.fused = FusedProjections(
                parts.layers, self.flat, self.dtype, dequantised_layers=kept,
                outside=linear_children(parts.decoder),
            )  # fmt: skip
        except CannotFuse as refused:
            self.report.turn_off("fused_lora", str(refused))
            return
        self.report.turn_on("fused_lora", f"{len(self.fused.groups)} groups of projections")

    def _make_recompute(self, parts: ModelParts) -> Recompute:
        count = self.recomputed_layers(alone=True)
        # PEFT's dropout draws from torch's generator, wherever it is not ours that is applied.
        drops = any(isinstance(one, nn.Dropout) and one.p > 0 for one in parts.layers.modules())
        draws = drops and (self.fused is None or bool(self.unowned))
        return Recompute(parts.layers, count, self._make_offload(parts, count), draws=draws)

    def _make_offload(self, parts: ModelParts, count: int) -> Offload | None:
        options = self.options
        if not options.offload:
            return None
        most = options.rows_per_micro * options.max_length
        tokens = padded_tokens(min(most, options.tokens_per_micro or most))
        embedded = parts.decoder.embed_tokens.weight
        return Offload(count, tokens * embedded.shape[1], embedded.dtype, self.device)

    # -- the plain path

    def _use_plain_path(self, refusal: str) -> None:
        """Recompute all layers or none, which is what every model of transformers can do."""
        if self.options.recompute_layers:
            self.model.activation_checkpointing_enable(
                activation_checkpointing_kwargs={"use_reentrant": False}
            )
        for name in ("padding_free", "fused_lora", "small_kernels", "chunked_head"):
            self.report.turn_off(name, refusal)

    # -- both

    def _finish(self) -> None:
        self.optimizer = self._make_optimizer()
        # Known only after the projections are fused.
        owned: set[int] = self.fused.owned if self.fused else set()
        self.unowned = [param for param in self.flat.params if id(param) not in owned]
        """Parameters whose gradients autograd itself adds, into the flat buffer as well."""
        if self.parts is not None:
            self.recompute = self._make_recompute(self.parts)
        self._watch()
        self.captures = self._decide_graphs()
        """True if passes are captured in CUDA graphs."""
        self._report_rest()

    def _watch(self) -> None:
        modules = list(self.model.modules())
        self.watched = [
            module
            for module in modules
            if "forward" in module.__dict__ or isinstance(module, GradientCheckpointingLayer)
        ] or modules
        """Modules whose `training` decides between our forward and the model's own."""

    def _make_optimizer(self) -> FlatOptimizer:
        options = self.options
        settings: dict[str, Any] = {
            "lr": options.learning_rate,
            "weight_decay": options.weight_decay,
            "max_grad_norm": options.max_grad_norm,
            "loss_scaling": options.precision == "fp16",
        }
        if options.optimizer != "adamw_torch":
            return FlatLibraryOptimizer(self.flat, kind=options.optimizer, **settings)
        if "flat_adamw" in options.off:
            return TensorwiseAdamW(self.flat, **settings)
        return FlatAdamW(self.flat, **settings)

    def _decide_graphs(self) -> bool:
        report = self.report
        if self.parts is None:
            report.turn_off("graphs", "the plain path's shapes change with every batch")
            return False
        why = self._why_no_graphs()
        requested = report.is_requested("graphs")
        if requested and why:
            report.turn_off("graphs", why)
        elif requested:
            report.turn_on("graphs", "captured per token bucket")
        return requested and not why

    def _why_no_graphs(self) -> str:
        """Return why the passes cannot be captured; empty where they can."""
        assert self.attention is not None
        if self.device.type != "cuda":
            return "no CUDA card"
        if self.attention.kind == "loop":
            return "attention row by row reads lengths on the host"
        if self.mixers is not None and self.mixers.choice.reads_host:
            return "flash-linear-attention reads lengths on the host"
        if self.fused and self.unowned:
            return f"{len(self.unowned)} trained parameters lie outside the fused projections"
        if self.recompute and self.recompute.count and self.recompute.draws:
            return "layers that recompute draw their masks once more"
        options = self.options
        longest = max(options.tokens_per_micro or 0, options.longest or options.max_length)
        if self.recompute and self.recompute.offload and longest > MOST_MOVED:
            return f"passes of up to {longest:,} tokens take far longer than their launches"
        return ""

    def _report_rest(self) -> None:
        options, report = self.options, self.report
        if report.is_requested("whole_batch"):
            report.turn_on("whole_batch", f"up to {options.rows_per_micro} rows a micro-step")
        if report.is_requested("no_recompute"):
            count = self.recomputed_layers(alone=False) if self.recompute else 0
            longer = self.recomputed_layers(alone=True) if self.recompute else 0
            where = ", inputs in the machine's memory" if options.offload and count else ""
            rare = f", {longer} in a longer row" if longer > count else ""
            report.turn_on("no_recompute", f"{count} layers recompute{rare}{where}")
        if report.is_requested("flat_adamw"):
            report.turn_on("flat_adamw", f"{self.flat.values.numel():,} elements in one buffer")
        if report.is_requested("ring"):
            report.turn_on("ring", f"read every {options.log_every} steps")
