"""The Modelfile of Ollama: the template of its chat in Go's language, and the stop tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from workbench.errors import ModelError
from workbench.export.gguf.chat_parts import ChatParts, chat_parts


def modelfile_body(tokenizer: Any, end_ids: Sequence[int]) -> str:
    """Return TEMPLATE and PARAMETER lines for a model's tokenizer; FROM stands before them.

    `end_ids` are the tokens that end an answer, beside the tokenizer's own end. Raises ModelError
    for a chat template that Ollama's cannot express.
    """
    template = go_template(chat_parts(tokenizer), dropped=_begin(tokenizer))
    if '"""' in template:
        raise ModelError(
            'the chat template contains """, which ends a text in a Modelfile',
            hint="write the file without --ollama; llama.cpp reads the template that is in it",
        )
    ids = dict.fromkeys([tokenizer.eos_token_id, *end_ids])
    stops = [tokenizer.decode([id]) for id in ids if id is not None]
    lines = [f'TEMPLATE """{template}"""']
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops]
    return "\n".join(lines) + "\n"


def go_template(parts: ChatParts, *, dropped: str = "") -> str:
    """Return the parts as a template of Go's text/template over Ollama's `.System` and `.Messages`.

    `dropped` is the text of the token that llama.cpp puts first by itself. Ollama joins messages of
    the same role, so that users' messages and answers alternate.
    """
    opening, user = _literal(parts.opening.removeprefix(dropped)), "{{ .Content }}"
    if parts.before_system is not None and parts.system_is_last:
        before = _literal(parts.before_system.removeprefix(parts.opening))
        last = "and $.System (eq (len (slice $.Messages $i)) 1)"
        system = f"{before}{{{{ $.System }}}}{_literal(parts.after_system)}"
        user = f"{{{{ if {last} }}}}{system}{{{{ end }}}}{user}"
    elif parts.before_system is not None:
        before = _literal(parts.before_system.removeprefix(dropped))
        system = f"{before}{{{{ .System }}}}{_literal(parts.after_system)}"
        opening = f"{{{{ if .System }}}}{system}{{{{ else }}}}{opening}{{{{ end }}}}"
    answer = f"{_literal(parts.user_to_answer)}{{{{ .Content }}}}{_literal(parts.answer_to_user)}"
    return (
        f"{opening}{{{{ range $i, $_ := .Messages }}}}"
        f'{{{{ if eq .Role "user" }}}}{user}'
        f'{{{{ else if eq .Role "assistant" }}}}{answer}{{{{ end }}}}'
        f"{{{{ end }}}}{_literal(parts.ending)}"
    )


def _literal(text: str) -> str:
    """Return the text for Go: as it is, or as a quoted constant where it could be an action."""
    if "{{" in text or "}}" in text:
        return "{{ " + json.dumps(text, ensure_ascii=False) + " }}"
    return text


def _begin(tokenizer: Any) -> str:
    """Return the token that llama.cpp puts before every text, empty where it puts none."""
    first = tokenizer("x")["input_ids"][0]
    return str(tokenizer.bos_token) if first == tokenizer.bos_token_id else ""
