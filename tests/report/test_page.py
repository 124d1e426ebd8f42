"""The report of a real store: whole, escaped, self-contained."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.judging.conftest import bench, ended_sweep, judged, swept
from tests.support.tick_contexts import Bench
from workbench.report.facts import gather_facts
from workbench.report.page import build_page
from workbench.service import Service
from workbench.store.results import put_metrics, put_sample

__all__ = ["bench", "ended_sweep", "judged", "swept"]


class Page(HTMLParser):
    """A reader that collects tags, attributes and text, and checks that tags are closed."""

    VOID = frozenset({"meta", "br", "line", "circle", "polyline"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [f"{k}={v}" for k, v in attrs if k in ("href", "src", "onclick", "onload")]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.text.append(data)


@pytest.fixture
def service(judged: Bench) -> Iterator[Service]:
    store = judged.store
    for trial in (2, 3, 4, 5):
        for step in range(1, 20):
            put_metrics(store, trial, step, {"eval_loss": 2.0 / step + trial / 100})
    attempt = store.attempts(5)[-1].id
    put_sample(
        store,
        5,
        attempt,
        1,
        {
            "question": "<script>alert(1)</script>\x1b[31m",
            "expected": "a & b",
            "answer": "</pre><b>",
            "right": False,
        },
    )
    made = Service(judged.context.home, clock=lambda: judged.now)
    yield made
    made.close()


def _page(service: Service) -> tuple[str, Page]:
    text = build_page(gather_facts(service, 1))
    return text, Page(text)


def test_the_page_holds_verdict_board_plots_samples_and_recipe(service: Service) -> None:
    page = _page(service)[1]
    shown = " ".join(page.text)
    assert service.verdict(1) in shown
    for title in ("Scores", "Board", "Curves", "Data and model", "Sample answers", "Recipe"):
        assert title in page.text
    assert "exact_match against train.learning_rate" in page.text
    assert page.tags.count("svg") == 3
    assert page.tags.count("tr") >= 6
    assert "=1 tied for first: these rows cannot tell them from the best" in page.text
    assert any(text.startswith("* optimistic by about") for text in page.text)
    assert "learning_rate" in shown


def test_nothing_is_loaded_or_run(service: Service) -> None:
    text, page = _page(service)
    assert page.links == []
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert "default-src 'none'" in text
    assert "http" not in text.replace("http-equiv", "")


def test_text_of_models_and_files_is_escaped(service: Service) -> None:
    text, page = _page(service)
    assert "<script>" not in text
    assert "\x1b" not in text
    assert "<script>alert(1)</script>" in page.text
    assert "</pre><b>" in page.text


def test_an_experiment_that_is_not_scored_yet_has_a_report_too(bench: Bench) -> None:
    from tests.support.tick_contexts import recipe

    id = bench.submit(recipe())
    service = Service(bench.context.home, clock=lambda: bench.now)
    page = Page(build_page(gather_facts(service, id)))
    assert "Board" in page.text
    service.close()


def test_a_recipe_that_this_build_cannot_read_is_shown_as_json(
    service: Service, judged: Bench, tmp_path: Path
) -> None:
    judged.store.db.execute("update experiments set recipe = json_set(recipe, '$.later', 1)")
    assert '"later": 1' in " ".join(_page(service)[1].text)
