"""Folders that are complete or absent, also where ctrl-c comes between any two lines."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from workbench.machine import staging


class InterruptAt:
    """A tracer that raises KeyboardInterrupt at the n-th line of the module `staging`."""

    def __init__(self, line: int) -> None:
        self.left = line

    def __call__(self, frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename != staging.__file__:
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self


def _publish(target: Path, line: int) -> bool:
    """Publish a folder, interrupted at that line; return whether the interrupt came."""
    before = sys.gettrace()
    sys.settrace(InterruptAt(line))
    try:
        with staging.whole_folder(target) as staged:
            (staged / "file").write_text("whole")
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def test_ctrl_c_at_any_line_leaves_the_old_folder_or_the_new_one(tmp_path: Path) -> None:
    lines = 0
    while True:
        target = tmp_path / str(lines) / "adapter"
        target.mkdir(parents=True)
        (target / "file").write_text("old")
        if not _publish(target, lines + 1):
            break
        lines += 1
        assert not staging.staged_path(target).exists(), f"line {lines}"
        assert (target / "file").read_text() in ("old", "whole"), f"line {lines}"
    assert lines > 15
    assert (target / "file").read_text() == "whole"


def test_an_error_in_the_block_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "adapter"
    with pytest.raises(OSError, match="full"), staging.whole_folder(target):
        raise OSError("full")
    assert list(tmp_path.iterdir()) == []
