"""Ollama's Modelfile renders conversations as the tokenizer's own chat template does."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Workbench, home, workbench  # noqa: F401
from tests.export import chat_templates
from tests.export.go_template import render_go
from tests.training.model.bases import DEMO
from workbench.errors import ModelError
from workbench.export.gguf.chat_parts import chat_parts, sample_conversations
from workbench.export.gguf.modelfile import modelfile_body
from workbench.export.gguf.write import write_gguf
from workbench.training.model.tokenizer import load_tokenizer

TEMPLATES: dict[str, str | None] = {"llama": None, **chat_templates.ALL}
GO_PROGRAM = """
package main

import (
	"encoding/json"
	"os"
	"text/template"
)

type Message struct{ Role, Content string }

func main() {
	var messages []Message
	json.NewDecoder(os.Stdin).Decode(&messages)
	system := ""
	if messages[0].Role == "system" {
		system = messages[0].Content
	}
	given := template.Must(template.New("").Parse(os.Args[1]))
	given.Execute(os.Stdout, map[string]any{"System": system, "Messages": messages})
}
"""


def tokenizer_with(template: str | None) -> Any:
    made = copy.deepcopy(load_tokenizer(str(DEMO), None))
    made.chat_template = template or made.chat_template
    return made


def template_of(body: str) -> str:
    return body.split('"""')[1]


def conversations(tokenizer: Any) -> list[tuple[list[dict[str, str]], str]]:
    """Ten conversations and their texts, without the token that llama.cpp puts first itself."""
    system = chat_parts(tokenizer).before_system is not None
    first = tokenizer.bos_token if tokenizer("x")["input_ids"][0] == tokenizer.bos_token_id else ""
    return [
        (
            messages,
            tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            ).removeprefix(first),
        )
        for messages in sample_conversations(system=system)
    ]


@pytest.mark.parametrize("family", TEMPLATES)
def test_ten_conversations_are_rendered_as_by_the_tokenizer(family: str) -> None:
    tokenizer = tokenizer_with(TEMPLATES[family])
    template = template_of(modelfile_body(tokenizer, []))
    rendered = conversations(tokenizer)
    assert len(rendered) == 10
    assert any(len(messages) > 4 for messages, _ in rendered)
    has_system = [messages[0]["role"] == "system" for messages, _ in rendered]
    assert any(has_system) == (family != "gemma"), "the only one that refuses a system message"
    for messages, text in rendered:
        assert render_go(template, messages) == text


@pytest.mark.skipif(shutil.which("go") is None, reason="Go's own text/template needs Go")
@pytest.mark.slow
def test_gos_own_text_template_renders_the_same(tmp_path: Path) -> None:
    program = tmp_path / "main.go"
    program.write_text(GO_PROGRAM)
    built = tmp_path / "render"
    subprocess.run(["go", "build", "-o", str(built), str(program)], check=True, cwd=tmp_path)
    for template in TEMPLATES.values():
        tokenizer = tokenizer_with(template)
        go_template = template_of(modelfile_body(tokenizer, []))
        for messages, text in conversations(tokenizer):
            command = [str(built), go_template]
            done = subprocess.run(
                command, input=json.dumps(messages), capture_output=True, text=True, check=True
            )
            assert done.stdout == text


def test_every_token_that_ends_an_answer_is_a_stop() -> None:
    tokenizer = tokenizer_with(None)
    other = tokenizer.convert_tokens_to_ids("<|begin_of_text|>")
    lines = modelfile_body(tokenizer, [tokenizer.eos_token_id, other]).splitlines()
    stops = [line for line in lines if line.startswith("PARAMETER")]
    assert stops == ['PARAMETER stop "<|eot_id|>"', 'PARAMETER stop "<|begin_of_text|>"']


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (chat_templates.NUMBERED, "more than put texts before and after"),
        ("{{ messages[-1]['content'] }}", "leaves out a message"),
        ("{{ raise_exception('never') }}", "never"),
        (chat_templates.CHATML.replace("<|im_end|>", '"""'), "ends a text in a Modelfile"),
    ],
)
def test_a_template_that_does_more_is_refused(template: str, why: str) -> None:
    with pytest.raises(ModelError, match=why) as refused:
        modelfile_body(tokenizer_with(template), [])
    assert "without --ollama" in refused.value.hint


def test_braces_of_a_template_are_text() -> None:
    tokenizer = tokenizer_with(chat_templates.CHATML.replace("<|im_end|>'", "' + '{' + '{é🙂'"))
    template = template_of(modelfile_body(tokenizer, []))
    for messages, text in conversations(tokenizer):
        assert render_go(template, messages) == text


def test_the_writer_reports_it_without_the_files_name(tmp_path: Path) -> None:
    report = write_gguf(DEMO, tmp_path / "sums.gguf", "f16", ollama=True)
    lines = report["modelfile"].splitlines()
    assert lines[0].startswith('TEMPLATE """{{ if .System }}<|start_header_id|>system')
    stops = {'PARAMETER stop "<|eot_id|>"', 'PARAMETER stop "<|end_of_text|>"'}
    assert set(lines[-2:]) == stops


def test_the_command_refuses_names_and_files_before_it_writes(
    workbench: Workbench,  # noqa: F811
    tmp_path: Path,
) -> None:
    told = workbench("gguf", DEMO, "-o", tmp_path / "Sums v1.gguf", "--ollama")
    assert told.code == 2
    assert "cannot stand in a Modelfile" in told.err
    (tmp_path / "Modelfile").touch()
    again = workbench("gguf", DEMO, "-o", tmp_path / "other.gguf", "--ollama")
    assert again.code == 2
    assert "Modelfile exists already" in again.err
    (tmp_path / "Modelfile").unlink()
    (tmp_path / "Modelfile").symlink_to("gone")
    link = workbench("gguf", DEMO, "-o", tmp_path / "other.gguf", "--ollama")
    assert (link.code, "Modelfile exists already" in link.err) == (2, True)
    lora = workbench("gguf", DEMO, "-o", tmp_path / "x" / "a.gguf", "--ollama", "--lora")
    assert "needs the whole model" in lora.err


@pytest.mark.slow  # a child of the command imports transformers; the two above have its parts
def test_the_command_writes_it_beside_the_file(workbench: Workbench, tmp_path: Path) -> None:  # noqa: F811
    told = workbench("gguf", DEMO, "-o", tmp_path / "sums.gguf", "--ollama")
    assert told.code == 0, told.err
    lines = (tmp_path / "Modelfile").read_text().splitlines()
    assert lines[0] == "FROM ./sums.gguf"
    assert lines[1].startswith('TEMPLATE """{{ if .System }}<|start_header_id|>system')
    stops = {'PARAMETER stop "<|eot_id|>"', 'PARAMETER stop "<|end_of_text|>"'}
    assert set(lines[-2:]) == stops
    assert f"ollama create sums -f {tmp_path / 'Modelfile'}" in told.out
