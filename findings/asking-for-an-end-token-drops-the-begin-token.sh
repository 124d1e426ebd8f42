#!/usr/bin/env bash
# transformers 5.24.0, seen on 2026-11-29 (Python 3.11, Linux x86_64).
#
# A tokenizer puts a begin token in front of every text, as that of Llama 3 does by the post-processor in its
# tokenizer.json. `AutoTokenizer.from_pretrained(…, add_eos_token=True)`, as many training scripts have it so that rows
# end, adds the end token and drops the begin token, without a warning. So does setting the attribute afterwards;
# and `add_eos_token=False`, which asks for nothing new, drops it too. The tokenizer that `save_pretrained` writes
# keeps the loss. Both tokens come only where `add_bos_token=True` is given as well. The key `add_eos_token` in
# tokenizer_config.json changes nothing.
#
# What the workbench does: it loads tokenizers without these arguments (workbench/training/model/tokenizer.py), ends
# rows itself, and warns of rows without the begin token (docs/data.md).
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
import json
import logging
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer
from transformers.utils.logging import add_handler

log = io.StringIO()


def write(**settings: bool) -> None:
    """Write a tokenizer of two words whose post-processor begins every text by <s>."""
    words = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "sun": 2, "rain": 3}, unk_token="sun"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.add_special_tokens([AddedToken(token, special=True) for token in ("<s>", "</s>")])
    words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    Path("own").mkdir(exist_ok=True)
    words.save("own/tokenizer.json")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", **settings}
    Path("own/tokenizer_config.json").write_text(json.dumps(config))


def tokens(folder: str, **asked: bool) -> str:
    return tokens_of(AutoTokenizer.from_pretrained(folder, **asked))


def tokens_of(tokenizer: Any) -> str:
    return " ".join(tokenizer.convert_ids_to_tokens(tokenizer("sun rain")["input_ids"]))


write(add_eos_token=True)
by_file = tokens("own")
write()
add_handler(logging.StreamHandler(log))
later = AutoTokenizer.from_pretrained("own")
later.add_eos_token = True
AutoTokenizer.from_pretrained("own", add_eos_token=True).save_pretrained("saved")
seen = {
    "nothing asked": tokens("own"),
    "add_eos_token=True": tokens("own", add_eos_token=True),
    "the same, saved and loaded": tokens("saved"),
    "set as an attribute": tokens_of(later),
    "add_eos_token=False": tokens("own", add_eos_token=False),
    "both=True": tokens("own", add_bos_token=True, add_eos_token=True),
    "in tokenizer_config.json": by_file,
}
for asked, what in seen.items():
    print(f"{asked:27} {what}")
assert seen == {
    "nothing asked": "<s> sun rain",
    "add_eos_token=True": "sun rain </s>",
    "the same, saved and loaded": "sun rain </s>",
    "set as an attribute": "sun rain </s>",
    "add_eos_token=False": "sun rain",
    "both=True": "<s> sun rain </s>",
    "in tokenizer_config.json": "<s> sun rain",
}
assert not log.getvalue(), log.getvalue()
PY
echo "unchanged"
