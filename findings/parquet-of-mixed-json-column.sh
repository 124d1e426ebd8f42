#!/usr/bin/env bash
# datasets 5.2.0 with pyarrow 26.0.1, seen on 2026-11-28 (Python 3.11, Linux x86_64).
#
# A JSON lines file whose column holds values of several types (a text in one row, a number in
# another) is read into a column of the feature `Json`. `Dataset.to_parquet` writes that column as the
# Arrow extension type `arrow.json`. datasets itself reads the file back as it was. pyarrow and pandas
# return the JSON source of each value instead: the text four becomes "four", quotes included, and
# nothing in the values says that they are encoded. A trainer that reads parquet by pyarrow then learns
# the quotes and backslashes.
#
# What the workbench does: its own reader decodes such columns (workbench/training/dataset/files/parquet_rows.py).
#
# Passes while that is so; fails if it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'datasets==5.2.0' 'pyarrow==26.0.1'
cd "$folder"
cat > rows.jsonl <<'ROWS'
{"question": "2 + 2", "answer": "four"}
{"question": "3 + 3", "answer": 6}
{"question": "5 + 5", "answer": ["ten", 10]}
ROWS
HF_HUB_OFFLINE=1 HF_DATASETS_CACHE="$folder/cache" HF_DATASETS_DISABLE_PROGRESS_BARS=1 venv/bin/python - <<'PY'
import datasets
import pyarrow.parquet as parquet

rows = datasets.Dataset.from_json("rows.jsonl")
rows.to_parquet("rows.parquet")
column = parquet.read_table("rows.parquet").column("answer")
again = datasets.Dataset.from_parquet("rows.parquet")
print("datasets:", rows.features["answer"], list(again["answer"]))
print("pyarrow: ", column.type, column.to_pylist())
assert list(again["answer"]) == ["four", 6, ["ten", 10]]
assert str(column.type) == "extension<arrow.json>"
assert column.to_pylist() == ['"four"', "6", '["ten",10]']
PY
echo "unchanged"
