"""Foreign text, made harmless where it enters: no escapes, no control or bidi characters."""

from __future__ import annotations

import re

from workbench.redact import redact

LIMIT = 4_000
"""Characters kept of one foreign string, unless the caller says otherwise."""

# CSI, OSC, DCS/PM/APC/SOS strings and two-character escapes (ECMA-48 §5.3–5.6), 7- and 8-bit.
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]?"
)
# C0 and C1 but tab and newline; zero-width, bidi overrides and isolates, BOM, line separators; soft
# hyphens, interlinear marks and tags, which nobody sees.
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u2069"
    "\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def safe(text: object, limit: int = LIMIT) -> str:
    """`text` without terminal escapes, control, zero-width or bidi characters, and without secrets
    (`workbench.redact`), cut at `limit`.

    Tab and newline stay. Work is bounded by `limit`, however long the input is.
    """
    head = str(text)[: limit * 4]
    if not head.isprintable():  # nearly all text is: escapes, controls and what nobody sees are not
        head = _CONTROL.sub("", _ESCAPES.sub("", head.replace("\r\n", "\n")))
    clean = redact(head)
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def safe_line(text: object, limit: int = 400) -> str:
    """The same on one line: newlines and tabs become spaces."""
    return " ".join(safe(text, limit).split())
