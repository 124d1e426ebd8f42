"""Hints about rows in the words of `workbench evaluate`, which has options in place of a file."""

from __future__ import annotations

import re

_MAPPING = re.compile(r"(?:write |Map it: )?data\.columns: \{([^{}\"]*)\}")
_PATTERN = re.compile(r"set evaluate\.answer_pattern: ('.*?')(, or take it out)?")
_FILE = re.compile(r"(?:in )?data\.train(?: and data\.(?:eval|revision))?")


def for_evaluate(hint: str) -> str:
    """Return a hint about a recipe's rows with the options that an evaluation has for it."""
    hint = _MAPPING.sub(lambda found: f"--columns {_pairs(found[1])}", hint)
    hint = hint.replace("in data.columns", "by --columns")
    hint = _FILE.sub("--data", hint)
    return _PATTERN.sub(
        lambda found: (
            f"--answer-pattern {found[1]}"
            + (", or -s evaluate.answer_pattern=null" if found[2] else "")
        ),
        hint,
    )


def _pairs(mapping: str) -> str:
    """Return `question: prompt, …` as a word for the command line: `question=prompt,…`."""
    pairs = ",".join(one.strip().replace(": ", "=") for one in mapping.split(","))
    return f"'{pairs}'" if " " in pairs else pairs
