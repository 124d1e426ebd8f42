"""Folders that are complete or absent, also where ctrl-c comes between any two lines."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from safetensors import SafetensorError

from workbench.errors import UsageError, WorkbenchError
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


def test_a_full_disk_is_told_from_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    source, out = tmp_path / "elsewhere" / "weights", tmp_path / "out"
    source.parent.mkdir()
    source.write_bytes(bytes(1 << 16))
    full = "out cannot be written: No space left"
    with pytest.raises(WorkbenchError, match=full) as refused, staging.writing(out):
        shutil.copyfile(source, "/dev/full")  # its error names the file that is read
    assert "free space" in refused.value.hint
    with pytest.raises(WorkbenchError, match=full), staging.writing(out):
        raise SafetensorError("I/O error: No space left on device (os error 28)")  # no OSError
    with (
        pytest.raises(WorkbenchError, match="cannot be written: File exists") as refused,
        staging.new_folder(source / "out"),
    ):
        raise AssertionError
    assert "may write" in refused.value.hint


def test_a_source_that_is_gone_is_not_blamed_on_the_target(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as gone, staging.new_folder(tmp_path / "out") as staged:
        shutil.copyfile(tmp_path / "lost", staged / "copy")
    assert gone.value.filename == str(tmp_path / "lost")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_another_command_fills_is_left_to_it(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with staging.new_folder(out) as staged:
        (staged / "file").write_text("of the first")
        with (
            pytest.raises(UsageError, match="another command is writing"),
            staging.new_folder(out),
        ):
            raise AssertionError
        assert (staged / "file").read_text() == "of the first"
    with pytest.raises(UsageError, match="exists already"), staging.new_folder(out):
        raise AssertionError
    assert [file.name for file in out.parent.iterdir()] == ["out"]


def test_a_lock_that_a_killed_command_left_is_taken(tmp_path: Path) -> None:
    (tmp_path / ".out.lock").write_text("1\n")
    with staging.new_folder(tmp_path / "out"):
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
