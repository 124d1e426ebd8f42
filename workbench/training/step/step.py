"""The training step: an optimizer batch in, gradients out, one update.

Ties the levers of design §8 together. Each is its own module and says there what it saves.
"""

# T tokens, D width

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from workbench.errors import Diverged
from workbench.footprint.micro_steps import bucket, grain
from workbench.training.step import attention, triton_ops
from workbench.training.step.graphs import Runner
from workbench.training.step.lora import CannotFuse, FusedProjections, together
from workbench.training.step.masks import keys_for
from workbench.training.step.models import Parts, SmallKernels, parts_of
from workbench.training.step.offload import Offload
from workbench.training.step.optimizer import (
    FlatAdamW,
    FlatOptimizer,
    FlatParameters,
    FlatStock,
    TensorwiseAdamW,
)
from workbench.training.step.options import LEVERS, Lever, StepOptions
from workbench.training.step.plain import plain_micro
from workbench.training.step.recompute import Recompute
from workbench.training.step.ring import Ring
from workbench.training.step.rows import IGNORE, Micro, Rows

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
MAX_SKIPPED = 20
"""Steps in a row without a finite gradient after which the trial has failed."""


class Step:
    """Trains a PEFT model's adapter; make it after everything else has wrapped the model.

    `forward_backward(rows)` gives the mean loss of the batch as a tensor on the card;
    `optimizer_step()` clips and updates; `measured()` reads what the steps since the last call
    measured. `optimizer.state_dict()` and the adapter are all that a checkpoint needs. `restore()`
    leaves model and modules as they were, with the trained weights.
    """

    def __init__(self, model: Any, options: StepOptions) -> None:
        self.options = options
        self._model = model
        self._dtype = DTYPES[options.precision]
        self._why: dict[str, tuple[bool, str]] = {}
        found = parts_of(model)
        self._parts = found if isinstance(found, Parts) else None
        named = [(name, param) for name, param in model.named_parameters() if param.requires_grad]
        named = [named[index] for index in together([name for name, _ in named])]
        self.device = named[0][1].device
        self.flat = FlatParameters(named, self._dtype)
        self._loss = torch.zeros((), device=self.device)
        names = ("loss", "grad_norm", "skipped", "skipped_in_a_row", "loss_scale")
        self._ring = Ring(max(options.log_every, 1) * 4, names, self.device)
        self._fused: FusedProjections | None = None
        self._small: SmallKernels | None = None
        self._recompute: Recompute | None = None
        self._runner: Runner | None = None
        try:
            self._take_over(str(found))
        except BaseException:  # modules of transformers would stay changed for the whole process
            self.restore()
            raise

    def _take_over(self, refusal: str) -> None:
        model = self._model
        if self._parts is None:
            self._recompute_plainly()
            for name in ("padding_free", "fused_lora", "small_kernels", "chunked_head"):
                self._off(name, refusal)
        else:
            self._put_on(self._parts)
        self.optimizer = self._optimizer()
        owned: set[int] = self._fused.owned if self._fused else set()
        self._unowned = [param for param in self.flat.params if id(param) not in owned]
        """Their gradients autograd itself adds, into the flat buffer as well."""
        if self._parts is not None:
            self._recompute = self._make_recompute(self._parts)
        self._watched = [
            module
            for module in model.modules()
            if "forward" in module.__dict__ or isinstance(module, GradientCheckpointingLayer)
        ] or list(model.modules())
        # A Trainer calls it after each step; walking thousands of modules takes the host longer
        # than all else, and there is nothing to clear: gradients live in the flat buffer.
        model.__dict__["zero_grad"] = lambda set_to_none=True: None
        self._runner = self._make_runner()
        self._tell_rest()

    # -- one step

    def forward_backward(self, rows: Rows) -> Tensor:
        """Gradients of the batch's mean loss a target token; the loss, on the card."""
        options = self.options
        if not all(module.training for module in self._watched):  # PEFT keeps a base in eval mode
            self._model.train()
        self.flat.grads.zero_()
        self.flat.refresh()
        self._loss.zero_()
        self.flat.attach_grads(self._unowned)
        divisor = rows.targets
        alone = 1 if "whole_batch" in options.off else options.rows_per_micro
        for index, part in enumerate(self._cut(rows, alone)):
            if self._fused is not None:
                self._fused.draw.first = index == 0
            self._micro(part, divisor, first=index == 0)
            self.optimizer.micro_steps += 1
        return self._loss.clone()

    def _cut(self, rows: Rows, max_rows: int) -> list[Rows]:
        fills = self._parts is None or "padding_free" in self.options.off
        return rows.cut(max_rows, self.options.tokens_per_micro, padded=fills)

    def optimizer_step(self) -> None:
        """Clip, update unless the gradient is not finite, and note the step's numbers."""
        self.optimizer.step()

    def _note(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        state = self.optimizer
        self._ring.write(self._loss, state.norm, state.skipped, state.skipped_in_a_row, state.scale)
        if "ring" in self.options.off:
            self.measured()

    def measured(self) -> list[dict[str, float]]:
        """loss, grad_norm, skipped (so far), skipped_in_a_row, loss_scale of each step since last.

        Waits for the card. Raises Diverged when 20 in a row had no finite gradient.
        """
        rows = self._ring.read()
        worst = max((row["skipped_in_a_row"] for row in rows), default=0.0)
        if worst >= MAX_SKIPPED:
            raise Diverged(
                f"{int(worst)} steps in a row had a gradient that is NaN or infinite",
                hint="lower train.learning_rate, or set model.precision: bf16 where the card has "
                "it; the last checkpoint is good",
            )
        return rows

    # -- what it runs on, and the end

    def levers(self) -> list[Lever]:
        """All nine, in order of worth."""
        if self._runner is not None and not self._runner.capturing and self._why["graphs"][0]:
            self._off("graphs", self._runner.why_not)
        return [Lever(name=name, on=self._why[name][0], why=self._why[name][1]) for name in LEVERS]

    def release_graphs(self) -> None:
        """Before generation: their memory is wanted there. They are captured again when needed.
        With them goes what a pass that failed has left."""
        if self._runner is not None:
            self._runner.release()
        if self._fused is not None:
            self._fused.forget()
        if self._recompute is not None and self._recompute.offload is not None:
            self._recompute.offload.forget()

    def restore(self) -> None:
        self.release_graphs()
        for part in (self._small, self._fused, self._recompute):
            if part is not None:
                part.restore()
        if self._parts is None and self.options.recompute_layers:
            self._model.gradient_checkpointing_disable()
        self._model.__dict__.pop("zero_grad", None)
        self.flat.release()

    # -- making it

    def _on(self, name: str, why: str) -> None:
        self._why[name] = (True, why)

    def _off(self, name: str, why: str) -> None:
        self._why[name] = (False, why)

    def _wanted(self, name: str) -> bool:
        if name in self.options.off:
            self._off(name, "switched off")
            return False
        return True

    def _recompute_plainly(self) -> None:
        """All layers or none: what every transformers model can do."""
        if self.options.recompute_layers:
            self._model.gradient_checkpointing_enable(
                gradient_checkpointing_kwargs={"use_reentrant": False}
            )

    def _put_on(self, parts: Parts) -> None:
        options, config = self.options, parts.config
        softcap = getattr(config, "attn_logit_softcapping", None) is not None
        head_width = getattr(config, "head_dim", None) or (
            config.hidden_size // config.num_attention_heads
        )
        self._choice = attention.choose(
            self.device,
            self._dtype,
            capability=options.pretend_capability,
            softcap=softcap,
            head_width=head_width,
            triton=triton_ops.usable(self.device),
        )
        if self._wanted("padding_free"):
            self._on("padding_free", self._choice.why)
        if self._wanted("fused_lora"):
            self._fuse(parts)
        if self._wanted("small_kernels"):
            if triton_ops.usable(self.device):
                in_place = self._choice.kind in ("package", "torch", "triton")
                self._small = SmallKernels(parts, self._fused, turn_in_place=in_place)
                self._on("small_kernels", "Triton")
            else:
                self._off("small_kernels", triton_ops.why_not(self.device))
        if self._wanted("chunked_head"):
            self._on("chunked_head", "gradient in the forward pass, chunk by chunk")

    def _make_recompute(self, parts: Parts) -> Recompute:
        count = self._again(alone=True)
        # PEFT's dropout draws from torch's generator, wherever it is not ours that is applied.
        drops = any(isinstance(one, nn.Dropout) and one.p > 0 for one in parts.layers.modules())
        draws = drops and (self._fused is None or bool(self._unowned))
        return Recompute(parts.layers, count, self._offload(parts, count), draws=draws)

    def _again(self, *, alone: bool) -> int:
        """Layers that recompute, where a row longer than tokens_per_micro goes `alone` or not."""
        assert self._parts is not None
        options, layers = self.options, len(self._parts.layers)
        asked = options.recompute_layers
        if alone:
            asked = max(asked, options.long_recompute_layers)
        return layers if "no_recompute" in options.off else min(asked, layers)

    def _offload(self, parts: Parts, count: int) -> Offload | None:
        options = self.options
        if not options.offload:
            return None
        most = options.rows_per_micro * options.max_length
        tokens = bucket(min(most, options.tokens_per_micro or most))
        embedded = parts.decoder.embed_tokens.weight
        return Offload(count, tokens * embedded.shape[1], embedded.dtype, self.device)

    def _fuse(self, parts: Parts) -> None:
        try:
            self._fused = FusedProjections(
                parts.layers, self.flat, self._dtype, resident=self.options.resident_layers
            )
        except CannotFuse as refused:
            self._off("fused_lora", str(refused))
            return
        self._sites = torch.arange(max(self._fused.sites, 1), device=self.device)
        self._on("fused_lora", f"{len(self._fused.groups)} groups of projections")

    def _optimizer(self) -> FlatOptimizer:
        options = self.options
        settings: dict[str, Any] = {
            "lr": options.learning_rate,
            "weight_decay": options.weight_decay,
            "max_grad_norm": options.max_grad_norm,
            "loss_scaling": options.precision == "fp16",
        }
        optimizer: FlatOptimizer
        if options.optimizer != "adamw_torch":
            optimizer = FlatStock(self.flat, kind=options.optimizer, **settings)
        elif "flat_adamw" in options.off:
            optimizer = TensorwiseAdamW(self.flat, **settings)
        else:
            optimizer = FlatAdamW(self.flat, **settings)
        optimizer.register_step_post_hook(self._note)
        return optimizer

    def _make_runner(self) -> Runner | None:
        if self._parts is None:
            self._off("graphs", "the plain path's shapes change with every batch")
            return None
        why = ""
        if self.device.type != "cuda":
            why = "no CUDA card"
        elif self._choice.kind == "loop":
            why = "attention row by row reads lengths on the host"
        elif self._fused and self._unowned:
            why = f"{len(self._unowned)} trained parameters lie outside the fused projections"
        elif self._recompute and self._recompute.count and self._recompute.draws:
            why = "layers that recompute draw their masks once more"
        wanted = self._wanted("graphs")
        if wanted and why:
            self._off("graphs", why)
        elif wanted:
            self._on("graphs", "captured per token bucket")
        return Runner(
            self._body,
            self.device,
            capture=wanted and not why,
            max_graphs=self.options.max_graphs,
            rows=self.options.rows_per_micro,
        )

    def _tell_rest(self) -> None:
        options = self.options
        if self._wanted("whole_batch"):
            self._on("whole_batch", f"up to {options.rows_per_micro} rows a micro-step")
        if self._wanted("no_recompute"):
            count = self._again(alone=False) if self._recompute else 0
            longer = self._again(alone=True) if self._recompute else 0
            where = ", inputs in the machine's memory" if options.offload and count else ""
            rare = f", {longer} in a longer row" if longer > count else ""
            self._on("no_recompute", f"{count} layers recompute{rare}{where}")
        if self._wanted("flat_adamw"):
            self._on("flat_adamw", f"{self.flat.values.numel():,} elements in one buffer")
        if self._wanted("ring"):
            self._on("ring", f"read every {options.log_every} steps")

    # -- one micro-step

    def _micro(self, part: Rows, divisor: int, *, first: bool) -> None:
        if self._runner is None:
            self._loss += plain_micro(
                self._model, part, divisor, self._dtype, self.device, self.optimizer.scale
            )
            return
        if "padding_free" in self.options.off:
            part = padded(part)
        tokens, max_length = part.tokens, max(part.lengths)
        if self._runner.capturing:  # only the bucket decides shapes, whatever rows are in it
            longest = bucket(max(self.options.max_length, max_length))
            tokens = bucket(part.tokens)
            max_length = max(min(tokens, longest), grain(tokens))
        if self._recompute is not None:
            most = self.options.tokens_per_micro or part.tokens
            self._recompute.use(self._again(alone=part.tokens > most))
        self._runner.run(
            part,
            tokens,
            max_length,
            divisor=divisor,
            seed=self.options.seed,
            counter=self.optimizer.micro_steps,
            first=first,
        )

    def _body(self, micro: Micro) -> None:
        parts = self._parts
        assert parts is not None
        if self._fused is not None:
            self._fused.draw.keys_S2 = keys_for(micro.seed, micro.counter, self._sites)
        cu = micro.cu_lengths.int()
        with attention.using(parts.config, self._choice):  # recompute attends in the backward
            with self._casting():
                hidden_TD = parts.decoder(
                    input_ids=micro.ids_1T,
                    position_ids=micro.positions_1T,
                    use_cache=False,
                    cu_seq_lens_q=cu,
                    cu_seq_lens_k=cu,
                    max_length_q=micro.max_length,
                    max_length_k=micro.max_length,
                ).last_hidden_state.squeeze(0)
                loss, root = self._loss_of(parts, hidden_TD, micro)
            torch.autograd.backward(root)
        self._loss += loss.detach()

    def _loss_of(self, parts: Parts, hidden_TD: Tensor, micro: Micro) -> tuple[Tensor, Tensor]:
        """The loss, and what to go backward from: its gradients are those of loss · loss scale."""
        scale = self.optimizer.scale
        if self._why["chunked_head"][0]:
            at_L, targets_L = micro.at_L, micro.targets_L
            loss = parts.head.loss(hidden_TD, at_L, targets_L, micro.divisor, scale)
            return loss, loss
        hidden_LD = hidden_TD if micro.at_L is None else hidden_TD.index_select(0, micro.at_L)
        logits_LV = parts.causal.lm_head(hidden_LD).float()
        if (cap := parts.head.softcap) is not None:
            logits_LV = torch.tanh(logits_LV / cap) * cap
        nats = nn.functional.cross_entropy(
            logits_LV, micro.targets_L, ignore_index=IGNORE, reduction="sum"
        )
        loss = nats / micro.divisor.clamp(min=1)
        return loss, loss * scale

    def _casting(self) -> AbstractContextManager[Any]:
        """The fused path is in the compute dtype throughout; PEFT's own modules need autocast."""
        kind = self.device.type
        if self._fused is not None or self._dtype is torch.float32:
            return (
                torch.autocast(kind, enabled=False)
                if torch.is_autocast_enabled(kind)
                else nullcontext()
            )
        return torch.autocast(kind, dtype=self._dtype, cache_enabled=False)


def padded(part: Rows) -> Rows:
    """Every row as long as the longest, as a padded batch computes it."""
    width = max(part.lengths)
    ids: list[Tensor] = []
    targets: list[Tensor] = []
    row_ids: Sequence[Tensor] = torch.split(part.ids_T, list(part.lengths))
    row_targets: Sequence[Tensor] = torch.split(part.targets_T, list(part.lengths))
    for row, target in zip(row_ids, row_targets, strict=True):
        more = width - len(row)
        ids.append(nn.functional.pad(row, (0, more)))
        targets.append(nn.functional.pad(target, (0, more), value=IGNORE))
    return Rows(ids_T=torch.cat(ids), targets_T=torch.cat(targets), lengths=(width,) * len(ids))
