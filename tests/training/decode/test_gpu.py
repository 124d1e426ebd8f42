"""The decode path on a card: captured steps, draws, several adapters, rooms that grow.

python -m pytest tests/training/decode/test_gpu.py -m gpu
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from workbench.training.decode.forward import FastForward, fast_forward
from workbench.training.decode.generate import generate_tokens
from workbench.training.decode.lanes import Lanes, Prompt

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # PEFT calls what transformers deprecates
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card"),
]
NAMES = ["one", "two", None]
MOST = 24


@pytest.fixture(scope="module")
def model() -> Any:
    """A tiny NF4 model in bf16 with two adapters that change what it says."""
    from nf4_model import make_nf4_model

    base = make_nf4_model("tiny", torch.device("cuda", 0), torch.bfloat16)
    config = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = get_peft_model(base, config, adapter_name="one")
    adapted.add_adapter("two", config)
    for name, param in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(param, 0.0, 0.05)
    return adapted.requires_grad_(False)


@pytest.fixture
def forward(model: Any) -> Iterator[FastForward]:
    with fast_forward(model, torch.bfloat16, adapters=NAMES) as forward:
        yield forward


def prompts(**how: Any) -> list[Prompt]:
    """Return prompts for each adapter and the base in turn."""
    chance = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 60, (12,), generator=chance).tolist()
    return [
        Prompt(
            ids=torch.randint(3, 2_000, (n,), generator=chance).tolist(),
            most=MOST,
            adapter=index % 3,
            **how,
        )
        for index, n in enumerate(lengths)
    ]


def answers(
    forward: FastForward, asked: list[Prompt], *, lanes: int = 8, capture: bool = True
) -> list[list[int]]:
    held = Lanes(forward, lanes, positions=60 + MOST, most=MOST, ends=[2], capture=capture)
    made = generate_tokens(held, asked, [2], prefill_tokens=400)
    assert bool(held._graphs) is capture
    held.release()
    return [one.ids for one in made]


@pytest.mark.parametrize("how", [{}, {"temperature": 1.0, "seed": 3}])
def test_captured_steps_give_the_tokens_of_steps_that_are_not(
    how: dict[str, Any], forward: FastForward
) -> None:
    asked = prompts(**how)
    want = answers(forward, asked, capture=False)
    assert answers(forward, asked) == want
    assert answers(forward, asked) == want
    assert len({tuple(one) for one in want}) == len(want)


def test_drawn_and_greedy_answers_share_captured_steps(forward: FastForward) -> None:
    asked = prompts()
    asked[1::2] = [replace(one, temperature=1.0, seed=5) for one in asked[1::2]]
    mixed = answers(forward, asked)
    assert mixed == answers(forward, asked, capture=False)
    assert mixed[1::2] != answers(forward, prompts())[1::2]


def test_lanes_that_grow_are_captured_again(forward: FastForward) -> None:
    asked = prompts()[:4]
    want = answers(forward, asked, lanes=4)
    held = Lanes(forward, 4, positions=64, most=64, ends=[2])
    held.start([0, 1, 2, 3], asked)
    held.advance([0, 1, 2, 3], 3)
    held.grow(128)
    held.advance([0, 1, 2, 3], MOST)
    assert list(held.ended([0, 1, 2, 3]).values()) == want
    assert len(held._graphs) == 1


def test_packed_and_dequantised_weights_give_the_same_logits(model: Any) -> None:
    """They are those of one step of four lanes, compared within the rounding of bf16."""
    found: list[Any] = []
    for one in ({}, {"dequantised": True}):
        with fast_forward(model, torch.bfloat16, adapters=NAMES, **one) as forward:
            held = Lanes(forward, 4, positions=80, most=1, ends=[2])
            held.start([0, 1, 2, 3], prompts()[:4])
            lanes_B = torch.arange(4, device="cuda")
            held._positions_L += 1
            read = held._pass_of(lanes_B)
            found.append(forward.logits(forward.hidden(lanes_B + 7, read)))
    want, got = found
    assert float((got - want).norm() / want.norm()) < 0.02
