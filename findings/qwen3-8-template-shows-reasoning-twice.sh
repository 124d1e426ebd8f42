#!/usr/bin/env bash
# The chat template of Qwen3.8 as TRL 1.16.0 brings it (qwen3_8.jinja), rendered by Jinja 3.1.6, seen on 2026-11-30.
#
# Rows made for Qwen3 have the reasoning of an answer in its text, as a `<think>` block in front. Qwen3's template finds
# the block there and shows it once. That of Qwen3.8 reads the field `reasoning_content` alone: without one it opens and
# closes an empty block, and the text's own block follows as the answer. Nothing is said, and the prompt that the
# template makes for generation opens only one block. Who trains Qwen3.8 on such rows teaches it to think nothing and
# then to answer with a second block.
#
# What the workbench does: for a template that shows a block of the text beside its own, the block becomes the field
# `reasoning_content` (workbench/training/dataset/chat/reasoning.py); what is scored stays what the row says.
#
# Passes while that is so; fails if it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'jinja2==3.1.6'
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps 'trl==1.16.0'
cd "$folder"
cat > show.py <<'PY'
"""Prints how an answer whose reasoning is in its text, or in its field, looks to two templates."""
from importlib.metadata import files
from pathlib import Path

from jinja2.sandbox import ImmutableSandboxedEnvironment

named = {Path(str(file)).name: file.locate() for file in files("trl") if file.suffix == ".jinja"}
question = {"role": "user", "content": "1+1?"}
text = {"role": "assistant", "content": "<think>\none and one\n</think>\n\n2"}
field = {"role": "assistant", "content": "2", "reasoning_content": "one and one"}
environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
for name in ("qwen3", "qwen3_8"):
    template = environment.from_string(Path(named[f"{name}.jinja"]).read_text(encoding="utf-8"))
    for kind, answer in (("text", text), ("field", field)):
        shown = template.render(messages=[question, answer], add_generation_prompt=False)
        print(name, kind, repr(shown.split("<|im_start|>assistant\n")[1]))
PY
venv/bin/python show.py | tee seen
diff seen - <<'SEEN'
qwen3 text '<think>\none and one\n</think>\n\n2<|im_end|>\n'
qwen3 field '<think>\none and one\n</think>\n\n2<|im_end|>\n'
qwen3_8 text '<think>\n\n</think>\n\n<think>\none and one\n</think>\n\n2<|im_end|>\n'
qwen3_8 field '<think>\none and one\n</think>\n\n2<|im_end|>\n'
SEEN
echo "Qwen3.8's template still shows a block of the text behind an empty one"
