#!/usr/bin/env bash
# datasets 5.2.0 with transformers 5.24.0, and chat templates of trl 1.16.0; seen on 2026-11-29 (Python 3.11, Linux
# x86_64).
#
# A JSON lines file whose answers are all dates ("2024-05-06") is read with answers that are datetimes; one row
# with another answer, and all of them stay text. `apply_chat_template` shows a template plain JSON values and
# puts the name of the type in the place of any other. So the chat that a model is trained on answers every
# question with `<datetime>`, by the templates of all families tried, and neither library says anything. The
# arguments of a call in a parquet file meet the same end where they are dates or decimals.
#
# What the workbench does: text of a JSON file stays text, also of a hub data set
# (workbench/training/dataset/files/hub_rows.py); dates and decimals are refused, with the row, in answers and in
# calls (workbench/training/dataset/rows/tools.py).
#
# Passes while that is so; fails if it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    'datasets==5.2.0' 'pyarrow==26.0.1' 'transformers==5.24.0' 'jinja2==3.1.6'
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps 'trl==1.16.0'
cd "$folder"
HF_HUB_OFFLINE=1 HF_DATASETS_CACHE="$folder/cache" HF_DATASETS_DISABLE_PROGRESS_BARS=1 venv/bin/python - <<'PY'
import json
import logging
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as parquet

logging.disable()
from transformers.utils.chat_template_utils import render_jinja_template

TEMPLATES = Path(find_spec("trl").origin).parent / "chat_templates"
ASKED = {"role": "user", "content": "When?"}


def rendered(template: str, chat: list[dict]) -> str:
    """Return what the template writes behind the question."""
    source = (TEMPLATES / f"{template}.jinja").read_text()
    text = render_jinja_template([chat], chat_template=source, bos_token="", eos_token="")[0][0]
    return text.rpartition("When?")[2]


def first_answer(*answers: str) -> dict:
    rows = [{"prompt": [ASKED], "completion": [{"role": "assistant", "content": text}]} for text in answers]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return datasets.Dataset.from_json("rows.jsonl")[0]["completion"][0]


for others, expected in ((["2024-05-07"], "<datetime>"), (["2024-05-07", "unknown"], "2024-05-06")):
    answer = first_answer("2024-05-06", *others)
    print(f"other answers {others}: read as {answer['content']!r}")
    for template in ("qwen3", "llama3_2", "gemma3", "phi3_5", "gptoss"):
        text = rendered(template, [ASKED, answer])
        print(f"    {template:8} {text!r}")
        assert expected in text, template
        assert ("2024" in text) == (expected == "2024-05-06"), template

arguments = {"price": Decimal("12.50")}
call = {"type": "function", "function": {"name": "order", "arguments": arguments}}
called = {"role": "assistant", "content": "", "tool_calls": [call]}
parquet.write_table(pa.Table.from_pylist([{"messages": [called]}]), "rows.parquet")
[chat] = datasets.Dataset.from_parquet("rows.parquet")["messages"]
text = rendered("qwen3_5_nothink", [ASKED, *chat])
print(f"a decimal in a call: {text!r}")
assert "<Decimal>" in text and "12.5" not in text
PY
echo "unchanged"
