"""Tokens a second of a chat with one, two and four adapters that answer one question at once.

    python benchmarks/chat.py [--shape 8b] [--lanes 1 2 4] [--new 128]

Each lane has an adapter of its own. `transformers` answers them one after another by `generate`
over PEFT's modules, as for models outside the decode path. The others are the decode path, which
multiplies with the 4-bit weights as they are or with 16-bit copies of them. All tokens of all
answers are counted, and no answer ends early. Weights are random. `--shape tiny` tries the script
on a CPU.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
from nf4_model import make_nf4_model
from peft import LoraConfig, PeftModel, get_peft_model
from scoring_contestants import PROMPT, prompt_ids, shape_parser, usual_device, wait_for_card
from torch import nn
from transformers import GenerationConfig

from workbench.training.decode.forward import fast_forward
from workbench.training.decode.lanes import Lanes, Prompt

LOOK = 4
"""Tokens between two looks at the answers, as in a chat."""
WAYS = {"4-bit weights": False, "16-bit copies": True}
"""The names of the decode path's ways, and whether 16-bit copies of all weights are kept."""


def main() -> int:
    parser = shape_parser(__doc__)
    parser.add_argument("--lanes", nargs="*", type=int, default=[1, 2, 4])
    parser.add_argument("--new", type=int, default=128, help="tokens of each answer")
    options = parser.parse_args()
    device = usual_device()
    dtype = torch.bfloat16
    names = [f"adapter_{n}" for n in range(max(options.lanes))]
    model = _adapted(make_nf4_model(options.shape, device, dtype), names)
    print("way            lanes  tokens/s  ms a step", flush=True)
    for lanes in options.lanes:
        short = min(options.new, 32)  # the rate does not change, and it is slow
        seconds = _by_transformers(model, names[:lanes], short)
        _print("transformers", lanes, lanes * short, seconds, lanes * short)
        for way, kept in WAYS.items():
            names_of = names[:lanes]
            with fast_forward(model, dtype, adapters=names_of, dequantised=kept) as forward:
                seconds = _by_lanes(forward, lanes, options.new)
            _print(way, lanes, lanes * options.new, seconds, options.new)
    return 0


def _print(way: str, lanes: int, tokens: int, seconds: float, steps: int) -> None:
    print(f"{way:13}  {lanes:5}  {tokens / seconds:8.0f}  {seconds / steps * 1e3:9.2f}", flush=True)


def _adapted(base: Any, names: list[str]) -> PeftModel:
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base, lora, adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, lora)
    for name, param in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(param, 0.0, 0.01)
    model.requires_grad_(False)
    model.eval()
    assert isinstance(model, PeftModel)
    return model


def _by_transformers(model: PeftModel, names: list[str], new: int) -> float:
    """Return the seconds of all answers, one after another; the first was warmed up."""
    settings = GenerationConfig(
        max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0
    )
    ids = torch.tensor([prompt_ids(0)], device=model.device)
    began = 0.0
    with torch.no_grad(), torch.autocast(ids.device.type, torch.bfloat16):
        for name in (names[0], *names):
            model.set_adapter(name)
            model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings
            )
            wait_for_card()
            began = began or time.perf_counter()
    return time.perf_counter() - began


def _by_lanes(forward: Any, lanes: int, new: int) -> float:
    """Return the seconds of all answers at once; a run before it captures the step."""
    held = Lanes(forward, lanes, positions=PROMPT + new, most=new, ends=[])
    every = list(range(lanes))
    prompts = [Prompt(ids=prompt_ids(0), most=new, adapter=n) for n in every]
    seconds = 0.0
    for _ in range(2):
        began = time.perf_counter()
        held.start(every, prompts)
        while not held.ended(every):
            held.advance(every, LOOK)
        seconds = time.perf_counter() - began
    held.release()
    return seconds


if __name__ == "__main__":
    sys.exit(main())
