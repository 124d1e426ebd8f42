"""A script that makes the demo: the tokenizer, a small pretrained Llama and its fine-tuning rows.

    python -m workbench.training.demo.make [--data-only] [--out DIR] [--steps N]

The rows take a second, the model about eleven minutes on two CPU cores. Its files are written
every `SAVE_EVERY` steps, so stopping early leaves a usable, weaker model. Rows and tokenizer
come out byte for byte the same everywhere; weights only up to the rounding of the machine's
matrix kernels.
"""

import argparse
import copy
import itertools
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from workbench.training.demo import world

log = logging.getLogger(__name__)

DEMO = Path(__file__).resolve().parents[2] / "demo"

VOCABULARY = 512
SPECIALS = (
    "<|begin_of_text|>", "<|end_of_text|>",
    *(f"<|reserved_special_token_{n}|>" for n in range(4)),
    "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    *(f"<|reserved_special_token_{n}|>" for n in range(4, 11)),
)  # fmt: skip
"""Special tokens with Llama 3's names; as there, they have the last ids of the vocabulary."""

WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Llama 3's pre-tokenizer pattern, with one digit a token in place of up to three."""

CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}{{- message['content'] | trim + '<|eot_id|>' -}}{%- endgeneration -%}
{%- else -%}
{{- message['content'] | trim + '<|eot_id|>' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
{%- endif -%}
"""
"""The marks cover the end of turn, so it carries loss under `assistant_only_loss`."""

STEPS = 5_000
ROWS, TOKENS = 8, 192
"""Rows of one optimizer step, and tokens of a row: whole documents joined and cut at `TOKENS`."""
PEAK_RATE, WARMUP_STEPS = 3e-3, 100
SAVE_EVERY = 500
THREADS = 2


def write_rows(out: Path) -> None:
    """Write `train.jsonl` and `eval.jsonl` of the fine-tuning task to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in zip(("train", "eval"), world.task_rows(), strict=True):
        (out / f"{name}.jsonl").write_bytes(world.jsonl_text(rows).encode())


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Train a byte-level BPE of 512 tokens without a pad token; every text can be tokenised.

    Takes some seconds and gives the same tokenizer everywhere.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    texts = itertools.islice(world.corpus_documents(), 20_000)
    bpe.train_from_iterator(
        (text.replace("<|eot_id|>", "\n") for text in texts),
        trainers.BpeTrainer(
            vocab_size=VOCABULARY - len(SPECIALS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    bpe.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIALS])
    begin = SPECIALS[0]
    bpe.post_processor = TemplateProcessing(
        single=f"{begin} $A", pair=f"{begin} $A {begin}:1 $B:1",
        special_tokens=[(begin, bpe.token_to_id(begin))],
    )  # fmt: skip
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=begin, eos_token="<|eot_id|>",
        clean_up_tokenization_spaces=False, model_max_length=1024, chat_template=CHAT_TEMPLATE,
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def make_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """Return a fresh Llama of about a million parameters.

    Every linear dimension is a multiple of 64, so that weights fill whole NF4 blocks.
    """
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=128, intermediate_size=384, num_hidden_layers=5,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024,
        rms_norm_eps=1e-5, tie_word_embeddings=False, attention_bias=False, mlp_bias=False,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def save_model(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write model, tokenizer and chat template to `out`; the weights in bfloat16."""
    ends = [tokenizer.convert_tokens_to_ids(name) for name in ("<|end_of_text|>", "<|eot_id|>")]
    stored = copy.deepcopy(model).bfloat16()
    stored.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=ends, do_sample=False
    )
    stored.save_pretrained(out)
    tokenizer.save_pretrained(out)


def token_batches(tokenizer: PreTrainedTokenizerFast) -> Iterator[Tensor]:
    """Yield (ROWS, TOKENS) id tensors without end; each row starts at the start of a document."""
    texts = world.corpus_documents()
    while True:
        rows: list[list[int]] = []
        while len(rows) < ROWS:
            row: list[int] = []
            while len(row) < TOKENS:
                row += tokenizer(next(texts))["input_ids"]
            rows.append(row[:TOKENS])
        yield torch.tensor(rows)


def rate_at(step: int, steps: int) -> float:
    """Return the share of the peak learning rate, 0 to 1.

    Linear warm-up, then constant, then linear to zero over the last 40 % of the steps.
    """
    return min(1.0, (step + 1) / WARMUP_STEPS, (steps - step) / (0.4 * steps))


def pretrain_model(out: Path, steps: int = STEPS) -> None:
    """Train the demo model from random weights and write it to `out`.

    The default number of steps takes about eleven minutes on two CPU cores.
    """
    torch.set_num_threads(THREADS)
    tokenizer = make_tokenizer()
    model = make_model(tokenizer, seed=world.CORPUS_SEED)
    log.info("demo model made", extra={"parameters": model.num_parameters()})
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.05, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, steps))
    began_s = time.monotonic()
    for step, ids in enumerate(itertools.islice(token_batches(tokenizer), steps), start=1):
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 50 == 0:
            spent_s = time.monotonic() - began_s
            log.info("step %d of %d: loss %.3f, %.0f s", step, steps, loss.item(), spent_s)
        if step % SAVE_EVERY == 0 or step == steps:
            save_model(model, tokenizer, out)


def main() -> None:
    """Run the command line; progress goes to stderr."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data-only", action="store_true", help="write the rows, not the model")
    parser.add_argument("--out", type=Path, default=DEMO, help="folder that gets model/ and data/")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimizer steps of pretraining")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    write_rows(arguments.out / "data")
    if not arguments.data_only:
        pretrain_model(arguments.out / "model", arguments.steps)


if __name__ == "__main__":
    main()
