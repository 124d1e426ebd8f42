"""The report opened in headless Chromium, from a file as a mail's attachment is."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.judging.conftest import bench, ended_sweep, judged, swept
from tests.support.tick_contexts import Bench
from workbench.report.facts import gather_facts
from workbench.report.page import build_page
from workbench.service import Service
from workbench.store.results import put_metrics

__all__ = ["bench", "ended_sweep", "judged", "swept"]

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
WAIT_S = 120

pytestmark = pytest.mark.browser


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium; where none is installed, the test is skipped and says so."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no Chromium on the path: looked for {', '.join(NAMES)}")
    return found


@pytest.fixture
def report(judged: Bench, tmp_path: Path) -> Iterator[Path]:
    """A report of a judged sweep with curves, whose longest answer is wider than a screen."""
    for trial in (2, 3, 4, 5):
        for step in range(1, 20):
            put_metrics(judged.store, trial, step, {"eval_loss": 2.0 / step + trial / 100})
    service = Service(judged.context.home, clock=lambda: judged.now)
    path = tmp_path / "report.html"
    path.write_text(build_page(gather_facts(service, 1)), encoding="utf-8")
    yield path
    service.close()


def open_page(chromium: str, page: Path, profile: Path, *options: str) -> str:
    """Return what Chromium prints about a page; errors of the page are in it."""
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    command += ["--disable-dev-shm-usage", "--hide-scrollbars", f"--user-data-dir={profile}"]
    command += ["--enable-logging=stderr", "--v=0", *options, page.as_uri()]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=True)
    return ran.stdout + "\n".join(line for line in ran.stderr.splitlines() if "CONSOLE" in line)


def test_a_browser_shows_the_report_and_has_nothing_to_complain_about(
    chromium: str, report: Path, tmp_path: Path
) -> None:
    shown = open_page(chromium, report, tmp_path / "profile", "--dump-dom")
    assert "CONSOLE" not in shown
    assert "<h1>" in shown
    assert shown.count("<svg") == 3
    assert shown.count("<section>") >= 5
    # The browser's own tree is what was written: it had no tag to repair.
    assert shown.count("<tr") == report.read_text(encoding="utf-8").count("<tr")


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_is_drawn_on_a_phone_and_on_a_desk(
    chromium: str, report: Path, tmp_path: Path, width: int
) -> None:
    picture = tmp_path / "report.png"
    size = f"--window-size={width},900"
    open_page(chromium, report, tmp_path / "profile", f"--screenshot={picture}", size)
    data = picture.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    # An empty page of one colour compresses to some kilobytes.
    assert len(data) > 20_000
