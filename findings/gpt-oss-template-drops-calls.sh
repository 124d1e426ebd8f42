#!/usr/bin/env bash
# gpt-oss's chat template, as trl 1.16.0 ships it, rendered by transformers 5.24.0; seen on 2026-11-29
# (Python 3.11, Linux x86_64).
#
# A turn of an assistant may hold several tool calls. Of the templates that TRL ships and that show calls,
# most show them all, Llama 3.1's refuses a second one in words, and gpt-oss's shows the first alone and
# says nothing. The results of both calls are shown, so a model that is trained on such rows reads an answer
# to a call that it never made.
#
# What the workbench does: a call that the template does not show is refused, with its row
# (workbench/training/dataset/chat/rendering.py).
#
# Passes while that is so; fails if it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'transformers==5.24.0' 'jinja2==3.1.6'
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps 'trl==1.16.0'
cd "$folder"
venv/bin/python - <<'PY'
import logging
from importlib.util import find_spec
from pathlib import Path

from jinja2 import TemplateError

logging.disable()
from transformers.utils.chat_template_utils import render_jinja_template

TEMPLATES = Path(find_spec("trl").origin).parent / "chat_templates"
CITIES = ("Oslo", "Rome")


def call(city: str) -> dict:
    return {"type": "function", "function": {"name": "weather", "arguments": {"city": city}}}


def result(city: str) -> dict:
    return {"role": "tool", "name": "weather", "content": f"sun in {city.upper()}"}


def shown(template: str) -> str:
    """Return the calls and results that the template shows of a turn with two calls."""
    chat = [
        {"role": "user", "content": "What is the weather?"},
        {"role": "assistant", "content": "", "tool_calls": [call(city) for city in CITIES]},
        *[result(city) for city in CITIES],
        {"role": "assistant", "content": "Sun in both."},
    ]
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
    tool = {"name": "weather", "description": "Tells it.", "parameters": parameters}
    try:
        text = render_jinja_template(
            [chat],
            tools=[{"type": "function", "function": tool}],
            chat_template=(TEMPLATES / f"{template}.jinja").read_text(),
            bos_token="",
            eos_token="",
        )[0][0]
    except TemplateError as refused:
        return f"refused: {refused}"
    calls = [city for city in CITIES if city in text]
    results = [city for city in CITIES if city.upper() in text]
    return f"calls {calls}, results {results}"


seen = {name: shown(name) for name in ("qwen3", "gemma4", "llama3_1", "gptoss")}
for name, what in seen.items():
    print(f"{name:9} {what}")
both = "calls ['Oslo', 'Rome'], results ['Oslo', 'Rome']"
assert seen["qwen3"] == seen["gemma4"] == both
assert seen["llama3_1"].startswith("refused")
assert seen["gptoss"] == "calls ['Oslo'], results ['Oslo', 'Rome']"
PY
echo "unchanged"
