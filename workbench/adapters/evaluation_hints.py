"""Hints about rows in the words of `workbench evaluate`, which has options in place of a file."""

from __future__ import annotations

import re

_MAPPING = re.compile(r"(?:write |Map it: )?data\.columns: \{([^{}\"]*)\}")
_PATTERN = re.compile(r"set evaluate\.answer_pattern: ('.*?')(?=, or )")


def for_evaluate(hint: str) -> str:
    """Return a hint about a recipe's rows with the options that an evaluation has for it."""
    hint = _MAPPING.sub(lambda found: f"--columns {_pairs(found[1])}", hint)
    hint = hint.replace("in data.columns", "by --columns")
    hint = hint.replace("check data.train and data.eval", "check the file that --data names")
    hint = _PATTERN.sub(lambda found: f"--answer-pattern {found[1]}", hint)
    return hint.replace("or take it out", "or -s evaluate.answer_pattern=null")


def _pairs(mapping: str) -> str:
    """Return `question: prompt, …` as `question=prompt,…`."""
    return ",".join(one.strip().replace(": ", "=") for one in mapping.split(","))
