"""The training step: an optimizer batch in, gradients out, one update.

assembly.py puts the optimizations onto the model; here they run. docs/step.md follows an optimizer
batch through it.
"""

# T tokens, L positions that carry loss, D width, V vocabulary, S sites of dropout masks

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from workbench.errors import Diverged
from workbench.footprint.micro_steps import bucket_grain, padded_tokens
from workbench.training.step.assembly import Assembly
from workbench.training.step.attention.interface import use_attention
from workbench.training.step.attention.query_scale import unscaled_queries
from workbench.training.step.graphs import GraphRunner
from workbench.training.step.kept.layers import adapted_layers, put_layers, same_bases
from workbench.training.step.kept.patches import Patches
from workbench.training.step.kernels.masks import mask_keys
from workbench.training.step.model_parts import ModelParts
from workbench.training.step.optimizations import Optimization
from workbench.training.step.options import StepOptions
from workbench.training.step.plain import run_plain_micro_step
from workbench.training.step.ring import MetricRing
from workbench.training.step.rows import IGNORE, MicroInputs, Rows

MAX_SKIPPED = 20
"""Steps in a row without a finite gradient after which the trial has failed."""
METRICS = ("loss", "grad_norm", "skipped", "skipped_in_a_row", "loss_scale")
"""Numbers that each step leaves in the ring, in the order in which _note() writes them."""


class Step:
    """The training of a PEFT model's adapter; make it after everything else has wrapped the model.

    `forward_backward(rows)` gives the mean loss of the batch as a tensor on the card;
    `optimizer_step()` clips and updates; `measured()` reads what the steps since the last call
    measured. A checkpoint needs `optimizer.state_dict()`, the adapter and, with dropout, the number
    `micro_steps`. `restore()` leaves model and modules as they were, with the trained weights.
    """

    def __init__(self, model: Any, options: StepOptions) -> None:
        """Put the optimizations onto the model.

        Raise HostMemory where inputs of layers are to be offloaded and the machine has no room; the
        model is then as it was.
        """
        self.options = options
        self._model = model
        self._patches = Patches(model)
        self._assembly = assembly = Assembly(model, options)
        self._patches.note()
        self._fused, self._recompute = assembly.fused, assembly.recompute
        self.flat, self.device = assembly.flat, assembly.device
        self._runner: GraphRunner | None = None
        try:
            self._prepare()
            self._prepare_trial()
        except BaseException:
            self.restore()
            raise
        self._layers = adapted_layers(model)

    def _prepare(self) -> None:
        """Allocate what every step writes to: its addresses must not change between replays."""
        options = self.options
        self._loss = torch.zeros((), device=self.device)
        if self._fused is not None:
            self._sites = torch.arange(max(self._fused.sites, 1), device=self.device)
        if self._assembly.parts is not None:
            self._runner = GraphRunner(
                self._run_micro_step,
                self.device,
                capture=self._assembly.captures,
                max_graphs=options.max_graphs,
                rows=options.rows_per_micro,
            )

    def _prepare_trial(self) -> None:
        """Make what no pass writes to, new for each trial."""
        # A Trainer calls it after each step; walking thousands of modules takes the host longer
        # than all else, and there is nothing to clear: gradients live in the flat buffer.
        self._model.__dict__["zero_grad"] = lambda set_to_none=True: None
        self.micro_steps = 0
        """Number of the next micro-step. With the seed it names the dropout masks."""
        self.optimizer = self._assembly.optimizer
        self.optimizer.register_step_post_hook(self._note)
        # Four times what is read at once, so that a late reading loses nothing.
        self._ring = MetricRing(max(self.options.log_every, 1) * 4, METRICS, self.device)

    # -- one step

    def forward_backward(self, rows: Rows) -> Tensor:
        """Compute the gradients of the batch's mean loss, and return that loss.

        The loss is in nats per target token, a scalar on the card that is not waited for. Gradients
        are in `flat.grads`, times the loss scale.
        """
        options = self.options
        if not all(module.training for module in self._assembly.watched):
            self._model.train()  # PEFT keeps a base in eval mode
        self.flat.grads.zero_()
        self.flat.refresh()
        self._loss.zero_()
        # In every step: whoever sets .grad to None takes a gradient out of the buffer.
        self.flat.attach_grads(self._assembly.unowned)
        divisor = rows.targets
        alone = 1 if "whole_batch" in options.off else options.rows_per_micro
        for index, part in enumerate(self._cut(rows, alone)):
            if self._fused is not None:
                self._fused.draw.first = index == 0
            self._run_part(part, divisor, first=index == 0)
            self.micro_steps += 1
        return self._loss.clone()

    def _cut(self, rows: Rows, max_rows: int) -> list[Rows]:
        fills = self._assembly.parts is None or "padding_free" in self.options.off
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
        """Return METRICS of each step since the last call, oldest first. Waits for the card.

        Raise Diverged when 20 steps in a row had no finite gradient.
        """
        rows = self._ring.read()
        worst = max((row["skipped_in_a_row"] for row in rows), default=0.0)
        if worst >= MAX_SKIPPED:
            raise Diverged(
                f"{int(worst)} steps in a row had a gradient that is NaN or infinite",
                hint="lower train.learning_rate, or set model.precision: bf16 where the card has "
                "it",
            )
        return rows

    # -- what it runs on, and the end

    def optimizations(self) -> list[Optimization]:
        """Return all nine, in order of worth; graphs are off once a capture has failed."""
        runner, report = self._runner, self._assembly.report
        if runner is not None and not runner.capturing and report.is_on("graphs"):
            report.turn_off("graphs", runner.why_not)
        return report.entries()

    def describe_captures(self) -> str:
        """Return what the trial's captures took; empty where nothing is captured."""
        runner = self._runner
        if runner is None or not runner.capturing:
            return ""
        words = f"{runner.captures} CUDA graphs captured in {runner.capture_s:.2f} s"
        return f"{words}, {runner.found} kept from the trial before"

    def release_graphs(self) -> None:
        """Give the graphs' memory back, before generation; they are captured again when needed.

        Let go what a pass that failed has left, too.
        """
        if self._runner is not None:
            self._runner.release()
        if self._fused is not None:
            self._fused.forget_outputs()
        if self._recompute is not None and self._recompute.offload is not None:
            self._recompute.offload.forget()

    def restore(self) -> None:
        """Leave model and modules as they were, with the trained weights."""
        self.release_graphs()
        self._assembly.restore()
        self._model.__dict__.pop("zero_grad", None)

    # -- the next trial

    @property
    def can_be_kept(self) -> bool:
        """True where another trial's adapter can take the place of this one in all that it holds.

        Trained parameters outside the fused projections, and inputs of layers in the machine's
        memory, are not kept.
        """
        offloads = self._recompute is not None and self._recompute.offload is not None
        return self._fused is not None and not self._assembly.unowned and not offloads

    def suspend(self) -> None:
        """Leave model and modules as they were, with the trained weights; keep graphs and buffers.

        The weights stay in the flat buffer until `resume` writes the next adapter there. The
        optimizer is let go.
        """
        assert self._fused is not None
        self._fused.forget_outputs()
        self._patches.exchange()
        self._scale = self.optimizer.scale
        self._model.__dict__.pop("zero_grad", None)
        self._model = self._assembly.model = None
        self._assembly.watched = []
        del self.optimizer, self._assembly.optimizer, self._ring

    def serves(self, model: Any) -> bool:
        """Return whether the model's adapter is on the frozen layers that this step knows."""
        return same_bases(self._layers, adapted_layers(model))

    def resume(self, model: Any, options: StepOptions) -> None:
        """Begin the next trial: write its adapter into the buffers, and all else anew.

        The layers of this step take the place of the model's. `options` may differ in what no pass
        depends on (kept/keeper.py); the model in the numbers of its adapter.
        """
        values = {name: param.data for name, param in model.named_parameters()}
        put_layers(model, self._layers)
        self.flat.refill(values[name] for name in self.flat.names)
        del values  # the card may have no room for them beside the optimizer's state
        self._loss.zero_()
        self._patches.exchange()
        try:
            self.options, self._model = options, model
            self._assembly.renew(model, options, self._scale)
            if self._runner is not None:
                self._runner.begin_trial()
            self._prepare_trial()
        except BaseException:  # functions of transformers would stay changed for the whole process
            self._patches.exchange()
            raise

    # -- one micro-step

    def _run_part(self, part: Rows, divisor: int, *, first: bool) -> None:
        """Run one micro-step by the plain path, or sized to its bucket by the graph runner."""
        options, runner = self.options, self._runner
        if runner is None:
            self._loss += run_plain_micro_step(
                self._model, part, divisor, self._assembly.dtype, self.device, self.optimizer.scale
            )
            return
        if "padding_free" in options.off:
            part = part.pad()
        tokens, max_length = part.tokens, max(part.lengths)
        if runner.capturing:  # only the bucket decides shapes, whatever rows are in it
            longest = padded_tokens(max(options.max_length, max_length))
            tokens = padded_tokens(part.tokens)
            # The tail may be longer than any row: up to one grain less a token.
            max_length = max(min(tokens, longest), bucket_grain(tokens))
        if self._recompute is not None:
            most = options.tokens_per_micro or part.tokens
            alone = part.tokens > most
            self._recompute.use(self._assembly.recomputed_layers(alone=alone))
        runner.run(
            part,
            tokens,
            max_length,
            divisor=divisor,
            seed=options.seed,
            counter=self.micro_steps,
            first=first,
        )

    def _run_micro_step(self, micro: MicroInputs) -> None:
        """Go forward and backward; captured, so it reads nothing on the host."""
        parts, attention = self._assembly.parts, self._assembly.attention
        assert parts is not None
        assert attention is not None
        if self._fused is not None:
            self._fused.draw.keys_S2 = mask_keys(micro.seed, micro.counter, self._sites)
        cu = micro.cu_lengths.int()
        # Around the backward pass as well: layers that recompute attend in it.
        unscaled = unscaled_queries(parts.decoder, micro.max_length)
        with use_attention(parts.config, attention), unscaled:
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
                loss, root = self._compute_loss(parts, hidden_TD, micro)
            # Else it and the final norm's input, which it carries (lora/remake.py), would stay.
            del hidden_TD
            torch.autograd.backward(root)
        self._loss += loss.detach()

    def _compute_loss(
        self, parts: ModelParts, hidden_TD: Tensor, micro: MicroInputs
    ) -> tuple[Tensor, Tensor]:
        """Return the loss, and what to go backward from: its gradients carry the loss scale."""
        scale = self.optimizer.scale
        if self._assembly.report.is_on("chunked_head"):
            at_L, targets_L = micro.at_L, micro.targets_L
            loss = parts.head.loss(hidden_TD, at_L, targets_L, micro.divisor, scale)
            return loss, loss
        hidden_LD = hidden_TD if micro.at_L is None else hidden_TD.index_select(0, micro.at_L)
        logits_LV = parts.head.logits(hidden_LD).float()
        nats = nn.functional.cross_entropy(
            logits_LV, micro.targets_L, ignore_index=IGNORE, reduction="sum"
        )
        loss = nats / micro.divisor.clamp(min=1)
        return loss, loss * scale

    def _casting(self) -> AbstractContextManager[Any]:
        """Return the autocast context of the forward pass.

        The fused path is in the compute dtype throughout; PEFT's own modules need autocast.
        """
        kind, dtype = self.device.type, self._assembly.dtype
        if self._fused is not None or dtype is torch.float32:
            return (
                torch.autocast(kind, enabled=False)
                if torch.is_autocast_enabled(kind)
                else nullcontext()
            )
        return torch.autocast(kind, dtype=dtype, cache_enabled=False)
