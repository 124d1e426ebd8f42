"""The demo's files as they are shipped: what loads, what fits, and that the rows are sound."""

import json
import operator
import re
from pathlib import Path
from typing import Any

import pytest

from workbench.training.demo import world

transformers = pytest.importorskip("transformers")

DEMO = Path(world.__file__).resolve().parents[2] / "demo"
SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def rows_of(name: str) -> list[dict[str, str]]:
    lines = (DEMO / "data" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return transformers.AutoTokenizer.from_pretrained(DEMO / "model", local_files_only=True)


@pytest.fixture(scope="module")
def model() -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(
        DEMO / "model", local_files_only=True, dtype="float32"
    )


def test_the_model_is_a_llama_of_about_a_million_parameters(model: Any) -> None:
    assert type(model).__name__ == "LlamaForCausalLM"
    assert 900_000 <= model.num_parameters() <= 1_300_000
    assert model.config.num_key_value_heads < model.config.num_attention_heads
    assert model.config.max_position_embeddings >= 1024


def test_every_linear_dimension_is_whole_nf4_blocks(model: Any) -> None:
    shapes = [weight.shape for weight in model.parameters() if weight.ndim == 2]
    assert all(side % 64 == 0 for shape in shapes for side in shape)


def test_the_weights_are_one_small_safetensors_file() -> None:
    weights = [path.name for path in (DEMO / "model").iterdir() if path.suffix == ".safetensors"]
    assert weights == ["model.safetensors"]
    assert (DEMO / "model" / "model.safetensors").stat().st_size <= 4 * 2**20


def test_the_tokenizer_has_reserved_tokens_and_no_pad_token(tokenizer: Any) -> None:
    assert tokenizer.pad_token is None
    assert tokenizer.eos_token == "<|eot_id|>"
    assert len(tokenizer) == 512
    assert "<|reserved_special_token_0|>" in tokenizer.get_vocab()


def test_generation_ends_at_the_end_of_text_and_of_turn(model: Any, tokenizer: Any) -> None:
    ends = tokenizer.convert_tokens_to_ids(["<|end_of_text|>", "<|eot_id|>"])
    assert model.generation_config.eos_token_id == ends


@pytest.mark.parametrize("text", ["Natalia sold 48/2 = <<48/2=24>>24 clips.", "Zürich 🦜\t\n 中"])
def test_any_text_comes_back_from_its_tokens(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_numbers_are_cut_digit_by_digit(tokenizer: Any) -> None:
    cut = tokenizer("1234", add_special_tokens=False)["input_ids"]
    assert [tokenizer.decode([token]) for token in cut] == ["1", "2", "3", "4"]


def test_the_chat_template_marks_the_answer_with_its_end_of_turn(tokenizer: Any) -> None:
    turns = [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "1 + 1 = 2"}]
    told = tokenizer.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
    pairs = zip(told["input_ids"], told["assistant_masks"], strict=True)
    assert tokenizer.decode([token for token, mark in pairs if mark]) == "1 + 1 = 2<|eot_id|>"


def test_a_tuning_row_is_at_most_eighty_tokens(tokenizer: Any) -> None:
    lengths = [
        len(tokenizer(row["question"] + row["answer"])["input_ids"])
        for row in rows_of("train") + rows_of("eval")
    ]
    assert max(lengths) + 10 <= 80  # ten tokens of roles and ends of turn


def test_the_committed_rows_are_what_the_committed_seed_draws() -> None:
    for name, drawn in zip(("train", "eval"), world.task_rows(), strict=True):
        assert (DEMO / "data" / f"{name}.jsonl").read_bytes() == world.jsonl_text(drawn).encode()


def test_no_eval_question_stands_in_train() -> None:
    train, held_out = ({row["question"] for row in rows_of(name)} for name in ("train", "eval"))
    assert len(train) == world.TRAIN_ROWS
    assert len(held_out) == world.EVAL_ROWS
    assert not train & held_out


def test_every_working_is_right_and_ends_in_its_answer() -> None:
    for row in rows_of("train") + rows_of("eval"):
        *working, last = row["answer"].split("\n")
        assert working
        for line in working:
            found = re.fullmatch(r"(\d+) ([-+*]) (\d+) = (\d+)", line)
            assert found, line
            assert SIGNS[found[2]](int(found[1]), int(found[3])) == int(found[4]), line
        assert last == f"#### {working[-1].rsplit(' = ', 1)[1]}"
