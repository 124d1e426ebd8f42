"""Greedy answers of the fast path against transformers' own, in fp32, for every fused family."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn

from tests.training.step.conftest import SIZES, ModelOf, model_of, pack_weights
from workbench.footprint.model.shape import UNDECODED_FAMILIES, ModelShape
from workbench.training.decode.forward import CannotFuse, FastForward, Pass
from workbench.training.decode.generate import generate_tokens
from workbench.training.decode.lanes import Lanes, Prompt

__all__ = ["model_of"]

ENDS = [2, 50]
MOST = 12


def prompts_of(count: int, seed: int = 0) -> list[list[int]]:
    chance = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 14, (count,), generator=chance).tolist()
    return [torch.randint(3, 97, (n,), generator=chance).tolist() for n in lengths]


def by_transformers(model: Any, ids: list[int], most: int = MOST) -> list[int]:
    model.eval()
    with torch.no_grad():
        out = model.generate(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
            max_new_tokens=most,
            do_sample=False,
            eos_token_id=ENDS,
            pad_token_id=0,
        )
    new: list[int] = out[0, len(ids) :].tolist()
    return new


def by_lanes(
    forward: FastForward, prompts: list[Prompt], lanes: int = 3, **how: Any
) -> list[list[int]]:
    positions = max(len(one.ids) + one.most for one in prompts)
    held = Lanes(forward, lanes, positions=positions, most=MOST, ends=ENDS)
    return [one.ids for one in generate_tokens(held, prompts, ENDS, prefill_tokens=20, **how)]


def test_greedy_answers_are_those_of_transformers(decoded_model: PeftModel) -> None:
    asked = prompts_of(3, seed=6)  # of 1, 7 and 12 tokens: two are longer than a window
    want = [by_transformers(decoded_model, ids, most=8) for ids in asked]
    forward = FastForward(decoded_model, torch.float32)
    try:
        got = by_lanes(forward, [Prompt(ids=ids, most=8) for ids in asked], lanes=2)
    finally:
        forward.restore()
    assert got == want
    assert by_transformers(decoded_model, asked[0], most=8) == want[0]


@pytest.mark.parametrize("family", sorted(UNDECODED_FAMILIES))
def test_a_family_that_only_trains_here_is_refused(family: str, model_of: ModelOf) -> None:
    with pytest.raises(CannotFuse, match=f"{family} .*transformers"):
        FastForward(model_of(family), torch.float32)


def test_logits_are_those_of_transformers(decoded_model: PeftModel) -> None:
    """Losses of held-out rows are computed from them."""
    model: Any = decoded_model
    (ids,) = (torch.tensor([one]) for one in prompts_of(1, seed=3))
    with torch.no_grad():
        want = model.eval()(input_ids=ids).logits[0]
    forward = FastForward(model, torch.float32)
    cu = torch.tensor([0, ids.shape[1]], dtype=torch.int32)
    positions = torch.arange(ids.shape[1])
    read = Pass(
        cache=None, slots_T=positions * 0, positions_T=positions, adapter_T=None, cu=cu,
        max_length=ids.shape[1],
    )  # fmt: skip
    try:
        torch.testing.assert_close(forward.logits(forward.hidden(ids[0], read)), want)
    finally:
        forward.restore()


def test_a_plan_counts_the_keys_that_the_cache_keeps(decoded_model: PeftModel) -> None:
    forward = FastForward(decoded_model, torch.float32)
    forward.restore()
    kept = sum(groups * width for groups, width in forward.cache_shape.kept)
    assert ModelShape.of(decoded_model.config.to_dict()).cached_values == kept


def with_other_adapter(model: Any, rank: int = 3) -> list[str | None]:
    """Add an adapter of another rank; return the names of both and of the base."""
    torch.manual_seed(5)
    model.add_adapter("other", replace(model.peft_config["default"], r=rank))
    for name, param in model.named_parameters():
        if "lora_B.other" in name:
            nn.init.normal_(param, 0.0, 0.3)
    return ["default", "other", None]


def test_rows_of_several_adapters_share_a_pass(decoded_model: PeftModel) -> None:
    model: Any = decoded_model
    asked, names = prompts_of(5), with_other_adapter(model)
    prompts = [Prompt(ids=ids, most=6, adapter=n % 3) for n, ids in enumerate(asked)]
    want: list[list[int]] = [[]] * len(prompts)
    for which, name in enumerate(names):
        forward = FastForward(model, torch.float32, adapters=[name])
        alone = [replace(one, adapter=0) for one in prompts[which::3]]
        want[which::3] = by_lanes(forward, alone)
        forward.restore()
    forward = FastForward(model, torch.float32, adapters=names)
    assert by_lanes(forward, prompts, lanes=4) == want
    assert by_lanes(forward, [replace(one, adapter=0) for one in prompts[1:3]]) != want[1:3]
    forward.restore()
    model.delete_adapter("other")


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
def test_an_adapter_that_overflows_changes_no_row_of_another(
    family: str, model_of: ModelOf
) -> None:
    """Neither one that shares its pass nor one that takes its lane afterwards."""
    model: Any = model_of(family)
    names = with_other_adapter(model)
    asked = [Prompt(ids=ids, most=MOST, adapter=n % 2) for n, ids in enumerate(prompts_of(8, 2))]
    forward = FastForward(model, torch.float32, adapters=["default"])
    want = by_lanes(forward, [replace(one, adapter=0) for one in asked[::2]])
    forward.restore()
    for name, param in model.named_parameters():
        if "lora_A.other" in name:
            param.data.fill_(float("inf"))
    forward = FastForward(model, torch.float32, adapters=names)
    assert by_lanes(forward, asked)[::2] == want
    forward.restore()


def test_an_answer_does_not_depend_on_what_else_is_answered(model_of: ModelOf) -> None:
    forward = FastForward(model_of("llama"), torch.float32)
    prompts = [Prompt(ids=ids, most=MOST - n % 3) for n, ids in enumerate(prompts_of(9, seed=3))]
    whole = by_lanes(forward, prompts, lanes=9)
    assert by_lanes(forward, prompts, lanes=2) == whole
    assert by_lanes(forward, prompts[::-1], lanes=4)[::-1] == whole
    assert all(len(one) <= prompt.most for one, prompt in zip(whole, prompts, strict=True))


def test_tokens_are_drawn_by_their_probabilities(model_of: ModelOf) -> None:
    model = model_of("llama")
    forward = FastForward(model, torch.float32)
    ids = prompts_of(1)[0]
    prompts = [Prompt(ids=ids, most=1, temperature=0.7, seed=seed) for seed in range(400)]
    held = Lanes(forward, 400, positions=len(ids) + 1, most=1, ends=ENDS)
    drawn = generate_tokens(held, prompts, ENDS, prefill_tokens=9_999)
    forward.restore()
    with torch.no_grad():
        shares = (model(input_ids=torch.tensor([ids])).logits[0, -1] / 0.7).softmax(-1)
    counts = torch.bincount(torch.tensor([one.ids[0] for one in drawn]), minlength=97)
    # Pearson's statistic over what is likely enough; 97 classes at most.
    likely = shares > 0.01
    excess = (counts - 400 * shares)[likely].square() / (400 * shares[likely])
    assert float(excess.sum()) < 2 * int(likely.sum())


def test_draws_depend_on_the_seed_and_not_on_other_lanes(model_of: ModelOf) -> None:
    forward = FastForward(model_of("llama"), torch.float32)
    greedy = [Prompt(ids=ids, most=MOST) for ids in prompts_of(4)]
    drawn = [replace(one, temperature=2.0, seed=7) for one in greedy]
    alone = [by_lanes(forward, [one], lanes=1)[0] for one in drawn]
    mixed = [one for pair in zip(greedy, drawn, strict=True) for one in pair]
    together = by_lanes(forward, mixed)
    assert together[1::2] == alone
    assert together[::2] == by_lanes(forward, greedy) != alone
    other = [replace(one, seed=8) for one in drawn]
    assert by_lanes(forward, other) != alone
    forward.restore()


def test_lanes_that_fill_a_step_up_change_no_answer(model_of: ModelOf) -> None:
    """On a card, where steps have few sizes."""
    forward = FastForward(model_of("llama"), torch.float32)
    (asked,) = (Prompt(ids=ids, most=MOST) for ids in prompts_of(1))
    (want,) = by_lanes(forward, [asked])
    held = Lanes(forward, 5, positions=len(asked.ids) + MOST, most=MOST, ends=ENDS)
    held.start([1], [asked])
    held._active_L[0] = 1  # all others are the spare lane
    for _ in range(MOST):
        held._step(4, draws=False)
    assert held.ended([1]) == {1: want}
    forward.restore()


def test_lanes_that_grow_go_on_where_they_were(model_of: ModelOf) -> None:
    forward = FastForward(model_of("llama"), torch.float32)
    prompts = [Prompt(ids=ids, most=MOST) for ids in prompts_of(2)]
    want = by_lanes(forward, prompts)
    longest = max(len(one.ids) for one in prompts)
    held = Lanes(forward, 2, positions=longest + 3, most=longest + 3, ends=ENDS)
    held.start([0, 1], prompts)
    held.advance([0, 1], 2)
    assert held.new_tokens([1, 0]) == {1: want[1][:3], 0: want[0][:3]}
    held.grow(longest + MOST)
    held.advance([0, 1], MOST)
    assert held.ended([0, 1]) == {0: want[0], 1: want[1]}
    forward.restore()


def test_what_a_look_raises_ends_the_generation_and_leaves_the_model(model_of: ModelOf) -> None:
    model = model_of("llama")
    before = by_transformers(model, [5, 6, 7])
    forward = FastForward(model, torch.float32)

    def stop(done: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        by_lanes(forward, [Prompt(ids=ids, most=MOST) for ids in prompts_of(9)], look=stop)
    forward.restore()
    assert by_transformers(model, [5, 6, 7]) == before


def test_a_pass_that_failed_between_projections_changes_no_answer(model_of: ModelOf) -> None:
    """As where a card's memory ends and the prompts are read again, fewer at a time."""
    model = model_of("qwen3")
    asked = [Prompt(ids=ids, most=MOST) for ids in prompts_of(3)]
    forward = FastForward(model, torch.float32)
    want = by_lanes(forward, asked)

    def refuse(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    hook = model.get_base_model().model.layers[0].self_attn.q_norm.register_forward_hook(refuse)
    with pytest.raises(torch.OutOfMemoryError):
        by_lanes(forward, asked)
    hook.remove()
    assert not any(group._outputs for group in forward.groups)
    assert by_lanes(forward, asked) == want
    forward.restore()


def test_what_this_path_does_not_know_is_refused_with_its_reason(model_of: ModelOf) -> None:
    with pytest.raises(CannotFuse, match="DoRA"):
        FastForward(model_of("llama", use_dora=True), torch.float32)
    with pytest.raises(CannotFuse, match=r"embeddings are in torch\.float32"):
        FastForward(model_of("llama"), torch.bfloat16)


def test_the_tiny_models_say_different_things(model_of: ModelOf) -> None:
    model = model_of("llama")
    answers = {tuple(by_transformers(model, ids)) for ids in prompts_of(7)}
    assert len(answers) == 7
    assert SIZES["vocab_size"] == 97


@pytest.mark.parametrize("how", [{"dequantised": True}, {"dequantised": False}])
@pytest.mark.parametrize("lora", [{}, {"target_modules": ["q_proj", "v_proj"]}], ids=str)
def test_packed_weights_give_the_logits_of_plain_modules(
    lora: dict[str, Any], how: dict[str, Any], model_of: ModelOf
) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    model: Any = model_of("qwen2", sizes, **lora)
    pack_weights(model)
    ids = torch.tensor(prompts_of(3)[2])
    with torch.no_grad():
        want = model(input_ids=ids[None]).logits[0, -1]
    forward = FastForward(model, torch.float32, **how)
    lane = Lanes(forward, 1, positions=len(ids) + 1, most=1, ends=ENDS)
    lane.start([0], [Prompt(ids=ids[:-1].tolist(), most=2)])
    lane._tokens_L[0] = ids[-1]
    read = lane._pass_of(lane._active_L * 0)
    got = forward.logits(forward.hidden(ids[-1:], read))[0]
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_projections_of_which_some_are_packed_give_the_logits_of_plain_modules(
    model_of: ModelOf,
) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    model: Any = model_of("qwen2", sizes)
    layers = model.get_base_model().model.layers
    plain = [layer.self_attn.k_proj.base_layer for layer in layers]
    pack_weights(model)
    for layer, linear in zip(layers, plain, strict=True):
        layer.self_attn.k_proj.base_layer = linear
    ids = torch.tensor(prompts_of(3)[2])
    with torch.no_grad():
        want = model(input_ids=ids[None]).logits[0, -1]
    forward = FastForward(model, torch.float32)
    room = forward.groups[0]._workspace._buffer.numel()
    lane = Lanes(forward, 1, positions=len(ids), most=1, ends=ENDS)
    lane.start([0], [Prompt(ids=ids[:-1].tolist(), most=2)])
    lane._tokens_L[0] = ids[-1]
    got = forward.logits(forward.hidden(ids[-1:], lane._pass_of(lane._active_L * 0)))[0]
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    assert forward.groups[0]._workspace._buffer.numel() == room  # reserved before any capture
