"""Tables of embeddings in the machine's memory: which they are, and that nothing else changes."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from tests.training.trials import spec
from workbench.errors import HostMemory
from workbench.training.decode.forward import fast_forward
from workbench.training.decode.generate import generate_tokens
from workbench.training.decode.lanes import Lanes, Prompt
from workbench.training.memory.host_tables import embedding_tables, place_tables
from workbench.training.model.base import ResidentBase
from workbench.training.step import Step, StepOptions, collate_rows

SIZES: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 256,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
}  # fmt: skip


def llama(*, tied: bool = False) -> nn.Module:
    torch.manual_seed(0)
    made: nn.Module = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=tied))
    return made.requires_grad_(False).eval()


def gemma4() -> nn.Module:
    config = AutoConfig.for_model(
        "gemma4_text", **SIZES, hidden_size_per_layer_input=8, vocab_size_per_layer_input=256
    )
    made: nn.Module = AutoModelForCausalLM.from_config(config)
    return made.requires_grad_(False).eval()


def test_the_input_embedding_is_a_table_and_the_heads_own_matrix_is_none() -> None:
    assert list(embedding_tables(llama())) == ["model.embed_tokens"]
    assert embedding_tables(llama(tied=True)) == {}
    assert embedding_tables(llama().requires_grad_()) == {}


def test_gemma_4_has_a_table_of_each_layer() -> None:
    assert list(embedding_tables(gemma4())) == ["model.embed_tokens_per_layer"]


@pytest.mark.parametrize("made", [llama, gemma4])
def test_moved_tables_give_the_same_logits_to_the_last_bit(made: Any) -> None:
    model, ids = made(), torch.arange(24).reshape(2, 12)
    (table,) = embedding_tables(model).values()
    before = model(input_ids=ids).logits
    for on_host in (True, False):
        was = table.weight.data_ptr()
        assert place_tables(model, on_host=on_host) == table.weight.nbytes
        assert table.weight.data_ptr() != was
        assert torch.equal(model(input_ids=ids).logits, before)


def test_a_machine_without_memory_leaves_the_model_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = llama()
    table = embedding_tables(model)["model.embed_tokens"].weight
    place = table.data_ptr()

    def full(*_: Any, **__: Any) -> Any:
        raise RuntimeError("not enough memory")

    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(HostMemory, match="for tables of embeddings"):
        place_tables(model, on_host=True)
    assert table.data_ptr() == place


def test_a_base_is_kept_when_only_its_tables_move() -> None:
    resident, ids, places = ResidentBase(), torch.arange(16)[None], []
    bases, logits = [], []
    for away in (False, True, True, False):
        with resident.acquire(spec(host_tables=away)) as base:
            bases.append(base)
            logits.append(base(input_ids=ids).logits)
            places.append(embedding_tables(base)["model.embed_tokens"].weight.data_ptr())
        assert resident.spec == spec(host_tables=away)
    assert all(base is bases[0] for base in bases)
    assert all(torch.equal(one, logits[0]) for one in logits)
    assert places[0] != places[1] == places[2] != places[3]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")
def test_a_card_reads_tables_of_the_machine_in_captured_steps_and_answers() -> None:
    """Losses and answers are the same to the last bit, with the table's bytes less on the card."""
    place = torch.device("cuda", 0)
    config = LlamaConfig(**{**SIZES, "vocab_size": 32_768, "hidden_size": 512})
    torch.manual_seed(0)
    base = LlamaForCausalLM(config).to(place, torch.bfloat16).requires_grad_(False)
    lora = LoraConfig(r=8, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(base, lora)
    chance = torch.Generator().manual_seed(1)
    ids = [torch.randint(3, 32_000, (n,), generator=chance).tolist() for n in (130, 7, 221)]
    rows = collate_rows([{"input_ids": each} for each in ids])
    prompts = [Prompt(ids=each, most=12) for each in ids]
    losses: list[list[float]] = []
    answers: list[list[list[int]]] = []
    sizes: list[int] = []
    for on_host in (False, True, False):
        if losses:
            assert place_tables(base, on_host=on_host) == 32_768 * 512 * 2
        gc.collect()  # the step before lies in cycles
        sizes.append(torch.cuda.memory_allocated())
        step = Step(model, StepOptions(precision="bf16", max_length=256, learning_rate=0.0))
        losses.append([float(step.forward_backward(rows)) for _ in range(5)])
        assert step._runner is not None
        assert step._runner.captured == 1, step.optimizations()
        step.restore()
        del step
        with fast_forward(model, torch.bfloat16) as forward:
            lanes = Lanes(forward, 3, positions=256, most=12, ends=[2])
            found = generate_tokens(lanes, prompts, [2], prefill_tokens=1024)
            assert lanes._graphs
            answers.append([one.ids for one in found])
        del forward, lanes
    assert losses[0] == losses[1] == losses[2]
    assert answers[0] == answers[1] == answers[2]
    # Not the first: libraries allocate their workspaces in the first pass.
    assert sizes[2] - sizes[1] == pytest.approx(32_768 * 512 * 2, rel=0.02)
