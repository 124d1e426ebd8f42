"""Copying text to the clipboard of the terminal in front of the user, also through tmux and SSH.

OSC 52 is the terminal's own way (xterm's control sequences, "Manipulate Selection Data"). tmux
takes it from an application only where `set-clipboard` is on, so that inside tmux it is sent once
more in tmux's envelope for the outer terminal (`allow-passthrough`).
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping

MOST = 74_994
"""Characters of base64 that xterm takes; of longer text nothing would arrive."""


def copy_sequence(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """Return the escape sequence that puts `text` on the clipboard; empty where it is too long."""
    coded = base64.b64encode(text.encode()).decode("ascii")
    if len(coded) > MOST:
        return ""
    plain = f"\x1b]52;c;{coded}\x07"
    if "TMUX" not in environ:
        return plain
    inner = plain.replace("\x1b", "\x1b\x1b")
    return f"{plain}\x1bPtmux;{inner}\x1b\\"
