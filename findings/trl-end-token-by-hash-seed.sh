#!/usr/bin/env bash
# trl 1.16.0 with transformers 5.24.0 and datasets 5.2.0, seen on 2026-11-29 (Python 3.11, Linux x86_64, torch 2.13.0 on
# the CPU).
#
# A data set holds its rows in two forms, for different trainers: `prompt` and `completion` as text, and `messages`
# as a chat. SFTTrainer trains on prompt and completion, and adds an end token where rows are no chats. Whether they
# are is read off one of the three columns, and which one is the first of a Python set: the hash seed of the process
# decides. With some seeds every completion ends with the end token and its loss, with others no row has one, and
# the model is never taught to stop. The training arguments, their `seed` too, are the same in all runs, and no
# warning tells them apart; without the column `messages` both hash seeds give the end token.
#
# What the workbench does: columns are looked for in a fixed order and the shape found is reported
# (workbench/training/dataset/rows/shapes.py). The script that `export-recipe --trl` writes gives TRL tokens.
#
# Passes while that is so; fails if it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    'trl==1.16.0' 'transformers==5.24.0' 'torch==2.13.0' 'datasets==5.2.0'
cd "$folder"
cat > first_row.py <<'PY'
import os
import warnings

from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import set_verbosity_error
from trl import SFTConfig, SFTTrainer

warnings.simplefilter("ignore")
set_verbosity_error()
TEMPLATE = "{% for m in messages %}{{ '<' + m.role + '> ' + m.content + ' <end> ' }}{% endfor %}"
WORDS = ["<end>", "<user>", "<assistant>", "Which", "town", "?", "Oslo"]
CHAT = [{"role": "user", "content": "Which town ?"}, {"role": "assistant", "content": "Oslo"}]
ROW = {"prompt": "Which town ?", "completion": " Oslo", "messages": CHAT}

words = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="?"))
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
words.add_special_tokens(WORDS[:3])
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<end>", eos_token="<end>")
tokenizer.chat_template = TEMPLATE
shape = LlamaConfig(
    vocab_size=8, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
)
for columns in (ROW, ["prompt", "completion"]):
    rows = Dataset.from_list([{name: ROW[name] for name in columns}] * 2)
    arguments = SFTConfig("out", seed=1, report_to="none", use_cpu=True, bf16=False, disable_tqdm=True)
    trainer = SFTTrainer(LlamaForCausalLM(shape), arguments, train_dataset=rows, processing_class=tokenizer)
    row = trainer.train_dataset[0]
    learned = [token for token in row["labels"] if token >= 0]
    print(
        f"hash seed {os.environ['PYTHONHASHSEED']:2}  {' '.join(columns):27}"
        f" tokens: {tokenizer.decode(row['input_ids'])}  learned: {tokenizer.decode(learned)}"
    )
PY
for seed in 1 10; do
    HF_HUB_OFFLINE=1 HF_DATASETS_CACHE="$folder/cache$seed" HF_DATASETS_DISABLE_PROGRESS_BARS=1 PYTHONHASHSEED=$seed \
        venv/bin/python first_row.py
done | tee seen
diff seen - <<'EXPECTED'
hash seed 1   prompt completion messages  tokens: Which town ? Oslo <end>  learned: Oslo <end>
hash seed 1   prompt completion           tokens: Which town ? Oslo <end>  learned: Oslo <end>
hash seed 10  prompt completion messages  tokens: Which town ? Oslo  learned: Oslo
hash seed 10  prompt completion           tokens: Which town ? Oslo <end>  learned: Oslo <end>
EXPECTED
echo "unchanged"
