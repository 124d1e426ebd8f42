"""Rows as tokens: what is rendered, which tokens carry loss, which pad."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from workbench.errors import DataError, ModelError
from workbench.recipe import shipped_file
from workbench.training.dataset.chat.rendering import Renderer, Tokens
from workbench.training.dataset.rows.shapes import Chat, Pair, Text
from workbench.training.model.tokenizer import load_tokenizer

UNMARKED = (
    "{{- bos_token -}}{%- for m in messages -%}"
    "{{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' -}}"
    "{{- m['content'] | trim + '<|eot_id|>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}"
)
"""ChatML's habit: a line end behind each turn's end token."""

THINKING = UNMARKED.replace(
    "{{- m['content'] | trim",
    "{%- if m['role'] == 'assistant' and loop.last -%}{{- '#### \\n' -}}{%- endif -%}"
    "{{- m['content'] | trim",
)
"""Qwen3's habit: the last answer is shown with more than earlier ones."""

END_UNMARKED = (
    "{%- for m in messages -%}{{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>' -}}"
    "{%- if m['role'] == 'assistant' -%}"
    "{% generation %}{{- m['content'] -}}{% endgeneration %}{%- else -%}{{- m['content'] -}}"
    "{%- endif -%}{{- '<|eot_id|>' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>' -}}{%- endif -%}"
)

END_OF_ALL = UNMARKED + "{%- if not add_generation_prompt -%}{{- '<|end_of_text|>' -}}{%- endif -%}"
"""Phi-3's habit: one more token behind the last turn's end."""

TURNS = Chat(
    (
        {"role": "user", "content": "What is 2 + 3?"},
        {"role": "assistant", "content": "2 + 3 = 5"},
        {"role": "user", "content": "Add 4."},
        {"role": "assistant", "content": "5 + 4 = 9"},
    )
)


def learned(tokenizer: PreTrainedTokenizerBase, tokens: Tokens) -> str:
    """The text of the tokens that carry loss."""
    pairs = zip(tokens.ids, tokens.trained, strict=True)
    return str(tokenizer.decode([id for id, trained in pairs if trained]))


def test_the_pad_token_is_a_reserved_one_and_no_token_is_added(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    assert tokenizer.pad_token == "<|reserved_special_token_0|>"
    assert tokenizer.padding_side == "right"
    assert len(tokenizer) == 512


def test_a_folder_without_a_tokenizer_is_refused_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelError, match="cannot be loaded") as refused:
        load_tokenizer(str(tmp_path), None)
    assert "tokenizer.json" in refused.value.hint


def test_a_tokenizer_without_reserved_tokens_pads_with_its_end_token(tmp_path: Path) -> None:
    source = shipped_file("workbench:demo/model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (source / name).read_text().replace("reserved_special", "plain")
        (tmp_path / name).write_text(text)
    tokenizer = load_tokenizer(str(tmp_path), None)
    assert tokenizer.pad_token == tokenizer.eos_token
    tokens = Renderer(tokenizer, "all").tokens_of(Text("Tom has 3 apples."), "here")
    assert tokens.trained[-1]
    assert tokens.ids[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("limited", [False, True])
def test_ids_are_those_of_the_models_own_tokenizer_file(limited: bool, tmp_path: Path) -> None:
    """transformers rebuilds a qwen2's tokenizer with digits one by one, whatever its file says.

    The file may have the truncation and padding of somebody's last call, which go for nobody else.
    """
    own = Tokenizer(models.BPE())
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<|im_end|>"]
    )
    own.train_from_iterator(["it is 0123456789"] * 9, trainer)
    ids = own.encode("it is 0123456789").ids
    if limited:
        own.enable_truncation(2)
        own.enable_padding(length=64)
    own.save(str(tmp_path / "tokenizer.json"))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(about))
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    assert AutoTokenizer.from_pretrained(tmp_path)("it is 0123456789")["input_ids"] != ids
    tokenizer = load_tokenizer(str(tmp_path), None)
    assert tokenizer.backend_tokenizer.encode("it is 0123456789").ids == ids
    assert tokenizer("it is 0123456789")["input_ids"] == ids
    assert (tokenizer.padding_side, tokenizer.eos_token) == ("right", "<|im_end|>")
    tokenizer.save_pretrained(tmp_path / "adapter")
    again = load_tokenizer(str(tmp_path / "adapter"), None)
    assert again("it is 0123456789")["input_ids"] == ids


def test_text_begins_once_ends_once_and_is_learned_whole(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    renderer = Renderer(tokenizer, "all")
    plain = renderer.tokens_of(Text("Tom has 3 apples."), "here")
    marked = renderer.tokens_of(Text("<|begin_of_text|>Tom has 3 apples.<|eot_id|>"), "here")
    assert plain == marked
    assert tokenizer.decode(plain.ids) == "<|begin_of_text|>Tom has 3 apples.<|eot_id|>"
    assert all(plain.trained)


def test_a_pair_learns_its_completion_and_the_end(tokenizer: PreTrainedTokenizerBase) -> None:
    tokens = Renderer(tokenizer, "completion").tokens_of(Pair("2 + 3 =", " 5"), "here")
    assert learned(tokenizer, tokens) == " 5<|eot_id|>"
    assert tokenizer.decode(tokens.prompt_ids) == "<|begin_of_text|>2 + 3 ="
    assert tokens.agrees


def test_a_token_across_prompt_and_completion_carries_loss(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    tokens = Renderer(tokenizer, "completion").tokens_of(Pair("Tom has app", "les."), "here")
    assert "les.<|eot_id|>" in learned(tokenizer, tokens)
    assert tokens.agrees == (learned(tokenizer, tokens) == "les.<|eot_id|>")


@pytest.mark.parametrize("template", [None, UNMARKED, END_UNMARKED, THINKING, END_OF_ALL])
def test_every_answer_and_its_end_token_carry_loss_whatever_the_template(
    tokenizer: PreTrainedTokenizerBase, template: str | None
) -> None:
    tokenizer.chat_template = template or tokenizer.chat_template
    tokens = Renderer(tokenizer, "assistant").tokens_of(TURNS, "here")
    said = learned(tokenizer, tokens).replace("#### \n", "")
    assert said == "2 + 3 = 5<|eot_id|>5 + 4 = 9<|eot_id|>"
    assert tokens.ended


@pytest.mark.parametrize("template", [None, UNMARKED, END_UNMARKED])
def test_loss_on_the_completion_is_loss_on_the_last_answer(
    tokenizer: PreTrainedTokenizerBase, template: str | None
) -> None:
    tokenizer.chat_template = template or tokenizer.chat_template
    tokens = Renderer(tokenizer, "completion").tokens_of(TURNS, "here")
    assert learned(tokenizer, tokens) == "5 + 4 = 9<|eot_id|>"


def test_marks_and_prefixes_find_the_same_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    marked = Renderer(tokenizer, "assistant").tokens_of(TURNS, "here")
    tokenizer.chat_template = (
        str(tokenizer.chat_template)
        .replace("{%- generation -%}", "")
        .replace("{%- endgeneration -%}", "")
    )
    assert Renderer(tokenizer, "assistant").tokens_of(TURNS, "here") == marked


def test_a_prompt_ends_with_the_assistants_header_and_the_row_begins_with_it(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    tokens = Renderer(tokenizer, "assistant").tokens_of(TURNS, "here")
    shown = tokenizer.decode(tokens.prompt_ids)
    assert shown.startswith("<|begin_of_text|><|start_header_id|>user")
    assert shown.endswith("Add 4.<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n")
    assert tokens.agrees
    assert (tokens.question, tokens.answer) == ("Add 4.", "5 + 4 = 9")


def test_a_template_that_closes_nothing_gets_the_end_token(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    tokens = Renderer(tokenizer, "completion").tokens_of(TURNS, "here")
    assert learned(tokenizer, tokens) == "5 + 4 = 9\n<|eot_id|>"


def test_a_template_whose_prefixes_disagree_is_refused(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    tokenizer.chat_template = UNMARKED.replace(
        "{{- bos_token -}}", "{{- bos_token + (messages | length | string) -}}"
    )
    with pytest.raises(DataError, match=r"train\.jsonl:7.*otherwise") as refused:
        Renderer(tokenizer, "assistant").tokens_of(TURNS, "train.jsonl:7")
    assert "data.chat_template: never" in refused.value.hint


def test_a_template_that_leaves_out_plain_text_is_refused(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}{% for part in m['content'] %}"
        "{{ part.text }}{% endfor %}{{ '<|eot_id|>' }}{% endfor %}"
    )
    with pytest.raises(DataError, match="leaves out what turns say"):
        Renderer(tokenizer, "assistant")


def test_what_a_template_refuses_is_told_with_its_place(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    tokenizer.chat_template = "{{ raise_exception('System role\\x1b[31m not supported') }}"
    with pytest.raises(DataError, match=r"^train\.jsonl:7: .*System role not supported"):
        Renderer(tokenizer, "assistant").tokens_of(TURNS, "train.jsonl:7")
