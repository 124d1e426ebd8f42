"""`workbench report` writes one file, keeps one that is there, and names a path it cannot write."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.conftest import Workbench
from tests.support.tick_contexts import Bench, recipe


@pytest.fixture
def submitted(bench: Bench) -> Bench:
    bench.submit(recipe())
    return bench


@pytest.mark.usefixtures("submitted")
def test_the_report_is_one_file_that_is_replaced_only_when_asked(
    workbench: Workbench, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    assert workbench("report", "tiny", "-o", page).out == f"the report of tiny is in {page}\n"
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    page.write_text("mine")
    refused = workbench("report", "tiny", "-o", page)
    assert refused.code == 2
    assert "exists already" in refused.err
    assert page.read_text() == "mine"
    said = workbench("report", "tiny", "-o", page, "--force", "--json")
    assert said.data == {"experiment": "tiny", "path": str(page)}
    assert "tiny" in page.read_text(encoding="utf-8")


@pytest.mark.usefixtures("submitted")
@pytest.mark.parametrize(
    ("where", "says"), [("none/page.html", "there is no folder"), (".", "is a folder")]
)
def test_a_path_that_cannot_be_written_is_named(
    workbench: Workbench, tmp_path: Path, where: str, says: str
) -> None:
    refused = workbench("report", "tiny", "-o", tmp_path / where, "--force")
    assert refused.code == 2
    assert says in refused.err
    assert ".tmp" not in refused.err


@pytest.mark.usefixtures("submitted")
@pytest.mark.parametrize("force", [[], ["--force"]], ids=["new", "forced"])
def test_a_pipe_and_a_device_are_left_as_they_are(
    workbench: Workbench, tmp_path: Path, force: list[str]
) -> None:
    pipe, device = tmp_path / "pipe", tmp_path / "device"
    os.mkfifo(pipe)
    device.symlink_to("/dev/full")  # through a link: even a fault here must not remove the device
    for path in (pipe, device):
        refused = workbench("report", "tiny", "-o", path, *force)
        assert refused.code == 2
        assert "is a device, pipe or socket" in refused.err
    assert pipe.is_fifo()
    assert device.is_char_device()


@pytest.mark.usefixtures("submitted")
def test_the_file_behind_a_symbolic_link_is_written(workbench: Workbench, tmp_path: Path) -> None:
    page, link = tmp_path / "page.html", tmp_path / "link.html"
    page.write_text("mine")
    link.symlink_to(page.name)
    assert "exists already" in workbench("report", "tiny", "-o", link).err
    assert workbench("report", "tiny", "-o", link, "--force").code == 0
    assert link.is_symlink()
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
