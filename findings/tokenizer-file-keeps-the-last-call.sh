#!/usr/bin/env bash
# transformers 5.24.0 with tokenizers 0.23.3, seen on 2026-11-29 (Python 3.11, Linux x86_64).
#
# `tokenizer(rows, truncation=True, max_length=…, padding=…)` sets truncation and padding in the tokenizer below, where
# they stay until the next call. `save_pretrained` writes them into tokenizer.json, so the file depends on the last call
# before saving, and the same model has two tokenizers. Programs that read the file by `tokenizers`, as servers in Rust
# do, then cut every prompt at the length of the training rows and put padding behind shorter ones.
#
# transformers sets both again at each call, but takes the side of the padding from the file: where the last call had
# the argument `padding_side="left"`, as for generating, the tokenizer that is loaded pads on the left by itself, though
# `tokenizer.padding_side` of the one that was saved is "right". Nothing is warned of. A plain call before saving
# undoes all of it. That a call changes the tokenizer is huggingface/transformers, issue 24441.
#
# What the workbench does: it takes no truncation and padding of a tokenizer's files, and saves none
# (workbench/training/model/tokenizer.py).
#
# Passes while that is so; fails if it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'transformers==5.24.0' 'tokenizers==0.23.3'
cd "$folder"
HF_HUB_OFFLINE=1 venv/bin/python - <<'PY'
import io
import logging
from collections.abc import Callable

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils.logging import add_handler

log = io.StringIO()
add_handler(logging.StreamHandler(log))
LONG, SHORT = "sun rain snow wind", "sun"
ROWS = [LONG, SHORT]
Call = Callable[[PreTrainedTokenizerFast], object]
CALLS: dict[str, list[Call]] = {
    "no call": [],
    "cut and padded": [lambda t: t(ROWS, truncation=True, max_length=3, padding="max_length")],
    "the same, then a plain call": [
        lambda t: t(ROWS, truncation=True, max_length=3, padding="max_length"),
        lambda t: t(SHORT),
    ],
    "padded on the left once": [lambda t: t(ROWS, padding=True, padding_side="left")],
}


def fresh() -> PreTrainedTokenizerFast:
    vocabulary = {"</s>": 0, "sun": 1, "rain": 2, "snow": 3, "wind": 4}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="</s>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="</s>", eos_token="</s>")


seen = {}
for name, calls in CALLS.items():
    tokenizer = fresh()
    for call in calls:
        call(tokenizer)
    assert tokenizer.padding_side == "right"
    tokenizer.save_pretrained(name)
    read = Tokenizer.from_file(f"{name}/tokenizer.json")
    loaded = AutoTokenizer.from_pretrained(name)
    seen[name] = {
        "long": read.encode(LONG).ids,
        "short": read.encode(SHORT).ids,
        "transformers, long": loaded(LONG)["input_ids"],
        "transformers, padded": loaded(ROWS, padding=True)["input_ids"][1],
    }
    print(f"{name:28} {seen[name]}")
plain = {
    "long": [1, 2, 3, 4],
    "short": [1],
    "transformers, long": [1, 2, 3, 4],
    "transformers, padded": [1, 0, 0, 0],
}
assert seen == {
    "no call": plain,
    "cut and padded": {**plain, "long": [1, 2, 3], "short": [1, 0, 0]},
    "the same, then a plain call": plain,
    "padded on the left once": {**plain, "transformers, padded": [0, 0, 0, 1]},
}
assert not log.getvalue(), log.getvalue()
PY
echo "unchanged"
