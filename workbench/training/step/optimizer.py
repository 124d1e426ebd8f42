"""The update of one flat fp32 buffer, with clipping, loss scale and skipped steps on the card.

Saves launches and waits: bitsandbytes' optimizers synchronise after each of an 8B adapter's 448
tensors (30-40 ms a step on a slow host), and clipping over 448 tensors is hundreds of launches;
here both are about a dozen. Decoupled decay: Loshchilov and Hutter 2019, arXiv 1711.05101.
Dynamic loss scale: Micikevicius et al. 2018, arXiv 1710.03740, with torch.amp's constants.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

GROWTH_INTERVAL = 2_000
"""Good steps before the loss scale doubles (torch.amp.GradScaler's default)."""
FIRST_SCALE = 2.0**16
NORM_EPS = 1e-6
"""torch.nn.utils.clip_grad_norm_'s."""


class FlatParameters:
    """All trained parameters as views of one buffer, their gradients as views of another.

    The modules keep their Parameter objects, so names and state dict are PEFT's; only the storage
    behind them moves. `release()` gives each its own storage again.
    """

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], compute: torch.dtype) -> None:
        pairs = [(name, param) for name, param in named if param.requires_grad]
        pairs.sort(key=lambda pair: not decays(pair[0]))  # stable: decayed ones first
        self.names = [name for name, _ in pairs]
        self.params = [param for _, param in pairs]
        device = self.params[0].device
        count = sum(_padded(param) for param in self.params)
        self.decayed = sum(_padded(p) for n, p in pairs if decays(n))
        """Elements that decay; they come first."""
        self.values = torch.zeros(count, device=device)
        self._at: dict[int, tuple[int, torch.Size]] = {}
        at = 0
        for param in self.params:
            self._at[id(param)] = (at, param.shape)
            view = self._view(self.values, param)
            view.copy_(param.data)
            param.data = view
            param.grad = None
            at += _padded(param)
        if device.type == "cuda":  # the parameters' old memory makes room for what follows
            torch.cuda.empty_cache()
        self.grads = torch.zeros(count, device=device)
        half = compute is not torch.float32
        self.compute = torch.zeros_like(self.values, dtype=compute) if half else self.values
        """The values in the compute dtype; refresh() makes them so."""
        self.refresh()

    def value(self, param: nn.Parameter) -> Tensor:
        """In the compute dtype."""
        return self._view(self.compute, param)

    def grad(self, param: nn.Parameter) -> Tensor:
        return self._view(self.grads, param)

    def joined(self, params: list[nn.Parameter]) -> tuple[Tensor, Tensor] | None:
        """(values in the compute dtype, gradients) of matrices of one width that lie below each
        other; None where they do not.
        """
        width = params[0].shape[1]
        first = end = self._at[id(params[0])][0]
        for param in params:
            at, shape = self._at[id(param)]
            if at != end or shape[1] != width:
                return None
            end += shape.numel()
        return self.compute[first:end].view(-1, width), self.grads[first:end].view(-1, width)

    def refresh(self) -> None:
        """Cast masters to the compute dtype: one launch."""
        if self.compute is not self.values:
            self.compute.copy_(self.values)

    def attach_grads(self, params: Iterable[nn.Parameter]) -> None:
        """So that autograd adds into the buffer for parameters no function of ours owns."""
        for param in params:
            param.grad = self.grad(param)

    def release(self) -> None:
        for param in self.params:
            param.data = param.data.clone()
            param.grad = None

    def _view(self, buffer: Tensor, param: nn.Parameter) -> Tensor:
        at, shape = self._at[id(param)]
        return buffer[at : at + shape.numel()].view(shape)


def decays(name: str) -> bool:
    """transformers decays all but biases and norms."""
    return not (name.endswith("bias") or "norm" in name.lower())


def _padded(param: nn.Parameter) -> int:
    return -(-param.numel() // 256) * 256  # where vector loads, TMA and 8-bit blocks like it


class FlatOptimizer(torch.optim.Optimizer):
    """A torch optimizer over the flat buffers: schedules and the Trainer's life cycle work on it.

    Clips, undoes the loss scale, and counts: a step whose gradient norm is not finite changes
    nothing. State: the loss scale, the counts, and what the update keeps.
    """

    def __init__(
        self,
        flat: FlatParameters,
        *,
        lr: float,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        max_grad_norm: float | None = None,
        loss_scaling: bool = False,
    ) -> None:
        self.flat = flat
        self.max_grad_norm = max_grad_norm
        self.loss_scaling = loss_scaling
        pairs = list(zip(flat.names, flat.params, strict=True))
        groups = [
            {"params": [p for n, p in pairs if decays(n)], "weight_decay": weight_decay},
            {"params": [p for n, p in pairs if not decays(n)], "weight_decay": 0.0},
        ]
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__([group for group in groups if group["params"]], defaults)
        device = flat.values.device
        zero = torch.zeros((), device=device)
        self._flat_state: dict[str, Tensor] = {
            "scale": torch.full((), FIRST_SCALE if loss_scaling else 1.0, device=device),
            "good_steps": torch.zeros((), dtype=torch.int32, device=device),
            "skipped": zero.clone(),
            "skipped_in_a_row": zero.clone(),
        }
        self.micro_steps = 0
        """Micro-steps done; with the seed it names every dropout mask, so it is kept with the rest.
        """
        self.norm = zero.clone()
        """Of the last step's gradients, before clipping."""

    @property
    def scale(self) -> Tensor:
        return self._flat_state["scale"]

    @property
    def skipped(self) -> Tensor:
        return self._flat_state["skipped"]

    @property
    def skipped_in_a_row(self) -> Tensor:
        return self._flat_state["skipped_in_a_row"]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        assert closure is None
        state = self._flat_state
        norm = torch.linalg.vector_norm(self.flat.grads) / state["scale"]
        bad = (~torch.isfinite(norm)).float()
        shrink = state["scale"]
        if self.max_grad_norm is not None:
            over = (norm + NORM_EPS) / self.max_grad_norm
            shrink = shrink * over.clamp(min=1.0).nan_to_num(1.0, 1.0, 1.0)
        self._update(shrink, bad)
        self._count(bad)
        self.norm.copy_(norm)
        return None

    def _update(self, shrink: Tensor, bad: Tensor) -> None:
        """Update from the gradients divided by `shrink`; nothing where `bad` is 1."""
        raise NotImplementedError

    def _spans(self) -> list[slice]:
        """Of the flat buffer, one for each group."""
        decayed, count = self.flat.decayed, self.flat.values.numel()
        spans = [slice(0, decayed), slice(decayed, count)]
        return [span for span in spans if span.start != span.stop]

    def _count(self, bad: Tensor) -> None:
        state = self._flat_state
        state["skipped"] += bad
        state["skipped_in_a_row"].add_(1).mul_(bad)
        if self.loss_scaling:
            torch._amp_update_scale_(
                state["scale"], state["good_steps"], bad, 2.0, 0.5, GROWTH_INTERVAL
            )

    @property
    def learning_rate(self) -> float:
        return float(self.param_groups[0]["lr"])

    def state_bytes(self) -> int:
        """What it keeps by now; a stock one makes its moments in its first step."""
        return _bytes_of(self._flat_state.values())

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Zeroes the flat buffer, whatever is asked: graphs write to it."""
        self.flat.grads.zero_()

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values, as torch.load(weights_only=True) wants them."""
        groups = [
            {name: value for name, value in group.items() if name != "params"}
            for group in self.param_groups
        ]
        kept = {**self._flat_state, "micro_steps": self.micro_steps}
        return {"state": kept, "param_groups": groups}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Exact: every tensor is copied, in its dtype. ValueError when the shapes differ."""
        found = dict(state_dict["state"])
        micro_steps = found.pop("micro_steps", None)
        if micro_steps is None or found.keys() != self._flat_state.keys():
            raise ValueError("this is not the state of this flat optimizer")
        for name, tensor in self._flat_state.items():
            if found[name].shape != tensor.shape:
                raise ValueError(f"{name} has {found[name].numel()} elements, not {tensor.numel()}")
            tensor.copy_(found[name])
        self.micro_steps = int(micro_steps)
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            group.update({name: value for name, value in saved.items() if name != "params"})


class FlatAdamW(FlatOptimizer):
    """One launch for the update of each decay group, about ten small ones around it; nothing here
    waits for the card. Keeps `exp_avg`, `exp_avg_sq` (fp32, flat) and `step`.
    """

    def __init__(self, flat: FlatParameters, **settings: Any) -> None:
        super().__init__(flat, **settings)
        self._flat_state |= {
            "exp_avg": torch.zeros_like(flat.values),
            "exp_avg_sq": torch.zeros_like(flat.values),
            "step": torch.zeros((), device=flat.values.device),
        }

    def _update(self, shrink: Tensor, bad: Tensor) -> None:
        state = self._flat_state
        for group, span in zip(self.param_groups, self._spans(), strict=True):
            beta1, beta2 = group["betas"]
            torch._fused_adamw_(
                [self.flat.values[span]],
                [self.flat.grads[span]],
                [state["exp_avg"][span]],
                [state["exp_avg_sq"][span]],
                [],
                [state["step"] + 1],
                lr=float(group["lr"]),
                beta1=beta1,
                beta2=beta2,
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
                grad_scale=shrink,
                found_inf=bad,
            )
        state["step"] += 1 - bad


class FlatStock(FlatOptimizer):
    """Another library's optimizer over the flat buffer as one tensor: bitsandbytes' then wait for
    the card once a step instead of once a tensor. A tensor starts on a multiple of their block of
    256, so 8-bit states are the same as tensor by tensor.
    """

    def __init__(self, flat: FlatParameters, *, kind: str, **settings: Any) -> None:
        super().__init__(flat, **settings)
        self._flats = [nn.Parameter(flat.values[span]) for span in self._spans()]
        for param, span in zip(self._flats, self._spans(), strict=True):
            param.grad = flat.grads[span]
        groups = [
            {"params": [param], **{name: group[name] for name in ("lr", "weight_decay")}}
            for param, group in zip(self._flats, self.param_groups, strict=True)
        ]
        self._inner = _stock(kind, groups, settings["lr"])

    def _update(self, shrink: Tensor, bad: Tensor) -> None:
        if bool(bad):  # a wait; these optimizers wait anyway
            return
        self.flat.grads.div_(shrink)
        _step_at(self._inner, self.param_groups)

    def state_bytes(self) -> int:
        made = [value for state in self._inner.state.values() for value in state.values()]
        return super().state_bytes() + _bytes_of(v for v in made if isinstance(v, Tensor))

    def state_dict(self) -> dict[str, Any]:
        told = super().state_dict()
        return {**told, "inner": [dict(self._inner.state[param]) for param in self._flats]}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Paged states stay paged, where bitsandbytes' own loading leaves them on the card."""
        super().load_state_dict(state_dict)
        for index, (param, saved) in enumerate(zip(self._flats, state_dict["inner"], strict=True)):
            if saved and hasattr(self._inner, "init_state"):
                self._inner.init_state(self._inner.param_groups[index], param, index, 0)
            state = self._inner.state[param]
            for name, value in saved.items():
                if isinstance(state.get(name), Tensor):
                    state[name].copy_(value)
                else:
                    state[name] = value


def _bytes_of(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _stock(kind: str, groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
    """By the recipe's name of it."""
    if kind == "sgd":
        return torch.optim.SGD(groups, lr=lr)
    from bitsandbytes.optim import AdamW

    bits, paged = (32 if "32bit" in kind else 8), "paged" in kind
    on_card = groups[0]["params"][0].device.type == "cuda"
    made: torch.optim.Optimizer = AdamW(
        groups, lr=lr, eps=1e-8, optim_bits=bits, is_paged=paged and on_card
    )
    return made


class TensorwiseAdamW(FlatOptimizer):
    """bitsandbytes' 8-bit AdamW one tensor after another, as without this lever; to measure what it
    gives."""

    def __init__(self, flat: FlatParameters, **settings: Any) -> None:
        super().__init__(flat, **settings)
        kept = ("params", "lr", "weight_decay")
        groups = [{name: group[name] for name in kept} for group in self.param_groups]
        self._inner = _stock("adamw_8bit", groups, settings["lr"])

    def _update(self, shrink: Tensor, bad: Tensor) -> None:
        if bool(bad):
            return
        self.flat.attach_grads(self.flat.params)
        torch._foreach_div_([self.flat.grad(param) for param in self.flat.params], shrink)
        _step_at(self._inner, self.param_groups)


def _step_at(inner: torch.optim.Optimizer, groups: list[dict[str, Any]]) -> None:
    """With the learning rate that a schedule has set by now."""
    for ours, theirs in zip(groups, inner.param_groups, strict=True):
        theirs["lr"] = ours["lr"]
    inner.step()
