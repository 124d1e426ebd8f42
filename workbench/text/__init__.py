"""Foreign text made safe to print: no terminal escapes, no control or bidi characters, no secrets.

Everything that a file, a model or another program wrote passes here before it is stored or shown.
`redact` masks secrets. Every package may import this one; it imports the standard library alone.
"""

from __future__ import annotations

import re
import shlex

from workbench.text.redact import redact

LIMIT = 4_000
"""Default limit of characters kept of one foreign string."""

# CSI, OSC, DCS/PM/APC/SOS strings and two-character escapes (ECMA-48 §5.3–5.6), 7- and 8-bit.
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]?"
)
# C0 and C1 without tab and newline; zero-width characters, bidi overrides and isolates, BOM, line
# separators; soft hyphens, interlinear marks and tags, which are invisible.
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u2069"
    "\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def safe_text(text: object, limit: int = LIMIT) -> str:
    """Return `text` without terminal escapes, control, zero-width or bidi characters and secrets.

    Tab and newline stay; `redact` masks secrets. The result has at most `limit`
    characters, and the work is bounded by `limit`, however long the input is.
    """
    head = str(text)[: limit * 4]
    if not head.isprintable():  # nearly all text is printable, and skips two slow patterns
        head = _CONTROL.sub("", _ESCAPES.sub("", head.replace("\r\n", "\n")))
    clean = redact(head)
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def safe_line(text: object, limit: int = 400) -> str:
    """Return `safe_text` on one line: every run of whitespace becomes one space."""
    return " ".join(safe_text(text, limit).split())


def shell_word(text: object) -> str:
    """Return `text` on one line, quoted where a shell would otherwise split or change it."""
    return shlex.quote(safe_line(text, LIMIT))
