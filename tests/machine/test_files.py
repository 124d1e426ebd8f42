"""The file that a person names is found behind links, and nothing but a file is replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from workbench.errors import UsageError
from workbench.machine.files import output_file


def test_a_new_file_and_the_one_behind_a_link_are_found(tmp_path: Path) -> None:
    new, link = tmp_path / "new", tmp_path / "link"
    link.symlink_to(new)
    assert output_file(new) == output_file(link) == new.resolve()


def test_a_link_into_a_folder_that_is_missing_names_that_folder(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "none" / "file")
    with pytest.raises(UsageError, match=f"there is no folder {tmp_path / 'none'}"):
        output_file(link)


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.symlink_to(other)
    other.symlink_to(one)
    with pytest.raises(UsageError, match="cannot be written"):
        output_file(one)
