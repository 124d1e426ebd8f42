"""Gated delta layers over concatenated rows, against transformers' code row by row, in fp32."""

from __future__ import annotations

import sys
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.training.step.conftest import ModelOf, assert_same_gradients, options
from workbench.footprint.model import linear_attention
from workbench.footprint.model.linear_attention import CHUNK, DeltaLayers
from workbench.training.step import Rows, Step
from workbench.training.step.delta.mixer import MIXER, DeltaMixers
from workbench.training.step.delta.rule import (
    Rule,
    choose_rule,
    delta_rule,
    delta_rule_by_package,
)

QWEN = "qwen3_5_text"
G, H, K, V = 2, 4, 8, 16


def by_transformers(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, cu: Tensor
) -> Tensor:
    from transformers.models.qwen3_5 import modeling_qwen3_5 as qwen

    outs = []
    for first, end in pairwise(cu.tolist()):
        row: list[Any] = [x[None, first:end] for x in (q, k, v)]
        more = {"g": decay[None, first:end], "beta": beta[None, first:end]}
        if first < end:
            out = qwen.torch_chunk_gated_delta_rule(*row, **more, use_qk_l2norm_in_kernel=True)
            outs.append(out[0][0])
    return torch.cat(outs)


@pytest.mark.parametrize(
    "lengths",
    [[5, 17, 9, 12], [CHUNK], [CHUNK, CHUNK], [3, 200, 1, 1, 70], [2 * CHUNK - 1, 2, 90]],
    ids=str,
)
@pytest.mark.parametrize("strongest", [0.25, 16.0], ids="decay {}".format)
def test_states_do_not_pass_from_row_to_row(strongest: float, lengths: list[int]) -> None:
    """A head may begin with a decay of 16 a token; exp of its sum over another row overflows."""
    torch.manual_seed(0)
    tokens = sum(lengths)
    cu = torch.tensor([0, *lengths, 0, 0]).cumsum(0)  # unused entries repeat the end
    shapes = ((G, K), (G, K), (H, V))
    inputs = [torch.randn(tokens, *shape, requires_grad=True) for shape in shapes]
    decay = (-torch.rand(tokens, H) * strongest).requires_grad_()
    beta = torch.rand(tokens, H, requires_grad=True)
    grad = torch.randn(tokens, H, V)
    found = []
    rules: list[Rule] = [by_transformers, delta_rule]
    for rule in rules:
        out = rule(inputs[0], inputs[1], inputs[2], decay, beta, cu)
        found.append([out.detach(), *torch.autograd.grad(out, [*inputs, decay, beta], grad)])
    # Logarithms are summed over a chunk: of larger ones, digits of larger value are lost.
    for want, got in zip(*found, strict=True):
        assert float((want - got).norm() / want.norm()) < 3e-6 * max(1, strongest)


@pytest.mark.parametrize(("keys", "at_once"), [(2, 1), (3, 2)])
def test_heads_some_at_a_time_give_the_same_gradients(
    keys: int, at_once: int, model_of: ModelOf, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last time has fewer heads where all do not divide evenly."""
    sizes = {"key_heads": keys, "value_heads": 2 * keys, "key_width": K, "value_width": V}
    heads = DeltaLayers(count=1, **sizes)
    room = int(heads.rule_bytes(rows.tokens)) * at_once // keys
    monkeypatch.setattr(linear_attention, "RULE_BYTES", room)
    assert heads.heads_at_once(rows.tokens) == at_once
    model = model_of(QWEN, {"linear_num_key_heads": keys, "linear_num_value_heads": 2 * keys})
    assert_same_gradients(model, rows, Step(model, options()))


def test_trained_steps_of_the_rule_get_their_gradients(model_of: ModelOf, rows: Rows) -> None:
    model = model_of(QWEN, bias="all")  # dt_bias among them
    assert_same_gradients(model, rows, Step(model, options()))


def test_the_report_names_the_rule_and_what_is_off_without_it(model_of: ModelOf) -> None:
    step = Step(model_of(QWEN), options())
    on = {entry.name: entry.why for entry in step.optimizations() if entry.on}
    assert f"PyTorch's operations in chunks of {CHUNK} tokens" in on["padding_free"]
    step.restore()
    model: Any = step._model
    assert not any("forward" in module.__dict__ for module in model.modules())


@pytest.mark.parametrize("tokens", [100, 8_192, 65_536])
def test_the_rules_tensors_stay_within_their_room(tokens: int) -> None:
    nine = DeltaLayers(count=24, key_heads=16, value_heads=32, key_width=128, value_width=128)
    one_head = nine.rule_bytes(tokens) / nine.heads_at_once(tokens)
    assert nine.rule_bytes(tokens) <= linear_attention.RULE_BYTES + one_head


@pytest.mark.parametrize(
    ("capability", "triton", "others", "taken"),
    [((9, 0), "3.6.0", [], False), ((9, 0), "3.7.1", [], True), ((9, 0), "3.3.1", [], True),
     ((9, 0), "3.6.0", ["tilelang"], True), ((8, 6), "3.6.0", [], True),
     ((12, 0), "3.6.0", [], True)],
)  # fmt: skip
def test_the_package_is_left_out_where_its_gradients_are_wrong(
    capability: tuple[int, int],
    triton: str,
    others: list[str],
    taken: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = {name: name for name in ["fla", *others]}
    monkeypatch.setattr("workbench.training.step.delta.rule.find_spec", there.get)
    monkeypatch.setitem(sys.modules, "triton", SimpleNamespace(__version__=triton))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    choice = choose_rule(torch.device("cuda", 0), torch.bfloat16)
    assert choice.reads_host == taken
    assert ("Triton 3.6.0" in choice.why) == (not taken)


def gradients_of_a_layer(device: str, *, own: bool) -> dict[str, Tensor]:
    """Return the output of a layer of some rows and the gradients of its projections' outputs.

    On a CPU in fp32, on a card in bf16; by transformers' code row by row, or by ours at once.
    """
    from transformers import Qwen3_5TextConfig
    from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5GatedDeltaNet

    torch.manual_seed(0)
    sizes = {"linear_num_value_heads": 4, "linear_num_key_heads": 2}
    config = Qwen3_5TextConfig(hidden_size=256, num_hidden_layers=4, **sizes)
    layer: Any = Qwen3_5GatedDeltaNet(config, 0).requires_grad_(False)
    layer.A_log.uniform_(0.01, 16).log_()
    lengths = [70, 3, 150]
    x_TD, grad_TD = torch.randn(sum(lengths), 256), torch.randn(sum(lengths), 256)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    layer, x_TD, grad_TD = (each.to(device, dtype) for each in (layer, x_TD, grad_TD))
    outputs: dict[str, list[Tensor]] = {}
    for name in ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a"):

        def keep(_: Any, __: Any, output: Tensor, name: str = name) -> None:
            output.requires_grad_().retain_grad()
            outputs.setdefault(name, []).append(output)

        getattr(layer, name).register_forward_hook(keep)
    if own:
        cu = torch.tensor([0, *lengths, 0], device=device).cumsum(0, dtype=torch.int32)
        mixers = DeltaMixers([nn.ModuleDict({MIXER: layer})], choose_rule(x_TD.device, dtype))
        outs = [layer(hidden_states=x_TD[None], cu_seq_lens_q=cu)]
        mixers.restore()
    else:
        outs = [layer(hidden_states=row[None]) for row in x_TD.split(lengths)]
    out = torch.cat(outs, 1)
    out.backward(grad_TD[None])  # type: ignore[no-untyped-call]
    grads = {name: [each.grad for each in found] for name, found in outputs.items()}
    found = {name: torch.cat(each, 1).float().cpu() for name, each in grads.items()}  # type: ignore[arg-type]
    return {"out": out.detach().float().cpu(), **found}


def test_a_layer_has_the_gradients_of_transformers() -> None:
    want, got = (gradients_of_a_layer("cpu", own=own) for own in (False, True))
    for name in want:
        assert float((got[name] - want[name]).norm() / want[name].norm()) < 1e-5, name


CARD = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card"),
]


class TestOnACard:
    pytestmark = CARD

    def test_the_package_gives_what_our_rule_gives(self) -> None:
        pytest.importorskip("fla")
        torch.manual_seed(0)
        lengths = [5, 170, 64, 1, 90]
        cu = torch.tensor([0, *lengths, 0, 0], device="cuda").cumsum(0)
        shapes = ((2, 128), (2, 128), (4, 128))
        made: Any = {"device": "cuda", "dtype": torch.bfloat16}
        inputs = [torch.randn(330, *shape, **made).requires_grad_() for shape in shapes]
        decay = (-torch.rand(330, 4, device="cuda") / 4).requires_grad_()
        beta = torch.rand(330, 4, **made).requires_grad_()
        grad = torch.randn(330, 4, 128, **made)
        found = []
        rules: list[Rule] = [delta_rule, delta_rule_by_package]
        for rule in rules:
            out = rule(inputs[0], inputs[1], inputs[2], decay, beta, cu).to(torch.bfloat16)
            found.append([out.detach(), *torch.autograd.grad(out, [*inputs, decay, beta], grad)])
        for want, got in zip(*found, strict=True):
            assert float((want - got).float().norm() / want.float().norm()) < 0.02

    @pytest.mark.parametrize("own", [True, False], ids=["ours", "transformers"])
    def test_a_layer_in_16_bits_has_the_gradients_of_one_on_a_cpu(
        self, own: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With its published widths, rows of several chunks, and transformers' code for measure."""
        monkeypatch.setattr("workbench.training.step.delta.rule.find_spec", lambda _: None)
        cpu, card = gradients_of_a_layer("cpu", own=False), gradients_of_a_layer("cuda", own=own)
        for name, want in cpu.items():
            assert float((card[name] - want).norm() / want.norm()) < 0.03, name

    @pytest.mark.parametrize("recompute", [0, 1])
    def test_a_replay_gives_what_an_eager_run_gives(
        self, recompute: int, model_of: ModelOf, rows: Rows, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("workbench.training.step.delta.rule.find_spec", lambda _: None)
        found = []
        for off in (frozenset[str](), frozenset({"graphs"})):
            model = model_of(QWEN).to("cuda")
            for param in model.parameters():
                if not param.requires_grad:
                    param.data = param.data.bfloat16()
            how = options(precision="bf16", max_length=256, off=off, recompute_layers=recompute)
            step = Step(model, how)
            for _ in range(4):
                loss = step.forward_backward(rows)
            assert step._runner is not None
            assert step._runner.captured == (0 if off else 1), step.optimizations()
            found.append((float(loss), step.flat.grads.clone()))
            step.restore()
        (replay_loss, replayed), (eager_loss, eager) = found
        assert replay_loss == pytest.approx(eager_loss, rel=1e-3)
        assert float(nn.functional.cosine_similarity(replayed, eager, dim=0)) > 0.999
