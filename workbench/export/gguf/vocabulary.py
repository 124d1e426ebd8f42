"""Tokenizer, chat template and the tokens that end an answer, as llama.cpp reads them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from workbench.errors import ModelError
from workbench.text import safe_line

_BYTE = re.compile(r"<0x[0-9A-F]{2}>\Z")
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_PRE = {
    rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|{_LETTERS}|\p{{N}}{{1,3}}|": "llama-bpe",
    rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|{_LETTERS}|\p{{N}}|": "qwen2",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|": "tekken",
}
"""How the regular expression of a pre-tokenizer begins, to llama.cpp's name for it."""


def write_vocabulary(
    writer: Any, tokenizer: Any, rows: int, end_ids: Sequence[int], default_pre: str | None = None
) -> None:
    """Write the tokenizer for a model with `rows` embeddings.

    Raises ModelError for a tokenizer that llama.cpp would cut otherwise.
    """
    whole = json.loads(tokenizer.backend_tokenizer.to_str())
    model = whole["model"]
    if model.get("type") != "BPE":
        raise _unknown(f"a {safe_line(model.get('type'), 40)} tokenizer")
    by_bytes = not model.get("byte_fallback")
    if by_bytes:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(default_pre or pre_tokenizer_name(whole))
        merges = [one if isinstance(one, str) else " ".join(one) for one in model["merges"]]
        writer.add_token_merges(merges)
    else:
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores(_scores(model, rows))
        writer.add_add_space_prefix(_adds_space(whole))
    tokens, kinds = _tokens(whole, rows)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    _write_special(writer, tokenizer, end_ids)


def pre_tokenizer_name(whole: dict[str, Any]) -> str:
    """Return llama.cpp's name for a tokenizer's way to cut text before merging bytes."""
    steps = whole.get("pre_tokenizer") or {}
    steps = steps.get("pretokenizers", [steps]) if isinstance(steps, dict) else []
    for step in steps:
        pattern = str((step.get("pattern") or {}).get("Regex", ""))
        for begin, name in _PRE.items():
            if pattern.startswith(begin):
                return name
    if len(steps) == 1 and steps[0].get("type") == "ByteLevel" and steps[0].get("use_regex", True):
        return "gpt-2"
    raise _unknown("its pre-tokenizer")


def _tokens(whole: dict[str, Any], rows: int) -> tuple[list[str], list[int]]:
    """Return the text and llama.cpp's type of every id; rows without a token are unused."""
    import gguf

    kind = gguf.TokenType
    added = {int(one["id"]): one for one in whole["added_tokens"]}
    by_id = {int(id): text for text, id in whole["model"]["vocab"].items()}
    unknown = whole["model"].get("unk_token")
    tokens, kinds = list[str](), list[int]()
    for id in range(rows):
        if id in added:
            text = str(added[id]["content"])
            found = kind.CONTROL if added[id]["special"] else kind.USER_DEFINED
        elif id in by_id:
            text = by_id[id]
            found = kind.BYTE if _BYTE.match(text) else kind.NORMAL
        else:
            text, found = f"[PAD{id}]", kind.UNUSED
        tokens.append(text)
        kinds.append(int(kind.UNKNOWN if text == unknown else found))
    return tokens, kinds


def _scores(model: dict[str, Any], rows: int) -> list[float]:
    """Return a score for each id: the earlier a token is merged, the higher."""
    scores = [-1000.0] * rows
    ids = model["vocab"]
    for rank, pair in enumerate(model["merges"]):
        text = "".join(pair.split(" ") if isinstance(pair, str) else pair)
        if text in ids and scores[ids[text]] == -1000.0:
            scores[ids[text]] = -float(rank)
    return scores


def _adds_space(whole: dict[str, Any]) -> bool:
    text = json.dumps([whole.get("normalizer"), whole.get("pre_tokenizer")])
    return '"Prepend"' in text or '"prepend_scheme": "first"' in text or '"always"' in text


def _write_special(writer: Any, tokenizer: Any, end_ids: Sequence[int]) -> None:
    eos = tokenizer.eos_token_id
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    if eos is not None:
        writer.add_eos_token_id(eos)
    others = [id for id in end_ids if id != eos]
    writer.add_eot_token_id(others[-1] if others else eos)
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    if tokenizer.unk_token_id is not None:
        writer.add_unk_token_id(tokenizer.unk_token_id)
    first = tokenizer("x")["input_ids"][0]
    writer.add_add_bos_token(first == tokenizer.bos_token_id)
    writer.add_add_eos_token(False)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _unknown(what: str) -> ModelError:
    return ModelError(
        f"{what} cannot be written as GGUF here: llama.cpp might cut text otherwise",
        hint="convert the merged folder with llama.cpp's convert_hf_to_gguf.py",
    )
